//! Batches at their source, and the two windows that bound what is under way.

use std::collections::{BTreeSet, VecDeque};

use protocol_spec::{
    id::{BatchId, Name, RequestId, SessionId},
    status::{Refusal, Status},
    token::Token,
    transfer::{Outcome, TransferMode},
};

use super::{
    BatchSummary, Event, Reply,
    machine::{Core, Engine},
    outbox::gateway,
    session::{Departure, Failure, Place},
    source::{SourceEvent, SourceState},
};

/// Sessions on their way to one target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Batch {
    pub(super) target: Name,
    pub(super) mode: TransferMode,
    /// Not begun; the next one is the last.
    pub(super) waiting: Vec<SessionId>,
    /// Staged; some may have left that state since.
    pub(super) ready: VecDeque<SessionId>,
    /// Begun and not ended.
    pub(super) active: BTreeSet<SessionId>,
    /// Those in the staging window.
    pub(super) window: usize,
    /// Of these, not staged yet.
    pub(super) unstaged: usize,
    pub(super) sessions: usize,
    pub(super) summary: BatchSummary,
    /// The end user's token, which is verified once the context is there.
    pub(super) token: Option<Box<Token>>,
    /// Parts of an order that the target has not asked for yet.
    pub(super) promised: usize,
}

impl Batch {
    pub(super) fn new(
        batch: BatchId,
        target: Name,
        mode: TransferMode,
        mut sessions: Vec<SessionId>,
    ) -> Self {
        // In order, so that neighbours in the map are under way together.
        sessions.sort_unstable();
        sessions.dedup();
        sessions.reverse();
        // It may wait for long, and be long.
        sessions.shrink_to_fit();
        Self {
            target,
            mode,
            sessions: sessions.len(),
            waiting: sessions,
            ready: VecDeque::new(),
            active: BTreeSet::new(),
            window: 0,
            unstaged: 0,
            summary: BatchSummary { batch, moved: 0, refused: 0, aborted: 0, in_doubt: 0, lost: 0 },
            token: None,
            promised: 0,
        }
    }

    pub(super) fn ended(&self) -> usize {
        let s = &self.summary;
        s.moved + s.refused + s.aborted + s.in_doubt + s.lost
    }

    fn count(&mut self, outcome: &Outcome) {
        let s = &mut self.summary;
        *match outcome {
            Outcome::Moved { .. } => &mut s.moved,
            Outcome::Refused(_) => &mut s.refused,
            Outcome::Aborted(_) => &mut s.aborted,
            Outcome::InDoubt => &mut s.in_doubt,
            Outcome::Lost(_) => &mut s.lost,
        } += 1;
    }
}

