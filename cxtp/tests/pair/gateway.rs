//! A gateway that does what it is told, or fails as it is told.

use super::*;

/// What a scripted gateway holds of one session.
#[derive(Clone, Debug)]
pub struct Held {
    pub epoch: SessionEpoch,
    pub generation: Generation,
    pub state: SessionState,
    pub sequence: u64,
    pub end: u64,
}

/// A gateway that does what the plugin trait promises.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    pub sessions: BTreeMap<SessionId, Held>,
    /// Acts that are refused, by their first word.
    pub refuse: BTreeMap<&'static str, Refusal>,
    pub lost: bool,
    /// Its sessions have an IKE SA.
    pub ike: bool,
}

pub fn act(command: &GatewayCommand) -> &'static str {
    match command {
        GatewayCommand::List => "list",
        GatewayCommand::Snapshot(_) => "snapshot",
        GatewayCommand::Admit(..) => "admit",
        GatewayCommand::Stage(_) => "stage",
        GatewayCommand::Pause(_) => "pause",
        GatewayCommand::Resume(_) => "resume",
        GatewayCommand::Activate(_) => "activate",
        GatewayCommand::Release(_) => "release",
        GatewayCommand::Discard(_) => "discard",
        GatewayCommand::Extend(_) => "extend",
    }
}

pub fn none() -> Refusal {
    Refusal::new(Status::NoSession, "no such session in this gateway")
}

pub fn stale() -> Refusal {
    Refusal::new(Status::StaleEpoch, "the gateway knows a newer epoch")
}

impl Gateway {
    fn check(&self, act: &str, id: SessionId) -> Result<&Held, Refusal> {
        match self.refuse.get(act) {
            Some(refusal) => Err(refusal.clone()),
            None => self.sessions.get(&id).ok_or_else(none),
        }
    }

    fn stage(&mut self, order: &StageOrder) -> Result<Generation, Refusal> {
        if let Some(refusal) = self.refuse.get("stage") {
            return Err(refusal.clone());
        }
        let id = order.context.session;
        if let Some(held) = self.sessions.get(&id) {
            if held.epoch >= order.epoch {
                return Err(stale());
            }
            assert!(matches!(held.state, SessionState::Staged { .. }), "staged over {held:?}");
        }
        let held = Held {
            epoch: order.epoch,
            generation: order.context.generation,
            state: SessionState::Staged { source: order.source.clone(), batch: order.batch },
            sequence: order.grants[0].base - 1,
            end: order.grants[0].end,
        };
        self.sessions.insert(id, held);
        Ok(order.context.generation)
    }

    fn pause(&mut self, id: SessionId, target: &Name) -> Result<Finals, Refusal> {
        self.check("pause", id)?;
        let held = self.sessions.get_mut(&id).unwrap();
        held.state = SessionState::Paused { target: target.clone() };
        Ok(Finals {
            generation: held.generation,
            ike: None,
            children: vec![ChildFinals {
                sa: sa(id),
                sequence: held.sequence,
                window: ReplayWindow { size: 32, highest: 0, bitmap: vec![0] },
                used: LifetimeUsed::default(),
            }],
        })
    }

    fn resume(
        &mut self,
        id: SessionId,
        epoch: SessionEpoch,
        from: &[(SaRef, u64)],
    ) -> Result<(), Refusal> {
        if epoch < self.check("resume", id)?.epoch {
            return Err(stale());
        }
        let held = self.sessions.get_mut(&id).unwrap();
        held.state = SessionState::Active;
        held.epoch = epoch;
        for (_, first) in from {
            held.sequence = held.sequence.max(first - 1);
            held.end = u64::MAX;
        }
        Ok(())
    }

    fn activate(&mut self, id: SessionId, epoch: SessionEpoch) -> Result<(), Refusal> {
        if epoch != self.check("activate", id)?.epoch {
            return Err(stale());
        }
        self.sessions.get_mut(&id).unwrap().state = SessionState::Active;
        Ok(())
    }

    fn release(&mut self, id: SessionId) -> Result<(), Refusal> {
        let held = self.check("release", id)?;
        assert!(matches!(held.state, SessionState::Paused { .. }), "released {held:?}");
        self.sessions.remove(&id);
        Ok(())
    }

    fn discard(&mut self, id: SessionId, epoch: SessionEpoch) -> Result<(), Refusal> {
        match self.check("discard", id) {
            Ok(held) if held.state == SessionState::Active => Err(stale()),
            Ok(held) if held.epoch > epoch => Err(stale()),
            Err(refusal) if refusal.status == Status::NoSession => Ok(()),
            Err(refusal) => Err(refusal),
            Ok(_) => {
                self.sessions.remove(&id);
                Ok(())
            }
        }
    }

    fn list(&self) -> Vec<SessionStatus> {
        let status = |(id, held): (&SessionId, &Held)| SessionStatus {
            session: *id,
            epoch: held.epoch,
            generation: held.generation,
            state: held.state.clone(),
        };
        self.sessions.iter().map(status).collect()
    }

    pub fn obey(&mut self, command: GatewayCommand) -> Option<GatewayReply> {
        if self.lost {
            self.sessions.clear();
        }
        Some(match command {
            GatewayCommand::List => GatewayReply::Listed(self.list()),
            GatewayCommand::Snapshot(all) => GatewayReply::Snapshots(
                all.into_iter()
                    .map(|id| {
                        let held = self.check("snapshot", id);
                        let held = held.map(|held| context(id, held.generation, held.sequence));
                        (id, held.map(|context| Context { ike: self.ike.then(ike), ..context }))
                    })
                    .collect(),
            ),
            GatewayCommand::Admit(number, all) => GatewayReply::Admitted(
                number,
                all.into_iter()
                    .map(|profile| {
                        let refusal = self.refuse.get("stage").cloned();
                        (profile.session, refusal.map_or(Ok(()), Err))
                    })
                    .collect(),
            ),
            GatewayCommand::Stage(all) => GatewayReply::Staged(
                all.iter().map(|o| (o.context.session, o.epoch, self.stage(o))).collect(),
            ),
            GatewayCommand::Pause(all) => GatewayReply::Paused(
                all.into_iter().map(|(id, target, _)| (id, self.pause(id, &target))).collect(),
            ),
            GatewayCommand::Resume(all) => GatewayReply::Resumed(
                all.into_iter().map(|(id, e, from)| (id, self.resume(id, e, &from))).collect(),
            ),
            GatewayCommand::Activate(all) => GatewayReply::Activated(
                all.into_iter().map(|(id, e, _)| (id, e, self.activate(id, e))).collect(),
            ),
            GatewayCommand::Release(all) => GatewayReply::Released(
                all.into_iter().map(|(id, _, _)| (id, self.release(id))).collect(),
            ),
            GatewayCommand::Discard(all) => GatewayReply::Discarded(
                all.into_iter().map(|(id, e)| (id, e, self.discard(id, e))).collect(),
            ),
            GatewayCommand::Extend(all) => {
                for (id, epoch, ends) in all {
                    if let Some(held) = self.sessions.get_mut(&id)
                        && held.epoch == epoch
                    {
                        held.end = ends.iter().map(|(_, end)| *end).max().unwrap().max(held.end);
                    }
                }
                return None;
            }
        })
    }
}
