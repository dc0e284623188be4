use std::net::SocketAddr;

use proptest::prelude::*;
use protocol_spec::{
    context::{IkeSa, IkeSecrets, IkeTransforms},
    samples,
};

use super::*;
use crate::ike::answer::{Answer, Learnt, Path, Responder};

const PACE: Pace = Pace {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(2),
    total: Duration::from_secs(10),
};

/// Both ends of one IKE SA: the gateway and the end user.
fn ends() -> (Association, Association) {
    let gateway = samples::ike(7);
    let user = IkeSa { initiator: true, ..samples::ike(7) };
    (Association::new(&gateway).unwrap(), Association::new(&user).unwrap())
}

fn path() -> Path {
    let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
    Path { source: address("192.0.2.1:4500"), destination: address("198.51.100.7:4500") }
}

fn iv(mark: u8) -> Iv {
    Iv([mark; 16])
}

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn sent(output: Output) -> Vec<u8> {
    match output {
        Output::Send(datagram) => datagram,
        other => panic!("nothing is sent: {other:?}"),
    }
}

fn answered(responder: &mut Responder, user: &Association, request: &[u8]) -> Vec<u8> {
    match responder.handle_datagram(user, request, path(), &iv(9)).unwrap() {
        Answer::Reply { datagram, .. } | Answer::Synced { datagram, .. } => datagram,
        other => panic!("no reply: {other:?}"),
    }
}

#[test]
fn a_request_is_repeated_with_the_same_octets_until_its_time_is_over() {
    let (gateway, _) = ends();
    let mut request = Request::dead_peer_detection(&gateway, 5, &iv(1), PACE, at(1000)).unwrap();
    let first = sent(request.poll_output(at(1000)));
    let mut times = Vec::new();
    let mut now = at(1000);
    let outcome = loop {
        match request.poll_output(now) {
            Output::Send(datagram) => {
                assert_eq!(datagram, first);
                times.push(now.as_millis() - 1000);
            }
            Output::Wait(until) => {
                assert!(until > now);
                now = until;
            }
            Output::Done(outcome) => break outcome,
        }
    };
    assert_eq!(times, [500, 1500, 3500, 5500, 7500, 9500]);
    assert_eq!((outcome, now), (Outcome::TimedOut, at(11_000)));
}

#[test]
fn an_answer_ends_it_once() {
    let (gateway, user) = ends();
    let mut request = Request::dead_peer_detection(&gateway, 5, &iv(1), PACE, at(0)).unwrap();
    let octets = sent(request.poll_output(at(0)));
    let reply = answered(&mut Responder::new(5, None), &user, &octets);
    assert!(request.handle_datagram(&gateway, &reply));
    assert_eq!(request.poll_output(at(1)), Output::Done(Outcome::Answered));
    assert!(!request.handle_datagram(&gateway, &reply));
    assert_eq!(request.poll_output(at(60_000)), Output::Done(Outcome::Answered));
}

#[test]
fn what_is_not_the_answer_changes_nothing() {
    let (gateway, user) = ends();
    let mut request = Request::dead_peer_detection(&gateway, 5, &iv(1), PACE, at(0)).unwrap();
    let early = user.seal(5, true, &[], &iv(2)).unwrap();
    assert!(!request.handle_datagram(&gateway, &early), "before it was asked");
    let octets = sent(request.poll_output(at(0)));
    let mut forged = early.clone();
    *forged.last_mut().unwrap() ^= 1;
    let other_ike = IkeSa { spi_initiator: 99, initiator: true, ..samples::ike(7) };
    let stranger = Association::new(&other_ike).unwrap();
    for datagram in [
        user.seal(4, true, &[], &iv(2)).unwrap(),
        user.seal(5, false, &[], &iv(2)).unwrap(),
        gateway.seal(5, true, &[], &iv(2)).unwrap(),
        stranger.seal(5, true, &[], &iv(2)).unwrap(),
        octets,
        forged,
        Vec::new(),
    ] {
        assert!(!request.handle_datagram(&gateway, &datagram));
    }
    assert_eq!(request.poll_output(at(1)), Output::Wait(at(500)));
    assert!(request.handle_datagram(&gateway, &early));
}

