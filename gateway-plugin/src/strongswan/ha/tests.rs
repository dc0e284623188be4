//! Real datagrams both ways, and every way of spoiling them.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use protocol_spec::{context::Identification, key::KeyMaterial};

use super::*;

/// Datagrams of charon 5.9.8 and 6.0.6 with test keys, one a line in hex.
pub(super) const CAPTURED: [(Version, &str); 2] = [
    (Version::V3, include_str!("tests/captured-v3.txt")),
    (Version::V5, include_str!("tests/captured-v5.txt")),
];

pub(super) fn captured(version: Version) -> Vec<Vec<u8>> {
    let (_, text) = CAPTURED.into_iter().find(|(other, _)| *other == version).unwrap();
    text.lines().map(unhex).collect()
}

fn unhex(line: &str) -> Vec<u8> {
    let (pairs, rest) = line.trim().as_bytes().as_chunks::<2>();
    assert!(rest.is_empty());
    let pair = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(pair).collect()
}

#[test]
fn captured_datagrams_come_out_as_they_went_in() {
    for (version, text) in CAPTURED {
        let datagrams = captured(version);
        assert_eq!(datagrams.len(), text.lines().count());
        for octets in datagrams {
            let (read, message) = Message::decode(&octets).unwrap();
            assert_eq!(read, version);
            assert_eq!(message.encode(version).unwrap().expose(), octets, "{message:?}");
        }
    }
}

#[test]
fn version_3_means_what_the_source_says() {
    let messages: Vec<Message> =
        captured(Version::V3).iter().map(|octets| Message::decode(octets).unwrap().1).collect();
    let kinds: Vec<Kind> = messages.iter().map(|message| message.kind).collect();
    assert_eq!(
        kinds,
        [Kind::IkeAdd, Kind::IkeMidResponder, Kind::IkeUpdate, Kind::ChildAdd, Kind::IkeUpdate]
    );
    let id = IkeId {
        version: 2,
        spi_initiator: 0xf8db_3145_2f6c_956a,
        spi_responder: 0x33aa_3c18_3390_14bd,
        initiator: false,
    };
    assert!(messages.iter().all(|message| message.ike_id() == Some(&id)));
    let says = |message: usize, attribute: Attribute| {
        assert!(messages[message].attributes.contains(&attribute), "{attribute:?}");
    };
    says(0, Attribute::Encryption(12));
    says(0, Attribute::KeyBits(256));
    says(0, Attribute::Integrity(12));
    says(0, Attribute::Prf(5));
    says(0, Attribute::KeyExchange(31));
    says(1, Attribute::MessageId(2));
    says(2, Attribute::RemoteId(Identification { kind: 3, data: b"eu@example.org".to_vec() }));
    says(2, Attribute::LocalAddress("10.0.0.1:4500".parse().unwrap()));
    says(2, Attribute::Conditions(0x4000));
    says(2, Attribute::Configuration("vpn".into()));
    // Reversed on the wire of a little-endian machine.
    says(3, Attribute::InboundSpi(Spi(0xc72b_4a7b)));
    says(3, Attribute::Mode(2));
    says(4, Attribute::RemoteVirtualIp("10.9.0.1:0".parse().unwrap()));
}

#[test]
fn a_hybrid_exchange_has_two_additions_for_one_sa() {
    let messages: Vec<Message> =
        captured(Version::V5).iter().map(|octets| Message::decode(octets).unwrap().1).collect();
    let additions: Vec<&Message> =
        messages.iter().filter(|message| message.kind == Kind::IkeAdd).collect();
    assert_eq!(additions.len(), 2);
    assert_eq!(additions[0].ike_id(), additions[1].ike_id());
    let offers = |m: &Message| m.attributes.contains(&Attribute::AdditionalKeyExchanges(vec![36]));
    assert!(offers(additions[0]) && !offers(additions[1]));
}

#[test]
fn a_datagram_cut_anywhere_is_an_error_or_a_shorter_message() {
    for (version, _) in CAPTURED {
        for octets in captured(version) {
            let (_, whole) = Message::decode(&octets).unwrap();
            for end in 0..octets.len() {
                match Message::decode(&octets[..end]) {
                    Ok((_, part)) => {
                        assert!(part.attributes.len() < whole.attributes.len());
                        assert_eq!(part.attributes, whole.attributes[..part.attributes.len()]);
                    }
                    Err(error) => assert_eq!(error, HaError::Truncated { at: end }),
                }
            }
        }
    }
}

