//! What the target does on entering each state of its table.

use std::time::Duration;

use protocol_spec::{
    id::{BatchId, Identity, Name, RequestId, SessionEpoch, SessionId},
    message::{CtdrEntry, TargetState as Said},
    status::{Refusal, Status},
    transfer::Finals,
};

use super::{
    Event, Record, Reply,
    machine::Core,
    outbox::gateway,
    sabotage::sabotaged,
    session::{Arrival, Gone, Place, Session},
    table::Step,
    target::{self, TargetEvent, TargetState},
};

/// How often a gateway is asked to put one session to use: for ten seconds, in which an
/// IKE daemon that ended is started again.
const ATTEMPTS: u32 = 15;

impl Arrival {
    pub(super) fn new(
        source: Name,
        batch: BatchId,
        epoch: SessionEpoch,
        state: TargetState,
    ) -> Self {
        Self {
            state,
            source,
            batch,
            epoch,
            finals: None,
            attempts: 0,
            reason: None,
            asked: None,
            file: None,
            installed: false,
            before: None,
        }
    }

    fn reason(&self) -> Refusal {
        self.reason
            .clone()
            .unwrap_or_else(|| Refusal::new(Status::TimedOut, "its source was silent for too long"))
    }
}

impl Core {
    /// Puts a session on its way in.
    pub(super) fn arrive(&mut self, id: SessionId, session: &mut Session, mut arrival: Arrival) {
        session.known = session.known.max(arrival.epoch);
        let peer = self.peers.entry(gateway(&arrival.source)).or_default();
        peer.arrived(arrival.batch);
        let old = std::mem::replace(&mut session.place, Place::Owned);
        if let Place::Gone(gone) = old
            && session.deadline.is_some()
        {
            arrival.before = Some(gone);
        }
        self.deadline(id, session, None);
        let state = arrival.state;
        session.place = Place::Coming(Box::new(arrival));
        self.target_enter(id, session, state);
    }

    /// One step of the target's table for one session.
    pub(super) fn target(
        &mut self,
        id: SessionId,
        session: &mut Session,
        event: TargetEvent,
    ) -> Step<TargetState> {
        let Place::Coming(arrival) = &mut session.place else { return Step::Ignored };
        let from = arrival.state;
        let step = target::step(from, event);
        let Step::To(to) = step else { return step };
        arrival.state = to;
        if to != from {
            self.deadline(id, session, None);
        }
        self.target_enter(id, session, from);
        step
    }

    fn target_enter(&mut self, id: SessionId, session: &mut Session, from: TargetState) {
        use TargetState as S;
        let owned = session.owned;
        let Place::Coming(arrival) = &mut session.place else { return };
        let (epoch, batch, source) = (arrival.epoch, arrival.batch, arrival.source.clone());
        match arrival.state {
            S::Staging | S::Withdrawing | S::Doomed => {}
            S::Staged => {
                arrival.installed = true;
                if arrival.file.is_some() && arrival.finals.is_some() {
                    let _ = self.target(id, session, TargetEvent::Finals);
                    return;
                }
                // A record that could not be written is not told to anybody.
                if from == S::Staging {
                    let generation = session.generation;
                    self.say(&source, batch, id, epoch, Said::Staged { generation });
                }
                //= spec CXTP-6.3-8
                self.deadline(id, session, Some(self.config.staged_timeout));
            }
            S::Claiming => {
                let Some(finals) = arrival.finals.as_deref().cloned() else { return };
                if sabotaged!(self, ActivateBeforeJournal) {
                    self.outbox.activate.push((id, epoch, finals.clone()));
                }
                let record = Record::Active { session: id, epoch, batch, source, finals };
                self.record(id, session, record);
            }
            S::Activating => {
                session.owned = session.owned.max(Some(epoch));
                arrival.attempts += 1;
                if let Some(finals) = arrival.finals.as_deref().cloned() {
                    self.outbox.activate.push((id, epoch, finals));
                }
            }
            S::Active => self.taken(id, session),
            S::Aborting => {
                if sabotaged!(self, AbortNotJournaled) {
                    let _ = self.target(id, session, TargetEvent::Written);
                    return;
                }
                self.record(id, session, Record::Aborted { session: id, epoch, source, owned });
            }
            S::Burying => {
                let lost = Some(arrival.reason());
                self.record(id, session, Record::Ended { session: id, epoch, lost });
            }
            S::Aborted => self.aborted(id, session),
            S::Refused => self.refused(id, session),
            S::Lost => self.arrival_lost(id, session),
        }
    }

