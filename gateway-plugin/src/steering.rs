//! What in the kernel makes packets arrive at the owner of a session, and keeps a
//! gateway from speaking for a session that it must not speak for.
//!
//! The rules are one readable file (`steering/ruleset.nft`), loaded once. What
//! changes with a session are elements of its sets and routes, written over
//! netlink; each element carries the session's id, so the state lives in the
//! kernel, holds while no daemon runs and is found again by [`Steering::list`].
//!
//! | call | kernel | undone by |
//! | --- | --- | --- |
//! | [`known`](Steering::known) | inner prefixes never leave outside in clear | [`forget`](Steering::forget) |
//! | [`hold`](Steering::hold) | inbound ESP, IKE and inner packets wait in a queue; dropped when nobody reads it | [`let_go_data`](Steering::let_go_data), [`let_go_ike`](Steering::let_go_ike), [`discard`](Steering::discard) |
//! | [`divert_ike`](Steering::divert_ike) | IKE packets are relayed to the target unopened | as for `divert` |
//! | [`divert`](Steering::divert) | inner packets are routed to the target, outer ones relayed to it unopened | [`restore`](Steering::restore), [`forget`](Steering::forget) |
//! | [`block_ike`](Steering::block_ike) | own IKE is dropped as it leaves | as for `block` |
//! | [`block`](Steering::block) | outbound ESP and own IKE are dropped as they leave | [`restore`](Steering::restore), [`forget`](Steering::forget) |
//! | [`arrived`](Steering::arrived) | clients and inner addresses are taken here | [`released`](Steering::released), [`forget`](Steering::forget) |
//!
//! Life of a session, at the target: `hold`, `let_go_data`, `known`, `arrived`,
//! `let_go_ike`; at the source: `known`, `divert_ike`, `block_ike`, `divert`, `block`,
//! then `restore` or `released` and, after the drain, `drained`; `forget` once it has
//! ended for good. At the source a session that comes back is simply held again.

mod acts;
mod address;
mod announce;
mod back;
mod command;
mod config;
mod error;
mod hold;
mod hook;
mod layer2;
mod leaving;
mod ledger;
mod link;
mod message;
mod netlink;
mod nft;
mod packet;
mod queue;
mod route;
mod ruleset;
mod set;
mod share;
mod standby;
mod traffic;

use std::collections::{HashMap, HashSet};

use protocol_spec::id::SessionId;

pub(crate) use self::announce::checksum;
use self::{
    announce::Announcer, hook::Hook, ledger::Ledger, link::Links, nft::Nft, queue::Queue,
    route::Routes, set::Purpose, standby::Standby,
};
pub use self::{
    config::{Config, InnerReach, Layer2, Limits, Mode},
    error::SteeringError,
    hold::HeldCount,
    queue::InnerGate,
    traffic::{Bypass, Neighbour, NoBypass, Standing, Traffic},
};

/// The steering of one gateway. One at a time on a host (network namespace): the
/// queue's number is its lock.
pub struct Steering {
    config: Config,
    links: Links,
    nft: Nft,
    routes: Routes,
    queue: Queue,
    announcer: Announcer,
    ledger: Ledger,
    /// How many rules stand when all do.
    rules: usize,
    /// Transactions of others in nftables when all was seen to stand.
    foreign: Option<u32>,
    /// Traffic as it was named last, in this life of the process.
    traffic: HashMap<SessionId, Traffic>,
    /// Sessions for whose traffic as it was named last all policies stand.
    passing: HashSet<SessionId>,
    bypass: Box<dyn Bypass>,
    hook: Hook,
    /// Shared addresses that another gateway has and that are to come here.
    standbys: Vec<Standby>,
}

