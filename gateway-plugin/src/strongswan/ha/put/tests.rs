//! What is sent to a charon, word for word.

use std::net::SocketAddr;

use protocol_spec::{
    context::{ChildSeed, Native, Policy, Prefix},
    samples,
};

use super::*;
use crate::strongswan::ha::Segments;

fn context() -> Context {
    let mut context = samples::context(7);
    let ike = context.ike.as_mut().unwrap();
    ike.version = 2;
    ike.native = None;
    ike.secrets = IkeSecrets::Seed {
        nonce_initiator: vec![1; 32],
        nonce_responder: vec![2; 32],
        shared: vec![KeyMaterial::new(vec![3; 32])],
        replaced: None,
    };
    (ike.next_send, ike.next_receive) = (0, 7);
    context
}

fn ike(context: &mut Context) -> &mut IkeSa {
    context.ike.as_mut().unwrap()
}

fn read(datagrams: &[Datagram]) -> Vec<Message> {
    datagrams.iter().map(|datagram| Message::decode(datagram.expose()).unwrap().1).collect()
}

fn kinds(messages: &[Message]) -> Vec<Kind> {
    messages.iter().map(|message| message.kind).collect()
}

#[test]
fn an_ike_sa_is_passive_before_its_conditions_are_told() {
    let context = context();
    let messages = read(&ike_messages(&context, None, Version::V3).unwrap());
    assert_eq!(
        kinds(&messages),
        [Kind::IkeAdd, Kind::IkeUpdate, Kind::IkeUpdate, Kind::IkeMidResponder],
        "no MID for a zero"
    );
    // charon reads the version of an IKE_ADD only before the id, and every other
    // message only if the id is first.
    assert!(matches!(messages[0].attributes[0], Attribute::IkeVersion(2)));
    assert!(matches!(messages[0].attributes[1], Attribute::IkeId(_)));
    assert!(messages[1..].iter().all(|m| matches!(m.attributes[0], Attribute::IkeId(_))));
    let names = |m: &Message| m.attributes.iter().any(|a| matches!(a, Attribute::Configuration(_)));
    let conditions =
        |m: &Message| m.attributes.iter().any(|a| matches!(a, Attribute::Conditions(_)));
    assert_eq!(messages.iter().map(names).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(messages.iter().map(conditions).collect::<Vec<_>>(), [false, false, true, false]);
}

#[test]
fn another_gateway_has_its_own_address() {
    let context = context();
    let own: SocketAddr = "198.51.100.2:4500".parse().unwrap();
    let messages = read(&ike_messages(&context, Some(own), Version::V3).unwrap());
    assert!(messages[1].attributes.contains(&Attribute::LocalAddress(own)));
    let messages = read(&ike_messages(&context, None, Version::V3).unwrap());
    let local = context.ike.as_ref().unwrap().local;
    assert!(messages[1].attributes.contains(&Attribute::LocalAddress(local)));
}

#[test]
fn native_bits_go_only_to_those_whose_bits_they_are() {
    let mut context = context();
    let told = |context: &Context| {
        let messages = read(&ike_messages(context, None, Version::V3).unwrap());
        messages[2].attributes.iter().find_map(|attribute| match attribute {
            Attribute::Conditions(word) => Some(*word),
            _ => None,
        })
    };
    let native = |dialect: &str| {
        Some(Native { dialect: dialect.into(), conditions: 0x1234, extensions: 0x5678 })
    };
    ike(&mut context).native = native(DIALECT);
    assert_eq!(told(&context), Some(0x1234));
    ike(&mut context).native = native("other");
    ike(&mut context).nat.remote = true;
    ike(&mut context).nat.local = false;
    ike(&mut context).initiator = false;
    ike(&mut context).authentication = Authentication::Eap(26);
    assert_eq!(
        told(&context),
        Some(condition::AUTHENTICATED | condition::EAP | condition::NAT_ANY | condition::NAT_THERE)
    );
}

#[test]
fn several_key_exchanges_follow_one_another_or_go_into_one_seed() {
    let mut context = context();
    let shared = || vec![KeyMaterial::new(vec![3; 32]), KeyMaterial::new(vec![4; 8])];
    let seed = |replaced| IkeSecrets::Seed {
        nonce_initiator: vec![1; 32],
        nonce_responder: vec![2; 32],
        shared: shared(),
        replaced,
    };
    ike(&mut context).secrets = seed(None);
    let messages = read(&ike_messages(&context, None, Version::V5).unwrap());
    assert_eq!(kinds(&messages)[..3], [Kind::IkeAdd, Kind::IkeAdd, Kind::IkeUpdate]);
    let second = &messages[1].attributes;
    assert!(second.contains(&Attribute::Secret(KeyMaterial::new(vec![4; 8]))));
    assert!(!second.iter().any(|a| matches!(a, Attribute::Encryption(_))), "it only adds");

    let replaced = ReplacedSa { prf: 5, sk_d: KeyMaterial::new(vec![9; 32]) };
    ike(&mut context).secrets = seed(Some(replaced));
    let messages = read(&ike_messages(&context, None, Version::V5).unwrap());
    assert_eq!(kinds(&messages)[..2], [Kind::IkeAdd, Kind::IkeUpdate]);
    let only = &messages[0].attributes;
    assert!(only.contains(&Attribute::AdditionalSecret(KeyMaterial::new(vec![4; 8]))));
    assert!(only.contains(&Attribute::OldSkD(KeyMaterial::new(vec![9; 32]))));
    assert!(!only.iter().any(|a| matches!(a, Attribute::IkeRekeyId(_))));
    assert!(matches!(
        ike_messages(&context, None, Version::V3),
        Err(PutError::NotCarried(what)) if what.contains("several key exchanges")
    ));
}

#[test]
fn what_charon_cannot_be_told_is_refused() {
    let mut context = context();
    ike(&mut context).native =
        Some(Native { dialect: DIALECT.into(), conditions: condition::PPK, extensions: 0 });
    assert!(matches!(ike_messages(&context, None, Version::V3), Err(PutError::NotCarried(_))));
    ike(&mut context).native = None;
    ike(&mut context).version = 1;
    assert_eq!(ike_messages(&context, None, Version::V3), Err(PutError::NotCarried("IKEv1")));
    let mut child = context.children.remove(0);
    child.protocol = Protocol::Ah;
    assert_eq!(child_message(&context, &child, Version::V3), Err(PutError::NotCarried("AH")));
    child.protocol = Protocol::Esp;
    child.policies.clear();
    assert!(matches!(child_message(&context, &child, Version::V3), Err(PutError::NotCarried(_))));
    context.ike = None;
    assert_eq!(child_message(&context, &child, Version::V3), Err(PutError::NoIkeSa));
    assert_eq!(ike_messages(&context, None, Version::V3), Err(PutError::NoIkeSa));
}

#[test]
fn a_child_is_told_by_the_selectors_of_its_policies() {
    let mut context = context();
    let selector = |prefix: &str, bits| Selector {
        prefix: Prefix { address: prefix.parse().unwrap(), bits },
        ports: (0, u16::MAX),
    };
    let policy = |direction, source: &Selector, destination: &Selector| Policy {
        direction,
        priority: 1,
        source: source.clone(),
        destination: destination.clone(),
        protocol: 6,
    };
    let mut child = context.children.remove(0);
    let (net, six, eu) =
        (selector("192.168.7.9", 24), selector("2001:db8::", 0), selector("10.9.0.1", 32));
    child.policies = vec![
        policy(Direction::In, &eu, &net),
        policy(Direction::Out, &net, &eu),
        policy(Direction::Out, &six, &eu),
        policy(Direction::Forward, &eu, &net),
    ];
    child.seed = Some(ChildSeed {
        initiator: true,
        nonce_initiator: vec![1; 32],
        nonce_responder: vec![2; 32],
        shared: Vec::new(),
    });
    let told = |child: &ChildSa| {
        let datagram = child_message(&context, child, Version::V3).unwrap();
        Message::decode(datagram.expose()).unwrap().1
    };
    let message = told(&child);
    let ranges: Vec<String> = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            Attribute::LocalSelector(s) => Some(format!("local {}-{}", s.first, s.last)),
            Attribute::RemoteSelector(s) => Some(format!("remote {}-{}", s.first, s.last)),
            _ => None,
        })
        .collect();
    assert_eq!(
        ranges,
        [
            "local 192.168.7.0-192.168.7.255",
            "local ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "remote 10.9.0.1-10.9.0.1",
        ]
    );
    assert!(message.attributes.contains(&Attribute::Initiator(1)));
    assert!(message.attributes.contains(&Attribute::InboundSpi(Spi(child.inbound.spi))));
    child.seed = None;
    let message = told(&child);
    assert!(message.attributes.contains(&Attribute::NonceInitiator(vec![0; STAND_IN_NONCE])));
}