    /// Says where a session stands to the gateway that it comes from.
    pub(super) fn say(
        &mut self,
        to: &Name,
        batch: BatchId,
        session: SessionId,
        epoch: SessionEpoch,
        state: Said,
    ) {
        self.outbox.ctdr(to, batch, CtdrEntry { session, epoch, state });
    }

    /// A session on its way in belongs to another batch of the same source now.
    pub(super) fn rebatched(
        &mut self,
        from: &Identity,
        id: SessionId,
        before: BatchId,
        batch: BatchId,
    ) {
        if before == batch {
            return;
        }
        let peer = self.peers.entry(from.clone()).or_default();
        peer.left(before);
        peer.arrived(batch);
        let why = Refusal::new(Status::TransferRunning, "its source offered it anew");
        self.pulled(id, before, Err(why));
    }

    /// Takes the arrival out of a session that has arrived, or not.
    fn end_arrival(&mut self, session: &mut Session, place: Place) -> Option<Arrival> {
        let Place::Coming(arrival) = std::mem::replace(&mut session.place, place) else {
            return None;
        };
        if let Some(peer) = self.peers.get_mut(&gateway(&arrival.source)) {
            peer.left(arrival.batch);
        }
        Some(*arrival)
    }

    fn taken(&mut self, id: SessionId, session: &mut Session) {
        let Some(arrival) = self.end_arrival(session, Place::Owned) else { return };
        let epoch = arrival.epoch;
        let sas = arrival.finals.iter().flat_map(|f| f.children.iter().map(|c| c.sa)).collect();
        let peer = self.peers.entry(gateway(&arrival.source)).or_default();
        peer.unconfirmed.insert(id, (epoch, arrival.batch, sas));
        self.say(&arrival.source, arrival.batch, id, epoch, Said::Active);
        self.outbox.event(Event::Taken { session: id, epoch, source: arrival.source.clone() });
        self.pulled(id, arrival.batch, Ok(()));
        if let Some(request) = arrival.file {
            self.outbox.reply(request, Reply::Accepted);
        }
    }

    fn aborted(&mut self, id: SessionId, session: &mut Session) {
        let Some(arrival) = self.end_arrival(session, Place::Owned) else { return };
        session.settled = session.settled.max(Some(arrival.epoch));
        session.place = Place::Gone(Gone::Aborted(arrival.source.clone()));
        self.deadline(id, session, Some(self.tombstone()));
        if arrival.installed {
            self.outbox.discard.push((id, arrival.epoch));
        }
        let why = arrival.reason();
        let (epoch, state) = (arrival.epoch, Said::Aborted(why.clone()));
        match arrival.asked {
            Some(request) => {
                let entry = CtdrEntry { session: id, epoch, state };
                self.outbox.answer(&arrival.source, request, entry);
            }
            None => self.say(&arrival.source, arrival.batch, id, epoch, state),
        }
        self.import_failed(&arrival, &why);
        self.pulled(id, arrival.batch, Err(why));
    }

    fn refused(&mut self, id: SessionId, session: &mut Session) {
        let Some(mut arrival) = self.end_arrival(session, Place::Owned) else { return };
        let before = arrival.before.take();
        // With nothing to remember it is forgotten: see `Engine::forget`.
        let wait = before.is_some().then(|| self.tombstone());
        session.place = Place::Gone(before.unwrap_or(Gone::Ended));
        self.deadline(id, session, wait);
        // What an earlier offer left, if this one was to replace it.
        if arrival.installed {
            self.outbox.discard.push((id, arrival.epoch));
        }
        let refusal = arrival.reason();
        let known = session.known;
        let state = Said::Refused { refusal: refusal.clone(), known };
        if arrival.file.is_none() {
            self.say(&arrival.source, arrival.batch, id, arrival.epoch, state);
        }
        self.import_failed(&arrival, &refusal);
        self.pulled(id, arrival.batch, Err(refusal));
    }