impl Steering {
    /// Takes up the steering of this host: loads the rules (elements that are
    /// there stay: our restart opens nothing), finds what stands, and begins to
    /// read the queue.
    ///
    /// # Errors
    /// [`SteeringError`] that says which setting, program or part of the kernel
    /// is missing.
    pub fn open(config: Config, bypass: Box<dyn Bypass>) -> Result<Self, SteeringError> {
        config.validate()?;
        let links = Links::find(&config)?;
        ruleset::load(&config, &links, &[])?;
        let mut nft = Nft::open()?;
        let rules = nft.rules()?;
        let ledger = Ledger::read(&mut nft)?;
        let mut routes = Routes::open(config.table)?;
        routes.ensure_rules(config.preference)?;
        let queue = Queue::open(&config)?;
        for (session, elements) in ledger.sessions() {
            queue.hold(session, elements);
        }
        let hook = Hook::new(config.hook.clone());
        let mut steering = Self {
            config,
            links,
            nft,
            routes,
            queue,
            announcer: Announcer::start()?,
            ledger,
            rules,
            foreign: None,
            traffic: HashMap::new(),
            passing: HashSet::new(),
            bypass,
            hook,
            standbys: Vec::new(),
        };
        steering.share()?;
        steering.stand_by_again()?;
        Ok(steering)
    }

    /// Names the traffic of a session that lives here or will: from now on its
    /// inner prefixes never leave an outer interface in clear. Named again after a
    /// change, the new traffic replaces the old, and what stood for the old (a
    /// hold, a block) stands for the new.
    ///
    /// # Errors
    /// [`SteeringError`] if another session has a prefix already.
    pub fn known(&mut self, session: SessionId, traffic: &Traffic) -> Result<(), SteeringError> {
        traffic.check()?;
        let standing = self.ledger.purposes(session);
        let mut wanted = traffic.guard();
        wanted.extend(traffic.limits_kept(self.ledger.of(session)));
        for (purpose, elements) in [
            (Purpose::HoldEsp, traffic.hold_esp()),
            (Purpose::HoldInner, traffic.hold_inner()),
            (Purpose::HoldIke, traffic.hold_ike()),
            (Purpose::BlockData, traffic.block_data()),
            (Purpose::BlockIke, traffic.block_ike()),
            (Purpose::Own, traffic.client(Purpose::Own)),
            (Purpose::Other, traffic.client(Purpose::Other)),
        ] {
            if standing.contains(&purpose) {
                wanted.extend(elements);
            }
        }
        let replaced = |purpose| !is_relay(purpose);
        self.set(session, replaced, wanted)?;
        if standing.iter().any(|purpose| purpose.is_hold()) {
            self.queue.hold(session, self.ledger.of(session));
        }
        let stands = self.passing.remove(&session);
        if let Some(old) = self.traffic.insert(session, traffic.clone()) {
            if stands && old.inner == traffic.inner {
                self.passing.insert(session);
                return Ok(());
            }
            let gone: Vec<_> =
                old.inner.into_iter().filter(|p| !traffic.inner.contains(p)).collect();
            self.bypass.revoke(session, &gone, self.links.inner.index).map_err(bypass)?;
            self.bypass.unguard(&gone, &self.outer()).map_err(bypass)?;
        }
        self.bypass.guard(&traffic.inner, &self.outer()).map_err(bypass)?;
        self.bypass.allow(session, &traffic.inner, self.links.inner.index).map_err(bypass)?;
        self.passing.insert(session);
        Ok(())
    }

    /// From now on the session's inbound ESP, its IKE and the packets for its
    /// inner prefixes wait here, within the bounds of [`Limits`]; they are dropped
    /// when this process is gone. Its inner prefixes are guarded as by
    /// [`Steering::known`]. Done again with new traffic, the new replaces the old.
    /// A session that left here before is no longer diverted, relayed or blocked
    /// (but see [`Steering::hold_from`]): [`Steering::forget`] is not needed in between,
    /// and would open the guard.
    ///
    /// # Errors
    /// [`SteeringError`] if an SPI or prefix is another session's; then nothing
    /// changed.
    pub fn hold(&mut self, session: SessionId, traffic: &Traffic) -> Result<(), SteeringError> {
        let mut results = self.hold_all(&[(session, traffic)]);
        results.pop().map_or(Ok(()), |(_, result)| result)
    }

