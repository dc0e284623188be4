//! What a source says to its target: offers, final data, cancellations,
//! questions. Every entry is looked at on its own, and trusted in nothing.

use std::time::Duration;

use protocol_spec::{
    context::Context,
    id::{BatchId, Generation, Identity, RequestId, SessionEpoch, SessionId},
    message::{Ctc, Ctd, CtdrEntry, Pctd, PctdEntry, Query, TargetState as Said},
    status::{Refusal, Status},
    transfer::GrantedRange,
};

use super::{
    StageOrder,
    deadlines::Timer,
    machine::{Core, Engine},
    offer::is_missing,
    peers::EPOCH_LIMIT,
    sabotage::sabotaged,
    session::{Arrival, Gone, Place, Session},
    source::SourceEvent,
    table::Step,
    target::{TargetEvent, TargetState},
};

/// Strange transfers that a peer may make us remember: as many as it may stage,
/// in this time.
const STRANGE_PERIOD: Duration = Duration::from_secs(3600);

/// One transfer that a source speaks of.
#[derive(Clone, Copy)]
struct Spoken<'a> {
    from: &'a Identity,
    batch: BatchId,
    session: SessionId,
    epoch: SessionEpoch,
    /// The question, if it is one.
    asked: Option<RequestId>,
}

impl Engine {
    pub(super) fn pctd(&mut self, from: &Identity, pctd: Pctd) {
        let Pctd { batch, mode: _, entries } = pctd;
        let welcome = self.core.welcome(from, batch);
        for entry in entries {
            let (id, epoch) = (entry.context.session, entry.epoch);
            //= spec CXTP-4.4-1
            let admitted = welcome.clone().and_then(|()| self.admit(from, batch, &entry));
            match admitted {
                Ok(()) => self.core.outbox.stage.push(StageOrder {
                    epoch,
                    source: from.name.clone(),
                    batch,
                    grants: entry.grants,
                    context: entry.context,
                }),
                Err(refusal) => {
                    let known = self.sessions.get(&id).map_or(SessionEpoch(0), |s| s.known);
                    let state = Said::Refused { refusal, known };
                    self.core.say(&from.name, batch, id, epoch, state);
                }
            }
        }
    }

