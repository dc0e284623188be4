//! A context from what the daemon and the kernel hold, and back.

use std::net::{IpAddr, SocketAddr};

use protocol_spec::{
    context::{
        ChildSa, Context, Direction, Endpoints, InboundSa, Lifetime, LifetimeUsed, Load,
        OutboundSa, Prefix, Selector, UdpEncapsulation,
    },
    id::{Generation, SessionId},
    status::{Refusal, Status},
    transfer::{GrantedRange, SaRef},
};

use super::{
    daemon::{Described, DescribedChild, Spis},
    ground::Flow,
    pair::{Pair, used},
};
use crate::xfrm::{Encapsulation, KernelPolicy, KernelSa, Limits, SaFlags, SaId, Template};

/// Packets in the narrowest window of a staged SA.
const WINDOW: u32 = 1024;

fn missing(what: String) -> Refusal {
    Refusal::new(Status::GatewayFault, what)
}

/// Whether a policy's packets go into this SA or come out of it. Request ids alone
/// do not say: each of many sources may have numbered its own.
pub(crate) fn leads_into(policy: &KernelPolicy, sa: &KernelSa) -> bool {
    let (ours, theirs) = (sa.source, sa.id.destination);
    policy.templates.first().is_some_and(|template| {
        let ends = (template.source, template.destination);
        template.reqid != 0
            && template.reqid == sa.reqid
            && (ends == (ours, theirs) || ends == (theirs, ours))
    })
}

/// Whether a policy sends packets to these destinations into an SA.
pub(crate) fn leads_to(policy: &KernelPolicy, destination: &Selector) -> bool {
    policy.policy.direction == Direction::Out
        && !policy.templates.is_empty()
        && policy.policy.destination == *destination
}

/// What a context says of its Child SAs beside their keys.
pub(crate) fn described(context: &Context) -> Vec<DescribedChild> {
    let children = context.children.iter().map(|child| DescribedChild {
        configuration: child.configuration.clone(),
        inbound: child.inbound.spi,
        outbound: child.outbound.spi,
        seed: None,
        rekey_in: child.rekey_in,
    });
    children.collect()
}

/// The names of a session's SAs, if they are where the context says.
pub(crate) fn names(context: &Context) -> Result<Vec<SaId>, Refusal> {
    let pairs = planned(context)?;
    Ok(pairs.iter().flat_map(|pair| [pair.inbound, pair.outbound]).collect())
}

/// By which a staged session is found again.
pub(crate) fn spis(context: &Context) -> Spis {
    Spis {
        ike: context.ike.as_ref().map(|ike| (ike.spi_initiator, ike.spi_responder)),
        inbound: context.children.iter().map(|child| child.inbound.spi).collect(),
        ends: context.children.first().and_then(|child| child.endpoints),
    }
}

/// The SAs as they are to be in this kernel.
pub(crate) fn planned(context: &Context) -> Result<Vec<Pair>, Refusal> {
    let children = context.children.iter();
    children.map(|child| ends(context, child).map(|at| pair(child, at))).collect()
}

/// The window of an SA that is staged. Packets that waited for it come behind some
/// that did not wait: 32 packets, charon's default, are not enough for them.
fn roomy(window: u32) -> u32 {
    if window == 0 { 0 } else { window.max(WINDOW) }
}

fn pair(child: &ChildSa, at: Endpoints) -> Pair {
    let id = |destination: IpAddr, spi| SaId {
        destination,
        spi,
        protocol: child.protocol,
        mark: child.mark,
    };
    Pair {
        sa: child.sa(),
        inbound: id(at.local, child.inbound.spi),
        outbound: id(at.remote, child.outbound.spi),
        reqid: child.reqid,
        window: roomy(child.inbound.window.size),
        outbound_window: roomy(child.inbound.window.size),
    }
}

/// The kernel's two SAs of a Child SA.
pub(crate) fn find<'a>(
    child: &DescribedChild,
    sas: &'a [KernelSa],
) -> Result<(&'a KernelSa, &'a KernelSa), Refusal> {
    let named = |spi: u32| sas.iter().filter(move |sa| sa.id.spi == spi);
    named(child.inbound)
        .flat_map(|inbound| named(child.outbound).map(move |outbound| (inbound, outbound)))
        .find(|(inbound, outbound)| {
            inbound.source == outbound.id.destination
                && inbound.id.destination == outbound.source
                && inbound.id.protocol == outbound.id.protocol
        })
        .ok_or_else(|| {
            missing(format!(
                "the kernel has no SAs {:#010x} and {:#010x} of Child SA `{}`",
                child.inbound, child.outbound, child.configuration
            ))
        })
}

