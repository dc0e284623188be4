//! SAs and policies of every kind.

use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;
use protocol_spec::{
    context::{
        ChildTransforms, Direction, LifetimeLimit, Mark, Mode, Policy, Prefix, Protocol,
        ReplayWindow, SaKeys, Selector,
    },
    key::KeyMaterial,
};

use crate::xfrm::{
    Action, Counters, Encapsulation, KernelPolicy, KernelSa, Limits, SaFlags, SaId, SaSelector,
    Template, algorithm::Suite, probe::candidates,
};

pub(super) fn key(octets: usize) -> KeyMaterial {
    KeyMaterial::new((0..octets).map(|i| 0xa1u8.wrapping_add(i as u8)).collect())
}

/// AES-GCM with 256 bits, ESP, IPv4, tunnel mode, 32 packets.
pub(super) fn plain(spi: u32) -> KernelSa {
    let transforms = ChildTransforms { encryption: 20, key_bits: 256, integrity: 0 };
    KernelSa { id: SaId::esp([198, 51, 100, 2].into(), spi), ..with(Protocol::Esp, transforms) }
}

/// An SA with these algorithms and keys to fit.
pub(super) fn with(protocol: Protocol, transforms: ChildTransforms) -> KernelSa {
    let suite = Suite::of(protocol, &transforms).unwrap();
    let (encryption, integrity) = suite.key_lengths(transforms.key_bits).unwrap();
    let id = SaId { destination: [198, 51, 100, 2].into(), spi: 0x100, protocol, mark: None };
    let keys = SaKeys { encryption: key(encryption), integrity: key(integrity) };
    KernelSa { reqid: 7, ..KernelSa::new(id, [198, 51, 100, 1].into(), transforms, keys) }
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
        any::<([u16; 8], [u16; 8])>().prop_map(|(a, b)| (a.into(), b.into())),
    ]
}

fn marks() -> impl Strategy<Value = Option<Mark>> {
    prop::option::of((any::<u32>(), 1..=u32::MAX).prop_map(|(value, mask)| Mark { value, mask }))
}

fn selectors() -> impl Strategy<Value = (Selector, Selector, u8, Option<u32>)> {
    // Never one that lets everything through: that one is shown as none.
    let side = (1..=32u8, prop_oneof![Just((0, 65535)), any::<u16>().prop_map(|one| (one, one))]);
    (addresses(), side.clone(), side, any::<u8>(), prop::option::of(1..1000u32)).prop_map(
        |((source, destination), a, b, protocol, interface)| {
            let of = |address, (bits, ports)| Selector { prefix: Prefix { address, bits }, ports };
            (of(source, a), of(destination, b), protocol, interface)
        },
    )
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Tunnel), Just(Mode::Transport), Just(Mode::Beet)]
}

fn windows(esn: bool) -> impl Strategy<Value = ReplayWindow> {
    let top = if esn { u64::MAX } else { u32::MAX.into() };
    (u32::from(esn)..=4096, 0..=top).prop_flat_map(|(size, highest)| {
        prop::collection::vec(any::<u32>(), size.div_ceil(32) as usize).prop_map(
            move |mut bitmap| {
                if let Some(last) = bitmap.last_mut().filter(|_| size % 32 != 0) {
                    *last &= (1 << (size % 32)) - 1;
                }
                ReplayWindow { size, highest, bitmap }
            },
        )
    })
}

fn counters(esn: bool) -> impl Strategy<Value = Counters> {
    let top = if esn { u64::MAX } else { u32::MAX.into() };
    let second = |seconds: u32| Duration::from_secs(seconds.into());
    (windows(esn), 0..=top, any::<[u64; 2]>(), 0..1_000_000_000u32, any::<Option<u16>>()).prop_map(
        move |(window, sequence, [octets, packets], age, used)| Counters {
            sequence,
            window,
            octets,
            packets,
            age: second(age),
            since_first_use: used.map(|used| second(used.into())),
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let one = any::<[Option<u16>; 4]>().prop_map(|[octets, packets, age, used]| {
        let time = |seconds: Option<u16>| {
            seconds.filter(|it| *it > 0).map(|it| Duration::from_secs(it.into()))
        };
        LifetimeLimit {
            octets: octets.map(u64::from),
            packets: packets.map(u64::from),
            age: time(age),
            since_first_use: time(used),
        }
    });
    (one.clone(), one).prop_map(|(soft, hard)| Limits { soft, hard })
}

prop_compose! {
    /// Any SA that the kernel can hold.
    pub(super) fn sas()(esn in any::<bool>())(
        esn in Just(esn),
        suite in prop::sample::select(candidates()),
        (source, destination) in addresses(),
        (spi, reqid) in any::<(u32, u32)>(),
        mode in modes(),
        counters in counters(esn),
        ports in any::<Option<(u16, u16)>>(),
        if_id in prop::option::of(1..=u32::MAX),
        (mark, output_mark) in (marks(), marks()),
        lifetime in limits(),
        selector in prop::option::of(selectors()),
        (bits, extra) in (0..128u8, any::<u32>()),
    ) -> KernelSa {
        let (protocol, transforms) = suite;
        KernelSa {
            id: SaId { destination, spi, protocol, mark },
            source,
            reqid,
            mode,
            esn,
            window_size: counters.window.size,
            counters,
            encapsulation: ports.map(|(source, destination)| Encapsulation {
                source, destination, original: None,
            }),
            if_id,
            output_mark,
            lifetime,
            selector: selector.map(|(source, destination, protocol, interface)| SaSelector {
                source, destination, protocol, interface,
            }),
            flags: SaFlags { bits, extra },
            ..with(protocol, transforms)
        }
    }
}

prop_compose! {
    /// Any policy that the kernel can hold.
    pub(super) fn policies()(
        direction in prop_oneof![Just(Direction::In), Just(Direction::Out), Just(Direction::Forward)],
        priority in any::<u32>(),
        (source, destination, protocol, interface) in selectors(),
        block in any::<bool>(),
        templates in prop::collection::vec(
            (addresses(), any::<(bool, u32, u32, bool)>(), modes()), 0..=6),
        if_id in prop::option::of(1..=u32::MAX),
        mark in marks(),
        flags in any::<u8>(),
    ) -> KernelPolicy {
        let templates = templates.into_iter().map(
            |((source, destination), (esp, reqid, spi, optional), mode)| Template {
                source, destination,
                protocol: if esp { Protocol::Esp } else { Protocol::Ah },
                mode, reqid, spi, optional,
            },
        );
        KernelPolicy {
            policy: Policy { direction, priority, source, destination, protocol },
            action: if block { Action::Block } else { Action::Allow },
            templates: templates.collect(),
            if_id, mark, interface, flags,
        }
    }
}