    /// Admits one offer as far as the engine can judge it, and remembers it.
    fn admit(&mut self, from: &Identity, batch: BatchId, entry: &PctdEntry) -> Result<(), Refusal> {
        let id = entry.context.session;
        self.core.has_room(from)?;
        self.admit_arrival(from, batch, id, entry.epoch, &entry.context, &entry.grants, None)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "an offer has these parts, from a peer or a file"
    )]
    pub(super) fn admit_arrival(
        &mut self,
        from: &Identity,
        batch: BatchId,
        id: SessionId,
        epoch: SessionEpoch,
        context: &Context,
        grants: &[GrantedRange],
        file: Option<RequestId>,
    ) -> Result<(), Refusal> {
        sound(epoch, context, grants)?;
        let session = self.sessions.entry(id).or_insert_with(|| Session {
            owned: None,
            place: Place::Gone(Gone::Ended),
            ..Session::owned(SessionEpoch(0), Generation(0))
        });
        if session.ticket.is_some() {
            return Err(Refusal::new(Status::Busy, "its last end is still being written down"));
        }
        //= spec CXTP-6.1-2
        if epoch <= session.known && !sabotaged!(self.core, OldEpochAccepted) {
            let detail = format!("epoch {epoch} is not above {}, which is known", session.known);
            return Err(Refusal::new(Status::StaleEpoch, detail));
        }
        match &mut session.place {
            Place::Gone(_) => {
                session.generation = context.generation;
                let mut arrival =
                    Arrival::new(from.name.clone(), batch, epoch, TargetState::Staging);
                arrival.file = file;
                self.core.arrive(id, session, arrival);
                Ok(())
            }
            // Its source offers it anew: in the same batch because it changed, or in
            // another one because it gave the first up and its word was lost.
            Place::Coming(arrival) if arrival.source == from.name && arrival.file.is_none() => {
                let before = arrival.batch;
                if self.core.target(id, session, TargetEvent::Offered) == Step::Refused {
                    return Err(Refusal::new(Status::Busy, "its last offer is being dealt with"));
                }
                if let Place::Coming(arrival) = &mut session.place {
                    arrival.epoch = epoch;
                    arrival.batch = batch;
                }
                self.core.rebatched(from, id, before, batch);
                session.known = session.known.max(epoch);
                session.generation = context.generation;
                Ok(())
            }
            Place::Leaving(departure) => {
                // Whoever offers it back has it: the doubt can be ended.
                if departure.target == from.name && departure.state.in_doubt() {
                    let _ = self.core.source(id, session, SourceEvent::PeerUp);
                }
                Err(Refusal::new(Status::TransferRunning, "it is being moved away from here"))
            }
            Place::Coming(_) => {
                Err(Refusal::new(Status::TransferRunning, "another transfer of it is running"))
            }
            //= spec CXTP-6.3-10
            Place::Owned => Err(Refusal::new(Status::TransferRunning, "it is active here")),
            Place::Recovered(_) => Err(Refusal::new(Status::Busy, "this gateway is starting")),
        }
    }

    pub(super) fn ctd(&mut self, from: &Identity, ctd: Ctd) {
        if !self.core.listed {
            return;
        }
        for entry in ctd.entries {
            let (id, epoch) = (entry.session, entry.epoch);
            if let Err(bad) = entry.finals.check() {
                self.core.misbehaved(from, Status::BadContext, &bad.to_string());
                continue;
            }
            if let Some(session) = self.sessions.get_mut(&id)
                && let Place::Coming(arrival) = &session.place
            {
                //= spec CXTP-6.3-4
                let ours = arrival.source == from.name && arrival.batch == ctd.batch;
                let ours = ours || sabotaged!(self.core, AnySourceActivates);
                let fits = arrival.epoch == epoch || sabotaged!(self.core, OldEpochAccepted);
                if ours && fits {
                    // What it has staged stays as it is, until its source asks.
                    if let Err(bad) = entry.finals.check() {
                        let refusal = Refusal::from(bad);
                        self.core.misbehaved(from, refusal.status, &refusal.detail);
                        let state = Said::Refused { refusal, known: session.known };
                        self.core.say(&from.name, ctd.batch, id, epoch, state);
                        continue;
                    }
                    if self.core.finals(id, session, entry.finals) == Step::Refused {
                        let detail = "final data of a session that is not staged";
                        self.core.misbehaved(from, Status::NoTransfer, detail);
                    }
                    continue;
                }
            }
            let batch = ctd.batch;
            self.stand(Spoken { from, batch, session: id, epoch, asked: None });
        }
    }

    pub(super) fn ctc(&mut self, from: &Identity, ctc: Ctc) {
        if !self.core.listed {
            return;
        }
        for (id, epoch) in ctc.entries {
            if let Some(session) = self.sessions.get_mut(&id)
                && let Place::Coming(arrival) = &session.place
                && arrival.source == from.name
                && arrival.epoch == epoch
            {
                //= spec CXTP-4.7-1
                self.core.call_off(id, session, ctc.reason.clone(), None);
                continue;
            }
            let batch = ctc.batch;
            self.stand(Spoken { from, batch, session: id, epoch, asked: None });
        }
    }

    pub(super) fn query(&mut self, from: &Identity, query: Query) {
        if !self.core.listed {
            return;
        }
        for (session, epoch, batch) in query.transfers {
            self.stand(Spoken { from, batch, session, epoch, asked: Some(query.request) });
        }
    }

    /// Answers how a transfer stands here. One that is not known never will be:
    /// that is written down before it is said.
    fn stand(&mut self, spoken: Spoken<'_>) {
        let Spoken { from, session: id, epoch, .. } = spoken;
        let known = self.sessions.get(&id).map_or(SessionEpoch(0), |session| session.known);
        let state = match self.sessions.get(&id) {
            //= spec CXTP-6.3-6
            Some(session) if session.had(epoch) => Said::Active,
            Some(session) => match &session.place {
                Place::Coming(arrival) if arrival.source == from.name && arrival.epoch == epoch => {
                    match arrival.state {
                        TargetState::Staged => Said::Staged { generation: session.generation },
                        // Its answer is on its way.
                        _ => return,
                    }
                }
                _ if session.is_settled(epoch) => settled(),
                Place::Gone(_) if session.ticket.is_none() => return self.disown(spoken),
                Place::Gone(_) | Place::Recovered(_) => return,
                Place::Coming(_) | Place::Owned | Place::Leaving(_) => {
                    let detail = "it speaks of a transfer that is not its own";
                    self.core.misbehaved(from, Status::NotAuthorized, detail);
                    let refusal = Refusal::new(Status::NoTransfer, "no such transfer to here");
                    Said::Refused { refusal, known }
                }
            },
            None => return self.disown(spoken),
        };
        self.core.answer(spoken, state);
    }

    /// Writes down that an unknown transfer never will be activated here.
    //= spec CXTP-4.10-1
    fn disown(&mut self, spoken: Spoken<'_>) {
        let Spoken { from, batch, session: id, epoch, asked } = spoken;
        if epoch >= EPOCH_LIMIT || !self.core.may_be_strange(from) {
            let refusal = Refusal::new(Status::RateLimited, "too many transfers unknown here");
            let known = SessionEpoch(0);
            return self.core.answer(spoken, Said::Refused { refusal, known });
        }
        let session = self.sessions.entry(id).or_insert_with(|| Session {
            owned: None,
            place: Place::Gone(Gone::Ended),
            ..Session::owned(SessionEpoch(0), Generation(0))
        });
        let mut arrival = Arrival::new(from.name.clone(), batch, epoch, TargetState::Aborting);
        arrival.reason = Some(Refusal::new(Status::NoTransfer, "the transfer is not known here"));
        arrival.asked = asked;
        self.core.arrive(id, session, arrival);
    }

    pub(super) fn staged(
        &mut self,
        all: Vec<(SessionId, SessionEpoch, Result<Generation, Refusal>)>,
    ) {
        for (id, epoch, result) in all {
            let arrival = match self.sessions.get_mut(&id).map(|session| &mut session.place) {
                Some(Place::Coming(arrival)) if arrival.epoch == epoch => arrival,
                // A gateway that was lost may come back and do what was ordered
                // before; nobody waits for it any more.
                _ => {
                    if result.is_ok() {
                        self.core.outbox.discard.push((id, epoch));
                    }
                    continue;
                }
            };
            let event = match result {
                Ok(_) => {
                    arrival.installed = true;
                    TargetEvent::Installed
                }
                Err(ref refusal) => {
                    arrival.reason.get_or_insert_with(|| refusal.clone());
                    TargetEvent::NotInstalled
                }
            };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if let Ok(generation) = result {
                session.generation = generation;
            }
            let _ = self.core.target(id, session, event);
            self.forget(id);
        }
    }

    pub(super) fn activated(&mut self, all: Vec<(SessionId, SessionEpoch, Result<(), Refusal>)>) {
        for (id, epoch, result) in all {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            self.core.session_activated(id, session, epoch, result);
        }
    }

    /// What the gateway would not discard is ordered again, under the epoch that
    /// was meant: it touches nothing that was staged since.
    pub(super) fn discarded(&mut self, all: Vec<(SessionId, SessionEpoch, Result<(), Refusal>)>) {
        for (id, epoch, result) in all {
            // It is not there, is newer, or is not staged any more.
            let nothing_to_discard = |refusal: &Refusal| {
                use Status::{NoTransfer, StaleEpoch, TransferRunning};
                is_missing(refusal)
                    || matches!(refusal.status, StaleEpoch | NoTransfer | TransferRunning)
            };
            if result.is_err_and(|refusal| !nothing_to_discard(&refusal)) {
                let at = self.core.now.monotonic + self.core.config.request_retry;
                self.core.deadlines.add(at, Timer::Discard(id, epoch));
            }
        }
    }
}

