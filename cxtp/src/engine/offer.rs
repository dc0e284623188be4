//! The source's half of staging and pausing: contexts become offers, final
//! counters are held against what was granted.

use protocol_spec::{
    context::Context,
    id::{BatchId, Identity, SessionId},
    limits::{MAX_BODY, MAX_CHILDREN},
    message::{CtdrEntry, PctdEntry, TargetState as Said},
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, SaRef, SaUse},
};

use super::{
    machine::{Core, Engine},
    outbox::{estimate, gateway},
    peers::EPOCH_LIMIT,
    sabotage::sabotaged,
    session::{Departure, Failure, Gone, Place, Session},
    source::{SourceEvent, SourceState},
    table::Step,
};

impl Engine {
    pub(super) fn snapshots(&mut self, all: Vec<(SessionId, Result<Context, Refusal>)>) {
        for (id, result) in all {
            self.core.preflight_snapshot(id, &result);
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let Place::Leaving(departure) = &session.place else { continue };
            match departure.state {
                SourceState::Reading => self.core.read(id, session, result),
                SourceState::Handing => self.core.hand_out(id, session, result),
                _ => {}
            }
        }
    }

    pub(super) fn paused(&mut self, all: Vec<(SessionId, Result<Finals, Refusal>)>) {
        for (id, result) in all {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            match result {
                Ok(finals) => self.core.session_paused(id, session, finals),
                Err(refusal) => self.core.session_unpaused(id, session, refusal),
            }
            self.forget(id);
        }
    }

    pub(super) fn resumed(&mut self, all: Vec<(SessionId, Result<(), Refusal>)>) {
        for (id, result) in all {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let Place::Leaving(departure) = &mut session.place else { continue };
            if !matches!(departure.state, SourceState::Retreating | SourceState::Resuming) {
                continue;
            }
            match result {
                Ok(()) => {
                    let _ = self.core.source(id, session, SourceEvent::Resumed);
                }
                Err(refusal) if is_missing(&refusal) => {
                    departure.failure = Some(Failure::Lost(refusal));
                    let _ = self.core.source(id, session, SourceEvent::Missing);
                    self.forget(id);
                }
                // It stays paused until the gateway lets it go on.
                Err(_) => {
                    let wait = self.core.config.request_retry;
                    self.core.deadline(id, session, Some(wait));
                }
            }
        }
    }

    pub(super) fn released(&mut self, all: Vec<(SessionId, Result<(), Refusal>)>) {
        for (id, result) in all {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let Place::Leaving(departure) = &session.place else { continue };
            if departure.state != SourceState::Releasing {
                continue;
            }
            match result {
                Ok(()) => {
                    let _ = self.core.source(id, session, SourceEvent::Released);
                }
                Err(refusal) if is_missing(&refusal) => {
                    let _ = self.core.source(id, session, SourceEvent::Missing);
                }
                Err(_) => {
                    let wait = self.core.config.request_retry;
                    self.core.deadline(id, session, Some(wait));
                }
            }
        }
    }

    /// What a target says about sessions that it was offered.
    pub(super) fn ctdr(&mut self, from: &Identity, batch: Option<BatchId>, all: Vec<CtdrEntry>) {
        for entry in all {
            let Some(session) = self.sessions.get_mut(&entry.session) else { continue };
            match &session.place {
                Place::Leaving(departure)
                    //= spec CXTP-6.2-7
                    if departure.target == from.name
                        && departure.epoch == entry.epoch
                        && batch.is_none_or(|batch| batch == departure.batch) =>
                {
                    self.core.said(from, session, entry);
                }
                // It has not heard yet that all numbers are its own.
                Place::Gone(Gone::Moved(target))
                    if *target == from.name
                        && session.known == entry.epoch
                        && entry.state == Said::Active =>
                {
                    self.core.outbox.grant(target, (entry.session, entry.epoch, Vec::new()));
                }
                _ => {}
            }
        }
    }
}

/// Whether the gateway says that it does not have the session.
pub(super) fn is_missing(refusal: &Refusal) -> bool {
    matches!(refusal.status, Status::NoSession | Status::SessionEnded | Status::GatewayLost)
}

