use super::*;

const ONE: SessionId = SessionId([1; 16]);
const TWO: SessionId = SessionId([2; 16]);

fn holds(packets: usize, octets: usize) -> Holds {
    let mut holds = Holds::new(Limits { packets, octets });
    let inner = Prefix { address: "10.0.1.0".parse().unwrap(), bits: 24 };
    let host = Prefix { address: "10.0.2.5".parse().unwrap(), bits: 32 };
    holds.hold(
        ONE,
        &[
            Element::of(Set::HoldSpi, [1; 4]),
            Element::of(Set::HoldIke, [1; 8]),
            Element::interval(Set::HoldInner4, Set::HoldInner6, inner),
        ],
    );
    holds.hold(TWO, &[Element::interval(Set::HoldInner4, Set::HoldInner6, host)]);
    holds
}

fn seen(destination: &str, kind: Kind) -> Option<Seen> {
    let source = "192.0.2.1".parse().unwrap();
    Some(Seen { source, destination: destination.parse().unwrap(), kind })
}

fn esp() -> Option<Seen> {
    seen("192.0.2.2", Kind::Protected([1; 4]))
}

#[test]
fn packets_wait_and_go_on_in_their_order() {
    let mut holds = holds(10, 1000);
    for id in 1..=3 {
        assert_eq!(holds.take(id, esp(), &[0; 10]), []);
    }
    assert_eq!(holds.take(4, seen("10.0.1.9", Kind::Other), &[0; 10]), []);
    assert_eq!(holds.count(ONE), HeldCount { packets: 4, octets: 40, dropped: 0 });
    let gone = holds.let_go(ONE, &Purpose::HOLDS_DATA);
    assert_eq!(gone, [1, 2, 3, 4].map(Verdict::Accept));
    assert_eq!(holds.take(5, esp(), &[0; 10]), [Verdict::Accept(5)], "it was on its way");
    assert_eq!(holds.count(ONE), HeldCount::default());
}

#[test]
fn ike_and_data_are_let_go_apart() {
    let mut holds = holds(10, 1000);
    holds.take(1, esp(), &[0; 10]);
    holds.take(2, seen("192.0.2.2", Kind::Ike([1; 8])), &[0; 10]);
    assert_eq!(holds.let_go(ONE, &Purpose::HOLDS_DATA), [Verdict::Accept(1)]);
    assert_eq!(holds.let_go(ONE, &[Purpose::HoldIke]), [Verdict::Accept(2)]);
}

#[test]
fn inner_packets_wait_once_more_while_others_pass() {
    let mut holds = holds(10, 1000);
    holds.take(1, seen("192.0.2.2", Kind::Ike([1; 8])), &[0; 10]);
    holds.let_go(ONE, &Purpose::HOLDS_DATA);
    let inner = Prefix { address: "10.0.1.0".parse().unwrap(), bits: 24 };
    holds.hold(ONE, &[Element::interval(Set::HoldInner4, Set::HoldInner6, inner)]);
    assert_eq!(holds.take(2, seen("10.0.1.9", Kind::Other), &[0; 10]), []);
    assert_eq!(holds.take(3, esp(), &[0; 10]), [Verdict::Accept(3)]);
    assert_eq!(holds.let_go(ONE, &Purpose::HOLDS_DATA), [Verdict::Accept(2)]);
    assert_eq!(holds.let_go(ONE, &[Purpose::HoldIke]), [Verdict::Accept(1)]);
}

#[test]
fn each_time_that_inner_packets_begin_to_wait_is_a_turn_of_its_own() {
    let mut holds = holds(10, 1000);
    let first = holds.turn(ONE);
    assert!(first.is_some() && first != holds.turn(TWO));
    let host = Prefix { address: "10.0.1.9".parse().unwrap(), bits: 32 };
    let inner = [Element::interval(Set::HoldInner4, Set::HoldInner6, host)];
    holds.hold(ONE, &inner);
    assert_eq!(holds.turn(ONE), first, "they wait already");
    holds.let_go(ONE, &[Purpose::HoldInner]);
    holds.hold(ONE, &inner);
    let second = holds.turn(ONE);
    assert_ne!(second, first);
    holds.discard(ONE);
    holds.hold(ONE, &inner);
    assert!(![first, second, None].contains(&holds.turn(ONE)), "nor of a session that is back");
}

#[test]
fn what_another_gateway_sends_here_is_known_by_its_destination() {
    let mut holds = Holds::new(Limits { packets: 10, octets: 1000 });
    let net = Prefix { address: "10.0.1.0".parse().unwrap(), bits: 24 };
    let host = Prefix { address: "fd00:9::5".parse().unwrap(), bits: 128 };
    holds.hold(ONE, &[Element::from(net, [2; 6]), Element::from(host, [2; 6])]);
    assert_eq!(holds.take(1, seen("10.0.1.255", Kind::Other), &[0; 10]), []);
    assert_eq!(holds.take(2, seen("fd00:9::5", Kind::Other), &[0; 10]), []);
    assert_eq!(holds.take(3, seen("10.0.2.0", Kind::Other), &[0; 10]), [Verdict::Drop(3)]);
    assert_eq!(holds.let_go(ONE, &[Purpose::HoldInner]), [1, 2].map(Verdict::Accept));
}

#[test]
fn packets_on_their_way_into_the_queue_go_on_while_ike_still_waits() {
    let mut holds = holds(10, 1000);
    holds.let_go(ONE, &[Purpose::HoldEsp, Purpose::HoldInner]);
    // The session is named again, and what stands of its hold with it.
    holds.hold(ONE, &[Element::of(Set::HoldIke, [1; 8])]);
    assert_eq!(holds.take(1, esp(), &[0; 10]), [Verdict::Accept(1)]);
    assert_eq!(holds.take(2, seen("10.0.1.9", Kind::Other), &[0; 10]), [Verdict::Accept(2)]);
    assert_eq!(holds.take(3, seen("192.0.2.2", Kind::Ike([1; 8])), &[0; 10]), []);
}

#[test]
fn the_oldest_packet_makes_room() {
    let mut holds = holds(2, 1000);
    holds.take(1, esp(), &[0; 10]);
    holds.take(2, esp(), &[0; 10]);
    assert_eq!(holds.take(3, esp(), &[0; 10]), [Verdict::Drop(1)]);
    assert_eq!(holds.take(4, esp(), &[0; 995]), [Verdict::Drop(2), Verdict::Drop(3)]);
    assert_eq!(holds.count(ONE), HeldCount { packets: 1, octets: 995, dropped: 3 });
}

#[test]
fn one_session_full_leaves_the_others_their_room() {
    let mut holds = holds(1, 1000);
    holds.take(1, seen("10.0.2.5", Kind::Other), &[0; 10]);
    holds.take(2, esp(), &[0; 10]);
    assert_eq!(holds.take(3, esp(), &[0; 10]), [Verdict::Drop(2)]);
    assert_eq!(holds.count(TWO).packets, 1);
}

#[test]
fn what_is_nobodys_is_dropped() {
    let mut holds = holds(10, 1000);
    assert_eq!(holds.take(1, seen("10.0.3.1", Kind::Other), &[0]), [Verdict::Drop(1)]);
    assert_eq!(holds.take(2, None, &[0]), [Verdict::Drop(2)]);
    holds.take(3, esp(), &[7]);
    assert_eq!(holds.discard(ONE).len(), 1);
    assert_eq!(holds.take(4, esp(), &[0]), [Verdict::Drop(4)]);
}