    fn arrival_lost(&mut self, id: SessionId, session: &mut Session) {
        let Some(arrival) = self.end_arrival(session, Place::Owned) else { return };
        let why = arrival.reason();
        session.settled = session.settled.max(Some(arrival.epoch));
        session.place = Place::Gone(Gone::Lost(why.clone()));
        self.deadline(id, session, Some(self.tombstone()));
        self.outbox.event(Event::Lost { session: id, reason: why.clone() });
        // What the gateway would not put to use is there still.
        self.outbox.discard.push((id, arrival.epoch));
        // The ownership was here: its source has nothing to wait for.
        self.say(&arrival.source, arrival.batch, id, arrival.epoch, Said::Active);
        self.import_failed(&arrival, &why);
        self.pulled(id, arrival.batch, Err(why));
    }

    fn import_failed(&mut self, arrival: &Arrival, why: &Refusal) {
        if let Some(request) = arrival.file {
            self.outbox.reply(request, Reply::Refused(why.clone()));
        }
    }

    /// The records of a session that is on its way in are on disk, or not.
    pub(super) fn target_journaled(&mut self, id: SessionId, session: &mut Session, written: bool) {
        let Place::Coming(arrival) = &mut session.place else { return };
        if written {
            if matches!(arrival.state, TargetState::Claiming | TargetState::Doomed) {
                session.owned = session.owned.max(Some(arrival.epoch));
            }
            session.settled = session.settled.max(Some(arrival.epoch));
            let _ = self.target(id, session, TargetEvent::Written);
            return;
        }
        if matches!(arrival.state, TargetState::Aborting | TargetState::Burying) {
            let wait = self.config.request_retry;
            self.deadline(id, session, Some(wait));
        } else {
            if let Some(request) = arrival.file.take() {
                let why = Refusal::new(Status::JournalFault, "the journal could not be written");
                self.outbox.reply(request, Reply::Refused(why));
            }
            let _ = self.target(id, session, TargetEvent::Unwritten);
        }
    }

    pub(super) fn target_deadline(&mut self, id: SessionId, session: &mut Session) {
        let _ = self.target(id, session, TargetEvent::Deadline);
    }

    /// The gateway put it to use, or not.
    pub(super) fn session_activated(
        &mut self,
        id: SessionId,
        session: &mut Session,
        epoch: SessionEpoch,
        result: Result<(), Refusal>,
    ) {
        let Place::Coming(arrival) = &mut session.place else { return };
        if arrival.epoch != epoch || arrival.state != TargetState::Activating {
            return;
        }
        match result {
            Ok(()) => {
                let _ = self.target(id, session, TargetEvent::Activated);
            }
            Err(why) => {
                let hopeless = super::offer::is_missing(&why) || arrival.attempts >= ATTEMPTS;
                arrival.reason = Some(why);
                if hopeless {
                    let _ = self.target(id, session, TargetEvent::Unusable);
                } else {
                    let wait = Duration::from_millis(100) * arrival.attempts;
                    self.deadline(id, session, Some(wait));
                }
            }
        }
    }

    /// The final data of a session that is staged here.
    pub(super) fn finals(
        &mut self,
        id: SessionId,
        session: &mut Session,
        finals: Finals,
    ) -> Step<TargetState> {
        let Place::Coming(arrival) = &mut session.place else { return Step::Ignored };
        if arrival.state == TargetState::Staged {
            arrival.finals = Some(Box::new(finals));
        }
        self.target(id, session, TargetEvent::Finals)
    }

    /// Takes back what is on its way in.
    pub(super) fn call_off(
        &mut self,
        id: SessionId,
        session: &mut Session,
        reason: Refusal,
        asked: Option<RequestId>,
    ) {
        let Place::Coming(arrival) = &mut session.place else { return };
        if matches!(arrival.state, TargetState::Staging | TargetState::Staged) {
            arrival.reason = Some(reason);
            arrival.asked = asked;
        }
        let _ = self.target(id, session, TargetEvent::Cancel);
    }
}