fn settled() -> Said {
    Said::Aborted(Refusal::new(Status::NoTransfer, "it was aborted here"))
}

/// Whether an offer makes sense in itself: an epoch that can be, a context that a
/// gateway can have, and for each Child SA numbers of its own above those that
/// its source used.
fn sound(epoch: SessionEpoch, context: &Context, grants: &[GrantedRange]) -> Result<(), Refusal> {
    //= spec CXTP-6.1-6
    if epoch == SessionEpoch(0) || epoch >= EPOCH_LIMIT {
        return Err(Refusal::new(Status::StaleEpoch, "an epoch that cannot be"));
    }
    context.check()?;
    Ok(context.check_grants(grants)?)
}

impl Core {
    fn answer(&mut self, spoken: Spoken<'_>, state: Said) {
        let Spoken { from, batch, session, epoch, asked } = spoken;
        let entry = CtdrEntry { session, epoch, state };
        match asked {
            Some(request) => self.outbox.answer(&from.name, request, entry),
            None => self.outbox.ctdr(&from.name, batch, entry),
        }
    }

    /// Whether this peer may send sessions in this batch.
    fn welcome(&mut self, from: &Identity, batch: BatchId) -> Result<(), Refusal> {
        if !self.listed {
            return Err(Refusal::new(Status::Busy, "this gateway is starting"));
        }
        let pulled =
            self.pulls.get(&RequestId(batch.0)).is_some_and(|pull| pull.source == from.name);
        //= spec CXTP-7.3-4
        let may_push = self.config.peers.get(&from.name).is_some_and(|policy| policy.may_push);
        if !may_push && !pulled {
            self.misbehaved(from, Status::NotAuthorized, "it may not send sessions");
            let detail = format!("`{}` may not send sessions here", from.name);
            return Err(Refusal::new(Status::NotAuthorized, detail));
        }
        if self.batches.contains_key(&batch) {
            self.misbehaved(from, Status::NotAuthorized, "it uses the name of another's batch");
            return Err(Refusal::new(Status::NoTransfer, "the batch has this name already"));
        }
        let max_batches = self.config.max_batches;
        let full = self.peers.get(from).is_some_and(|peer| {
            peer.inbound.len() >= max_batches && !peer.inbound.contains_key(&batch)
        });
        if full {
            return Err(Refusal::new(Status::RateLimited, "too many batches at a time"));
        }
        Ok(())
    }

    fn has_room(&self, from: &Identity) -> Result<(), Refusal> {
        let most = self.config.peers.get(&from.name).map_or(0, |policy| policy.max_staged);
        //= spec CXTP-6.3-9
        if self.peers.get(from).is_some_and(|peer| peer.staged >= most) {
            return Err(Refusal::new(Status::RateLimited, "too many sessions staged at a time"));
        }
        Ok(())
    }

    fn may_be_strange(&mut self, from: &Identity) -> bool {
        let most = self.config.peers.get(&from.name).map_or(0, |policy| policy.max_staged);
        let now = self.now.monotonic;
        self.peers.get_mut(from).is_some_and(|peer| peer.strange.take(1, most, STRANGE_PERIOD, now))
    }
}
