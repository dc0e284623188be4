//! [`Steer`] on [`Steering`], and the bypass policies that it wants of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use protocol_spec::{
    context::{Direction, Policy, Prefix, Selector},
    id::{Name, SessionId},
    status::{Refusal, Status},
};

use super::ground::{Flow, LetGo, Steer};
use crate::{
    steering::{Bypass, Neighbour, Steering, SteeringError, Traffic},
    xfrm::{Kernel, KernelPolicy, XfrmError},
};

/// Before every policy of an IKE daemon: lower is stronger.
const FIRST: u32 = 1;
/// After every other policy.
const LAST: u32 = u32::MAX;

/// Steering, with the gateways that it knows.
pub(crate) struct Steered {
    steering: Steering,
    neighbours: BTreeMap<Name, Neighbour>,
    /// Addresses that move as a whole.
    moving: Vec<IpAddr>,
    /// Sessions whose staging ended: their source may divert packets here for a
    /// moment more, so the guard stays for one maintenance at least. Those of now,
    /// and those of the time before.
    discarded: [BTreeSet<SessionId>; 2],
}

impl Steered {
    pub(crate) fn new(
        steering: Steering,
        neighbours: BTreeMap<Name, Neighbour>,
        moving: Vec<IpAddr>,
    ) -> Self {
        Self { steering, neighbours, moving, discarded: Default::default() }
    }

    /// Does what names a session's packets; what is left of stagings that ended makes
    /// way for it.
    fn name(
        &mut self,
        session: SessionId,
        act: impl Fn(&mut Steering) -> Result<(), SteeringError>,
    ) -> Result<(), Refusal> {
        loop {
            match act(&mut self.steering) {
                Err(SteeringError::Taken { owner, .. })
                    if self.discarded.iter().any(|discarded| discarded.contains(&owner)) =>
                {
                    self.steering.inherit(owner, session).map_err(refusal)?;
                    self.keep(owner);
                }
                done => return done.map_err(refusal),
            }
        }
    }

    /// The session is back before its guard was gone.
    fn keep(&mut self, session: SessionId) {
        for discarded in &mut self.discarded {
            discarded.remove(&session);
        }
    }

    fn neighbour(&self, name: &Name) -> Result<Neighbour, Refusal> {
        self.neighbours.get(name).cloned().ok_or_else(|| {
            let detail = format!("`{name}` is not among the neighbours of this gateway");
            Refusal::new(Status::NoPeer, detail)
        })
    }
}

pub(super) fn refusal(error: SteeringError) -> Refusal {
    let status = match error {
        SteeringError::Unreachable { .. } => Status::NoPeer,
        SteeringError::Taken { .. } => Status::AddressCollision,
        _ => Status::GatewayFault,
    };
    Refusal::new(status, error.to_string())
}

pub(super) fn traffic(flow: &Flow) -> Traffic {
    Traffic {
        inner: flow.inner.clone(),
        children: flow.children.clone(),
        ike: flow.ike,
        local: flow.local,
        remote: flow.remote,
        udp_encapsulated: flow.in_udp,
    }
}