/// The names of a session's SAs in this kernel.
pub(crate) fn pairs(children: &[DescribedChild], sas: &[KernelSa]) -> Result<Vec<Pair>, Refusal> {
    children
        .iter()
        .map(|child| {
            let (inbound, outbound) = find(child, sas)?;
            Ok(Pair {
                sa: SaRef { protocol: inbound.id.protocol, inbound_spi: inbound.id.spi },
                inbound: inbound.id,
                outbound: outbound.id,
                reqid: inbound.reqid,
                window: inbound.window_size,
                outbound_window: outbound.window_size,
            })
        })
        .collect()
}

/// Writes a session down.
pub(crate) fn join(
    session: SessionId,
    described: Described,
    generation: Generation,
    sas: &[KernelSa],
    policies: &[KernelPolicy],
) -> Result<Context, Refusal> {
    let Described { ike, children, .. } = described;
    let ends = ike.as_ref().map(|ike| Endpoints { local: ike.local.ip(), remote: ike.remote.ip() });
    let children: Vec<ChildSa> = children
        .into_iter()
        .map(|child| {
            let (inbound, outbound) = find(&child, sas)?;
            join_child(child, inbound, outbound, policies, ends)
        })
        .collect::<Result<_, _>>()?;
    let load = load(&children);
    Ok(Context { session, generation, ike, children, load })
}

/// Traffic on average since the SAs were made.
fn load(children: &[ChildSa]) -> Load {
    let mut load = Load::default();
    for LifetimeUsed { octets, packets, age, .. } in children.iter().map(|c| &c.lifetime.used) {
        let seconds = age.as_secs().max(1);
        let packets = (packets.0 + packets.1) / seconds;
        load.packets_per_second =
            load.packets_per_second.saturating_add(u32::try_from(packets).unwrap_or(u32::MAX));
        load.octets_per_second += (octets.0 + octets.1) / seconds;
    }
    load
}

fn join_child(
    child: DescribedChild,
    inbound: &KernelSa,
    outbound: &KernelSa,
    policies: &[KernelPolicy],
    ends: Option<Endpoints>,
) -> Result<ChildSa, Refusal> {
    if let Some(what) = inbound.not_carried.iter().chain(&outbound.not_carried).next() {
        let detail = format!("{} has {what}, which cannot be carried", inbound.id);
        return Err(Refusal::new(Status::NoFeature, detail));
    }
    let own = Endpoints { local: inbound.id.destination, remote: inbound.source };
    Ok(ChildSa {
        protocol: inbound.id.protocol,
        mode: inbound.mode,
        configuration: child.configuration,
        reqid: inbound.reqid,
        cpi: None,
        transforms: inbound.transforms.clone(),
        esn: inbound.esn,
        inbound: InboundSa {
            spi: inbound.id.spi,
            keys: inbound.keys.duplicate(),
            window: inbound.counters.window.clone(),
        },
        outbound: OutboundSa {
            spi: outbound.id.spi,
            keys: outbound.keys.duplicate(),
            sequence: outbound.counters.sequence,
        },
        policies: policies
            .iter()
            .filter(|policy| leads_into(policy, inbound))
            .map(|policy| policy.policy.clone())
            .collect(),
        encapsulation: inbound.encapsulation.map(|ports| UdpEncapsulation {
            local_port: ports.destination,
            remote_port: ports.source,
        }),
        pmtu: None,
        mark: inbound.id.mark.or(outbound.id.mark),
        if_id: inbound.if_id,
        lifetime: Lifetime {
            used: used(&inbound.counters, &outbound.counters),
            soft: inbound.lifetime.soft.clone(),
            hard: inbound.lifetime.hard.clone(),
        },
        rekey_in: child.rekey_in,
        seed: child.seed,
        endpoints: (ends != Some(own)).then_some(own),
    })
}

