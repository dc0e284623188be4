//! What the gateway holds, held against what the journal and the engine know:
//! after a start, after lost events, and when the gateway itself is lost.

use std::collections::BTreeSet;

use protocol_spec::{
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    status::{Refusal, Status},
    transfer::{SessionState, SessionStatus},
};

use super::{
    Event, Record,
    machine::{Core, Engine},
    outbox::gateway,
    session::{Arrival, Departure, Failure, Gone, Place, Session},
    source::{SourceEvent, SourceState},
    target::{TargetEvent, TargetState},
};

impl Engine {
    /// Takes over what the journal held.
    pub(super) fn recover(&mut self, records: Vec<Record>) {
        for record in records {
            let epoch = record.epoch();
            let below = Some(SessionEpoch(epoch.0.saturating_sub(1)));
            let owned = match &record {
                Record::Committed { .. } | Record::Moved { .. } => below,
                Record::Resumed { .. } | Record::Active { .. } | Record::Ended { .. } => {
                    Some(epoch)
                }
                Record::Aborted { owned, .. } => *owned,
            };
            let session = Session {
                known: epoch,
                owned,
                settled: Some(epoch),
                place: Place::Recovered(Box::new(record)),
                ..Session::owned(epoch, Generation(0))
            };
            let id = match &session.place {
                Place::Recovered(record) => record.session(),
                _ => continue,
            };
            self.sessions.insert(id, session);
        }
    }

    pub(super) fn listed(&mut self, all: Vec<SessionStatus>) {
        self.core.listed = true;
        let seen: BTreeSet<SessionId> = all.iter().map(|status| status.session).collect();
        for status in all {
            self.found(status);
        }
        let absent: Vec<SessionId> =
            self.sessions.keys().filter(|id| !seen.contains(id)).copied().collect();
        for id in absent {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            self.core.absent(id, session);
            self.forget(id);
        }
    }

    /// The gateway holds this session.
    fn found(&mut self, status: SessionStatus) {
        let id = status.session;
        let Some(session) = self.sessions.get_mut(&id) else {
            let blank = Session {
                owned: None,
                place: Place::Gone(Gone::Ended),
                ..Session::owned(status.epoch, status.generation)
            };
            let session = self.sessions.entry(id).or_insert(blank);
            self.core.adopt(id, session, status);
            return;
        };
        session.generation = status.generation;
        if let Place::Recovered(record) = &session.place {
            let record = (**record).clone();
            self.core.reconcile(id, session, record, status);
            return;
        }
        match (&session.place, &status.state) {
            (Place::Owned, SessionState::Paused { .. }) => self.core.adopt(id, session, status),
            (
                Place::Gone(Gone::Moved(target)),
                SessionState::Paused { .. } | SessionState::Active,
            ) if status.epoch < session.known => {
                let target = target.clone();
                self.core.release_again(id, session, target);
            }
            // A list may be older than what has been heard since.
            (Place::Gone(gone), SessionState::Staged { .. })
                if session.is_settled(status.epoch)
                    || (matches!(gone, Gone::Moved(_) | Gone::Aborted(_))
                        && status.epoch <= session.known) =>
            {
                self.core.outbox.discard.push((id, status.epoch));
            }
            (Place::Gone(_), _) if session.ticket.is_none() => {
                self.core.adopt(id, session, status);
            }
            _ => {}
        }
    }

    pub(super) fn session_up(&mut self, status: SessionStatus) {
        if self.core.listed {
            self.found(status);
        }
    }

