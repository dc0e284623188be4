//! Values for tests and vectors: every field set, keys marked so that they are
//! found wherever they leak.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    context::{
        Authentication, ChildSa, ChildSeed, ChildTransforms, Context, Direction, ENCR_AES_GCM_16,
        Endpoints, Extensions, Identification, IkeKeys, IkeSa, IkeSecrets, IkeTransforms,
        InboundSa, Lifetime, LifetimeLimit, LifetimeUsed, Load, Mark, Mode, Nat, Native,
        OutboundSa, Policy, Prefix, Protocol, ReplayWindow, SaKeys, Selector, SideEffects,
        UdpEncapsulation, VirtualIp,
    },
    id::{Generation, Name, RequestId, SessionId},
    key::KeyMaterial,
    token::{OrderClaims, TokenClaims},
    transfer::{ChildFinals, Finals, GrantedRange, IkeFinals, TransferMode},
};

/// Octets from hexadecimal digits; whatever is no digit is skipped.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |octet, d| octet << 4 | *d as u8)).collect()
}

/// A key whose every octet is the mark.
pub fn key(mark: u8, octets: usize) -> KeyMaterial {
    KeyMaterial::new(vec![mark; octets])
}

/// A name, which must be one.
pub fn name(text: &str) -> Name {
    #[expect(clippy::expect_used, reason = "a sample is written by hand")]
    text.parse().expect("a name")
}

fn ip(text: &str) -> IpAddr {
    #[expect(clippy::expect_used, reason = "a sample is written by hand")]
    text.parse().expect("an address")
}

/// An IKE SA with AES-GCM-16-256 and PRF_HMAC_SHA2_256.
pub fn ike(mark: u8) -> IkeSa {
    IkeSa {
        spi_initiator: 0x0102_0304_0506_0708,
        spi_responder: 0x1112_1314_1516_1718,
        initiator: false,
        version: 2,
        transforms: IkeTransforms {
            encryption: ENCR_AES_GCM_16,
            key_bits: 256,
            integrity: 0,
            prf: 5,
            key_exchange: 31,
        },
        secrets: IkeSecrets::Keys(IkeKeys {
            sk_d: key(mark, 32),
            sk_ai: key(mark, 0),
            sk_ar: key(mark, 0),
            sk_ei: key(mark, 36),
            sk_er: key(mark, 36),
            sk_pi: key(mark, 32),
            sk_pr: key(mark, 32),
        }),
        window: 1,
        next_send: 2,
        next_receive: 300,
        local_id: Identification { kind: 2, data: b"gateway.example".to_vec() },
        remote_id: Identification { kind: 3, data: b"user@example".to_vec() },
        eap_identity: Some("user".to_owned()),
        authentication: Authentication::Eap(26),
        local: SocketAddr::new(ip("192.0.2.1"), 4500),
        remote: SocketAddr::new(ip("198.51.100.7"), 40_000),
        nat: Nat { local: false, remote: true },
        extensions: Extensions {
            mobike: true,
            fragmentation: true,
            message_id_sync: true,
            replay_counter_sync: false,
            redirect: false,
        },
        peer_addresses: vec![ip("2001:db8::7")],
        virtual_ips: vec![VirtualIp { address: ip("10.0.0.7"), pool: "pool".to_owned() }],
        rekey_in: Some(Duration::new(3600, 500_000_000)),
        reauthenticate_in: None,
        expire_in: Some(Duration::from_secs(86_400)),
        configuration: "road-warriors".to_owned(),
        side_effects: SideEffects { hooks: true, accounting: false },
        native: Some(Native {
            dialect: "strongswan".to_owned(),
            conditions: 0x40,
            extensions: 0x392b,
        }),
    }
}

