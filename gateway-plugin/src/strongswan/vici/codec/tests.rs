//! Octets in, octets out.

use proptest::prelude::*;

use super::*;
use crate::strongswan::vici::section::{MAX_NESTING, MAX_VALUE, Value};

/// The example of the protocol's own description, octet by octet.
#[test]
fn the_documented_example_is_written_and_read() {
    let message = Section::new().with("key1", "value1").with_section(
        "section1",
        Section::new()
            .with_section("sub-section", Section::new().with("key2", "value2"))
            .with_list("list1", ["item1", "item2"]),
    );
    let mut documented = Vec::new();
    documented.extend_from_slice(b"\x03\x04key1\x00\x06value1");
    documented.extend_from_slice(b"\x01\x08section1");
    documented.extend_from_slice(b"\x01\x0bsub-section");
    documented.extend_from_slice(b"\x03\x04key2\x00\x06value2");
    documented.extend_from_slice(b"\x02");
    documented.extend_from_slice(b"\x04\x05list1");
    documented.extend_from_slice(b"\x05\x00\x05item1\x05\x00\x05item2");
    documented.extend_from_slice(b"\x06\x02");
    let mut written = Vec::new();
    message.write(&mut written).unwrap();
    assert_eq!(written, documented);
    assert_eq!(Section::read(&documented), Ok(message));
}

#[test]
fn every_kind_of_packet_has_its_number() {
    let empty = Section::new();
    let named = |name: &str| name.to_owned();
    let packets = [
        (Packet::Request { name: named("version"), message: empty.clone() }, 0, "version"),
        (Packet::Response(empty.clone()), 1, ""),
        (Packet::UnknownCommand, 2, ""),
        (Packet::Register(named("list-sa")), 3, "list-sa"),
        (Packet::Unregister(named("list-sa")), 4, "list-sa"),
        (Packet::Confirm, 5, ""),
        (Packet::UnknownEvent, 6, ""),
        (Packet::Event { name: named("ike-rekey"), message: empty }, 7, "ike-rekey"),
    ];
    for (packet, number, name) in packets {
        let mut expected = vec![0, 0, 0, 1, number];
        if !name.is_empty() {
            expected[3] += 1 + name.len() as u8;
            expected.push(name.len() as u8);
            expected.extend_from_slice(name.as_bytes());
        }
        assert_eq!(packet.write().unwrap().as_slice(), expected, "{}", packet.kind());
        assert_eq!(Packet::read(&expected[4..]).unwrap(), packet);
    }
}

#[test]
fn what_may_not_be_is_named() {
    for (octets, wrong) in [
        (&b""[..], Malformed::Truncated),
        (b"\x09", Malformed::PacketType(9)),
        (b"\x05\x00", Malformed::Trailing),
        (b"\x02x", Malformed::Trailing),
        (b"\x03\x01x!", Malformed::Trailing),
        (b"\x03\x02\xff\xfe", Malformed::Name),
        (b"\x01\x00", Malformed::ElementType(0)),
        (b"\x01\x07", Malformed::ElementType(7)),
        (b"\x01\x02", Malformed::Misplaced(2)),
        (b"\x01\x05\x00\x00", Malformed::Misplaced(5)),
        (b"\x01\x06", Malformed::Misplaced(6)),
        (b"\x01\x01\x01a", Malformed::Open),
        (b"\x01\x04\x01a", Malformed::Open),
        (b"\x01\x04\x01a\x04\x01b", Malformed::Misplaced(4)),
        (b"\x01\x04\x01a\x09", Malformed::ElementType(9)),
        (b"\x01\x03\x01a\x00\x05abc", Malformed::Truncated),
    ] {
        assert_eq!(Packet::read(octets), Err(wrong), "{octets:?}");
    }
}

#[test]
fn nesting_is_bounded_both_ways() {
    let nested = |levels| {
        (0..levels).fold(Section::new(), |inner, _| Section::new().with_section("s", inner))
    };
    let mut octets = Vec::new();
    nested(MAX_NESTING).write(&mut octets).unwrap();
    assert_eq!(Section::read(&octets), Ok(nested(MAX_NESTING)));
    assert_eq!(nested(MAX_NESTING + 1).write(&mut Vec::new()), Err(Unwritable::Nesting));
    let mut deeper = b"\x01\x01s".to_vec();
    deeper.extend_from_slice(&octets);
    deeper.push(2);
    assert_eq!(Section::read(&deeper), Err(Malformed::Nesting));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let response = |section| Packet::Response(section).write().map(drop);
    let name = "n".repeat(256);
    assert_eq!(response(Section::new().with(&name, "")), Err(Unwritable::Name(256)));
    let value = "v".repeat(MAX_VALUE + 1);
    assert_eq!(response(Section::new().with("n", &*value)), Err(Unwritable::Value(65536)));
    let value = Value::from("v".repeat(MAX_VALUE).as_str());
    let much = |count| Section::new().with_list("n", std::iter::repeat_n(value.clone(), count));
    assert_eq!(response(much(7)), Ok(()));
    assert!(matches!(response(much(8)), Err(Unwritable::Packet(524_309))));
}