    /// [`Steering::hold`] for many sessions in one transaction of the kernel. One
    /// result for each, in order.
    pub fn hold_all(
        &mut self,
        sessions: &[(SessionId, &Traffic)],
    ) -> Vec<(SessionId, Result<(), SteeringError>)> {
        let all = sessions.iter().map(|(session, traffic)| (*session, *traffic, None));
        self.hold_each(&all.collect::<Vec<_>>())
    }

    /// Of inner packets, all wait or only those from a MAC address.
    fn hold_each(
        &mut self,
        sessions: &[(SessionId, &Traffic, Option<[u8; 6]>)],
    ) -> Vec<(SessionId, Result<(), SteeringError>)> {
        let mut wanted = Vec::with_capacity(sessions.len());
        for (session, traffic, from) in sessions {
            let mut elements = traffic.guard();
            elements.extend(traffic.hold_esp());
            elements.extend(match from {
                Some(mac) => traffic.hold_inner_from(*mac),
                None => traffic.hold_inner(),
            });
            elements.extend(traffic.hold_ike());
            // The queue knows whose a packet is before the first one comes.
            let checked = traffic
                .check()
                .and_then(|()| self.ledger.plan(*session, of_hold, elements.clone()).map(drop));
            wanted.push((
                *session,
                checked.map(|()| {
                    self.queue.hold(*session, &elements);
                    elements
                }),
            ));
        }
        let mut results = self.set_all(wanted, of_hold);
        for ((session, result), (_, traffic, from)) in results.iter_mut().zip(sessions) {
            match result {
                Ok(()) => {
                    // Where it was diverted as it left, packets wait from now on.
                    let here = if from.is_some() { Ok(()) } else { self.undivert(*session) };
                    *result = here.and_then(|()| {
                        self.bypass.guard(&traffic.inner, &self.outer()).map_err(bypass)
                    });
                    self.traffic.insert(*session, (*traffic).clone());
                }
                Err(_) if self.holds(*session) => {
                    self.queue.hold(*session, self.ledger.of(*session));
                }
                Err(_) => self.queue.discard(*session, |_| {}),
            }
        }
        results
    }

    /// Lets the session's ESP and inner packets go on, those that waited first and
    /// in their order. Its inner packets are not sent elsewhere from here on.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses; packets flow nevertheless, by way
    /// of the queue.
    pub fn let_go_data(&mut self, session: SessionId) -> Result<(), SteeringError> {
        self.undivert(session)?;
        self.queue.let_go(session, &Purpose::HOLDS_DATA)?;
        self.remove(session, |purpose| Purpose::HOLDS_DATA.contains(&purpose))
    }

    /// Lets the session's IKE packets go on, those that waited first.
    ///
    /// # Errors
    /// As [`Steering::let_go_data`].
    pub fn let_go_ike(&mut self, session: SessionId) -> Result<(), SteeringError> {
        self.queue.let_go(session, &[Purpose::HoldIke])?;
        self.remove(session, |purpose| purpose == Purpose::HoldIke)
    }

    /// Ends a hold without letting anything in: what waited is dropped or, where
    /// `back` is named, sent back there. Succeeds for a session that is not held.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses; then the hold stands, and what
    /// waited is gone.
    pub fn discard(
        &mut self,
        session: SessionId,
        back: Option<&Neighbour>,
    ) -> Result<(), SteeringError> {
        let held = |purpose: Purpose| purpose.is_hold() || purpose == Purpose::Limit;
        let returned = back.map(|neighbour| self.way_back(session, neighbour)).transpose()?;
        let removed = self.remove(session, held);
        self.queue.discard(session, |packet| {
            if let Some(way) = &returned {
                way.send(packet);
            }
        });
        removed
    }