#[test]
fn what_is_not_known_is_refused_by_its_name() {
    assert_eq!(Message::decode(&[4, 1]), Err(HaError::UnknownVersion(4)));
    assert_eq!(Message::decode(&[3, 13]), Err(HaError::UnknownKind(13)));
    assert_eq!(Message::decode(&[3, 0]), Err(HaError::UnknownKind(0)));
    // 42 is an attribute of version 5 alone.
    assert_eq!(
        Message::decode(&[3, 1, 42, 0, 0]),
        Err(HaError::UnknownAttribute { number: 42, at: 2 })
    );
    assert!(Message::decode(&[5, 1, 42, 0, 0]).is_ok());
    assert_eq!(
        Message::decode(&[3, 2, 6, 0, 0, 3, 1, 2, 3, 4]),
        Err(HaError::BadValue { what: "an address family", at: 5 })
    );
    let long = vec![3; MAX_OCTETS + 1];
    assert_eq!(Message::decode(&long), Err(HaError::TooLong { octets: MAX_OCTETS + 1 }));
    // A thousand and twenty-five segments.
    let mut many = vec![3, 11];
    (0..=MAX_ATTRIBUTES).for_each(|_| many.extend([34, 0, 1]));
    assert_eq!(Message::decode(&many), Err(HaError::TooManyAttributes));
}

#[test]
fn what_a_version_cannot_say_is_refused() {
    let secret = || Attribute::AdditionalSecret(KeyMaterial::new(vec![1; 4]));
    let message = || Message { kind: Kind::IkeAdd, attributes: vec![secret()] };
    assert_eq!(
        message().encode(Version::V3),
        Err(HaError::NotInVersion { version: 3, what: "AdditionalSecret" })
    );
    assert_eq!(message().encode(Version::V5).unwrap().expose(), [5, 1, 18, 0, 4, 1, 1, 1, 1]);
    let id = Identification { kind: 9, data: vec![0; 256] };
    let message = Message { kind: Kind::IkeUpdate, attributes: vec![Attribute::LocalId(id)] };
    assert_eq!(message.encode(Version::V3), Err(HaError::TooLong { octets: 256 }));
    let name = Attribute::Configuration("a\0b".into());
    let message = Message { kind: Kind::IkeUpdate, attributes: vec![name] };
    assert!(matches!(message.encode(Version::V3), Err(HaError::BadValue { .. })));
}

#[test]
fn no_secret_is_printed() {
    for (version, _) in CAPTURED {
        for octets in captured(version) {
            let (_, message) = Message::decode(&octets).unwrap();
            let datagram = message.encode(version).unwrap();
            let printed = format!("{message:?} {datagram:?}");
            for attribute in &message.attributes {
                if let Attribute::Secret(secret) | Attribute::OldSkD(secret) = attribute {
                    assert!(printed.contains("redacted"));
                    let as_list = format!("{:?}", &secret.expose()[..4]);
                    assert!(!printed.contains(as_list.trim_matches(['[', ']'])));
                }
            }
        }
    }
}

#[test]
fn releases_have_their_versions() {
    let expect = [
        ("5.9.8", Some(Version::V3)),
        ("5.9.14", Some(Version::V3)),
        ("6.0.0", Some(Version::V3)),
        ("6.0.1", None),
        ("6.0.2dr1", Some(Version::V5)),
        ("6.0.6", Some(Version::V5)),
        ("6.1", Some(Version::V5)),
        ("4.5.2", None),
        ("", None),
    ];
    for (release, version) in expect {
        assert_eq!(Version::of_release(release), version, "{release}");
    }
}