impl Core {
    fn read(&mut self, id: SessionId, session: &mut Session, result: Result<Context, Refusal>) {
        let offer = result.and_then(|context| {
            let Place::Leaving(departure) = &session.place else {
                return Err(Refusal::new(Status::NoTransfer, "no transfer of it is running"));
            };
            let grants = self.offer(id, departure, &context)?;
            Ok((context, grants))
        });
        let Place::Leaving(departure) = &mut session.place else { return };
        let (context, grants) = match offer {
            Ok(offer) => offer,
            Err(refusal) => {
                let missing = is_missing(&refusal);
                departure.failure = Some(Failure::Refused(refusal));
                let event = if missing { SourceEvent::Missing } else { SourceEvent::Unreadable };
                let _ = self.source(id, session, event);
                return;
            }
        };
        //= spec CXTP-6.1-1
        session.known = session.known.next();
        departure.epoch = session.known;
        departure.generation = context.generation;
        departure.grants.clone_from(&grants);
        session.generation = session.generation.max(context.generation);
        if departure.file.is_some() {
            let _ = self.source(id, session, SourceEvent::HandOut);
            return;
        }
        departure.offered = true;
        let (target, batch) = (departure.target.clone(), departure.batch);
        let entry = PctdEntry { epoch: departure.epoch, grants, context };
        let mode = self.batches.get(&batch).map(|batch| batch.mode);
        let mode = mode.unwrap_or(protocol_spec::transfer::TransferMode::Predictive);
        self.outbox.pctd(&target, batch, mode, entry);
        let _ = self.source(id, session, SourceEvent::Read);
    }

    /// What would be granted with this context, or why it cannot be offered.
    fn offer(
        &self,
        id: SessionId,
        departure: &Departure,
        context: &Context,
    ) -> Result<Vec<GrantedRange>, Refusal> {
        if context.session != id {
            return Err(Refusal::new(Status::GatewayFault, "the gateway wrote another session"));
        }
        if context.children.len() > MAX_CHILDREN || estimate(context) > MAX_BODY {
            return Err(Refusal::new(Status::NoFeature, "it is too large for one message"));
        }
        let capabilities =
            self.peers.get(&gateway(&departure.target)).and_then(|peer| peer.capabilities.as_ref());
        if let Some(capabilities) = capabilities {
            //= spec CXTP-8.3-1
            let missing = context.features().without(capabilities.features);
            if !missing.is_empty() {
                let detail = format!("`{}` cannot carry: {missing}", departure.target);
                return Err(Refusal::new(Status::NoFeature, detail));
            }
        }
        self.check_token(departure, context)?;
        let time_to_stage = self.config.stage_timeout;
        let span = self.config.grant_span;
        let all: Option<Vec<GrantedRange>> = context
            .children
            .iter()
            .map(|child| {
                let usage = SaUse {
                    sa: SaRef { protocol: child.protocol, inbound_spi: child.inbound.spi },
                    sequence: child.outbound.sequence,
                    rate: context.load.packets_per_second,
                    esn: child.esn,
                };
                if sabotaged!(self, BaseTooLow) {
                    let base = usage.sequence + 1;
                    return Some(GrantedRange { sa: usage.sa, base, end: base + span });
                }
                usage.grant(time_to_stage, span)
            })
            .collect();
        all.ok_or_else(|| {
            Refusal::new(Status::NoSequenceRoom, "no sequence numbers are left: rekey it instead")
        })
    }

    fn session_paused(&mut self, id: SessionId, session: &mut Session, finals: Finals) {
        let Place::Leaving(departure) = &mut session.place else { return };
        session.generation = session.generation.max(finals.generation);
        let fits = self.fits(departure, &finals);
        //= spec CXTP-6.2-2
        let event = if fits || departure.state == SourceState::Redelivering {
            SourceEvent::Paused
        } else if departure.again < self.config.max_restage && departure.file.is_none() {
            SourceEvent::Differs
        } else {
            SourceEvent::Unfit
        };
        if departure.state == SourceState::Pausing && event != SourceEvent::Paused {
            departure.again += 1;
            if event == SourceEvent::Unfit {
                let detail = "it changed while it was moved, again and again";
                let why = Refusal::new(Status::GenerationChanged, detail);
                departure.failure = Some(Failure::Aborted(why));
            }
        }
        departure.finals = Some(Box::new(finals));
        let _ = self.source(id, session, event);
    }