#[test]
fn exactly_one_is_activated_through_the_gate() {
    let context = context();
    let ike = context.ike.as_ref().unwrap();
    let id = ike_id(ike);
    let gate = Segments::new(16).gate([ike.remote.ip()]).unwrap();
    assert_ne!(Segments::new(16).of(ike.remote.ip()), gate.segment);
    let messages = read(&activate(&id, ike.remote, &gate, Version::V3).unwrap());
    assert_eq!(
        kinds(&messages),
        [Kind::IkeUpdate, Kind::SegmentTake, Kind::SegmentDrop, Kind::IkeUpdate]
    );
    let remote = |ip| Attribute::RemoteAddress(SocketAddr::new(ip, ike.remote.port()));
    assert_eq!(messages[0].attributes, [Attribute::IkeId(id), remote(gate.gate)]);
    assert_eq!(messages[1].attributes, [Attribute::Segment(gate.segment)]);
    assert_eq!(messages[3].attributes, [Attribute::IkeId(id), remote(ike.remote.ip())]);
}

#[test]
fn relearning_happens_while_nothing_is_established() {
    let messages = read(&relearn(11, Version::V5).unwrap());
    assert_eq!(
        kinds(&messages),
        [Kind::SegmentDrop, Kind::SegmentTake, Kind::Resync, Kind::SegmentDrop]
    );
    assert!(messages.iter().all(|m| m.attributes == [Attribute::Segment(11)]));
}
