//! How the acts of [`Steering`] change the kernel.

use std::{collections::BTreeSet, net::IpAddr, process::Command};

use nix::libc;
use protocol_spec::{context::Prefix, id::SessionId};

use super::{
    InnerReach, Mode, Neighbour, Steering, SteeringError, Traffic,
    back::WayBack,
    command::run,
    layer2,
    link::FrameSocket,
    nft::Change,
    queue::InnerGate,
    route::Reach,
    set::{Element, Purpose, Set},
    share::buckets_of,
    traffic::is_host,
};

/// A session, and the elements that it shall have or why it cannot have any.
type Wanted = (SessionId, Result<Vec<Element>, SteeringError>);

impl Steering {
    /// Lets packets for the session's inner prefixes alone wait, of a session that is
    /// here: for a moment in which its end user cannot take them.
    /// [`Steering::let_go_inner`] ends it; the gate lets them go already.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses; then nothing waits.
    pub fn hold_inner(
        &mut self,
        session: SessionId,
        traffic: &Traffic,
    ) -> Result<InnerGate, SteeringError> {
        let elements = traffic.hold_inner();
        self.queue.hold(session, &elements);
        let gate = self.queue.inner_gate(session);
        let held = self.set(session, |purpose| purpose == Purpose::HoldInner, elements);
        held.map(|()| gate).or_else(|error| self.let_go_inner(session).and(Err(error)))
    }

    /// Lets inner packets go on that wait by [`Steering::hold_inner`], those that waited
    /// first.
    ///
    /// # Errors
    /// As [`Steering::let_go_data`].
    pub fn let_go_inner(&mut self, session: SessionId) -> Result<(), SteeringError> {
        self.queue.let_go(session, &[Purpose::HoldInner])?;
        self.remove(session, |purpose| purpose == Purpose::HoldInner)
    }

    /// Whether the session's inner packets are sent to another gateway for good: it left
    /// here, and they come here whoever owns them ([`InnerReach::Routed`]).
    pub fn leads_on(&self, session: SessionId) -> bool {
        self.traffic.get(&session).is_some_and(|traffic| self.sends_on(&traffic.inner))
    }

    fn sends_on(&self, inner: &[Prefix]) -> bool {
        let diverted = |prefix: &Prefix| self.routes.is_diverted(*prefix);
        let routed = self.config.inner_reach == InnerReach::Routed;
        routed && !inner.is_empty() && inner.iter().all(diverted)
    }

    /// As [`Steering::hold`] for a session that comes back from `source`. Where its inner
    /// packets still go on from here to whoever owns it, they do so until it is let go:
    /// only those wait that `source` sends back, which has stopped the session then.
    ///
    /// # Errors
    /// As [`Steering::hold`].
    pub fn hold_from(
        &mut self,
        session: SessionId,
        traffic: &Traffic,
        source: &Neighbour,
    ) -> Result<(), SteeringError> {
        let link = self.links.inner;
        let from = match self.sends_on(&traffic.inner) {
            true => self.routes.mac(source.inner, &link),
            false => None,
        };
        let mut results = self.hold_each(&[(session, traffic, from)]);
        results.pop().map_or(Ok(()), |(_, result)| result)
    }

