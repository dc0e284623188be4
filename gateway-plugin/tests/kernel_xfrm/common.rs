//! Namespaces and sample SAs.

use std::{net::IpAddr, process::Command, time::Duration};

use gateway_plugin::xfrm::{Counters, KernelSa, SaId};
use nix::sched::{CloneFlags, unshare};
use protocol_spec::{
    context::{ChildTransforms, Protocol, ReplayWindow, SaKeys},
    key::KeyMaterial,
};

/// Moves this thread into a network namespace of its own.
pub(crate) fn fresh_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
}

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Octets that nobody else has, to be looked for in texts.
pub(crate) fn key(octets: usize, seed: u8) -> KeyMaterial {
    KeyMaterial::new((0..octets).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)).collect())
}

pub(crate) fn transforms(encryption: u16, key_bits: u16, integrity: u16) -> ChildTransforms {
    ChildTransforms { encryption, key_bits, integrity }
}

/// AES-GCM, ESP, IPv4, tunnel mode, 32 packets.
pub(crate) fn plain(spi: u32) -> KernelSa {
    let id = SaId::esp(ip("198.51.100.2"), spi);
    let keys = SaKeys { encryption: key(36, 3), integrity: key(0, 0) };
    KernelSa { reqid: 7, ..KernelSa::new(id, ip("198.51.100.1"), transforms(20, 256, 0), keys) }
}

/// An SA with these algorithms and keys to fit.
pub(crate) fn with(spi: u32, protocol: Protocol, algorithms: ChildTransforms) -> KernelSa {
    let salt = match algorithms.encryption {
        13 | 18..=21 | 28 => 4,
        14..=16 => 3,
        _ => 0,
    };
    let encryption = match algorithms.encryption {
        0 | 11 => 0,
        3 => 24,
        28 => 36,
        _ => usize::from(algorithms.key_bits / 8) + salt,
    };
    let integrity = match algorithms.integrity {
        0 => 0,
        1 | 5 | 8 => 16,
        2 => 20,
        12 => 32,
        13 => 48,
        14 => 64,
        other => panic!("integrity {other}"),
    };
    KernelSa {
        id: SaId { protocol, ..plain(spi).id },
        transforms: algorithms,
        keys: SaKeys { encryption: key(encryption, 5), integrity: key(integrity, 9) },
        ..plain(spi)
    }
}

/// A window in which every third number was not received.
pub(crate) fn window(size: u32, highest: u64) -> ReplayWindow {
    let mut window = ReplayWindow { size, highest, bitmap: vec![0; size.div_ceil(32) as usize] };
    for back in (0..size).filter(|back| back % 3 != 1 && u64::from(*back) < highest) {
        window.bitmap[(back / 32) as usize] |= 1 << (back % 32);
    }
    window
}

pub(crate) fn counters(sequence: u64, window: ReplayWindow) -> Counters {
    Counters {
        sequence,
        window,
        octets: 123_456,
        packets: 789,
        age: Duration::from_secs(100),
        since_first_use: Some(Duration::from_secs(90)),
    }
}

/// The same counters, with ages that have gone on a little while looking.
pub(crate) fn assert_counters(found: &Counters, expected: &Counters) {
    let grown = |found: Duration, expected: Duration| {
        let more = found.checked_sub(expected).expect("an age went back");
        assert!(more <= Duration::from_secs(3), "age {found:?} instead of {expected:?}");
    };
    grown(found.age, expected.age);
    match (found.since_first_use, expected.since_first_use) {
        (Some(found), Some(expected)) => grown(found, expected),
        (found, expected) => assert_eq!(found, expected),
    }
    let (age, since_first_use) = (expected.age, expected.since_first_use);
    assert_eq!(&Counters { age, since_first_use, ..found.clone() }, expected);
}

pub(crate) fn assert_sa(mut found: KernelSa, expected: &KernelSa) {
    assert_counters(&found.counters, &expected.counters);
    found.counters = expected.counters.clone();
    assert_eq!(&found, expected);
}
