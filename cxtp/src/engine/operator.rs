//! What an operator does to one session: ends a doubt, hands the session out as
//! a file, takes one in from a file.

use protocol_spec::{
    id::{BatchId, Name, RequestId, SessionId},
    status::{Refusal, Status},
};

use super::{
    Exported, Reply, Resolution, StageOrder,
    batch::available,
    machine::Engine,
    outbox::gateway,
    sabotage::sabotaged,
    session::{Departure, Failure, Place},
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
                let above = departure.grants.iter().map(|grant| (grant.sa, grant.end));
                if !sabotaged!(self.core, ResumeNotAboveGrant) {
                    departure.from = above.collect();
                }
                let why = Refusal::new(Status::Cancelled, "resumed here by the operator's word");
                departure.failure = Some(Failure::Aborted(why));
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