    /// As [`Steering::forget`] for a session that is lost, or came from another gateway
    /// and ended here. What still comes for its inner addresses does not leave in clear.
    /// Its client is still taken here (mode `Shared`): the other gateway leaves it to
    /// us, and nobody would answer when it begins anew.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn ended(&mut self, session: SessionId) -> Result<(), SteeringError> {
        self.forget_but(session, &[Purpose::Own, Purpose::Guard])
    }

    /// The inner addresses or the client of a session that has gone are another session's
    /// now, which is about to be known or held here: it takes over the guard, which
    /// stands all the time, and nothing is left of the old one.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses; then nothing changed.
    pub fn inherit(&mut self, from: SessionId, to: SessionId) -> Result<(), SteeringError> {
        let change = self.ledger.inherited(from, to);
        self.nft.apply(std::slice::from_ref(&change)).pop().unwrap_or(Ok(()))?;
        self.ledger.commit(&change);
        self.undivert(to)?;
        self.queue.discard(from, |_| {});
        self.traffic.remove(&from);
        // Both may name the same policies.
        self.passing.remove(&from);
        self.passing.remove(&to);
        Ok(())
    }

    /// Gives a session, of the purposes that are `replaced`, the `wanted` elements
    /// and no others.
    pub(super) fn set(
        &mut self,
        session: SessionId,
        replaced: impl Fn(Purpose) -> bool,
        wanted: Vec<Element>,
    ) -> Result<(), SteeringError> {
        let mut results = self.set_all(vec![(session, Ok(wanted))], replaced);
        results.pop().map_or(Ok(()), |(_, result)| result)
    }

    /// The same for many sessions in one transaction.
    pub(super) fn set_all(
        &mut self,
        wanted: Vec<Wanted>,
        replaced: impl Fn(Purpose) -> bool,
    ) -> Vec<(SessionId, Result<(), SteeringError>)> {
        let mut results = Vec::with_capacity(wanted.len());
        let mut changes: Vec<Change> = Vec::with_capacity(wanted.len());
        let mut places = Vec::with_capacity(wanted.len());
        for (session, elements) in wanted {
            let plan = elements.and_then(|e| self.ledger.plan(session, &replaced, e));
            let result = plan.map(|change| {
                places.push(results.len());
                changes.push(change);
            });
            results.push((session, result));
        }
        let mut outcomes = self.nft.apply(&changes);
        if outcomes.iter().any(is_flushed) && self.repair().is_ok() {
            outcomes = self.nft.apply(&changes);
        }
        for ((place, change), outcome) in places.into_iter().zip(&changes).zip(outcomes) {
            if outcome.is_ok() {
                self.ledger.commit(change);
            }
            if let Some((_, result)) = results.get_mut(place) {
                *result = outcome;
            }
        }
        results
    }

    /// Takes a session's elements of some purposes away.
    pub(super) fn remove(
        &mut self,
        session: SessionId,
        which: impl Fn(Purpose) -> bool,
    ) -> Result<(), SteeringError> {
        self.set(session, which, Vec::new())
    }

    /// Whether a session holds packets.
    pub(super) fn holds(&self, session: SessionId) -> bool {
        self.ledger.purposes(session).iter().any(|purpose| purpose.is_hold())
    }

    /// The traffic as it was named in this life.
    pub(super) fn named(&self, session: SessionId) -> Result<&Traffic, SteeringError> {
        self.traffic.get(&session).ok_or(SteeringError::Unknown(session))
    }

    /// How outer packets of a session reach its target.
    pub(super) fn reach(
        &mut self,
        traffic: &Traffic,
        target: &Neighbour,
    ) -> Result<Reach, SteeringError> {
        let unreachable = |why: &str| SteeringError::Unreachable {
            name: target.name.to_string(),
            address: target.outer,
            why: why.to_owned(),
        };
        if !self.config.is_shared(traffic.local.ip()) {
            // Multi-LAN: the target's SAs live on its own address.
            return if target.outer.is_ipv4() == traffic.local.is_ipv4() {
                Ok(Reach::Address(target.outer))
            } else {
                Err(unreachable("its outer address is of another IP version than the session's"))
            };
        }
        match self.routes.reach(&target.name, target.outer, &self.links)? {
            Reach::Address(_) => Err(unreachable(
                "gateways that share an address must be on one outer network, and the route to \
                 it leads through a router",
            )),
            mac => Ok(mac),
        }
    }

    /// Removes the routes of a session's diversion.
    pub(super) fn undivert(&mut self, session: SessionId) -> Result<(), SteeringError> {
        let named = self.traffic.get(&session).map(|traffic| traffic.inner.clone());
        let prefixes = named.unwrap_or_else(|| self.ledger.inner(session));
        prefixes.into_iter().try_for_each(|prefix| self.routes.undivert(prefix))
    }

    /// How packets that wait for a session go back to its source.
    pub(super) fn way_back(
        &mut self,
        session: SessionId,
        source: &Neighbour,
    ) -> Result<WayBack, SteeringError> {
        // A packet that was readdressed to us is not the source's any more.
        let traffic = self.traffic.get(&session);
        let shared = traffic.is_some_and(|traffic| self.config.is_shared(traffic.local.ip()));
        let link = self.links.outer.first().copied();
        let outer = match (shared, link) {
            (true, Some(link)) => self.routes.mac(source.outer, &link).map(|mac| (link, mac)),
            _ => None,
        };
        let inner = self.links.inner;
        Ok(WayBack {
            socket: FrameSocket::open()?,
            outer,
            inner: self.routes.mac(source.inner, &inner).map(|mac| (inner, mac)),
            ike_ports: self.config.ike_ports,
        })
    }

    /// Answers for inner addresses on the inner network, and says so there.
    pub(super) fn take_inner(&mut self, inner: &[Prefix]) -> Result<(), SteeringError> {
        let link = self.links.inner;
        for address in hosts(inner) {
            self.routes.proxy(address, &link, true)?;
            self.announcer.announce(&link, address, link.mac)?;
        }
        Ok(())
    }

    /// Answers for them no longer.
    pub(super) fn give_up_inner(&mut self, inner: &[Prefix]) -> Result<(), SteeringError> {
        let link = self.links.inner;
        self.fall_silent(inner);
        hosts(inner).try_for_each(|address| self.routes.proxy(address, &link, false))
    }

    /// Announces inner addresses no more.
    pub(super) fn fall_silent(&self, inner: &[Prefix]) {
        if self.config.inner_reach == InnerReach::Proxy {
            hosts(inner).for_each(|address| self.announcer.withdraw(address));
        }
    }

    /// Puts shared addresses on the outer interfaces and says where they are.
    pub(super) fn share(&mut self) -> Result<(), SteeringError> {
        if self.config.inner_reach == InnerReach::Proxy {
            answer_at_once(&self.config.inner)?;
            answer_for_ipv6(&self.config.inner);
        }
        let Mode::Shared(layer2) = self.config.mode else { return Ok(()) };
        for name in &self.config.outer {
            layer2::receive(name, layer2)?;
        }
        for address in self.config.shared.clone() {
            for link in self.links.outer.clone() {
                self.routes.add_address(address, &link)?;
                self.announcer.announce(&link, address, layer2.mac())?;
            }
        }
        self.share_unknown()
    }

    /// Writes the buckets of unknown clients that are ours.
    pub(super) fn share_unknown(&mut self) -> Result<(), SteeringError> {
        if self.config.shared_mac().is_none() {
            return Ok(());
        }
        // The kernel keeps a hash in its own order of octets.
        let bucket = |n: u16| Element::of(Set::Buckets, u32::from(n).to_ne_bytes());
        let wanted: BTreeSet<_> =
            buckets_of(&self.config.name, &self.config.members).map(bucket).collect();
        let there: BTreeSet<_> =
            self.nft.elements(Set::Buckets)?.into_iter().map(|(element, _)| element).collect();
        let change = Change {
            session: None,
            remove: there.difference(&wanted).cloned().collect(),
            add: wanted.difference(&there).cloned().collect(),
        };
        self.nft.apply(&[change]).pop().unwrap_or(Ok(()))
    }
}

