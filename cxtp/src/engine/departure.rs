//! What the source does on entering each state of its table.

use std::time::Duration;

use protocol_spec::{
    id::{BatchId, Name, RequestId, SessionEpoch, SessionId},
    message::CtdEntry,
    status::{Refusal, Status},
    transfer::Outcome,
};

use super::{
    Event, Record,
    machine::Core,
    outbox::gateway,
    sabotage::sabotaged,
    session::{Departure, Failure, Gone, Place, Session},
    source::{self, SourceEvent, SourceState},
    table::Step,
};

impl Departure {
    pub(super) fn new(batch: BatchId, target: Name, state: SourceState) -> Self {
        Self {
            state,
            batch,
            target,
            epoch: SessionEpoch(0),
            grants: Vec::new(),
            generation: Default::default(),
            offered: false,
            again: 0,
            paused_at: Duration::ZERO,
            committed_at: Duration::ZERO,
            retry: Duration::ZERO,
            finals: None,
            spent: false,
            from: Vec::new(),
            failure: None,
            gap: Duration::ZERO,
            file: None,
            passive: false,
            resolving: None,
            counted: false,
        }
    }

    pub(super) fn into_file(mut self, request: RequestId) -> Self {
        self.file = Some(request);
        self.passive = true;
        self
    }

    fn reason(&self) -> Refusal {
        match &self.failure {
            Some(Failure::Refused(why) | Failure::Aborted(why) | Failure::Lost(why)) => why.clone(),
            None => Refusal::new(Status::TimedOut, "the transfer took too long"),
        }
    }
}

impl Core {
    /// Puts a session on its way out.
    pub(super) fn depart(&mut self, id: SessionId, session: &mut Session, departure: Departure) {
        let (batch, target, state) = (departure.batch, departure.target.clone(), departure.state);
        session.place = Place::Leaving(Box::new(departure));
        self.windows(id, batch, &target, None, state);
        self.source_enter(id, session, state);
    }

    /// One step of the source's table for one session.
    pub(super) fn source(
        &mut self,
        id: SessionId,
        session: &mut Session,
        event: SourceEvent,
    ) -> Step<SourceState> {
        let Place::Leaving(departure) = &mut session.place else { return Step::Ignored };
        let from = departure.state;
        let mut step = source::step(from, event);
        if sabotaged!(self, ResumeOnTimeoutAfterCommit)
            && (from, event) == (SourceState::Committed, SourceEvent::Deadline)
        {
            step = Step::To(SourceState::Resuming);
        }
        let Step::To(to) = step else { return step };
        departure.state = to;
        let (batch, target) = (departure.batch, departure.target.clone());
        self.windows(id, batch, &target, Some(from), to);
        if (from, to) == (SourceState::Retreating, SourceState::Resuming)
            && session.deadline.is_none()
        {
            // The gateway has not answered the resume of the retreat yet. A second
            // one might be done after the next pause.
            return step;
        }
        self.deadline(id, session, None);
        self.source_enter(id, session, from);
        step
    }

    /// Keeps the windows and the lists of doubts in step with the states.
    fn windows(
        &mut self,
        id: SessionId,
        batch: BatchId,
        target: &Name,
        from: Option<SourceState>,
        to: SourceState,
    ) {
        let was = |test: fn(SourceState) -> bool| from.is_some_and(test);
        let (before, after) = (was(SourceState::in_staging_window), to.in_staging_window());
        if before != after
            && let Some(entry) = self.batches.get_mut(&batch)
        {
            entry.window = if after { entry.window + 1 } else { entry.window.saturating_sub(1) };
            self.stirred.insert(batch);
        }
        let (before, after) = (was(SourceState::is_unstaged), to.is_unstaged());
        if before != after
            && let Some(entry) = self.batches.get_mut(&batch)
        {
            entry.unstaged =
                if after { entry.unstaged + 1 } else { entry.unstaged.saturating_sub(1) };
            if entry.unstaged == 0 && !entry.ready.is_empty() {
                self.ready.insert(batch);
            }
        }
        match (was(SourceState::in_pause_window), to.in_pause_window()) {
            (false, true) => self.paused += 1,
            (true, false) => self.paused = self.paused.saturating_sub(1),
            _ => {}
        }
        match (was(SourceState::in_doubt), to.in_doubt()) {
            (false, true) => {
                self.peers.entry(gateway(target)).or_default().doubts.insert(id);
            }
            (true, false) => {
                if let Some(peer) = self.peers.get_mut(&gateway(target)) {
                    peer.doubts.remove(&id);
                }
            }
            _ => {}
        }
    }

