//! Reactive transfers under way: what a target was told to ask for, and what
//! this gateway asked a source for.

use std::{collections::BTreeSet, time::Duration};

use protocol_spec::{
    id::{BatchId, Identity, Name, RequestId, SessionId},
    limits::MAX_ENTRIES,
    message::{Authority, CtReq, Ctaa, Ctar, Lane, Message},
    status::{Refusal, Status},
    transfer::TransferMode,
};

use super::{
    BatchSummary, Event, Progress, batch::Batch, deadlines::Timer, machine::Core, outbox::gateway,
};

/// An order of this gateway's operator that a target is to carry out by asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Order {
    pub(super) target: Name,
    /// Sessions that the target has not asked for yet.
    remaining: BTreeSet<SessionId>,
    /// Of those, the ones that it has not been told of.
    unsaid: Vec<SessionId>,
    at: Duration,
}

/// Sessions that this gateway asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pull {
    pub(super) source: Name,
    remaining: BTreeSet<SessionId>,
    summary: BatchSummary,
    sessions: usize,
    at: Duration,
}

impl Pull {
    pub(super) fn progress(&self) -> Progress {
        let ended = self.sessions - self.remaining.len();
        Progress { sessions: self.sessions, ended, moved: self.summary.moved }
    }
}

impl Core {
    /// Asks a source for sessions.
    pub(super) fn ask_for(
        &mut self,
        request: RequestId,
        source: Name,
        sessions: Vec<SessionId>,
        authority: Authority,
    ) -> Result<(), Refusal> {
        let peer = gateway(&source);
        if !self.peers.get(&peer).is_some_and(|peer| peer.up) {
            let detail = format!("`{source}` is not connected");
            return Err(Refusal::new(Status::NoPeer, detail));
        }
        let at = self.now.monotonic + self.config.stage_timeout + self.config.retry_max;
        let most = self.config.peers.get(&source).map_or(0, |policy| policy.max_staged);
        let running = self.pulls.len();
        match self.pulls.get_mut(&request) {
            Some(pull) if pull.source != source => {
                return Err(Refusal::new(Status::TransferRunning, "the request has this number"));
            }
            Some(pull) if pull.remaining.len() + sessions.len() > most => {
                return Err(Refusal::new(Status::RateLimited, "too many sessions at a time"));
            }
            Some(pull) => {
                let before = pull.remaining.len();
                pull.remaining.extend(sessions.iter().copied());
                pull.sessions += pull.remaining.len() - before;
                self.renew_pull(request);
            }
            None if running >= self.config.max_batches => {
                return Err(Refusal::new(Status::RateLimited, "too many pulls at a time"));
            }
            None => {
                let remaining: BTreeSet<SessionId> = sessions.iter().copied().collect();
                let summary = Batch::new(
                    BatchId(request.0),
                    source.clone(),
                    TransferMode::Reactive,
                    Vec::new(),
                )
                .summary;
                let sessions = remaining.len();
                self.pulls.insert(request, Pull { source, remaining, summary, sessions, at });
                self.deadlines.add(at, Timer::Pull(request));
            }
        }
        for part in sessions.chunks(MAX_ENTRIES) {
            let (sessions, authority) = (part.to_vec(), authority.clone());
            let message = Message::CtReq(CtReq { request, sessions, authority });
            self.outbox.send(peer.clone(), Lane::Control, message);
        }
        Ok(())
    }

    /// An operator here orders a reactive transfer: the target is told to ask.
    pub(super) fn order(
        &mut self,
        batch: BatchId,
        target: Name,
        sessions: Vec<SessionId>,
    ) -> Result<(), Refusal> {
        if !self.config.peers.get(&target).is_some_and(|policy| policy.may_pull) {
            let detail =
                format!("`{target}` may not pull from here: set `may_pull` for it, or push");
            return Err(Refusal::new(Status::NotAuthorized, detail));
        }
        let request = RequestId(batch.0);
        let mut entry = Batch::new(batch, target.clone(), TransferMode::Reactive, sessions);
        let unsaid = std::mem::take(&mut entry.waiting);
        entry.promised = unsaid.len();
        let remaining = unsaid.iter().copied().collect();
        let at = self.now.monotonic + self.config.retry_max;
        self.begin(batch, entry);
        if self.batches.contains_key(&batch) {
            self.orders.insert(request, Order { target, remaining, unsaid, at });
            self.deadlines.add(at, Timer::Order(request));
            self.say_order(request);
        }
        Ok(())
    }

