//! Beside what iproute2 6.1 sends for the same SA or policy, taken down with
//! strace; the command stands in each file.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use protocol_spec::{
    context::{
        ChildTransforms, Direction, LifetimeLimit, Mark, Mode, Policy, Prefix, Protocol, SaKeys,
        Selector,
    },
    key::KeyMaterial,
};

use super::{payload, samples::plain};
use crate::xfrm::{
    Encapsulation, KernelPolicy, KernelSa, SaFlags, SaId, Template, encode,
    netlink::{Attributes, HEADER_LEN, Message},
    policy, window,
};

const LTIME_VAL: u16 = 9;
const REPLAY_VAL: u16 = 10;
const SRCADDR: u16 = 13;
const REPLAY_ESN_VAL: u16 = 23;

fn octets(text: &str) -> Vec<u8> {
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect()
}

/// The same type, the same body of so many octets, and the same attributes but
/// those that only one of the two sends.
fn assert_same(message: &Message, golden: &str, body: usize, only_ours: &[u16], only_ip: &[u16]) {
    let golden = octets(golden);
    let ours = message.to_octets(0);
    assert_eq!(ours[4..6], golden[4..6], "type");
    let (ours, theirs) = (payload(message), &golden[HEADER_LEN..]);
    assert_eq!(ours[..body], theirs[..body], "body");
    let read = |octets: &[u8], without: &[u16]| -> BTreeMap<u16, Vec<u8>> {
        Attributes::after(octets, body)
            .unwrap()
            .map(|one| one.map(|(kind, value)| (kind, value.to_vec())).unwrap())
            .filter(|(kind, _)| !without.contains(kind))
            .collect()
    };
    assert_eq!(read(&ours, only_ours), read(theirs, only_ip));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn counting(octets: u8) -> KeyMaterial {
    KeyMaterial::new((0..octets).collect())
}

#[test]
fn an_sa_with_esn_in_udp() {
    let mut sa = KernelSa {
        reqid: 12,
        transforms: ChildTransforms { encryption: 12, key_bits: 128, integrity: 12 },
        keys: SaKeys { encryption: counting(16), integrity: counting(32) },
        esn: true,
        window_size: 128,
        encapsulation: Some(Encapsulation { source: 4500, destination: 4501, original: None }),
        flags: SaFlags::NONE,
        ..plain(0x401)
    };
    sa.counters.window = window::empty(128);
    sa.counters.window.highest = (1 << 32) + 300;
    sa.counters.sequence = (2 << 32) + 4;
    sa.lifetime.hard = LifetimeLimit { age: Some(Duration::from_secs(500)), ..Default::default() };
    let message = encode::new_sa(&sa, 1_000).unwrap();
    let golden = include_str!("../golden/esn_udp_sa.hex");
    assert_same(&message, golden, 224, &[LTIME_VAL, REPLAY_ESN_VAL], &[REPLAY_ESN_VAL]);
    // iproute2 leaves the empty bitmap away; the numbers are the same.
    let ring = |octets: &[u8]| {
        Attributes::after(octets, 224)
            .unwrap()
            .flatten()
            .find(|(kind, _)| *kind == REPLAY_ESN_VAL)
            .map(|(_, value)| value[..24].to_vec())
    };
    assert_eq!(ring(&payload(&message)), ring(&octets(golden)[HEADER_LEN..]));
}

#[test]
fn an_sa_with_gcm_and_marks() {
    let sa = KernelSa {
        id: SaId {
            mark: Some(Mark { value: 0x42, mask: 0xff }),
            ..SaId::esp(ip("2001:db8::2"), 0x402)
        },
        source: ip("2001:db8::1"),
        reqid: 3,
        mode: Mode::Transport,
        transforms: ChildTransforms { encryption: 20, key_bits: 128, integrity: 0 },
        keys: SaKeys { encryption: counting(20), integrity: counting(0) },
        if_id: Some(9),
        output_mark: Some(Mark { value: 0x11, mask: 0xffff }),
        ..plain(0)
    };
    let message = encode::new_sa(&sa, 1_000).unwrap();
    let golden = include_str!("../golden/marked_gcm_sa.hex");
    assert_same(&message, golden, 224, &[LTIME_VAL, REPLAY_VAL], &[]);
}

#[test]
fn the_deletion_of_an_sa() {
    let id = SaId { mark: Some(Mark { value: 0x42, mask: 0xff }), ..plain(0x401).id };
    let golden = include_str!("../golden/delete_sa.hex");
    assert_same(&encode::delete_sa(&id), golden, 24, &[], &[SRCADDR]);
}

fn base() -> Policy {
    let side = |address, bits| Selector {
        prefix: Prefix { address: ip(address), bits },
        ports: (0, 65535),
    };
    Policy {
        direction: Direction::Out,
        priority: 1000,
        source: side("10.1.0.0", 16),
        destination: side("10.2.0.0", 16),
        protocol: 0,
    }
}

fn protect() -> KernelPolicy {
    KernelPolicy::protect(
        base(),
        Template {
            source: ip("198.51.100.1"),
            destination: ip("198.51.100.2"),
            protocol: Protocol::Esp,
            mode: Mode::Tunnel,
            reqid: 7,
            spi: 0,
            optional: false,
        },
    )
}

#[test]
fn policies() {
    let same = |policy: &KernelPolicy, golden| {
        assert_same(&policy::new_policy(0x13, 0, policy).unwrap(), golden, 168, &[], &[]);
    };
    same(&protect(), include_str!("../golden/protect_policy.hex"));
    let bypass = KernelPolicy::bypass(Policy { priority: 1, ..base() }, Some(1));
    same(&bypass, include_str!("../golden/bypass_policy.hex"));
    let six = |address: &str, ports| Selector {
        prefix: Prefix { address: ip(address), bits: 48 },
        ports,
    };
    let block = KernelPolicy {
        mark: Some(Mark { value: 3, mask: 0xff }),
        if_id: Some(77),
        ..KernelPolicy::block(Policy {
            direction: Direction::Forward,
            priority: 5,
            source: six("2001:db8:1::", (53, 53)),
            destination: six("2001:db8:2::", (0, 65535)),
            protocol: 17,
        })
    };
    same(&block, include_str!("../golden/block_policy.hex"));
    let deletion = policy::delete_policy(&protect()).unwrap();
    assert_same(&deletion, include_str!("../golden/delete_policy.hex"), 64, &[], &[]);
}