    fn source_enter(&mut self, id: SessionId, session: &mut Session, from: SourceState) {
        use SourceState as S;
        let owned = session.owned.unwrap_or_default();
        let Place::Leaving(departure) = &mut session.place else { return };
        let now = self.now.monotonic;
        match departure.state {
            S::Reading => {
                departure.finals = None;
                self.outbox.snapshot.push(id);
                self.deadline(id, session, Some(self.config.stage_timeout));
            }
            S::Staging => self.deadline(id, session, Some(self.config.stage_timeout)),
            S::Ready => {
                if let Some(batch) = self.batches.get_mut(&departure.batch) {
                    batch.ready.push_back(id);
                    self.ready.insert(departure.batch);
                }
                self.deadline(id, session, Some(self.config.staged_timeout));
            }
            S::Pausing => {
                departure.paused_at = now;
                let staged = departure.file.is_none().then_some(departure.generation);
                self.outbox.pause.push((id, departure.target.clone(), staged));
                //= spec CXTP-6.2-4
                self.deadline(id, session, Some(self.config.max_transfer_time));
            }
            // The target is told when the session goes on here: what waits there comes
            // back then, and would be lost before.
            S::Overdue | S::Halting => {}
            S::Committing => self.commit(id, session),
            S::Committed => self.committed(id, session),
            S::InDoubt => self.doubt(id, session, from),
            // It is paused, and stays so whatever it is.
            S::Redelivering => self.outbox.pause.push((id, departure.target.clone(), None)),
            S::Handing => self.outbox.snapshot.push(id),
            S::Settling => {
                departure.gap = now.saturating_sub(departure.paused_at);
                let (epoch, target) = (departure.epoch, departure.target.clone());
                let keep = self.tombstone();
                self.record(id, session, Record::Moved { session: id, epoch, target, keep });
            }
            S::Releasing => {
                self.outbox.release.push((id, departure.epoch, departure.target.clone()));
            }
            S::Returning => {
                // Where this cannot be written either, the target's word ends the doubt.
                self.withdraw(id, departure);
                session.known = session.known.next();
                let (epoch, from) = (session.known, departure.from.clone());
                self.record(id, session, Record::Resumed { session: id, epoch, from });
            }
            S::Retreating => self.outbox.resume.push((id, owned, Vec::new())),
            S::Resuming => self.outbox.resume.push((id, owned, departure.from.clone())),
            S::Moved | S::Kept | S::Ended | S::Lost => self.departed(id, session),
        }
    }

    /// Tells the target to drop what it may have staged.
    fn withdraw(&mut self, id: SessionId, departure: &mut Departure) {
        //= spec CXTP-6.2-6
        if std::mem::take(&mut departure.offered) {
            let reason = departure.reason();
            self.outbox.ctc(&departure.target, departure.batch, (id, departure.epoch), &reason);
        }
    }

    fn commit(&mut self, id: SessionId, session: &mut Session) {
        let Place::Leaving(departure) = &mut session.place else { return };
        let record = Record::Committed {
            session: id,
            epoch: departure.epoch,
            batch: departure.batch,
            target: departure.target.clone(),
            grants: departure.grants.clone(),
            by_file: departure.passive,
        };
        if sabotaged!(self, CommitNotJournaled) {
            self.source(id, session, SourceEvent::Written);
            return;
        }
        if sabotaged!(self, SendCtdBeforeJournal)
            && let Some(finals) = departure.finals.clone()
        {
            let entry = CtdEntry { session: id, epoch: departure.epoch, finals: *finals };
            self.outbox.ctd(&departure.target, departure.batch, entry);
        }
        self.record(id, session, record);
    }

    fn committed(&mut self, id: SessionId, session: &mut Session) {
        let Place::Leaving(departure) = &mut session.place else { return };
        departure.offered = false;
        departure.committed_at = self.now.monotonic;
        departure.retry = self.config.request_retry;
        self.outbox.event(Event::Committed { session: id, epoch: departure.epoch });
        //= spec CXTP-6.8-1
        if departure.file.is_some() {
            self.source(id, session, SourceEvent::HandOut);
            return;
        }
        self.deliver(id, departure);
        self.deadline(id, session, Some(self.config.request_retry));
    }

    /// Sends the final data, once.
    fn deliver(&mut self, id: SessionId, departure: &mut Departure) {
        if let Some(finals) = departure.finals.take() {
            let entry = CtdEntry { session: id, epoch: departure.epoch, finals: *finals };
            self.outbox.ctd(&departure.target, departure.batch, entry);
        }
    }

    fn doubt(&mut self, id: SessionId, session: &mut Session, from: SourceState) {
        let Place::Leaving(departure) = &mut session.place else { return };
        if !matches!(from, SourceState::InDoubt | SourceState::Redelivering) {
            let target = departure.target.clone();
            self.outbox.event(Event::InDoubt { session: id, target });
        }
        let transfer = (id, departure.epoch, departure.batch);
        // What could not be written down is not asked for again at once, or the
        // answer would be as quick as the failure.
        let unwritten = matches!(from, SourceState::Settling | SourceState::Returning);
        if from == SourceState::Redelivering {
            self.deliver(id, departure);
        } else if departure.spent && !unwritten {
            // What the target waits for is gone: only its *aborted* can end this.
            let reason = departure.reason();
            self.outbox.ctc(&departure.target, departure.batch, (id, departure.epoch), &reason);
        } else if !departure.passive && !unwritten {
            //= spec CXTP-6.4-1
            self.outbox.query(&departure.target, transfer);
        }
        let now = self.now.monotonic;
        let given_up = now.saturating_sub(departure.committed_at) >= self.config.retry_max;
        if (given_up || departure.passive) && !departure.counted {
            departure.counted = true;
            self.ended(id, departure.batch, Outcome::InDoubt);
        }
        let Place::Leaving(departure) = &mut session.place else { return };
        if !departure.passive || departure.spent || unwritten {
            let wait = departure.retry.max(Duration::from_millis(1));
            departure.retry = (wait * 2).min(self.config.retry_max);
            self.deadline(id, session, Some(wait));
        }
    }

