//! Who may have sessions moved: requests of controllers and clients, a target's
//! request for sessions, and the orders that this gateway gave itself. A peer's
//! word alone never empties a gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use protocol_spec::{
    context::Context,
    id::{BatchId, Identity, Name, RequestId, Role, SessionId},
    limits::MAX_ENTRIES,
    message::{Authority, CtReq, Ctaa, Ctar, Lane, Message},
    status::{Refusal, Status},
    token::Token,
    transfer::TransferMode,
};

use super::{
    BatchSummary, Event, Progress, Reply,
    batch::Batch,
    deadlines::{Deadlines, Timer},
    machine::{Core, Engine},
    outbox::gateway,
    session::Departure,
};

/// Longest time for which an order or token may still be valid when it comes:
/// its number is remembered until then.
const MAX_LIFE: u64 = 3600;
/// Most orders and tokens that are remembered as used.
const MAX_USED: usize = 65_536;

/// An order of this gateway's operator that a target is to carry out by asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Order {
    target: Name,
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

/// Numbers of orders and tokens that were used, by who made them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Used(BTreeMap<(Name, RequestId), Duration>);

impl Used {
    fn take(
        &mut self,
        deadlines: &mut Deadlines,
        owner: &Name,
        number: RequestId,
        until: Duration,
    ) -> Result<(), Refusal> {
        let key = (owner.clone(), number);
        //= spec CXTP-4.2-2
        //= spec CXTP-7.1-4
        //= spec CXTP-7.2-2
        if self.0.contains_key(&key) {
            return Err(Refusal::new(Status::Expired, "it was used before"));
        }
        if self.0.len() >= MAX_USED {
            return Err(Refusal::new(Status::RateLimited, "too many orders and tokens of late"));
        }
        deadlines.add(until, Timer::Used(key.0.clone(), number));
        self.0.insert(key, until);
        Ok(())
    }

    pub(super) fn forget(&mut self, owner: &Name, number: RequestId) {
        self.0.remove(&(owner.clone(), number));
    }
}

fn denied(detail: &str) -> Refusal {
    Refusal::new(Status::NotAuthorized, detail)
}

/// Whether an operator should know of what was refused.
fn is_offence(refusal: &Refusal) -> bool {
    use Status::{BadAuthorization, Expired, NotAuthorized, RateLimited};
    matches!(refusal.status, NotAuthorized | BadAuthorization | Expired | RateLimited)
}

impl Engine {
    pub(super) fn ctar(&mut self, from: &Identity, ctar: Ctar) {
        let request = ctar.request;
        let sessions = ctar.sessions.clone();
        let refused = match self.carry_out(from, ctar) {
            Ok(refused) => refused,
            Err(refusal) => {
                if is_offence(&refusal) {
                    self.core.misbehaved(from, refusal.status, &refusal.detail);
                }
                sessions.into_iter().map(|session| (session, refusal.clone())).collect()
            }
        };
        //= spec CXTP-4.2-1
        let answer = Message::Ctaa(Ctaa { request, refused });
        self.core.outbox.send(from.clone(), Lane::Control, answer);
    }

    /// Carries out what a CTAR asks for; the answer holds what is refused at once.
    fn carry_out(
        &mut self,
        from: &Identity,
        ctar: Ctar,
    ) -> Result<Vec<(SessionId, Refusal)>, Refusal> {
        let Ctar { request, source, target, mode, sessions, authority } = ctar;
        let core = &mut self.core;
        let running = core.pulls.get(&request).is_some_and(|pull| pull.source == source);
        if !running {
            core.within_rate(from)?;
        }
        if sessions.is_empty() {
            return Err(Refusal::new(Status::NoSession, "it names no session"));
        }
        let here = if mode == TransferMode::Reactive { &target } else { &source };
        if *here != core.config.name {
            return Err(denied("it is for another gateway"));
        }
        //= spec CXTP-7.3-5
        match (&authority, from.role, mode) {
            (Authority::Known(_), Role::Gateway, TransferMode::Reactive) if source == from.name => {
                if !core.config.peers.get(&from.name).is_some_and(|policy| policy.may_push) {
                    return Err(denied("it may not send sessions here"));
                }
            }
            (Authority::Order(order), Role::Controller, _)
                if order.claims.controller == from.name =>
            {
                if running {
                    return Ok(Vec::new());
                }
                core.check_order(&authority, &source, &target, &sessions)?;
            }
            (Authority::Token(token), Role::Client, TransferMode::Reactive) => {
                if running {
                    return Ok(Vec::new());
                }
                if token.claims.source != source || token.claims.target != target {
                    return Err(Refusal::new(Status::BadAuthorization, "the token says otherwise"));
                }
            }
            _ => return Err(denied("it may not ask for this")),
        }
        if mode == TransferMode::Reactive {
            core.ask_for(request, source, sessions, authority)?;
            return Ok(Vec::new());
        }
        let batch = BatchId(request.0);
        core.may_begin(batch, &target)?;
        core.use_up(&authority)?;
        let unknown = |id: &SessionId| !self.sessions.contains_key(id);
        let refusal = Refusal::new(Status::NoSession, "no such session here");
        let refused = sessions.iter().filter(|id| unknown(id));
        let refused = refused.map(|id| (*id, refusal.clone())).collect();
        self.core.begin(batch, Batch::new(batch, target, mode, sessions));
        Ok(refused)
    }

