//! What each kind of event means.

use netlink_packet_core::Emitable;
use netlink_packet_xfrm::{
    Address, Id, UserExpire, UserMapping, UserPolicyExpire, UserPolicyInfo, UserSaId, UserSaInfo,
};
use protocol_spec::context::Mark;

use super::{payload, samples::plain};
use crate::xfrm::{
    Cause, KernelEvent, KernelSa, SaId, decode::ReplayForm, encode, follow::event,
    netlink::Message, netlink::Received,
};

const NOW: u64 = 2_000_000_000;
const IPV4: u16 = 2;

fn marked() -> KernelSa {
    let mark = Some(Mark { value: 0x42, mask: 0xff });
    KernelSa { id: SaId { mark, ..plain(0x77).id }, if_id: Some(5), ..plain(0x77) }
}

fn told(kind: u16, message: &Message) -> Option<KernelEvent> {
    event(Received { kind, flags: 0, sequence: 0, payload: &payload(message) }, NOW).unwrap()
}

fn of(parts: &impl Emitable) -> Message {
    let mut message = Message::new(0, 0);
    message.body(parts);
    message
}

fn info() -> UserSaInfo {
    let sa = marked();
    UserSaInfo {
        id: Id { daddr: Address::from_ip(&sa.id.destination), spi: sa.id.spi, proto: 50 },
        reqid: sa.reqid,
        family: IPV4,
        ..UserSaInfo::default()
    }
}

#[test]
fn an_sa_that_comes_or_changes_is_told_without_its_keys() {
    let sa = marked();
    let message = encode::new_sa(&sa, NOW).unwrap();
    let (id, reqid, if_id) = (sa.id, sa.reqid, sa.if_id);
    assert_eq!(told(0x10, &message), Some(KernelEvent::SaAdded { id, reqid, if_id }));
    assert_eq!(told(0x1a, &message), Some(KernelEvent::SaChanged { id, reqid, if_id }));
    assert_eq!(told(0x11, &encode::delete_sa(&id)), Some(KernelEvent::SaRemoved { id }));
}

#[test]
fn an_expiry_names_the_marked_sa() {
    let id = marked().id;
    for (octet, hard) in [(0, false), (1, true)] {
        let mut message = of(&UserExpire { state: info(), hard: octet });
        encode::mark(id.mark, &mut message);
        let expected = KernelEvent::SaExpired { id, reqid: 7, hard };
        assert_eq!(told(0x18, &message), Some(expected));
    }
}

#[test]
fn counters_say_what_made_the_kernel_tell() {
    let sa = marked();
    let form = ReplayForm::Legacy { size: Some(32) };
    for (flags, expected) in [(16u32, Cause::Packets), (32, Cause::Time), (64, Cause::Set)] {
        let message = encode::set_counters(&sa.id, &sa.counters, form, NOW).unwrap();
        let mut octets = payload(&message);
        octets[40..44].copy_from_slice(&flags.to_ne_bytes());
        let received = Received { kind: 0x1e, flags: 0, sequence: 0, payload: &octets };
        match event(received, NOW).unwrap() {
            Some(KernelEvent::Counters { id, cause, counters, .. }) => {
                assert_eq!((id, cause, counters), (sa.id, expected, sa.counters.clone()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_mapping_says_from_where_to_where() {
    let address = |last| Address::from_ip(&[203, 0, 113, last].into());
    let message = of(&UserMapping {
        id: UserSaId { daddr: address(1), spi: 0x77, family: IPV4, proto: 50 },
        reqid: 7,
        old_saddr: address(2),
        new_saddr: address(3),
        old_sport: 4500,
        new_sport: 61_000,
    });
    let expected = KernelEvent::Mapping {
        id: SaId::esp([203, 0, 113, 1].into(), 0x77),
        reqid: 7,
        old: ([203, 0, 113, 2], 4500).into(),
        new: ([203, 0, 113, 3], 61_000).into(),
    };
    assert_eq!(told(0x26, &message), Some(expected));
}

#[test]
fn a_policy_that_expires_is_told_with_its_selector() {
    let mut pol = UserPolicyInfo { direction: 1, ..UserPolicyInfo::default() };
    pol.selector.family = IPV4;
    match told(0x1b, &of(&UserPolicyExpire { pol, hard: 1 })) {
        Some(KernelEvent::PolicyExpired { policy, hard: true }) => {
            assert!(policy.policy.source.prefix.address.is_ipv4());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_neither_esp_nor_ah_is_left_out() {
    let mut compressed = info();
    compressed.id.proto = 108;
    assert_eq!(told(0x10, &of(&compressed)), None);
    // A socket's own policy.
    let mut own = UserPolicyInfo { direction: 4, ..UserPolicyInfo::default() };
    own.selector.family = IPV4;
    assert_eq!(told(0x13, &of(&own)), None);
    assert_eq!(told(0x20, &Message::new(0, 0)), None);
    assert_eq!(told(0x1c, &Message::new(0, 0)), Some(KernelEvent::SasFlushed));
    assert_eq!(told(0x1d, &Message::new(0, 0)), Some(KernelEvent::PoliciesFlushed));
}