    pub(super) fn session_changed(&mut self, id: SessionId, generation: Generation) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.generation = session.generation.max(generation);
        let Place::Leaving(departure) = &mut session.place else { return };
        // One that the target has not staged yet is held against its generation
        // when the answer comes.
        if departure.state == SourceState::Ready && departure.generation < generation {
            let event = self.core.changed(departure);
            let _ = self.core.source(id, session, event);
        }
    }

    pub(super) fn session_down(&mut self, id: SessionId, lost: Option<Refusal>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.core.down(id, session, lost);
        self.forget(id);
    }

    /// Its source keeps it, unless it is owned here already: then its activation fails.
    pub(super) fn session_unusable(&mut self, id: SessionId, reason: Refusal) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if matches!(&session.place, Place::Coming(arrival) if arrival.state == TargetState::Staged)
        {
            self.core.call_off(id, session, reason, None);
        }
    }

    /// The gateway is gone, and what it held with it.
    pub(super) fn gateway_lost(&mut self, detail: &str) {
        self.core.questions_lost();
        let reason = Refusal::new(Status::GatewayLost, detail);
        for (id, session) in &mut self.sessions {
            let id = *id;
            match &mut session.place {
                Place::Owned => self.core.bury(id, session, Some(reason.clone())),
                Place::Leaving(departure) => {
                    let lost = Failure::Lost(reason.clone());
                    match departure.state.is_committed() {
                        true => departure.failure.get_or_insert(lost),
                        false => departure.failure.insert(lost),
                    };
                    let _ = self.core.source(id, session, SourceEvent::GatewayLost);
                }
                Place::Coming(arrival) => {
                    arrival.reason = Some(reason.clone());
                    arrival.installed = false;
                    let _ = self.core.target(id, session, TargetEvent::GatewayLost);
                }
                Place::Gone(_) | Place::Recovered(_) => {}
            }
        }
        self.sessions.retain(|_, session| {
            !matches!(session.place, Place::Gone(_))
                || session.deadline.is_some()
                || session.ticket.is_some()
        });
    }
}

impl Core {
    /// A session that nothing is known of, as the gateway shows it.
    fn adopt(&mut self, id: SessionId, session: &mut Session, status: SessionStatus) {
        let SessionStatus { epoch, generation, state, .. } = status.clone();
        session.known = session.known.max(epoch);
        session.generation = generation;
        self.deadline(id, session, None);
        match state {
            SessionState::Active => {
                session.owned = session.owned.max(Some(epoch));
                session.place = Place::Owned;
                self.outbox.event(Event::SessionUp(status));
            }
            //= spec CXTP-6.4-6
            // Nobody has written *committed* down, so nobody else may have it.
            SessionState::Paused { target } => {
                session.owned = session.owned.max(Some(epoch));
                self.outbox.event(Event::SessionUp(status));
                self.resume_again(id, session, BatchId([0; 16]), target, Vec::new());
            }
            SessionState::Staged { source, batch } => {
                let mut arrival = Arrival::new(source, batch, epoch, TargetState::Staged);
                arrival.installed = true;
                self.arrive(id, session, arrival);
            }
        }
    }

    fn resume_again(
        &mut self,
        id: SessionId,
        session: &mut Session,
        batch: BatchId,
        target: Name,
        from: Vec<(protocol_spec::transfer::SaRef, u64)>,
    ) {
        let mut departure = Departure::new(batch, target, SourceState::Resuming);
        departure.from = from;
        let why = Refusal::new(Status::Cancelled, "the daemon stopped while it was moved");
        departure.failure = Some(Failure::Aborted(why));
        self.depart(id, session, departure);
    }

    fn release_again(&mut self, id: SessionId, session: &mut Session, target: Name) {
        let mut departure = Departure::new(BatchId([0; 16]), target, SourceState::Releasing);
        departure.epoch = session.known;
        self.depart(id, session, departure);
    }