    /// Tells the target of the next part of an order.
    fn say_order(&mut self, request: RequestId) {
        let Some(order) = self.orders.get_mut(&request) else { return };
        let rest = order.unsaid.len().saturating_sub(MAX_ENTRIES);
        let sessions = order.unsaid.split_off(rest);
        if sessions.is_empty() {
            return;
        }
        let ctar = Ctar {
            request,
            source: self.config.name.clone(),
            target: order.target.clone(),
            mode: TransferMode::Reactive,
            sessions,
            authority: Authority::Known(request),
        };
        let to = gateway(&order.target);
        self.outbox.send(to, Lane::Control, Message::Ctar(ctar));
    }

    /// The target asks for what it was told to ask for.
    pub(super) fn hand_over(&mut self, number: RequestId, sessions: &[SessionId]) {
        let id = BatchId(number.0);
        let at = self.now.monotonic + self.config.retry_max;
        let Some(order) = self.orders.get_mut(&number) else { return };
        let asked: Vec<SessionId> =
            sessions.iter().filter(|session| order.remaining.remove(session)).copied().collect();
        self.deadlines.remove(order.at, Timer::Order(number));
        order.at = at;
        if order.remaining.is_empty() {
            self.orders.remove(&number);
        } else {
            self.deadlines.add(at, Timer::Order(number));
        }
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.promised = batch.promised.saturating_sub(asked.len());
            batch.waiting.extend(asked);
            self.stirred.insert(id);
        }
        self.say_order(number);
    }

    pub(super) fn order_deadline(&mut self, request: RequestId) {
        let Some(order) = self.orders.remove(&request) else { return };
        self.unkept(request, order.remaining.len(), false);
    }

    /// So many sessions of an order will not be asked for.
    fn unkept(&mut self, request: RequestId, count: usize, refused: bool) {
        let id = BatchId(request.0);
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.promised = batch.promised.saturating_sub(count);
            let s = &mut batch.summary;
            *(if refused { &mut s.refused } else { &mut s.aborted }) += count;
        }
        self.close(id);
    }

    /// What became of a request.
    pub(super) fn ctaa(&mut self, from: &Identity, ctaa: Ctaa) {
        let request = ctaa.request;
        if let Some(order) = self.orders.get_mut(&request)
            && order.target == from.name
        {
            let mut gone = |id: &SessionId| order.remaining.remove(id);
            let count = ctaa.refused.iter().filter(|(id, _)| gone(id)).count();
            let (at, done) = (order.at, order.remaining.is_empty());
            if done {
                self.orders.remove(&request);
                self.deadlines.remove(at, Timer::Order(request));
            }
            if count > 0 {
                self.unkept(request, count, true);
                self.say_order(request);
            }
            return;
        }
        if let Some(pull) = self.pulls.get_mut(&request)
            && pull.source == from.name
        {
            for (id, _) in &ctaa.refused {
                if pull.remaining.remove(id) {
                    pull.summary.refused += 1;
                }
            }
            self.renew_pull(request);
        }
    }

    /// A session that may have been pulled has arrived, or not.
    pub(super) fn pulled(&mut self, id: SessionId, batch: BatchId, result: Result<(), Refusal>) {
        let request = RequestId(batch.0);
        let Some(pull) = self.pulls.get_mut(&request) else { return };
        if pull.remaining.remove(&id) {
            *(match result {
                Ok(()) => &mut pull.summary.moved,
                Err(_) => &mut pull.summary.aborted,
            }) += 1;
            self.renew_pull(request);
        }
    }

    /// Gives a pull more time, or ends it.
    fn renew_pull(&mut self, request: RequestId) {
        let at = self.now.monotonic + self.config.stage_timeout + self.config.retry_max;
        let Some(pull) = self.pulls.get_mut(&request) else { return };
        self.deadlines.remove(pull.at, Timer::Pull(request));
        pull.at = at;
        if pull.remaining.is_empty() {
            let summary = pull.summary.clone();
            self.pulls.remove(&request);
            self.outbox.event(Event::BatchEnded(summary));
        } else {
            self.deadlines.add(at, Timer::Pull(request));
        }
    }

    pub(super) fn pull_deadline(&mut self, request: RequestId) {
        let Some(mut pull) = self.pulls.remove(&request) else { return };
        pull.summary.aborted += pull.remaining.len();
        self.outbox.event(Event::BatchEnded(pull.summary));
    }
}