#[test]
fn an_announcement_lists_the_addresses_and_wants_its_cookie_back() {
    let (gateway, user) = ends();
    let addresses: [IpAddr; 1] = ["192.0.2.9".parse().unwrap()];
    let cookie = Some([5; 16]);
    let mut request =
        Request::announce_address(&gateway, 5, &addresses, cookie, &iv(1), PACE, at(0)).unwrap();
    let octets = sent(request.poll_output(at(0)));
    let mut responder = Responder::new(5, None);
    let answer = responder.handle_datagram(&user, &octets, path(), &iv(9)).unwrap();
    let Answer::Reply { datagram, learnt } = answer else { panic!("no reply") };
    let expected = Learnt { update_addresses: false, addresses: Some(addresses.to_vec()) };
    assert_eq!(learnt, expected);
    assert!(request.handle_datagram(&gateway, &datagram));
    assert_eq!(request.poll_output(at(1)), Output::Done(Outcome::Answered));

    let mut request =
        Request::announce_address(&gateway, 5, &[], cookie, &iv(1), PACE, at(0)).unwrap();
    sent(request.poll_output(at(0)));
    let without = user.seal(5, true, &[], &iv(2)).unwrap();
    assert!(request.handle_datagram(&gateway, &without));
    assert_eq!(request.poll_output(at(1)), Output::Done(Outcome::CookieMismatch));
}

#[test]
fn an_error_notification_is_a_refusal() {
    let (gateway, user) = ends();
    let mut request =
        Request::announce_address(&gateway, 5, &[], None, &iv(1), PACE, at(0)).unwrap();
    sent(request.poll_output(at(0)));
    let error = Notify::new(kind::UNACCEPTABLE_ADDRESSES, Vec::new()).payload();
    let reply = user.seal(5, true, &[error], &iv(2)).unwrap();
    assert!(request.handle_datagram(&gateway, &reply));
    assert_eq!(request.poll_output(at(1)), Output::Done(Outcome::Refused(40)));
}

const OFFER: SyncOffer = SyncOffer { next_send: 100, next_receive: 50, step: 10 };

fn draws(count: u8) -> Vec<Draw> {
    (0..count).map(|mark| Draw { iv: iv(mark), nonce: [mark; 4] }).collect()
}

fn sync(gateway: &Association, count: u8) -> Request {
    Request::message_id_sync(gateway, OFFER, &draws(count), PACE, at(0)).unwrap()
}

#[test]
fn message_ids_are_agreed_on_above_what_either_side_knew() {
    for (expected, next_send, outcome) in [
        (5, 7, Outcome::Synced { next_send: 100, next_receive: 50 }),
        (100, 70, Outcome::Synced { next_send: 100, next_receive: 70 }),
    ] {
        let (gateway, user) = ends();
        let mut request = sync(&gateway, 1);
        let octets = sent(request.poll_output(at(0)));
        let mut responder = Responder::new(expected, None).with_message_id_sync(next_send);
        let reply = answered(&mut responder, &user, &octets);
        assert_eq!(&reply[20..24], [0, 0, 0, 0], "Message ID");
        assert!(request.handle_datagram(&gateway, &reply));
        assert_eq!(request.poll_output(at(1)), Output::Done(outcome));
        assert_eq!(responder.next(), 100);
    }
}

#[test]
fn a_peer_that_saw_the_offered_number_drops_the_offer() {
    let (gateway, user) = ends();
    let octets = sent(sync(&gateway, 1).poll_output(at(0)));
    let mut responder = Responder::new(101, None).with_message_id_sync(7);
    let answer = responder.handle_datagram(&user, &octets, path(), &iv(9)).unwrap();
    assert_eq!((answer, responder.next()), (Answer::Ignore, 101));
    let mut deaf = Responder::new(5, None);
    assert_eq!(deaf.handle_datagram(&user, &octets, path(), &iv(9)).unwrap(), Answer::Ignore);
}