#[test]
fn clients_fall_into_the_segments_that_charon_says() {
    let of = |count: u16, client: &str| Segments::new(count).of(client.parse().unwrap());
    // Seen in trials: charon activated these clients by these segments.
    assert_eq!(of(16, "10.0.0.10"), 11);
    assert_eq!(of(16, "10.0.0.11"), 7);
    assert_eq!(of(16, "127.0.1.8"), 5);
    assert_eq!(of(16, "127.0.1.18"), 1);
    // One word for all IPv6 clients.
    assert_eq!(of(16, "2001:db8::1"), of(16, "fe80::2"));
    assert_eq!(of(16, "2001:db8::1"), of(16, "0.0.0.0"));
    assert_eq!(of(1, "10.0.0.10"), 1);
    assert_eq!(Segments::new(0).count(), 1);
    assert_eq!(Segments::new(99).count(), MAX_SEGMENTS);
}

#[test]
fn the_gate_is_where_fewest_clients_are() {
    let segments = Segments::new(16);
    for free in 1..=15 {
        let clients = (1..=16).filter(|n| *n != free).map(|n| segments.address_in(n).unwrap());
        let gate = segments.gate(clients).unwrap();
        assert_eq!(gate.segment, free);
        assert_eq!(segments.of(gate.gate), free);
        // Parked sessions stay safe when another gate is chosen later.
        assert_eq!(segments.of(gate.park), segments.parking());
    }
    assert_eq!(segments.parking(), 16);
    assert_eq!(Segments::new(1).gate([]), None);
    assert_eq!(segments.address_in(17), None);
}

fn attribute() -> impl Strategy<Value = Attribute> {
    let address = || {
        (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| SocketAddr::new(address, port))
    };
    let selector = (any::<u8>(), any::<(u16, u16)>(), any::<bool>(), any::<[u32; 2]>()).prop_map(
        |(protocol, ports, dynamic, [first, last])| TrafficSelector {
            protocol,
            ports,
            dynamic,
            first: IpAddr::V4(first.into()),
            last: IpAddr::V4(last.into()),
        },
    );
    let id = (1_u8..=2, any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
        |(version, spi_initiator, spi_responder, initiator)| IkeId {
            version,
            spi_initiator,
            spi_responder,
            initiator,
        },
    );
    let octets = || prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        id.prop_map(Attribute::IkeId),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..=255))
            .prop_map(|(kind, data)| Attribute::LocalId(Identification { kind, data })),
        address().prop_map(Attribute::PeerAddress),
        "[a-z0-9._-]{0,40}".prop_map(Attribute::Configuration),
        any::<u32>().prop_map(Attribute::Conditions),
        any::<u32>().prop_map(|spi| Attribute::OutboundSpi(Spi(spi))),
        any::<u32>().prop_map(Attribute::MessageId),
        any::<u16>().prop_map(Attribute::Integrity),
        any::<u8>().prop_map(Attribute::Mode),
        octets().prop_map(Attribute::NonceResponder),
        octets().prop_map(|octets| Attribute::OldSkD(KeyMaterial::new(octets))),
        selector.prop_map(Attribute::RemoteSelector),
    ]
}

proptest! {
    #[test]
    fn every_message_comes_back(
        attributes in prop::collection::vec(attribute(), 0..40),
        version in prop_oneof![Just(Version::V3), Just(Version::V5)],
    ) {
        let message = Message { kind: Kind::IkeUpdate, attributes };
        let octets = message.encode(version).unwrap();
        prop_assert_eq!(Message::decode(octets.expose()), Ok((version, message)));
    }

    #[test]
    fn noise_never_panics_and_what_is_read_can_be_written(
        mut octets in prop::collection::vec(any::<u8>(), 0..600),
        version in prop_oneof![Just(3_u8), Just(5)],
        kind in 1_u8..=12,
    ) {
        octets.splice(0..0, [version, kind]);
        if let Ok((version, message)) = Message::decode(&octets) {
            let written = message.encode(version).unwrap();
            prop_assert_eq!(written.expose(), &octets[..]);
        }
    }

    #[test]
    fn a_spoilt_octet_never_panics(at in any::<prop::sample::Index>(), octet in any::<u8>()) {
        for (version, _) in CAPTURED {
            for mut octets in captured(version) {
                let at = at.index(octets.len());
                octets[at] = octet;
                if let Ok((version, message)) = Message::decode(&octets) {
                    let written = message.encode(version).unwrap();
                    prop_assert_eq!(written.expose(), &octets[..]);
                }
            }
        }
    }
}