    /// Whether what was staged can go on where these counters stopped: nothing
    /// changed, and no number that was granted has been used.
    fn fits(&self, departure: &Departure, finals: &Finals) -> bool {
        if sabotaged!(self, RestageSkipped) {
            return true;
        }
        finals.generation == departure.generation
            && (sabotaged!(self, BaseTooLow)
                || finals.children.iter().all(|child| {
                    departure
                        .grants
                        .iter()
                        .any(|grant| grant.sa == child.sa && child.sequence < grant.base)
                }))
    }

    fn session_unpaused(&mut self, id: SessionId, session: &mut Session, refusal: Refusal) {
        let Place::Leaving(departure) = &mut session.place else { return };
        let state = departure.state;
        let missing = is_missing(&refusal);
        // Nothing of it was stopped: it may be tried again.
        let again = match refusal.status {
            Status::Busy => Some(SourceEvent::Busy),
            Status::GenerationChanged => Some(SourceEvent::Changed),
            _ => None,
        };
        let may = departure.again < self.config.max_restage && departure.file.is_none();
        let event = match again.filter(|_| may && state != SourceState::Redelivering) {
            _ if missing => SourceEvent::Missing,
            Some(event) => {
                departure.again += 1;
                event
            }
            None => SourceEvent::Unpaused,
        };
        match state {
            SourceState::Redelivering => departure.spent |= missing,
            SourceState::Pausing | SourceState::Overdue
                if !matches!(event, SourceEvent::Busy | SourceEvent::Changed) =>
            {
                departure.failure.get_or_insert(Failure::Aborted(refusal));
            }
            _ => {}
        }
        let _ = self.source(id, session, event);
    }

    fn said(&mut self, from: &Identity, session: &mut Session, entry: CtdrEntry) {
        let id = entry.session;
        let Place::Leaving(departure) = &mut session.place else { return };
        let again = departure.again < self.config.max_restage;
        let event = match entry.state {
            Said::Staged { .. } if departure.state.is_committed() => SourceEvent::Waiting,
            Said::Staged { generation } if departure.state == SourceState::Staging => {
                if generation != departure.generation {
                    let why = Refusal::new(Status::GenerationChanged, "it staged something else");
                    self.misbehaved(from, why.status, &why.detail);
                    departure.failure = Some(Failure::Aborted(why));
                    SourceEvent::Cancel
                } else if session.generation == generation || sabotaged!(self, RestageSkipped) {
                    SourceEvent::Staged
                } else {
                    self.changed(departure)
                }
            }
            Said::Staged { .. } => return,
            Said::Refused { refusal, known } => {
                if departure.state != SourceState::Staging {
                    return;
                }
                if refusal.status == Status::StaleEpoch
                    && known >= departure.epoch
                    && known < EPOCH_LIMIT
                    && again
                {
                    departure.again += 1;
                    departure.offered = false;
                    session.known = known;
                    SourceEvent::Outdated
                } else {
                    departure.offered = false;
                    departure.failure = Some(Failure::Refused(refusal));
                    SourceEvent::Refused
                }
            }
            Said::Active => SourceEvent::Active,
            Said::Aborted(why) => {
                departure.offered = false;
                match departure.state {
                    SourceState::Ready if again => departure.again += 1,
                    _ => {
                        departure.failure.get_or_insert(Failure::Aborted(why));
                    }
                }
                match departure.state {
                    SourceState::Ready if !again => SourceEvent::Cancel,
                    _ => SourceEvent::Aborted,
                }
            }
        };
        if self.source(id, session, event) == Step::Refused {
            self.misbehaved(
                from,
                Status::NoTransfer,
                "it says that it uses what was not committed",
            );
        }
    }

    /// What a change of a session means for its transfer.
    pub(super) fn changed(&self, departure: &mut Departure) -> SourceEvent {
        if departure.again < self.config.max_restage {
            departure.again += 1;
            return SourceEvent::Changed;
        }
        let detail = "it changed while it was moved, again and again";
        departure.failure = Some(Failure::Aborted(Refusal::new(Status::GenerationChanged, detail)));
        SourceEvent::Cancel
    }
}