    /// Of each of these outbound SPIs, numbers at or above the end do not leave; only
    /// their low 32 bits are seen, so the end must be less than 2^31 ahead. What was
    /// said before of the session is replaced. Stands until the session is held
    /// again or forgotten, or an SPI is no longer its own.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses; then nothing changed.
    pub fn limit(
        &mut self,
        session: SessionId,
        traffic: &Traffic,
        ends: &[(u32, u64)],
    ) -> Result<(), SteeringError> {
        self.set(session, |purpose| purpose == Purpose::Limit, traffic.limit(ends))
    }

    /// The session is here: its client's packets for a shared address are taken
    /// (mode `Shared`), its inner addresses are announced on the inner network
    /// ([`InnerReach::Proxy`]), the hook program is told.
    ///
    /// # Errors
    /// [`SteeringError`] if its traffic was never named, or the kernel refuses.
    pub fn arrived(&mut self, session: SessionId) -> Result<(), SteeringError> {
        let traffic = self.named(session)?.clone();
        if self.config.shared_mac().is_some() {
            self.set(session, is_client, traffic.client(Purpose::Own))?;
        }
        if self.config.inner_reach == InnerReach::Proxy {
            self.take_inner(&traffic.inner)?;
        }
        self.hook.session("arrived", session, &traffic)
    }

    /// Sends a packet that this host has taken to another gateway, as if it had been
    /// diverted: what is protected outside, what is clear inside.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel has no socket for it.
    pub fn pass_on(
        &mut self,
        session: SessionId,
        to: &Neighbour,
        packet: &[u8],
    ) -> Result<(), SteeringError> {
        self.way_back(session, to)?.send(packet);
        Ok(())
    }

    /// Removes all that stands for a session that has ended, wherever it was. What
    /// waits for it is dropped.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn forget(&mut self, session: SessionId) -> Result<(), SteeringError> {
        self.forget_but(session, &[])
    }

    fn forget_but(&mut self, session: SessionId, kept: &[Purpose]) -> Result<(), SteeringError> {
        self.passing.remove(&session);
        self.undivert(session)?;
        self.remove(session, |purpose| !kept.contains(&purpose))?;
        self.queue.discard(session, |_| {});
        let Some(traffic) = self.traffic.remove(&session) else { return Ok(()) };
        if self.config.inner_reach == InnerReach::Proxy {
            self.give_up_inner(&traffic.inner)?;
        }
        if kept.contains(&Purpose::Guard) {
            return Ok(());
        }
        self.bypass.unguard(&traffic.inner, &self.outer()).map_err(bypass)?;
        self.bypass.revoke(session, &traffic.inner, self.links.inner.index).map_err(bypass)
    }

    /// Indices of the outer interfaces.
    fn outer(&self) -> Vec<u32> {
        self.links.outer.iter().map(|link| link.index).collect()
    }

    /// What stands in the kernel, by session: also after our own restart.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel cannot be asked.
    pub fn list(&mut self) -> Result<Vec<(SessionId, Standing)>, SteeringError> {
        self.ledger = Ledger::read(&mut self.nft)?;
        let diverted = self.routes.diverted()?;
        Ok(self.ledger.standing(&diverted))
    }

    /// What waits for a session, and what was dropped because too much waited.
    pub fn held(&self, session: SessionId) -> HeldCount {
        self.queue.count(session)
    }
}

fn of_hold(purpose: Purpose) -> bool {
    // A session that comes back is no longer relayed, nor blocked for its having
    // gone: it can send nothing before it is activated.
    let before = is_relay(purpose) || is_block(purpose) || purpose == Purpose::Limit;
    before || purpose.is_hold() || purpose == Purpose::Guard
}

fn is_relay(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::RelayData | Purpose::RelayIke)
}

fn is_block(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::BlockData | Purpose::BlockIke)
}

fn is_client(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Own | Purpose::Other)
}

fn bypass(why: String) -> SteeringError {
    SteeringError::Traffic(format!("bypass policy on the inner interface: {why}"))
}