/// A Child SA with AES-GCM-16-256 and extended sequence numbers.
pub fn child(mark: u8, spi: u32) -> ChildSa {
    let keys = || SaKeys { encryption: key(mark, 36), integrity: key(mark, 0) };
    let selector = |address: &str, bits| Selector {
        prefix: Prefix { address: ip(address), bits },
        ports: (0, 65_535),
    };
    ChildSa {
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        configuration: "net".to_owned(),
        reqid: 7,
        cpi: None,
        transforms: ChildTransforms { encryption: ENCR_AES_GCM_16, key_bits: 256, integrity: 0 },
        esn: true,
        inbound: InboundSa {
            spi,
            keys: keys(),
            window: ReplayWindow { size: 40, highest: 70_000, bitmap: vec![0xffff_ffff, 0x1f] },
        },
        outbound: OutboundSa { spi: 0xc0de_0001, keys: keys(), sequence: 5_000_000_000 },
        policies: vec![Policy {
            direction: Direction::Out,
            priority: 1000,
            source: selector("10.1.0.0", 16),
            destination: selector("10.0.0.7", 32),
            protocol: 0,
        }],
        encapsulation: Some(UdpEncapsulation { local_port: 4500, remote_port: 40_000 }),
        pmtu: Some(1400),
        mark: Some(Mark { value: 0x42, mask: 0xff }),
        if_id: Some(9),
        lifetime: Lifetime {
            used: LifetimeUsed {
                octets: (1_000_000, 2_000_000),
                packets: (1000, 2000),
                age: Duration::from_secs(60),
                since_first_use: Some(Duration::from_millis(59_250)),
            },
            soft: LifetimeLimit { age: Some(Duration::from_secs(3000)), ..Default::default() },
            hard: LifetimeLimit { octets: Some(1 << 40), ..Default::default() },
        },
        rekey_in: Some(Duration::from_secs(2940)),
        seed: Some(ChildSeed {
            initiator: false,
            nonce_initiator: vec![0x21; 32],
            nonce_responder: vec![0x22; 32],
            shared: vec![key(mark, 32)],
        }),
        endpoints: Some(Endpoints { local: ip("192.0.2.1"), remote: ip("198.51.100.7") }),
    }
}

/// A session with an IKE SA and one Child SA; every octet of its keys is the mark.
pub fn context(mark: u8) -> Context {
    Context {
        session: SessionId([0xa1; 16]),
        generation: Generation(3),
        ike: Some(ike(mark)),
        children: vec![child(mark, 0xc000_0001)],
        load: Load { packets_per_second: 100, octets_per_second: 60_000 },
    }
}

/// The shortest context that the codec reads. It has no SA, so no target takes it.
pub fn smallest() -> Context {
    Context {
        session: SessionId([0; 16]),
        generation: Generation(0),
        ike: None,
        children: Vec::new(),
        load: Load::default(),
    }
}

/// Usable grants for a context.
pub fn grants(context: &Context) -> Vec<GrantedRange> {
    let range = |child: &ChildSa| {
        let base = child.outbound.sequence + 65_537;
        GrantedRange { sa: child.sa(), base, end: base + (1 << 24) }
    };
    context.children.iter().map(range).collect()
}

/// Finals that fit a context.
pub fn finals(context: &Context) -> Finals {
    Finals {
        generation: context.generation,
        ike: context.ike.as_ref().map(|ike| IkeFinals {
            next_send: ike.next_send,
            next_receive: ike.next_receive,
            last_response: Some(vec![0xee; 80]),
        }),
        children: context
            .children
            .iter()
            .map(|child| ChildFinals {
                sa: child.sa(),
                sequence: child.outbound.sequence + 10,
                window: child.inbound.window.clone(),
                used: child.lifetime.used.clone(),
            })
            .collect(),
    }
}

/// Claims of a token, every field set.
pub fn token_claims() -> TokenClaims {
    TokenClaims {
        session: Some(SessionId([0xa1; 16])),
        ike_spis: (0x0102_0304_0506_0708, 0x1112_1314_1516_1718),
        source: name("gw-a.example"),
        target: name("gw-b.example"),
        mode: TransferMode::Reactive,
        sequence: 0x0123_4567_89ab_cdef,
        expires: 1_800_000_000,
    }
}

/// Claims of an order for two sessions.
pub fn order_claims() -> OrderClaims {
    OrderClaims {
        id: RequestId([0x0d; 16]),
        controller: name("controller"),
        sessions: vec![SessionId([0xa1; 16]), SessionId([0xa2; 16])],
        source: name("gw-a.example"),
        target: name("gw-b.example"),
        expires: 1_800_000_000,
    }
}