/// Where a Child SA's packets go outside.
fn ends(context: &Context, child: &ChildSa) -> Result<Endpoints, Refusal> {
    let of_ike = context
        .ike
        .as_ref()
        .map(|ike| Endpoints { local: ike.local.ip(), remote: ike.remote.ip() });
    child.endpoints.or(of_ike).ok_or_else(|| {
        let detail = "a Child SA without an IKE SA must say its outer addresses";
        Refusal::new(Status::BadContext, detail)
    })
}

/// Which packets are the session's.
pub(crate) fn flow(context: &Context) -> Result<Flow, Refusal> {
    let mut inner: Vec<Prefix> = context
        .children
        .iter()
        .flat_map(|child| &child.policies)
        .filter(|policy| policy.direction == Direction::Out)
        .map(|policy| policy.destination.prefix)
        .collect();
    inner.dedup();
    let ends = match (&context.ike, context.children.first()) {
        (Some(ike), _) => (ike.local, ike.remote),
        (None, Some(child)) => {
            let at = ends(context, child)?;
            let ports = child.encapsulation.map_or((0, 0), |udp| (udp.local_port, udp.remote_port));
            (SocketAddr::new(at.local, ports.0), SocketAddr::new(at.remote, ports.1))
        }
        (None, None) => {
            let detail = "a session without IKE SA and Child SA cannot be moved";
            return Err(Refusal::new(Status::BadContext, detail));
        }
    };
    Ok(Flow {
        inner,
        children: context.children.iter().map(|c| (c.inbound.spi, c.outbound.spi)).collect(),
        ike: context.ike.as_ref().map(|ike| (ike.spi_initiator, ike.spi_responder)),
        local: ends.0,
        remote: ends.1,
        in_udp: context.children.iter().any(|child| child.encapsulation.is_some()),
    })
}

/// SAs and policies as the kernel takes them, the outbound numbers right below the
/// granted ranges: for sessions whose SAs no daemon installs.
pub(crate) fn tables(
    context: &Context,
    grants: &[GrantedRange],
) -> Result<(Vec<KernelSa>, Vec<KernelPolicy>), Refusal> {
    let mut sas = Vec::new();
    let mut policies = Vec::new();
    for child in &context.children {
        let at = ends(context, child)?;
        let [inbound, outbound] = both(child, at, grants)?;
        let made = child.policies.iter().map(|policy| {
            let (source, destination) = match policy.direction {
                Direction::Out => (at.local, at.remote),
                Direction::In | Direction::Forward => (at.remote, at.local),
            };
            let template = Template {
                source,
                destination,
                protocol: child.protocol,
                mode: child.mode,
                reqid: child.reqid,
                spi: 0,
                optional: false,
            };
            KernelPolicy {
                if_id: child.if_id,
                mark: child.mark,
                ..KernelPolicy::protect(policy.clone(), template)
            }
        });
        // Child SAs that replace each other share their policies.
        for policy in made {
            if !policies.contains(&policy) {
                policies.push(policy);
            }
        }
        sas.extend([inbound, outbound]);
    }
    Ok((sas, policies))
}

fn both(child: &ChildSa, at: Endpoints, grants: &[GrantedRange]) -> Result<[KernelSa; 2], Refusal> {
    let pair = pair(child, at);
    let [(_, inbound), (_, outbound)] = pair.staged(child, grants)?;
    let sa = |id, source, keys, counters, encapsulation| KernelSa {
        id,
        source,
        reqid: child.reqid,
        mode: child.mode,
        transforms: child.transforms.clone(),
        keys,
        esn: child.esn,
        counters,
        window_size: pair.window,
        encapsulation,
        if_id: child.if_id,
        output_mark: None,
        lifetime: Limits { soft: child.lifetime.soft.clone(), hard: child.lifetime.hard.clone() },
        selector: None,
        flags: SaFlags::of(child.mode),
        not_carried: Vec::new(),
    };
    Ok([
        sa(
            pair.inbound,
            at.remote,
            child.inbound.keys.duplicate(),
            inbound,
            child.encapsulation.map(Encapsulation::inbound),
        ),
        sa(
            pair.outbound,
            at.local,
            child.outbound.keys.duplicate(),
            outbound,
            child.encapsulation.map(Encapsulation::outbound),
        ),
    ])
}