    /// A target asks for sessions.
    pub(super) fn ct_req(&mut self, from: &Identity, asked: CtReq) {
        let CtReq { request, sessions, authority } = asked;
        let all = sessions.clone();
        if let Err(refusal) = self.core.give(from, request, sessions, authority) {
            if is_offence(&refusal) {
                self.core.misbehaved(from, refusal.status, &refusal.detail);
            }
            let refused = all.into_iter().map(|session| (session, refusal.clone())).collect();
            //= spec CXTP-4.2-1
            let answer = Message::Ctaa(Ctaa { request, refused });
            self.core.outbox.send(from.clone(), Lane::Control, answer);
        }
    }

    /// An operator here has a controller's order to have sessions pulled.
    pub(super) fn pull(&mut self, request: RequestId, order: protocol_spec::token::Order) {
        let core = &mut self.core;
        let (source, sessions) = (order.claims.source.clone(), order.claims.sessions.clone());
        let (target, authority) = (core.config.name.clone(), Authority::Order(order));
        let result = core
            .check_order(&authority, &source, &target, &sessions)
            .and_then(|()| core.ask_for(request, source, sessions, authority));
        let reply = result.map_or_else(Reply::Refused, |()| Reply::Accepted);
        core.outbox.reply(request, reply);
    }
}

impl Core {
    fn within_rate(&mut self, from: &Identity) -> Result<(), Refusal> {
        //= spec CXTP-7.3-2
        let (rate, now) = (self.config.request_rate as usize, self.now.monotonic);
        let peer = self.peers.get_mut(from);
        if peer.is_some_and(|peer| peer.requests.take(1, rate, Duration::from_secs(1), now)) {
            return Ok(());
        }
        Err(Refusal::new(Status::RateLimited, format!("at most {rate} requests a second")))
    }

    /// Whether an order is a controller's, for just this, and still valid.
    fn check_order(
        &self,
        authority: &Authority,
        source: &Name,
        target: &Name,
        sessions: &[SessionId],
    ) -> Result<(), Refusal> {
        let Authority::Order(order) = authority else { return Err(denied("it is no order")) };
        //= spec CXTP-7.2-2
        let claims = &order.claims;
        let bad = |detail: &str| Refusal::new(Status::BadAuthorization, detail);
        let Some(key) = self.config.controllers.get(&claims.controller) else {
            return Err(bad("no such controller is configured"));
        };
        if !order.verify(key) {
            return Err(bad("the signature does not verify"));
        }
        if claims.source != *source || claims.target != *target {
            return Err(bad("the order is about other gateways"));
        }
        if claims.sessions.len() > MAX_ENTRIES {
            return Err(bad("the order has too many sessions"));
        }
        let ordered: BTreeSet<&SessionId> = claims.sessions.iter().collect();
        if sessions.is_empty() || !sessions.iter().all(|session| ordered.contains(session)) {
            return Err(bad("the order is about other sessions"));
        }
        self.valid_for(claims.expires).map(|_| ())
    }

    /// How long it is still valid.
    fn valid_for(&self, expires: u64) -> Result<Duration, Refusal> {
        let left = expires.saturating_sub(self.now.unix);
        if left == 0 {
            return Err(Refusal::new(Status::Expired, "it has expired"));
        }
        if left > MAX_LIFE {
            let detail = "it is valid for more than an hour: make it anew when it is needed";
            return Err(Refusal::new(Status::BadAuthorization, detail));
        }
        Ok(Duration::from_secs(left))
    }

