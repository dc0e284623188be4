//! Who may have sessions moved: requests of controllers and clients, and a
//! target's request for sessions. A peer's word alone never empties a gateway.

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
    Reply,
    batch::Batch,
    deadlines::{Deadlines, Timer},
    machine::{Core, Engine},
    session::Departure,
};

/// Longest time for which an order or token may still be valid when it comes:
/// its number is remembered until then.
const MAX_LIFE: u64 = 3600;
/// Most orders and tokens that are remembered as used.
const MAX_USED: usize = 65_536;

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
    pub(super) fn check_order(
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
}