#[test]
fn each_attempt_offers_more_and_only_the_answer_to_the_last_one_counts() {
    let (gateway, user) = ends();
    let mut responder = Responder::new(5, None).with_message_id_sync(7);
    let mut request = sync(&gateway, 2);
    assert_eq!(request.highest_offer(), None);
    let first = sent(request.poll_output(at(0)));
    let late = answered(&mut responder, &user, &first);
    let repeated = responder.handle_datagram(&user, &first, path(), &iv(9)).unwrap();
    assert_eq!(repeated, Answer::Ignore, "a replayed offer");

    let second = sent(request.poll_output(at(500)));
    assert_ne!(first, second);
    assert_eq!(request.highest_offer(), Some(110));
    assert!(!request.handle_datagram(&gateway, &late));
    assert_eq!(request.poll_output(at(600)), Output::Wait(at(10_000)), "no draw is left");
    let reply = answered(&mut responder, &user, &second);
    assert!(request.handle_datagram(&gateway, &reply));
    let synced = Outcome::Synced { next_send: 110, next_receive: 50 };
    assert_eq!(request.poll_output(at(700)), Output::Done(synced));
}

#[test]
fn an_answer_that_the_rfc_forbids_is_named() {
    let (gateway, user) = ends();
    let ids = |nonce, expected_send, expected_receive| {
        MessageIds { nonce, expected_send, expected_receive }.notify().payload()
    };
    for payloads in [
        vec![],
        vec![ids([0; 4], 50, 99)],
        vec![ids([0; 4], 49, 100)],
        vec![ids([0; 4], 50, 100), Notify::new(kind::COOKIE2, vec![0; 8]).payload()],
    ] {
        let mut request = sync(&gateway, 1);
        sent(request.poll_output(at(0)));
        let reply = user.seal(0, true, &payloads, &iv(3)).unwrap();
        assert!(request.handle_datagram(&gateway, &reply));
        let Output::Done(Outcome::Misbehaved(_)) = request.poll_output(at(1)) else {
            panic!("{payloads:?} is taken")
        };
    }
    let mut request = sync(&gateway, 1);
    sent(request.poll_output(at(0)));
    let stranger = user.seal(0, true, &[ids([8; 4], 1, 1)], &iv(3)).unwrap();
    assert!(!request.handle_datagram(&gateway, &stranger), "another nonce is dropped silently");
}

#[test]
fn offers_without_draw_or_beyond_32_bits_are_not_made() {
    let (gateway, _) = ends();
    let result = |offer, count| {
        Request::message_id_sync(&gateway, offer, &draws(count), PACE, at(0)).map(|_| ())
    };
    assert_eq!(result(OFFER, 0), Err(IkeError::TooLong));
    let last = SyncOffer { next_send: u32::MAX, ..OFFER };
    assert_eq!(result(last, 1), Ok(()));
    assert_eq!(result(last, 2), Err(IkeError::TooLong));
}

#[test]
fn message_ids_are_agreed_on_only_where_both_announced_it() {
    let mut ike = samples::ike(7);
    ike.extensions.message_id_sync = false;
    let gateway = Association::new(&ike).unwrap();
    let refused = Request::message_id_sync(&gateway, OFFER, &draws(1), PACE, at(0)).map(|_| ());
    assert_eq!(refused, Err(IkeError::NoMessageIdSync));
    assert!(IkeError::NoMessageIdSync.to_string().contains("RFC 6311"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I4: whatever arrives and however time goes, one Message ID has one octet string.
    #[test]
    fn one_message_id_has_one_octet_string(
        encryption in prop_oneof![Just(12_u16), Just(20)],
        steps in proptest::collection::vec((0_u64..3000, proptest::collection::vec(any::<u8>(), 0..80)), 0..20),
    ) {
        let integrity = if encryption == 12 { 12 } else { 0 };
        let secrets = IkeSecrets::Seed {
            nonce_initiator: vec![1; 32],
            nonce_responder: vec![2; 32],
            shared: vec![samples::key(3, 32)],
            replaced: None,
        };
        let transforms =
            IkeTransforms { encryption, key_bits: 256, integrity, prf: 5, key_exchange: 31 };
        let ike = IkeSa { transforms, secrets, ..samples::ike(0) };
        let gateway = Association::new(&ike).unwrap();
        let mut request =
            Request::announce_address(&gateway, 5, &[], None, &iv(1), PACE, at(0)).unwrap();
        let first = sent(request.poll_output(at(0)));
        let mut now = 0;
        for (step, datagram) in steps {
            now += step;
            prop_assert!(!request.handle_datagram(&gateway, &datagram));
            if let Output::Send(octets) = request.poll_output(at(now)) {
                prop_assert_eq!(octets, first.clone());
            }
        }
    }
}
