//! Octets that are cut short or changed never panic.

use proptest::prelude::*;

use super::{
    payload,
    samples::{plain, policies, sas},
};
use crate::xfrm::{
    decode, encode,
    follow::event,
    netlink::{Message, Received},
    policy,
};

const KINDS: std::ops::RangeInclusive<u16> = 0x10..=0x28;

/// Reads octets in every way in which the kernel's octets are read.
fn read_all(octets: &[u8]) {
    let now = 2_000_000_000;
    let _ = decode::sa(octets, now);
    let _ = decode::is_larval(octets);
    let _ = decode::has_esn(octets);
    let _ = decode::event(octets, now);
    let _ = policy::policy(octets);
    for kind in KINDS {
        let _ = event(Received { kind, flags: 0, sequence: 0, payload: octets }, now);
    }
}

#[test]
fn every_prefix_of_a_message() {
    let sa = encode::new_sa(&plain(1), 2_000_000_000).unwrap();
    let counters = encode::get_counters(&plain(1).id);
    for message in [sa, counters, encode::delete_sa(&plain(1).id)] {
        let octets = payload(&message);
        for len in 0..=octets.len() {
            read_all(&octets[..len]);
        }
    }
    for len in 0..600 {
        read_all(&vec![0; len]);
        read_all(&vec![0xff; len]);
    }
}

#[test]
fn a_body_that_is_too_short_is_said_to_be() {
    for kind in [0x10, 0x11, 0x13, 0x18, 0x19, 0x1a, 0x1b, 0x1e, 0x26] {
        let zeros = [0; 8];
        let said = event(Received { kind, flags: 0, sequence: 0, payload: &zeros }, 0);
        assert!(said.is_err(), "{kind:#x}: {said:?}");
    }
}

fn change(message: &Message, cut: usize, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut octets = payload(message);
    for (at, to) in changes {
        let at = at % octets.len();
        octets[at] = *to;
    }
    octets.truncate(cut % (octets.len() + 1));
    octets
}

proptest! {
    #[test]
    fn a_changed_sa(sa in sas(), cut: usize, changes in prop::collection::vec(any::<(usize, u8)>(), 0..8)) {
        let message = encode::new_sa(&sa, 2_000_000_000).unwrap();
        read_all(&change(&message, usize::MAX, &changes));
        read_all(&change(&message, cut, &changes));
    }

    #[test]
    fn a_changed_policy(policy in policies(), cut: usize, changes in prop::collection::vec(any::<(usize, u8)>(), 0..8)) {
        let message = policy::new_policy(0x13, 0, &policy).unwrap();
        read_all(&change(&message, cut, &changes));
    }

    #[test]
    fn any_octets(octets in prop::collection::vec(any::<u8>(), 0..700)) {
        read_all(&octets);
    }
}