impl Engine {
    pub(super) fn transfer(
        &mut self,
        batch: BatchId,
        sessions: Vec<SessionId>,
        target: Name,
        mode: TransferMode,
    ) {
        let request = RequestId(batch.0);
        let reply = match self.core.may_begin(batch, &target) {
            Err(refusal) => Reply::Refused(refusal),
            Ok(()) if mode == TransferMode::Reactive => {
                match self.core.order(batch, target, sessions) {
                    Ok(()) => Reply::Accepted,
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
            Ok(()) => {
                self.core.begin(batch, Batch::new(batch, target, mode, sessions));
                Reply::Accepted
            }
        };
        self.core.outbox.reply(request, reply);
    }

    pub(super) fn cancel(&mut self, batch: BatchId) {
        let known = self.core.batches.contains_key(&batch);
        let reply = if known {
            let reason = Refusal::new(Status::Cancelled, "the batch was cancelled");
            self.stop_batch(batch, SourceEvent::Cancel, &reason);
            Reply::Accepted
        } else {
            Reply::Refused(Refusal::new(Status::NoTransfer, "no such batch runs here"))
        };
        self.core.outbox.reply(RequestId(batch.0), reply);
    }

    /// Stops what is not committed of a batch.
    pub(super) fn stop_batch(&mut self, id: BatchId, event: SourceEvent, reason: &Refusal) {
        let Some(batch) = self.core.batches.get_mut(&id) else { return };
        batch.summary.aborted += batch.waiting.len();
        batch.waiting.clear();
        batch.promised = 0;
        let active: Vec<SessionId> = batch.active.iter().copied().collect();
        self.core.orders.remove(&RequestId(id.0));
        for session_id in active {
            if let Some(session) = self.sessions.get_mut(&session_id) {
                let failure = Failure::Aborted(reason.clone());
                let _ = self.core.stop(session_id, session, event, failure);
            }
        }
        self.core.close(id);
    }

    /// Begins and pauses as many sessions as the windows have room for.
    pub(super) fn pump(&mut self) {
        while self.core.paused < self.core.config.pause_window.max(1) {
            let Some(batch) = self.core.ready.pop_first() else { break };
            self.pause_ready(batch);
        }
        while let Some(batch) = self.core.stirred.pop_first() {
            self.begin_waiting(batch);
        }
    }

    fn begin_waiting(&mut self, id: BatchId) {
        let limit = self.core.config.staging_window.max(1);
        // Room is left to gather, so that sessions are not begun one by one.
        let slack = (limit / 8).min(256);
        let in_turns = self.core.config.stage_first;
        match self.core.batches.get(&id) {
            Some(batch) if batch.window == 0 || !in_turns && batch.window + slack <= limit => {}
            _ => return,
        }
        while let Some(batch) = self.core.batches.get_mut(&id)
            && batch.window < limit
            && let Some(session) = batch.waiting.pop()
        {
            self.begin_session(id, session);
        }
    }

    fn begin_session(&mut self, batch_id: BatchId, id: SessionId) {
        let Some(batch) = self.core.batches.get_mut(&batch_id) else { return };
        batch.active.insert(id);
        let (target, mode) = (batch.target.clone(), batch.mode);
        let session = match self.sessions.get_mut(&id) {
            Some(session) => match available(&session.place) {
                Ok(()) => session,
                Err(refusal) => return self.core.ended(id, batch_id, Outcome::Refused(refusal)),
            },
            None => {
                let refusal = Refusal::new(Status::NoSession, "no such session here");
                return self.core.ended(id, batch_id, Outcome::Refused(refusal));
            }
        };
        let event =
            Event::TransferBegun { batch: batch_id, session: id, target: target.clone(), mode };
        self.core.outbox.event(event);
        let departure = Departure::new(batch_id, target, SourceState::Reading);
        self.core.depart(id, session, departure);
    }

    fn pause_ready(&mut self, id: BatchId) {
        while self.core.paused < self.core.config.pause_window.max(1) {
            let in_turns = self.core.config.stage_first;
            let Some(batch) = self.core.batches.get_mut(&id) else { return };
            // The last one that is staged brings it back.
            if in_turns && batch.unstaged > 0 {
                return;
            }
            let Some(next) = batch.ready.pop_front() else { return };
            let Some(session) = self.sessions.get_mut(&next) else { continue };
            if matches!(&session.place, Place::Leaving(departure) if departure.batch == id) {
                let _ = self.core.source(next, session, SourceEvent::Turn);
            }
        }
        self.core.ready.insert(id);
    }
}

/// Whether a session can begin to move.
pub(super) fn available(place: &Place) -> Result<(), Refusal> {
    Err(match place {
        Place::Owned => return Ok(()),
        Place::Leaving(departure) if departure.state.in_doubt() => {
            Refusal::new(Status::InDoubt, "it is in doubt: resolve it first")
        }
        Place::Leaving(_) | Place::Coming(_) => {
            Refusal::new(Status::TransferRunning, "another transfer of it is running")
        }
        Place::Recovered(_) => {
            Refusal::new(Status::Busy, "the gateway has not been listed yet: try again")
        }
        Place::Gone(_) => Refusal::new(Status::NoSession, "no such session here"),
    })
}

impl Core {
    /// Whether a batch to this target can begin.
    pub(super) fn may_begin(&self, batch: BatchId, target: &Name) -> Result<(), Refusal> {
        if *target == self.config.name {
            return Err(Refusal::new(Status::NoPeer, "the target is this gateway itself"));
        }
        if !self.config.peers.contains_key(target) {
            let detail = format!("no peer `{target}` is configured: add it to [peers]");
            return Err(Refusal::new(Status::NoPeer, detail));
        }
        if !self.peers.get(&gateway(target)).is_some_and(|peer| peer.up) {
            let detail = format!("`{target}` is not connected: see `cxtpctl status`");
            return Err(Refusal::new(Status::NoPeer, detail));
        }
        if self.batches.contains_key(&batch) {
            return Err(Refusal::new(Status::TransferRunning, "this batch is running"));
        }
        if self.batches.len() >= self.config.max_batches {
            return Err(Refusal::new(Status::RateLimited, "too many batches run: wait for one"));
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, id: BatchId, batch: Batch) {
        self.batches.insert(id, batch);
        self.stirred.insert(id);
        self.close(id);
    }

    /// A session of a batch has ended, for the batch and for whoever watches.
    pub(super) fn ended(&mut self, id: SessionId, batch_id: BatchId, outcome: Outcome) {
        if let Some(batch) = self.batches.get_mut(&batch_id)
            && batch.active.remove(&id)
        {
            batch.count(&outcome);
            self.stirred.insert(batch_id);
        }
        self.outbox.event(Event::TransferEnded { batch: batch_id, session: id, outcome });
        self.close(batch_id);
    }

    /// Closes a batch of which nothing is left.
    pub(super) fn close(&mut self, id: BatchId) {
        let done = self.batches.get(&id).is_some_and(|batch| {
            batch.waiting.is_empty() && batch.active.is_empty() && batch.promised == 0
        });
        if done && let Some(batch) = self.batches.remove(&id) {
            self.stirred.remove(&id);
            self.ready.remove(&id);
            self.outbox.event(Event::BatchEnded(batch.summary));
        }
    }
}