    /// The transfer has ended, one way or the other.
    fn departed(&mut self, id: SessionId, session: &mut Session) {
        let Place::Leaving(departure) = &mut session.place else { return };
        self.withdraw(id, departure);
        let Place::Leaving(mut departure) = std::mem::replace(&mut session.place, Place::Owned)
        else {
            return;
        };
        let failure = departure.failure.take();
        let outcome = match departure.state {
            SourceState::Moved => {
                session.place = Place::Gone(Gone::Moved(departure.target.clone()));
                //= spec CXTP-6.1-5
                self.deadline(id, session, Some(self.tombstone()));
                let ends = departure.grants.iter().map(|grant| (grant.sa, u64::MAX)).collect();
                self.outbox.grant(&departure.target, (id, departure.epoch, ends));
                Outcome::Moved { gap: departure.gap }
            }
            // Whatever is missing after its gateway was lost did not simply end.
            SourceState::Lost | SourceState::Ended
                if departure.state == SourceState::Lost
                    || matches!(failure, Some(Failure::Lost(_))) =>
            {
                let why = match failure {
                    Some(Failure::Lost(why)) => why,
                    _ => Refusal::new(Status::NoSession, "the gateway no longer has it"),
                };
                self.bury(id, session, Some(why.clone()));
                Outcome::Lost(why)
            }
            SourceState::Ended => {
                self.bury(id, session, None);
                Outcome::Aborted(Refusal::new(Status::SessionEnded, "it ended while it was moved"))
            }
            _ => match failure {
                Some(Failure::Refused(why)) => Outcome::Refused(why),
                Some(Failure::Aborted(why) | Failure::Lost(why)) => Outcome::Aborted(why),
                None => Outcome::Aborted(Refusal::new(Status::TimedOut, "it took too long")),
            },
        };
        self.answer_requests(&departure, &outcome);
        self.ended(id, departure.batch, outcome);
    }

    /// A session that was owned here is gone: remembered, written down where a
    /// peer might still ask about it, and reported.
    pub(super) fn bury(&mut self, id: SessionId, session: &mut Session, lost: Option<Refusal>) {
        let event = match &lost {
            Some(reason) => Event::Lost { session: id, reason: reason.clone() },
            None => Event::SessionDown(id),
        };
        self.outbox.event(event);
        let moved_before = session.known > SessionEpoch(0);
        if moved_before {
            let record = Record::Ended { session: id, epoch: session.known, lost: lost.clone() };
            self.record(id, session, record);
            session.settled = Some(session.known);
        }
        if moved_before || lost.is_some() {
            self.deadline(id, session, Some(self.tombstone()));
        }
        session.place = Place::Gone(lost.map_or(Gone::Ended, Gone::Lost));
    }

    /// The records of a session that is on its way out are on disk, or not.
    pub(super) fn source_journaled(&mut self, id: SessionId, session: &mut Session, written: bool) {
        let Place::Leaving(departure) = &mut session.place else { return };
        let epoch = departure.epoch;
        if !written {
            departure.failure.get_or_insert_with(|| {
                Failure::Aborted(Refusal::new(
                    Status::JournalFault,
                    "the journal of the source could not be written",
                ))
            });
            self.resolved(departure, Err(Status::JournalFault));
            self.source(id, session, SourceEvent::Unwritten);
            return;
        }
        match departure.state {
            SourceState::Returning => {
                session.owned = Some(session.known);
                session.settled = Some(session.known);
                self.resolved(departure, Ok(()));
            }
            SourceState::Settling => {
                session.settled = Some(epoch);
                self.resolved(departure, Ok(()));
            }
            _ => session.settled = Some(epoch),
        }
        self.source(id, session, SourceEvent::Written);
    }

    pub(super) fn source_deadline(&mut self, id: SessionId, session: &mut Session) {
        let Place::Leaving(departure) = &mut session.place else { return };
        let is_pause = departure.state == SourceState::Pausing && departure.file.is_none();
        let event = if is_pause && departure.again < self.config.max_restage {
            departure.again += 1;
            SourceEvent::Late
        } else {
            SourceEvent::Deadline
        };
        self.source(id, session, event);
    }

    /// Stops a transfer for this reason where that is still possible.
    pub(super) fn stop(
        &mut self,
        id: SessionId,
        session: &mut Session,
        event: SourceEvent,
        reason: Failure,
    ) -> Step<SourceState> {
        let Place::Leaving(departure) = &mut session.place else { return Step::Ignored };
        if !departure.state.is_committed() {
            departure.failure.get_or_insert(reason);
        }
        self.source(id, session, event)
    }
}
