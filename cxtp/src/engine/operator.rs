//! What an operator does to one session: ends a doubt, hands the session out as
//! a file, takes one in from a file.

use protocol_spec::{
    context::Context,
    id::{BatchId, Name, RequestId, SessionId},
    status::{Refusal, Status},
    transfer::Outcome,
};

use super::{
    Exported, Reply, Resolution, StageOrder,
    batch::available,
    machine::{Core, Engine},
    outbox::gateway,
    sabotage::sabotaged,
    session::{Departure, Failure, Place, Session},
    source::{SourceEvent, SourceState},
    table::Step,
};

impl Engine {
    pub(super) fn resolve(&mut self, request: RequestId, id: SessionId, resolution: Resolution) {
        if let Err(refusal) = self.end_doubt(request, id, resolution) {
            self.core.outbox.reply(request, Reply::Refused(refusal));
        }
    }

    fn end_doubt(
        &mut self,
        request: RequestId,
        id: SessionId,
        resolution: Resolution,
    ) -> Result<(), Refusal> {
        let not = || Refusal::new(Status::NoTransfer, "this session is not in doubt here");
        let session = self.sessions.get_mut(&id).ok_or_else(not)?;
        let Place::Leaving(departure) = &mut session.place else { return Err(not()) };
        if !matches!(departure.state, SourceState::Committed | SourceState::InDoubt) {
            return Err(not());
        }
        departure.resolving = Some(request);
        let event = match resolution {
            Resolution::ReleaseHere => SourceEvent::ReleaseHere,
            Resolution::ResumeHere => {
                //= spec CXTP-6.4-4
                let above = departure.grants.iter().map(|grant| (grant.sa, grant.end));
                if !sabotaged!(self.core, ResumeNotAboveGrant) {
                    departure.from = above.collect();
                }
                let why = Refusal::new(Status::Cancelled, "resumed here by the operator's word");
                departure.failure = Some(Failure::Aborted(why));
                // A target that can be reached is told, so that it never takes what
                // comes late: a file, or final data that were long on their way.
                departure.offered = true;
                SourceEvent::ResumeHere
            }
        };
        match self.core.source(id, session, event) {
            Step::To(_) => Ok(()),
            Step::Ignored | Step::Refused => Err(not()),
        }
    }

    pub(super) fn export(&mut self, request: RequestId, id: SessionId, target: Name) {
        if let Err(refusal) = self.begin_export(request, id, target) {
            self.core.outbox.reply(request, Reply::Refused(refusal));
        }
    }

    fn begin_export(
        &mut self,
        request: RequestId,
        id: SessionId,
        target: Name,
    ) -> Result<(), Refusal> {
        if target == self.core.config.name || !self.core.config.peers.contains_key(&target) {
            let detail = format!("no peer `{target}` is configured: add it to [peers]");
            return Err(Refusal::new(Status::NoPeer, detail));
        }
        let none = || Refusal::new(Status::NoSession, "no such session here");
        let session = self.sessions.get_mut(&id).ok_or_else(none)?;
        available(&session.place)?;
        let departure = Departure::new(BatchId(request.0), target, SourceState::Reading);
        self.core.depart(id, session, departure.into_file(request));
        Ok(())
    }

    pub(super) fn import(&mut self, request: RequestId, export: Exported) {
        if let Err(refusal) = self.begin_import(request, export) {
            self.core.outbox.reply(request, Reply::Refused(refusal));
        }
    }

    fn begin_import(&mut self, request: RequestId, export: Exported) -> Result<(), Refusal> {
        let Exported { batch, source, target, epoch, grants, finals, context } = export;
        if !self.core.listed {
            return Err(Refusal::new(Status::Busy, "this gateway is starting: try again"));
        }
        //= spec CXTP-6.8-3
        if target != self.core.config.name {
            let detail = format!("the file is for `{target}`");
            return Err(Refusal::new(Status::NotAuthorized, detail));
        }
        let policy = self.core.config.peers.get(&source);
        if !policy.is_some_and(|policy| policy.may_push) {
            let detail = format!("`{source}` may not send sessions here");
            return Err(Refusal::new(Status::NotAuthorized, detail));
        }
        let below = finals.children.iter().all(|child| {
            grants.iter().any(|grant| grant.sa == child.sa && child.sequence < grant.base)
        });
        if !below || finals.generation != context.generation {
            let detail = "the last counters do not fit the session in the file";
            return Err(Refusal::new(Status::GenerationChanged, detail));
        }
        finals.check()?;
        let id = context.session;
        let from = gateway(&source);
        self.admit_arrival(&from, batch, id, epoch, &context, &grants, Some(request))?;
        if let Some(session) = self.sessions.get_mut(&id)
            && let Place::Coming(arrival) = &mut session.place
        {
            arrival.finals = Some(Box::new(finals));
        }
        self.core.outbox.stage.push(StageOrder { epoch, source, batch, grants, context });
        Ok(())
    }
}

impl Core {
    /// The context that goes into a file; nobody else has it.
    pub(super) fn hand_out(
        &mut self,
        id: SessionId,
        session: &mut Session,
        result: Result<Context, Refusal>,
    ) {
        let source = self.config.name.clone();
        let Place::Leaving(departure) = &mut session.place else { return };
        let Some(request) = departure.file else { return };
        match (result, departure.finals.take()) {
            (Ok(context), Some(finals)) if context.generation == finals.generation => {
                let exported = Exported {
                    batch: departure.batch,
                    source,
                    target: departure.target.clone(),
                    epoch: departure.epoch,
                    grants: departure.grants.clone(),
                    finals: *finals,
                    context,
                };
                self.outbox.reply(request, Reply::Exported(Box::new(exported)));
                let _ = self.source(id, session, SourceEvent::Read);
            }
            (result, _) => {
                let why = result.err().unwrap_or_else(|| {
                    Refusal::new(Status::GenerationChanged, "it changed while it was paused")
                });
                let gone = super::offer::is_missing(&why);
                let failure = if gone { Failure::Lost(why) } else { Failure::Aborted(why) };
                departure.failure.get_or_insert(failure);
                let _ = self.source(id, session, SourceEvent::Unreadable);
            }
        }
    }

    /// Answers the operator whose word has been carried out.
    pub(super) fn resolved(&mut self, departure: &mut Departure, result: Result<(), Status>) {
        let Some(request) = departure.resolving.take() else { return };
        let reply = match result {
            Ok(()) => Reply::Accepted,
            Err(status) => Reply::Refused(Refusal::new(
                status,
                "the journal could not be written: the session is still in doubt",
            )),
        };
        self.outbox.reply(request, reply);
    }

    /// Answers the request that a transfer was made for and that cannot be
    /// fulfilled any more.
    pub(super) fn answer_requests(&mut self, departure: &Departure, outcome: &Outcome) {
        let Some(request) = departure.file else { return };
        if departure.counted {
            return;
        }
        if let Outcome::Refused(why) | Outcome::Aborted(why) | Outcome::Lost(why) = outcome {
            self.outbox.reply(request, Reply::Refused(why.clone()));
        }
    }
}
