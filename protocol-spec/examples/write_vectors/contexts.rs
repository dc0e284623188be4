//! The PCTD messages of the valid vectors: contexts of every kind.

use std::time::Duration;

use protocol_spec::{
    context::{
        Authentication, ChildSa, ChildTransforms, Context, Direction, IkeSecrets, InboundSa,
        Lifetime, Load, Mode, OutboundSa, Policy, Prefix, Protocol, ReplacedSa, ReplayWindow,
        SaKeys, Selector,
    },
    id::{Generation, SessionEpoch},
    message::{Message, Pctd, PctdEntry},
    samples::{child, context, grants, key, smallest},
    transfer::{GrantedRange, TransferMode},
};

use crate::cases::{BATCH, Case, S2};

fn pctd(context: Context, grants: Vec<GrantedRange>) -> Message {
    Message::Pctd(Pctd {
        batch: BATCH,
        mode: TransferMode::Predictive,
        entries: vec![PctdEntry { epoch: SessionEpoch(4), grants, context }],
    })
}

pub(crate) fn contexts() -> Vec<Case> {
    let full = context(0x4b);
    let full_grants = grants(&full);
    let kernel_only = Context {
        session: S2,
        generation: Generation(0),
        ike: None,
        children: vec![authenticated(), child(0x4b, 0xc000_0002)],
        load: Load::default(),
    };
    let kernel_grants = grants(&kernel_only);
    vec![
        (
            "pctd-full",
            "A session with an IKE SA by its keys and a Child SA with every optional field",
            pctd(full, full_grants),
        ),
        (
            "pctd-seed",
            "An IKE SA by the inputs of its keys, rekeyed, with two key exchanges, over IPv6",
            pctd(seeded(), vec![]),
        ),
        (
            "pctd-kernel-only",
            "No IKE SA; AH in transport mode with IPComp and 32-bit numbers, and an ESP pair",
            pctd(kernel_only, kernel_grants),
        ),
        (
            "pctd-smallest",
            "The shortest context that decodes; a target refuses it, since it holds no SA",
            pctd(smallest(), vec![]),
        ),
        (
            "pctd-empty",
            "No entry at all, in a reactive transfer",
            Message::Pctd(Pctd { batch: BATCH, mode: TransferMode::Reactive, entries: vec![] }),
        ),
    ]
}

fn seeded() -> Context {
    let mut context = context(0x4b);
    context.children.clear();
    if let Some(ike) = &mut context.ike {
        ike.secrets = IkeSecrets::Seed {
            nonce_initiator: vec![0x11; 32],
            nonce_responder: vec![0x12; 32],
            shared: vec![key(0x4b, 32), key(0x4c, 32)],
            replaced: Some(ReplacedSa { prf: 2, sk_d: key(0x4d, 20) }),
        };
        ike.authentication = Authentication::Method(14);
        ike.eap_identity = None;
        ike.local = (std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 500).into();
        ike.remote = (std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), 500).into();
        ike.peer_addresses.clear();
        ike.virtual_ips.clear();
        ike.rekey_in = None;
        ike.expire_in = None;
        ike.native = None;
    }
    context
}

/// A pair of AH SAs, without optional fields.
fn authenticated() -> ChildSa {
    let sample = child(0x4b, 0xc000_0001);
    let keys = || SaKeys { encryption: key(0, 0), integrity: key(0x4b, 32) };
    let host = |last| Selector {
        prefix: Prefix { address: [192, 0, 2, last].into(), bits: 32 },
        ports: (80, 443),
    };
    ChildSa {
        protocol: Protocol::Ah,
        mode: Mode::Transport,
        cpi: Some((0x1000, 0x2000)),
        transforms: ChildTransforms { encryption: 0, key_bits: 0, integrity: 12 },
        esn: false,
        inbound: InboundSa {
            keys: keys(),
            window: ReplayWindow { size: 32, highest: 0, bitmap: vec![0] },
            ..sample.inbound
        },
        outbound: OutboundSa { keys: keys(), sequence: 0, ..sample.outbound },
        policies: [Direction::In, Direction::Out, Direction::Forward]
            .into_iter()
            .map(|direction| Policy {
                direction,
                priority: 0,
                source: host(1),
                destination: host(2),
                protocol: 6,
            })
            .collect(),
        encapsulation: None,
        pmtu: None,
        mark: None,
        if_id: None,
        lifetime: Lifetime::default(),
        rekey_in: Some(Duration::new(0, 999_999_999)),
        seed: None,
        endpoints: None,
        ..sample
    }
}