    /// Uses an order or token up.
    fn use_up(&mut self, authority: &Authority) -> Result<(), Refusal> {
        let (owner, number, expires) = match authority {
            Authority::Order(order) => {
                (&order.claims.controller, order.claims.id, order.claims.expires)
            }
            Authority::Token(token) => {
                (&token.claims.target, RequestId(token.mac), token.claims.expires)
            }
            Authority::Known(_) | Authority::Standby => return Ok(()),
        };
        // Remembered for a little longer than it is valid, since a second of the
        // wall clock may end later than one of ours.
        let until = self.now.monotonic + self.valid_for(expires)? + Duration::from_secs(2);
        self.used.take(&mut self.deadlines, owner, number, until)
    }

    /// Asks a source for sessions.
    fn ask_for(
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

    /// Gives sessions to a target that asks, if it may and has a reason.
    fn give(
        &mut self,
        from: &Identity,
        request: RequestId,
        sessions: Vec<SessionId>,
        authority: Authority,
    ) -> Result<(), Refusal> {
        //= spec CXTP-6.7-1
        let (batch, target) = (BatchId(request.0), from.name.clone());
        //= spec CXTP-6.7-2
        if let Authority::Known(number) = authority
            && let Some(order) = self.orders.get(&number)
            && order.target == target
            && number == request
        {
            self.may_pull(from)?;
            self.hand_over(number, &sessions);
            return Ok(());
        }
        //= spec CXTP-4.2-2
        // Said again, since the first answer may have been lost: nothing is new.
        if self.batches.get(&batch).is_some_and(|batch| batch.target == target) {
            return Ok(());
        }
        self.within_rate(from)?;
        self.may_pull(from)?;
        let mut token: Option<Box<Token>> = None;
        match &authority {
            Authority::Order(_) => {
                let source = self.config.name.clone();
                self.check_order(&authority, &source, &target, &sessions)?;
            }
            Authority::Token(given) => {
                let bad = |detail: &str| Refusal::new(Status::BadAuthorization, detail);
                let claims = &given.claims;
                //= spec CXTP-7.1-4
                if claims.source != self.config.name || claims.target != target {
                    return Err(bad("the token is about other gateways"));
                }
                if claims.mode != TransferMode::Reactive {
                    return Err(bad("the token is for a transfer that the source begins"));
                }
                if sessions.len() != 1 || claims.session.is_some_and(|id| sessions != [id]) {
                    return Err(bad("the token is about another session"));
                }
                token = Some(Box::new(given.clone()));
            }
            //= spec CXTP-7.3-1
            Authority::Known(_) => return Err(denied("no such order was given here")),
            Authority::Standby => return Err(denied("it is no standby of these sessions")),
        }
        self.may_begin(batch, &target)?;
        //= spec CXTP-7.3-3
        let quota = self.config.peers.get(&target).map_or(0, |p| p.pulls_per_minute as usize);
        let (count, now) = (sessions.len(), self.now.monotonic);
        let peer = self.peers.get_mut(from);
        if !peer.is_some_and(|peer| peer.pulls.take(count, quota, Duration::from_secs(60), now)) {
            let detail = format!("at most {quota} sessions a minute");
            return Err(Refusal::new(Status::RateLimited, detail));
        }
        self.use_up(&authority)?;
        let mut begun = Batch::new(batch, target, TransferMode::Reactive, sessions);
        begun.token = token;
        self.begin(batch, begun);
        Ok(())
    }

    fn may_pull(&self, from: &Identity) -> Result<(), Refusal> {
        match self.config.peers.get(&from.name) {
            //= spec CXTP-7.3-1
            Some(policy) if policy.may_pull => Ok(()),
            _ => Err(denied("it may not pull sessions from here")),
        }
    }

    /// Whether the token that this transfer was asked for with is the end
    /// user's; it can only be said once the context is there.
    pub(super) fn check_token(
        &self,
        departure: &Departure,
        context: &Context,
    ) -> Result<(), Refusal> {
        let Some(token) = self.batches.get(&departure.batch).and_then(|b| b.token.as_ref()) else {
            return Ok(());
        };
        //= spec CXTP-7.1-4
        let verified = context.ike.as_ref().is_some_and(|ike| {
            token.claims.ike_spis == (ike.spi_initiator, ike.spi_responder)
                && ike.sk_d().is_some_and(|sk_d| token.verify(&sk_d, ike.transforms.prf))
        });
        if verified {
            Ok(())
        } else {
            Err(Refusal::new(Status::BadAuthorization, "the token does not verify"))
        }
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
    fn hand_over(&mut self, number: RequestId, sessions: &[SessionId]) {
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