/// Linux delays what it answers for others by up to 0.8 s, unless it is told not to
/// (ip-sysctl, `proxy_delay`): a host that looks for an end user would lose the
/// first packets. By netlink, for `/proc/sys` may be closed to this process.
fn answer_at_once(inner: &str) -> Result<(), SteeringError> {
    for table in ["arp_cache", "ndisc_cache"] {
        let mut ip = Command::new("ip");
        ip.args(["ntable", "change", "name", table, "dev", inner, "proxy_delay", "0"]);
        let command = format!("{ip:?}");
        run(ip, String::new()).map_err(|why| SteeringError::Command { command, why })?;
    }
    Ok(())
}

/// Linux answers ND for others only where it was told to, and by no other way than
/// this setting, which may be closed to this process.
fn answer_for_ipv6(inner: &str) {
    let place = format!("/proc/sys/net/ipv6/conf/{inner}/proxy_ndp");
    let is_on = std::fs::read_to_string(&place).is_ok_and(|value| value.trim() != "0");
    if !is_on && let Err(error) = std::fs::write(&place, "1") {
        tracing::warn!(
            %error,
            "inner IPv6 addresses will not be answered for: set net.ipv6.conf.{inner}.proxy_ndp = 1"
        );
    }
}

/// The prefixes that are single addresses: for those ARP and ND can be answered.
fn hosts(inner: &[Prefix]) -> impl Iterator<Item = IpAddr> + '_ {
    inner.iter().filter(|prefix| is_host(**prefix)).map(|prefix| prefix.address)
}

/// Whether the kernel does not have what we thought it had.
fn is_flushed(outcome: &Result<(), SteeringError>) -> bool {
    matches!(outcome, Err(SteeringError::Kernel { error, .. })
        if error.raw_os_error() == Some(libc::ENOENT))
}
