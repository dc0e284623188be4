//! Messages and sessions that tests are made of.

use std::net::SocketAddr;

use protocol_spec::{id::SessionId, key::KeyMaterial};

use super::super::*;
use crate::strongswan::ha::{Attribute, Spi, TrafficSelector};

pub(super) const CAPTURED_3: &str = include_str!("../../ha/tests/captured-v3.txt");
pub(super) const CAPTURED_5: &str = include_str!("../../ha/tests/captured-v5.txt");

pub(super) fn messages(text: &str) -> Vec<Message> {
    text.lines()
        .map(|line| {
            let (pairs, _) = line.trim().as_bytes().as_chunks::<2>();
            let octets: Vec<u8> = pairs
                .iter()
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            Message::decode(&octets).unwrap().1
        })
        .collect()
}

pub(super) fn session(number: u8) -> SessionId {
    SessionId([number; 16])
}

pub(super) fn id(number: u64) -> IkeId {
    IkeId { version: 2, spi_initiator: number, spi_responder: number + 1, initiator: false }
}

pub(super) fn client(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 4500))
}

pub(super) fn add(id: IkeId, replaces: Option<IkeId>) -> Message {
    let mut attributes = vec![Attribute::IkeVersion(2), Attribute::IkeId(id)];
    if let Some(old) = replaces {
        attributes.push(Attribute::IkeRekeyId(old));
        attributes.push(Attribute::OldPrf(5));
        attributes.push(Attribute::OldSkD(KeyMaterial::new(vec![9; 32])));
    }
    attributes.extend([
        Attribute::Encryption(20),
        Attribute::KeyBits(256),
        Attribute::Prf(5),
        Attribute::KeyExchange(31),
        Attribute::NonceInitiator(vec![1; 32]),
        Attribute::NonceResponder(vec![2; 32]),
        Attribute::Secret(KeyMaterial::new(vec![3; 32])),
        Attribute::RemoteAddress(client(10)),
    ]);
    Message { kind: Kind::IkeAdd, attributes }
}

pub(super) fn update(id: IkeId) -> Message {
    let name = |text: &str| protocol_spec::context::Identification {
        kind: 3,
        data: text.as_bytes().to_vec(),
    };
    let attributes = vec![
        Attribute::IkeId(id),
        Attribute::LocalId(name("gw@example.org")),
        Attribute::RemoteId(name("eu@example.org")),
        Attribute::LocalAddress(client(1)),
        Attribute::RemoteAddress(client(10)),
        Attribute::Conditions(0x4000),
        Attribute::Conditions(1 << 31),
        Attribute::Extensions(0x392b),
        Attribute::Configuration("vpn".into()),
    ];
    Message { kind: Kind::IkeUpdate, attributes }
}

pub(super) fn inner(id: IkeId) -> Message {
    let ip = Attribute::RemoteVirtualIp("10.9.0.1:0".parse().unwrap());
    Message { kind: Kind::IkeUpdate, attributes: vec![Attribute::IkeId(id), ip] }
}

pub(super) fn child(id: IkeId, inbound: u32) -> Message {
    let selector = |low: &str, high: &str| TrafficSelector {
        protocol: 0,
        ports: (0, u16::MAX),
        dynamic: false,
        first: low.parse().unwrap(),
        last: high.parse().unwrap(),
    };
    let attributes = vec![
        Attribute::IkeId(id),
        Attribute::Initiator(0),
        Attribute::InboundSpi(Spi(inbound)),
        Attribute::OutboundSpi(Spi(inbound + 1)),
        Attribute::Mode(2),
        Attribute::Configuration("net".into()),
        Attribute::Encryption(20),
        Attribute::KeyBits(256),
        Attribute::NonceInitiator(vec![4; 32]),
        Attribute::NonceResponder(vec![5; 32]),
        Attribute::LocalSelector(selector("192.168.7.0", "192.168.7.255")),
        Attribute::RemoteSelector(selector("10.9.0.1", "10.9.0.1")),
    ];
    Message { kind: Kind::ChildAdd, attributes }
}

pub(super) fn delete(id: IkeId) -> Message {
    Message { kind: Kind::IkeDelete, attributes: vec![Attribute::IkeId(id)] }
}

pub(super) fn delete_child(id: IkeId, inbound: u32) -> Message {
    let attributes = vec![Attribute::IkeId(id), Attribute::InboundSpi(Spi(inbound))];
    Message { kind: Kind::ChildDelete, attributes }
}

pub(super) fn mid(id: IkeId, kind: Kind, mid: u32) -> Message {
    Message { kind, attributes: vec![Attribute::IkeId(id), Attribute::MessageId(mid)] }
}

/// One session, number 1, with one child.
pub(super) fn one() -> Tracker {
    let mut tracker = Tracker::new(Limits::default());
    for message in [add(id(1), None), update(id(1)), child(id(1), 100), inner(id(1))] {
        tracker.handle(message, session(1));
    }
    tracker
}

pub(super) fn changed(generation: u64) -> Vec<Notice> {
    let generation = Generation(generation);
    vec![Notice::Event(GatewayEvent::Changed { session: session(1), generation })]
}

pub(super) fn down(number: u8) -> Vec<Notice> {
    vec![Notice::Event(GatewayEvent::Down { session: session(number) })]
}

pub(super) fn listed(spis: IkeSpis, children: &[(u32, bool)]) -> ListedIke {
    let children = children.iter().map(|(inbound, installed)| ListedChild {
        inbound: *inbound,
        outbound: inbound + 1,
        name: "net".into(),
        installed: *installed,
    });
    ListedIke {
        spis,
        state: ListedState::Established,
        local: client(1),
        remote: client(10),
        virtual_ips: vec!["10.9.0.1".parse().unwrap()],
        children: children.collect(),
    }
}