impl Steer for Steered {
    fn here(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal> {
        self.keep(session);
        self.name(session, |steering| steering.known(session, &traffic(flow)))?;
        self.steering.arrived(session).map_err(refusal)
    }

    fn hold(&mut self, session: SessionId, flow: &Flow, source: &Name) -> Result<(), Refusal> {
        self.steering.stand_by(flow.local.ip()).map_err(refusal)?;
        self.keep(session);
        let source = self.neighbours.get(source).cloned();
        self.name(session, |steering| match &source {
            Some(source) => steering.hold_from(session, &traffic(flow), source),
            None => steering.hold(session, &traffic(flow)),
        })
    }

    fn limit(
        &mut self,
        session: SessionId,
        flow: &Flow,
        ends: &[(u32, u64)],
    ) -> Result<(), Refusal> {
        self.steering.limit(session, &traffic(flow), ends).map_err(refusal)
    }

    fn let_go_data(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal> {
        // What waits first: the source still sends here what comes to it.
        self.steering.let_go_data(session).map_err(refusal)?;
        self.here(session, flow)
    }

    fn let_go_ike(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.steering.let_go_ike(session).map_err(refusal)
    }

    fn hold_inner(&mut self, session: SessionId, flow: &Flow) -> Result<LetGo, Refusal> {
        let gate = self.steering.hold_inner(session, &traffic(flow)).map_err(refusal)?;
        Ok(Box::new(move || {
            if let Err(error) = gate.open() {
                tracing::warn!(%session, %error, "packets still wait");
            }
        }))
    }

    fn let_go_inner(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.steering.let_go_inner(session).map_err(refusal)
    }

    fn discard(&mut self, session: SessionId, source: &Name) -> Result<(), Refusal> {
        // One that is no neighbour any more gets nothing back.
        let source = self.neighbours.get(source).cloned();
        self.steering.discard(session, source.as_ref()).map_err(refusal)?;
        self.discarded[0].insert(session);
        Ok(())
    }

    fn divert_ike(
        &mut self,
        session: SessionId,
        flow: &Flow,
        target: &Name,
    ) -> Result<(), Refusal> {
        let target = self.neighbour(target)?;
        self.steering.divert_ike(session, &traffic(flow), &target).map_err(refusal)
    }

    fn block_ike(&mut self, session: SessionId, _: &Flow) -> Result<(), Refusal> {
        self.steering.block_ike(session).map_err(refusal)
    }

    fn divert(&mut self, session: SessionId, flow: &Flow, target: &Name) -> Result<(), Refusal> {
        let target = self.neighbour(target)?;
        self.steering.divert(session, &traffic(flow), &target).map_err(refusal)
    }

    fn block(&mut self, session: SessionId, _: &Flow) -> Result<(), Refusal> {
        self.steering.block(session).map_err(refusal)
    }

    fn restore(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.steering.restore(session).map_err(refusal)
    }

    fn released(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.steering.released(session).map_err(refusal)
    }

    fn drained(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.steering.drained(session).map_err(refusal)
    }

    fn ended(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.steering.ended(session).map_err(refusal)
    }

    fn inherit(&mut self, from: SessionId, to: SessionId) -> Result<(), Refusal> {
        self.steering.inherit(from, to).map_err(refusal)
    }

    fn maintain(&mut self) -> Result<(), Refusal> {
        let [now, before] = &mut self.discarded;
        for session in std::mem::replace(before, std::mem::take(now)) {
            if self.steering.leads_on(session) {
                // It was here before, and its packets still come here first.
                now.insert(session);
            } else {
                self.steering.forget(session).map_err(refusal)?;
            }
        }
        let repaired = self.steering.repair().map_err(refusal)?;
        if repaired > 0 {
            tracing::warn!(sessions = repaired, "somebody removed rules of ours; they are back");
        }
        for neighbour in self.neighbours.values() {
            if let Err(error) = self.steering.prepare(neighbour) {
                tracing::debug!(neighbour = %neighbour.name, %error, "no way yet");
            }
        }
        Ok(())
    }

    fn emptied(&mut self) -> Result<(), Refusal> {
        self.moving.iter().try_for_each(|address| self.steering.give_up(*address)).map_err(refusal)
    }

    fn take_free(&mut self, now: Duration, in_use: &dyn Fn(IpAddr) -> bool) -> Result<(), Refusal> {
        self.steering.take_free(now, in_use).map_err(refusal)
    }

    fn is_in_between(&mut self) -> bool {
        let has = |address: &IpAddr| self.steering.has_address(*address).unwrap_or(true);
        self.moving.iter().any(has)
    }

    fn forget(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.steering.forget(session).map_err(refusal)
    }

    fn reaches(&self, gateway: &Name) -> bool {
        self.neighbours.contains_key(gateway)
    }
}

impl Bypass for Kernel {
    fn allow(&mut self, _: SessionId, inner: &[Prefix], interface: u32) -> Result<(), String> {
        first_error(self.replace_policies(&bypasses(inner, interface)), |_| false)
    }

    fn revoke(&mut self, _: SessionId, inner: &[Prefix], interface: u32) -> Result<(), String> {
        let results = self.remove_policies(&bypasses(inner, interface));
        first_error(results, |error| matches!(error, XfrmError::Missing(_)))
    }

    fn guard(&mut self, inner: &[Prefix], outer: &[u32]) -> Result<(), String> {
        first_error(self.replace_policies(&blocks(inner, outer)), |_| false)
    }

    fn unguard(&mut self, inner: &[Prefix], outer: &[u32]) -> Result<(), String> {
        let results = self.remove_policies(&blocks(inner, outer));
        first_error(results, |error| matches!(error, XfrmError::Missing(_)))
    }
}

fn first_error(
    results: Vec<Result<(), XfrmError>>,
    harmless: impl Fn(&XfrmError) -> bool,
) -> Result<(), String> {
    let error = results.into_iter().filter_map(Result::err).find(|error| !harmless(error));
    error.map_or(Ok(()), |error| Err(error.to_string()))
}

/// Packets to these prefixes that are routed out on the inner interface.
fn bypasses(inner: &[Prefix], interface: u32) -> Vec<KernelPolicy> {
    let bypass = |policy| KernelPolicy::bypass(policy, Some(interface));
    towards(inner, FIRST).into_iter().map(bypass).collect()
}

/// Packets to these prefixes that would leave on the outer interfaces in clear.
fn blocks(inner: &[Prefix], outer: &[u32]) -> Vec<KernelPolicy> {
    let block = |interface: &u32| {
        let block =
            |policy| KernelPolicy { interface: Some(*interface), ..KernelPolicy::block(policy) };
        towards(inner, LAST).into_iter().map(block).collect::<Vec<_>>()
    };
    outer.iter().flat_map(block).collect()
}

/// Outbound policies from everywhere to these prefixes.
fn towards(inner: &[Prefix], priority: u32) -> Vec<Policy> {
    let any = |prefix| Selector { prefix, ports: (0, u16::MAX) };
    let policies = inner.iter().map(|destination| {
        let zero = match destination.address {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        Policy {
            direction: Direction::Out,
            priority,
            source: any(Prefix { address: zero, bits: 0 }),
            destination: any(*destination),
            protocol: 0,
        }
    });
    policies.collect()
}
