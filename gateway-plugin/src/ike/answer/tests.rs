use proptest::prelude::*;
use protocol_spec::{context::IkeSa, samples};

use super::*;
use crate::ike::notify::additional_addresses;

/// The gateway, which answers here, and the end user, which asks.
fn ends() -> (Association, Association) {
    let user = IkeSa { initiator: true, ..samples::ike(7) };
    (Association::new(&samples::ike(7)).unwrap(), Association::new(&user).unwrap())
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn path() -> Path {
    Path { source: address("198.51.100.7:4500"), destination: address("192.0.2.1:4500") }
}

fn handle(responder: &mut Responder, datagram: &[u8]) -> Answer {
    responder.handle_datagram(&ends().0, datagram, path(), &Iv([9; 16])).unwrap()
}

fn request(message_id: u32, payloads: &[Payload]) -> Vec<u8> {
    ends().1.seal(message_id, false, payloads, &Iv([1; 16])).unwrap()
}

fn notifies(answer: &Answer) -> Vec<Notify> {
    let Answer::Reply { datagram, .. } = answer else { panic!("no reply: {answer:?}") };
    let message = ends().1.open(datagram).unwrap();
    assert!(message.header.response);
    message.payloads.iter().map(|payload| Notify::parse(payload).unwrap()).collect()
}

#[test]
fn a_liveness_check_is_answered_and_its_repetition_gets_the_same_octets() {
    let mut responder = Responder::new(5, None);
    let check = request(5, &[]);
    let answer = handle(&mut responder, &check);
    assert_eq!(notifies(&answer), []);
    assert_eq!(responder.next(), 6);
    let Answer::Reply { datagram, .. } = answer else { unreachable!() };
    assert_eq!(handle(&mut responder, &check), Answer::Repeat(vec![datagram]));
    // Another request under the same number still gets those octets (I4).
    let other = request(5, &[Notify::new(kind::UPDATE_SA_ADDRESSES, Vec::new()).payload()]);
    assert!(matches!(handle(&mut responder, &other), Answer::Repeat(_)));
    assert_eq!(responder.next(), 6);
}

#[test]
fn a_request_that_the_daemon_answered_gets_its_octets_again() {
    let last = LastResponse { message_id: 4, datagrams: vec![vec![1, 2, 3], vec![4]] };
    let mut responder = Responder::new(5, Some(last.clone()));
    assert_eq!(handle(&mut responder, &request(4, &[])), Answer::Repeat(last.datagrams.clone()));
    // An answer to anything but the request before the next one is not kept.
    let mut responder = Responder::new(6, Some(last));
    assert_eq!(responder.last_response(), None);
    assert_eq!(handle(&mut responder, &request(5, &[])), Answer::Ignore);
    assert_eq!(handle(&mut responder, &request(4, &[])), Answer::Ignore);
}

#[test]
fn what_is_outside_the_window_or_not_from_the_end_user_is_ignored() {
    let mut responder = Responder::new(5, None);
    let (gateway, user) = ends();
    let mut forged = request(5, &[]);
    forged[40] ^= 1;
    for datagram in [
        request(6, &[]),
        request(3, &[]),
        user.seal(5, true, &[], &Iv([1; 16])).unwrap(),
        gateway.seal(5, false, &[], &Iv([1; 16])).unwrap(),
        forged,
        vec![0; 28],
    ] {
        assert_eq!(handle(&mut responder, &datagram), Answer::Ignore);
    }
    assert_eq!(responder.next(), 5);
}

#[test]
fn an_address_update_is_answered_with_cookie_and_nat_detection() {
    let mut responder = Responder::new(5, None);
    let cookie = Notify::new(kind::COOKIE2, vec![3; 16]);
    let spis = ends().0.spis();
    let mut asked = vec![Notify::new(kind::UPDATE_SA_ADDRESSES, Vec::new()), cookie.clone()];
    asked.extend(nat_detection(spis, path().source, path().destination));
    asked.extend(additional_addresses(&["2001:db8::1".parse().unwrap()]));
    let payloads: Vec<Payload> = asked.iter().map(Notify::payload).collect();
    let answer = handle(&mut responder, &request(5, &payloads));
    let mut expected = vec![cookie];
    expected.extend(nat_detection(spis, path().destination, path().source));
    assert_eq!(notifies(&answer), expected);
    let Answer::Reply { learnt, .. } = answer else { unreachable!() };
    assert!(learnt.update_addresses);
    assert_eq!(learnt.addresses, Some(vec!["2001:db8::1".parse().unwrap()]));
}

#[test]
fn a_nat_where_none_may_be_is_refused() {
    let update = Notify::new(kind::UPDATE_SA_ADDRESSES, Vec::new());
    for (source, refused) in [("198.51.100.7:4500", false), ("10.0.0.7:4500", true)] {
        let no_nats = no_nats_allowed(address(source), path().destination);
        let octets = request(5, &[update.payload(), no_nats.payload()]);
        let answer = handle(&mut Responder::new(5, None), &octets);
        let kinds: Vec<u16> = notifies(&answer).iter().map(|notify| notify.kind).collect();
        let expected: &[u16] = if refused { &[kind::UNEXPECTED_NAT_DETECTED] } else { &[] };
        assert_eq!(kinds, expected);
        let Answer::Reply { learnt, .. } = answer else { unreachable!() };
        assert_eq!(learnt.update_addresses, !refused);
    }
}

#[test]
fn what_needs_a_daemon_is_left_to_it() {
    for payload in [
        Payload::new(payload::DELETE, vec![1, 0, 0, 0]),
        Payload::new(47, vec![1, 0, 0, 0]),
        Notify::new(11, Vec::new()).payload(),
        Payload::new(payload::NOTIFY, vec![0]),
    ] {
        let mut responder = Responder::new(5, None);
        assert_eq!(handle(&mut responder, &request(5, &[payload])), Answer::Leave);
        assert_eq!((responder.next(), responder.last_response()), (5, None));
    }
}

#[test]
fn message_id_0_is_an_ordinary_number_for_an_ordinary_request() {
    let mut responder = Responder::new(0, None).with_message_id_sync(0);
    assert!(matches!(handle(&mut responder, &request(0, &[])), Answer::Reply { .. }));
    assert_eq!(responder.next(), 1);
    assert!(matches!(handle(&mut responder, &request(0, &[])), Answer::Repeat(_)));
    let ids = MessageIds { nonce: [1; 4], expected_send: 9, expected_receive: 4 };
    let octets = request(0, &[ids.notify().payload()]);
    let Answer::Synced { next_send, next_receive, .. } = handle(&mut responder, &octets) else {
        panic!("no synchronisation")
    };
    assert_eq!((next_send, next_receive), (4, 9));
    assert_eq!(handle(&mut responder, &octets), Answer::Ignore);
}

#[derive(Clone, Debug)]
struct Asked {
    message_id: u32,
    update: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I4: whatever is asked in whatever order, one Message ID gets one octet string.
    #[test]
    fn a_message_id_is_never_answered_with_two_octet_strings(
        asked in proptest::collection::vec(
            (0_u32..8, any::<bool>()).prop_map(|(message_id, update)| Asked { message_id, update }),
            0..30,
        ),
    ) {
        let mut responder = Responder::new(0, None);
        let mut answers = std::collections::HashMap::new();
        for (mark, Asked { message_id, update }) in asked.into_iter().enumerate() {
            let update =
                update.then(|| Notify::new(kind::UPDATE_SA_ADDRESSES, Vec::new()).payload());
            let octets = request(message_id, update.as_slice());
            let answer = responder
                .handle_datagram(&ends().0, &octets, path(), &Iv([mark as u8; 16]))
                .unwrap();
            let sent = match answer {
                Answer::Reply { datagram, .. } => vec![datagram],
                Answer::Repeat(datagrams) => datagrams,
                _ => continue,
            };
            prop_assert_eq!(answers.entry(message_id).or_insert_with(|| sent.clone()), &sent);
        }
    }
}

#[test]
fn a_last_response_is_read_again_as_it_was_written() {
    let gateway = ends().0;
    let part = |message_id, iv| gateway.seal(message_id, true, &[], &Iv([iv; 16])).unwrap();
    let last = LastResponse { message_id: 5, datagrams: vec![part(5, 1), part(5, 2)] };
    let octets = last.to_octets();
    assert_eq!(LastResponse::from_octets(&octets), Ok(last));
    let mixed = [part(5, 1), part(6, 1)].concat();
    for bad in [&octets[..octets.len() - 1], &octets[..10], &[], &mixed, &request(5, &[])] {
        assert!(matches!(LastResponse::from_octets(bad), Err(IkeError::Malformed(_))));
    }
}

proptest! {
    #[test]
    fn octets_of_a_last_response_may_be_anything(octets: Vec<u8>) {
        _ = LastResponse::from_octets(&octets);
    }
}
