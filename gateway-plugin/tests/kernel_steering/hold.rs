//! What waits.

use std::{thread, time::Duration};

use gateway_plugin::steering::Traffic;
use socket2::Domain;

use crate::net::{
    NEVER, SOON, Tap, build, esp, id, ike, neighbour, numbers, open, own_shared, prefix, raw,
    send_numbers, session, sh, timed, tunnel, udp, until, within,
};

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn traffic_both_ways_waits_and_goes_on_in_order() {
    build();
    own_shared("sg1");
    tunnel("sg1", 1);
    let mut steering = open("sg1", |_| {});
    let server = udp("srv", "10.9.0.9:7000");
    let user = udp("eu", "10.8.0.1:7000");
    thread::scope(|scope| {
        let out = scope.spawn(|| send_numbers(&user, "10.9.0.9:7000", 0..600));
        let into = scope.spawn(|| send_numbers(&server, "10.8.0.1:7000", 0..600));
        within("sg1", || steering.hold(id(1), &session(1)).unwrap());
        until("held traffic", || steering.held(id(1)).packets >= 150);
        within("sg1", || steering.let_go_data(id(1)).unwrap());
        out.join().unwrap();
        into.join().unwrap();
    });
    let all: Vec<u32> = (0..600).collect();
    assert_eq!(numbers(&server, NEVER), all, "from the end user");
    assert_eq!(numbers(&user, NEVER), all, "to the end user");
    let standing = within("sg1", || steering.list().unwrap());
    assert!(!standing[0].1.holds_data && standing[0].1.holds_ike, "IKE is let go apart");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn nothing_passes_while_held_nor_when_the_process_is_gone() {
    build();
    own_shared("sg1");
    tunnel("sg1", 1);
    let mut steering = open("sg1", |_| {});
    let server = udp("srv", "10.9.0.9:7000");
    let user = udp("eu", "10.8.0.1:7000");
    let outside = Tap::open("eu");
    within("sg1", || steering.hold(id(1), &session(1)).unwrap());
    send_numbers(&user, "10.9.0.9:7000", 0..20);
    send_numbers(&server, "10.8.0.1:7000", 0..20);
    assert!(numbers(&server, NEVER).is_empty(), "held");
    until("all packets", || steering.held(id(1)).packets == 40);

    // To the kernel a process that is killed is one whose sockets are closed.
    drop(steering);
    send_numbers(&user, "10.9.0.9:7000", 20..40);
    send_numbers(&server, "10.8.0.1:7000", 20..40);
    assert!(numbers(&server, NEVER).is_empty(), "nobody reads the queue");
    let left = outside.frames(1, NEVER, |f| f.is_esp(0x2001) || f.has("10.8.0.1"));
    assert!(left.is_empty(), "{left:?}");

    let mut steering = open("sg1", |_| {});
    let standing = within("sg1", || steering.list().unwrap());
    assert_eq!(standing.len(), 1);
    assert_eq!(standing[0].0, id(1));
    assert_eq!(standing[0].1.inner, [prefix("10.8.0.1/32")]);
    assert!(standing[0].1.holds_data && standing[0].1.holds_ike && !standing[0].1.blocks);
    send_numbers(&user, "10.9.0.9:7000", 40..60);
    within("sg1", || steering.let_go_data(id(1)).unwrap());
    assert_eq!(numbers(&server, NEVER), (40..60).collect::<Vec<u32>>());
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn packets_of_a_session_that_comes_back_go_on_to_its_owner_until_that_sends_them_back() {
    const OWNER: [u8; 6] = [2, 0, 0, 0, 2, 2];
    build();
    own_shared("sg1");
    let mut steering = open("sg1", |_| {});
    let server = udp("srv", "10.9.0.9:7000");
    let user = udp("eu", "10.8.0.1:7000");
    let owner = Tap::open("sg2");
    let gone_on = |count| owner.frames(count, SOON, |f| f.to_mac(OWNER) && f.has("10.8.0.1"));
    within("sg1", || steering.divert(id(1), &session(1), &neighbour(2)).unwrap());
    send_numbers(&server, "10.8.0.1:7000", 0..5);
    assert_eq!(gone_on(5).len(), 5, "diverted since it left");

    within("sg1", || steering.hold_from(id(1), &session(1), &neighbour(2)).unwrap());
    send_numbers(&server, "10.8.0.1:7000", 5..10);
    assert_eq!(gone_on(5).len(), 5, "its owner goes on with it");
    assert_eq!(steering.held(id(1)).packets, 0);
    assert!(steering.leads_on(id(1)));

    sh("ip -n sg2 route add 10.8.0.1/32 via 10.9.0.1 dev in");
    send_numbers(&server, "10.8.0.1:7000", 10..15);
    until("all packets", || steering.held(id(1)).packets == 5);
    tunnel("sg1", 1);
    within("sg1", || steering.let_go_data(id(1)).unwrap());
    assert!(!steering.leads_on(id(1)));
    send_numbers(&server, "10.8.0.1:7000", 15..20);
    // Its owner here has no SAs and passed on what came first as it was.
    assert_eq!(numbers(&user, NEVER), (0..20).collect::<Vec<u32>>());
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn ike_waits_apart_from_data_and_other_sessions_do_not_wait() {
    build();
    own_shared("sg1");
    let mut steering = open("sg1", |_| {});
    let daemon = udp("sg1", "192.0.2.10:500");
    let encapsulated = udp("sg1", "192.0.2.10:4500");
    let user = udp("eu", "192.0.2.101:500");
    let spi = session(1).ike.unwrap().0;
    within("sg1", || steering.hold(id(1), &session(1)).unwrap());
    for (message, to) in [
        (ike(spi, false), "192.0.2.10:500"),
        (ike(spi, true), "192.0.2.10:4500"),
        (esp(0x1001, 1), "192.0.2.10:4500"),
        (ike(spi + 1, false), "192.0.2.10:500"),
        (vec![0xff], "192.0.2.10:4500"),
    ] {
        user.send_to(&message, to).unwrap();
    }
    let mut buffer = [0; 100];
    daemon.set_read_timeout(Some(SOON)).unwrap();
    let length = daemon.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], ike(spi + 1, false), "another session's IKE passes");
    assert_eq!(encapsulated.recv(&mut buffer).unwrap(), 1, "so does a NAT keepalive");
    until("three packets", || steering.held(id(1)).packets == 3);
    within("sg1", || steering.let_go_data(id(1)).unwrap());
    let length = encapsulated.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], esp(0x1001, 1));
    assert_eq!(steering.held(id(1)).packets, 2);
    within("sg1", || steering.let_go_ike(id(1)).unwrap());
    let length = daemon.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], ike(spi, false));
    let length = encapsulated.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], ike(spi, true));
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn one_of_thousands_is_refused_and_the_others_hold() {
    build();
    let mut steering = open("sg1", |_| {});
    let many: Vec<Traffic> = (0..3000_u32)
        .map(|n| Traffic {
            inner: vec![prefix(&format!("10.7.{}.{}/32", n / 250, n % 250 + 1))],
            children: vec![(0x10_0000 + n, 0x20_0000 + n)],
            ike: Some((u64::from(n) + 1, 1)),
            ..session(1)
        })
        .collect();
    let name = |n: usize| {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&(n as u64).to_be_bytes());
        protocol_spec::id::SessionId(octets)
    };
    let mut named: Vec<_> = many.iter().enumerate().map(|(n, t)| (name(n), t)).collect();
    // One has a prefix around another one's, one its SPI.
    let around =
        Traffic { inner: vec![prefix("10.7.3.0/24")], children: vec![], ike: None, ..session(1) };
    let twice = Traffic { inner: vec![], ike: None, ..many[7].clone() };
    named.push((name(5000), &around));
    named.push((name(5001), &twice));
    let results = within("sg1", || {
        let (results, time) = timed(|| steering.hold_all(&named));
        println!("hold of {} sessions: {time:?}", results.len());
        results
    });
    let refused: Vec<_> =
        results.iter().filter_map(|(id, r)| Some((id, r.as_ref().err()?.to_string()))).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.iter().any(|(id, why)| **id == name(5000) && why.contains("overlaps")));
    assert!(refused.iter().any(|(id, _)| **id == name(5001)));
    let standing = within("sg1", || steering.list().unwrap());
    assert_eq!(standing.len(), 3000);
    assert!(standing.iter().all(|(_, s)| s.holds_data && s.holds_ike && s.inner.len() == 1));
    within("sg1", || {
        named[..3000].iter().for_each(|(session, _)| steering.forget(*session).unwrap());
        let (results, time) = timed(|| steering.hold_all(&named[..3000]));
        assert!(results.iter().all(|(_, result)| result.is_ok()));
        println!("hold of 3000 sessions, none refused: {time:?}");
        named[..3000].iter().for_each(|(session, _)| steering.forget(*session).unwrap());
    });
    assert_eq!(within("sg1", || steering.list().unwrap()), []);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_hold_and_its_end_take_less_than_a_millisecond() {
    build();
    let mut steering = open("sg1", |_| {});
    let mut times: Vec<Duration> = within("sg1", || {
        let mut act = || {
            steering.hold(id(1), &session(1)).unwrap();
            steering.let_go_data(id(1)).unwrap();
        };
        let once = || timed(&mut act).1;
        std::iter::repeat_with(once).take(200).collect()
    });
    times.sort();
    println!("hold and let go: median {:?}, worst of 200 {:?}", times[100], times[199]);
    assert!(times[100] < Duration::from_millis(2), "twice the aim: the machine may be busy");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn nothing_inner_leaves_outside_in_clear_without_policies() {
    build();
    own_shared("sg1");
    tunnel("sg1", 1);
    let mut steering = open("sg1", |config| {
        config.inner_networks = vec![prefix("10.8.0.0/16")];
    });
    within("sg1", || steering.known(id(1), &session(1)).unwrap());
    let server = udp("srv", "10.9.0.9:7000");
    let user = udp("eu", "10.8.0.1:7000");
    let outside = Tap::open("eu");
    send_numbers(&server, "10.8.0.1:7000", 0..5);
    assert_eq!(numbers(&user, SOON / 4), [0, 1, 2, 3, 4], "by the tunnel");
    sh("ip -n sg1 xfrm policy flush; ip -n sg1 xfrm state flush");
    send_numbers(&server, "10.8.0.1:7000", 5..10);
    // A user that the daemon does not know of is in the operator's prefix.
    send_numbers(&server, "10.8.0.2:7000", 5..10);
    let clear = |f: &crate::net::Frame| f.has("10.9.0.9");
    assert_eq!(outside.frames(9, NEVER, clear).len(), 5, "what the tunnel brought, decrypted");
    let inside = Tap::open("sw");
    send_numbers(&server, "10.8.0.1:7000", 10..15);
    let seen = inside.frames(99, NEVER, clear);
    assert!(seen.iter().all(|f| f.sender() == [2, 0, 0, 0, 3, 9]), "only the server sent it");
    assert!(!seen.is_empty());

    // Were the guard gone, this test would see it.
    drop(steering);
    sh("ip netns exec sg1 nft flush ruleset");
    send_numbers(&server, "10.8.0.1:7000", 15..20);
    let leaked = inside.frames(5, SOON, |f| clear(f) && f.sender() == [2, 0, 0, 0, 1, 1]);
    assert_eq!(leaked.len(), 5, "a gateway without a guard leaks");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn what_waited_goes_back_to_the_source() {
    build();
    own_shared("sg2");
    let mut target =
        open("sg2", |config| config.shared = vec![crate::net::SHARED4.parse().unwrap()]);
    within("sg2", || target.hold(id(1), &session(1)).unwrap());
    let source = Tap::open("sg1");
    let user = raw("eu", 50, Domain::IPV4);
    let to: std::net::SocketAddr = "192.0.2.10:0".parse().unwrap();
    user.send_to(&esp(0x1001, 7), &to.into()).unwrap();
    sh("ip -n srv route replace 10.8.0.0/24 via 10.9.0.2");
    let server = udp("srv", "10.9.0.9:7000");
    send_numbers(&server, "10.8.0.1:7000", 0..1);
    until("held packets", || target.held(id(1)).packets == 2);
    let back = neighbour(1);
    within("sg2", || target.discard(id(1), Some(&back)).unwrap());
    let outer = source.frames(1, SOON, |f| f.is_esp(0x1001));
    assert!(outer[0].to_mac([2, 0, 0, 0, 1, 1]), "{outer:?}");
    let source = Tap::open("sg1");
    within("sg2", || target.hold(id(1), &session(1)).unwrap());
    send_numbers(&server, "10.8.0.1:7000", 0..1);
    until("a held packet", || target.held(id(1)).packets == 1);
    within("sg2", || target.discard(id(1), Some(&back)).unwrap());
    let inner = source.frames(1, SOON, |f| f.has("10.8.0.1") && f.to_mac([2, 0, 0, 0, 2, 1]));
    assert_eq!(inner.len(), 1);
    let standing = within("sg2", || target.list().unwrap());
    assert!(!standing[0].1.holds_data && !standing[0].1.holds_ike);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn flushed_rules_are_put_back() {
    build();
    own_shared("sg1");
    let mut steering = open("sg1", |_| {});
    within("sg1", || {
        steering.hold(id(1), &session(1)).unwrap();
        steering.block(id(1)).unwrap();
    });
    sh("ip netns exec sg1 nft flush ruleset");
    assert_eq!(within("sg1", || steering.repair().unwrap()), 1);
    assert_eq!(within("sg1", || steering.repair().unwrap()), 0);
    let standing = within("sg1", || steering.list().unwrap());
    assert!(standing[0].1.holds_data && standing[0].1.holds_ike && standing[0].1.blocks);
    sh("ip netns exec sg1 nft flush ruleset");
    within("sg1", || steering.let_go_data(id(1)).unwrap());
    let standing = within("sg1", || steering.list().unwrap());
    assert!(!standing[0].1.holds_data && standing[0].1.blocks, "healed on the way");
}