    /// A session with a record, as the gateway shows it.
    fn reconcile(
        &mut self,
        id: SessionId,
        session: &mut Session,
        record: Record,
        status: SessionStatus,
    ) {
        session.place = Place::Gone(Gone::Ended);
        match (record, &status.state) {
            //= spec CXTP-6.4-5
            (record @ Record::Committed { .. }, state) => {
                let active = *state == SessionState::Active;
                self.doubt_again(id, session, record);
                if active {
                    let _ = self.source(id, session, SourceEvent::Waiting);
                }
            }
            (Record::Moved { epoch, target, .. }, state) => {
                session.place = Place::Gone(Gone::Moved(target.clone()));
                let back = matches!(state, SessionState::Staged { .. }) && status.epoch > epoch;
                if back {
                    self.adopt(id, session, status);
                } else if matches!(state, SessionState::Staged { .. }) {
                    self.outbox.discard.push((id, status.epoch));
                    self.keep(id, session);
                } else {
                    self.release_again(id, session, target);
                }
            }
            (Record::Resumed { from, .. }, SessionState::Paused { target }) => {
                let target = target.clone();
                self.outbox.event(Event::SessionUp(status));
                self.resume_again(id, session, BatchId([0; 16]), target, from);
            }
            (Record::Active { epoch, batch, source, finals, .. }, state) => match state {
                //= spec CXTP-6.4-7
                SessionState::Staged { .. } if status.epoch == epoch => {
                    let mut arrival = Arrival::new(source, batch, epoch, TargetState::Activating);
                    arrival.installed = true;
                    arrival.finals = Some(Box::new(finals));
                    self.arrive(id, session, arrival);
                }
                SessionState::Active if status.epoch == epoch => {
                    let sas = finals.children.iter().map(|child| child.sa).collect();
                    let peer = self.peers.entry(gateway(&source)).or_default();
                    peer.unconfirmed.insert(id, (epoch, batch, sas));
                    self.adopt(id, session, status);
                }
                _ => self.adopt(id, session, status),
            },
            (Record::Aborted { epoch, source, .. }, SessionState::Staged { .. })
                if status.epoch <= epoch =>
            {
                session.place = Place::Gone(Gone::Aborted(source));
                self.outbox.discard.push((id, status.epoch));
                self.keep(id, session);
            }
            (Record::Ended { epoch, .. }, SessionState::Staged { .. }) if status.epoch <= epoch => {
                self.outbox.discard.push((id, status.epoch));
                self.keep(id, session);
            }
            (
                Record::Resumed { .. } | Record::Aborted { .. } | Record::Ended { .. },
                SessionState::Active | SessionState::Paused { .. } | SessionState::Staged { .. },
            ) => self.adopt(id, session, status),
        }
    }

    /// A committed transfer goes on where it stopped: by asking.
    fn doubt_again(&mut self, id: SessionId, session: &mut Session, record: Record) {
        let Record::Committed { epoch, batch, target, grants, by_file, .. } = record else {
            return;
        };
        let mut departure = Departure::new(batch, target, SourceState::Committed);
        departure.epoch = epoch;
        departure.grants = grants;
        departure.paused_at = self.now.monotonic;
        departure.committed_at = self.now.monotonic;
        departure.retry = self.config.request_retry;
        departure.passive = by_file;
        session.place = Place::Leaving(Box::new(departure));
        self.paused += 1;
        let _ = self.source(id, session, SourceEvent::PeerDown);
    }

    /// Keeps a tombstone from now on.
    fn keep(&mut self, id: SessionId, session: &mut Session) {
        self.deadline(id, session, Some(self.tombstone()));
    }

    /// The gateway no longer holds this session.
    fn absent(&mut self, id: SessionId, session: &mut Session) {
        let Place::Recovered(record) = &session.place else {
            // What is only now being installed may not have been there yet.
            let installing = matches!(&session.place, Place::Coming(arrival)
                if matches!(arrival.state, TargetState::Staging | TargetState::Withdrawing));
            if !installing {
                self.down(id, session, None);
            }
            return;
        };
        let record = (**record).clone();
        session.place = Place::Gone(Gone::Ended);
        match record {
            Record::Committed { .. } => self.doubt_again(id, session, record),
            Record::Moved { target, .. } => {
                session.place = Place::Gone(Gone::Moved(target));
                self.keep(id, session);
            }
            //= spec CXTP-6.4-8
            Record::Resumed { .. } | Record::Active { .. } => {
                let detail = "the gateway no longer has it after a restart of the daemon";
                self.bury(id, session, Some(Refusal::new(Status::NoSession, detail)));
            }
            Record::Aborted { source, .. } => {
                session.place = Place::Gone(Gone::Aborted(source));
                self.keep(id, session);
            }
            Record::Ended { lost, .. } => {
                session.place = Place::Gone(lost.map_or(Gone::Ended, Gone::Lost));
                self.keep(id, session);
            }
        }
    }

    fn down(&mut self, id: SessionId, session: &mut Session, lost: Option<Refusal>) {
        match &mut session.place {
            Place::Owned => self.bury(id, session, lost),
            Place::Leaving(departure) => {
                if let Some(reason) = lost {
                    departure.failure = Some(Failure::Lost(reason));
                }
                let _ = self.source(id, session, SourceEvent::Ended);
            }
            Place::Coming(arrival) => {
                arrival.installed = false;
                let ended = || Refusal::new(Status::SessionEnded, "it ended");
                arrival.reason = Some(lost.unwrap_or_else(ended));
                let _ = self.target(id, session, TargetEvent::Ended);
            }
            Place::Gone(_) | Place::Recovered(_) => {}
        }
    }
}