#[test]
fn a_length_that_is_too_large_is_refused_before_its_octets_come() {
    let mut frames = Frames::new();
    frames.push(&(MAX_PACKET as u32 + 1).to_be_bytes());
    assert_eq!(frames.next(), Err(Malformed::Oversized(MAX_PACKET + 1)));
}

fn section() -> impl Strategy<Value = Section> {
    let value = || prop::collection::vec(any::<u8>(), 0..20);
    let name = || "[a-z0-9_.@ -]{0,12}";
    let leaf = prop::collection::vec((name(), value()), 0..4).prop_map(|pairs| {
        pairs.iter().fold(Section::new(), |s, (name, value)| s.with(name, value.as_slice()))
    });
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let list = prop::collection::vec(value(), 0..4);
        (inner.clone(), prop::collection::vec((name(), inner, name(), list), 0..4)).prop_map(
            |(first, more)| {
                more.into_iter().fold(first, |s, (name, section, list, values)| {
                    s.with_section(&name, section)
                        .with_list(&list, values.iter().map(Vec::as_slice))
                })
            },
        )
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    let name = || "[a-z-]{0,20}";
    prop_oneof![
        (name(), section()).prop_map(|(name, message)| Packet::Request { name, message }),
        section().prop_map(Packet::Response),
        Just(Packet::UnknownCommand),
        name().prop_map(Packet::Register),
        name().prop_map(Packet::Unregister),
        Just(Packet::Confirm),
        Just(Packet::UnknownEvent),
        (name(), section()).prop_map(|(name, message)| Packet::Event { name, message }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(packet in packet()) {
        let octets = packet.write().unwrap();
        prop_assert_eq!(Packet::read(&octets[4..]).unwrap(), packet);
    }

    #[test]
    fn packets_are_found_however_the_stream_is_cut(
        packets in prop::collection::vec(packet(), 1..6),
        cut in 1_usize..40,
    ) {
        let octets: Vec<u8> =
            packets.iter().flat_map(|p| p.write().unwrap().to_vec()).collect();
        let mut frames = Frames::new();
        let mut found = Vec::new();
        for part in octets.chunks(cut) {
            frames.push(part);
            while let Some(packet) = frames.next().unwrap() {
                found.push(packet);
            }
        }
        prop_assert_eq!(found, packets);
        prop_assert!(frames.is_empty());
    }

    /// A message cut anywhere is an error or, between two elements at the
    /// outermost level, the beginning of the message; never a panic.
    #[test]
    fn every_truncation_is_noticed(message in section()) {
        let mut octets = Vec::new();
        message.write(&mut octets).unwrap();
        for length in 0..octets.len() {
            let cut = &octets[..length];
            if let Ok(read) = Section::read(cut) {
                let mut again = Vec::new();
                read.write(&mut again).unwrap();
                prop_assert_eq!(&again, cut);
                prop_assert!(read.iter().count() < message.iter().count());
            }
            let mut frames = Frames::new();
            frames.push(&(1 + octets.len() as u32).to_be_bytes());
            frames.push(&[1]);
            frames.push(cut);
            prop_assert_eq!(frames.next(), Ok(None));
        }
    }

    /// The format has one way to write each tree.
    #[test]
    fn octets_that_are_read_are_written_alike(octets in elements()) {
        if let Ok(read) = Section::read(&octets) {
            let mut again = Vec::new();
            read.write(&mut again).unwrap();
            prop_assert_eq!(again, octets);
        }
    }

    #[test]
    fn random_octets_end_in_a_packet_or_an_error(
        octets in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(packet) = Packet::read(&octets) {
            prop_assert_eq!(&packet.write().unwrap()[4..], octets.as_slice());
        }
        let mut frames = Frames::new();
        frames.push(&octets);
        while let Ok(Some(_)) = frames.next() {}
    }
}

/// Octets that look like elements more often than chance has it.
fn elements() -> impl Strategy<Value = Vec<u8>> {
    let element = prop_oneof![
        Just(b"\x01\x01s".to_vec()),
        Just(b"\x02".to_vec()),
        Just(b"\x03\x01k\x00\x01v".to_vec()),
        Just(b"\x04\x01l".to_vec()),
        Just(b"\x05\x00\x02it".to_vec()),
        Just(b"\x06".to_vec()),
        any::<u8>().prop_map(|octet| vec![octet]),
    ];
    prop::collection::vec(element, 0..30).prop_map(|parts| parts.concat())
}
