//! Numbers that were not granted do not leave.

use std::net::SocketAddr;

use gateway_plugin::steering::Traffic;
use socket2::Domain;

use crate::net::{Frame, NEVER, Tap, build, esp, id, open, raw, session, session6, udp, within};

/// Sends these numbers under the outbound SPI of the first user, plain and in UDP,
/// and returns those that left, each once or twice.
fn left(numbers: &[u32]) -> Vec<u32> {
    let outside = Tap::open("sw");
    let plain = raw("sg1", 50, Domain::IPV4);
    let port = udp("sg1", "192.0.2.1:4500");
    let to: SocketAddr = "192.0.2.101:0".parse().unwrap();
    for number in numbers {
        // Dropped at egress: the sender may be told so.
        let _ = plain.send_to(&esp(0x2001, *number), &to.into());
        let _ = port.send_to(&esp(0x2001, *number), "192.0.2.101:4500");
    }
    seen(&outside, "192.0.2.101")
}

/// The numbers of ESP packets to an address.
fn seen(outside: &Tap, to: &str) -> Vec<u32> {
    let ours = |f: &Frame| f.is_ip() && f.has(to) && matches!(f.protocol(), Some(17 | 50));
    let frames = outside.frames(99, NEVER, ours);
    let number = |frame: &Frame| {
        let skip = if frame.protocol() == Some(17) { 12 } else { 4 };
        u32::from_be_bytes(frame.payload()[skip..skip + 4].try_into().unwrap())
    };
    let mut numbers: Vec<_> = frames.iter().map(number).collect();
    // The switch shows a frame at each of its ports.
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn numbers_at_or_above_the_end_do_not_leave() {
    build();
    let mut gateway = open("sg1", |_| {});
    let one = session(1);
    within("sg1", || {
        gateway.known(id(1), &one).unwrap();
        gateway.limit(id(1), &one, &[(0x2001, 100)]).unwrap();
    });
    assert_eq!(left(&[1, 99, 100, 101, 1 << 30]), [1, 99]);

    // Another end replaces the first; the bits above 32 are not seen outside, and a
    // range goes on beyond them.
    within("sg1", || gateway.limit(id(1), &one, &[(0x2001, (7 << 32) - 2)]).unwrap());
    assert_eq!(left(&[100, u32::MAX - 2, u32::MAX - 1, u32::MAX]), [u32::MAX - 2]);
    assert!(left(&[5, 1 << 30]).is_empty());

    // Another process finds it, and what is known of the session may change.
    drop(gateway);
    let mut gateway = open("sg1", |_| {});
    within("sg1", || gateway.known(id(1), &one).unwrap());
    assert_eq!(left(&[u32::MAX - 2, u32::MAX]), [u32::MAX - 2]);
    let moved = Traffic { remote: "192.0.2.103:4500".parse().unwrap(), ..one.clone() };
    within("sg1", || gateway.known(id(1), &moved).unwrap());
    assert_eq!(left(&[u32::MAX]), [u32::MAX]);
    within("sg1", || gateway.known(id(1), &one).unwrap());
    assert!(left(&[u32::MAX]).is_empty());

    // It ends with the SA, and with the session.
    let rekeyed = Traffic { children: vec![(0x1001, 0x2009)], ..one.clone() };
    within("sg1", || gateway.known(id(1), &rekeyed).unwrap());
    assert_eq!(left(&[u32::MAX]), [u32::MAX]);
    within("sg1", || {
        gateway.limit(id(1), &one, &[(0x2001, 100)]).unwrap();
        gateway.forget(id(1)).unwrap();
    });
    assert_eq!(left(&[100]), [100]);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn the_same_over_ipv6() {
    build();
    let mut gateway = open("sg1", |_| {});
    let two = session6(2);
    within("sg1", || {
        gateway.known(id(2), &two).unwrap();
        gateway.limit(id(2), &two, &[(0x2002, 100)]).unwrap();
    });
    let outside = Tap::open("sw");
    let plain = raw("sg1", 50, Domain::IPV6);
    let port = udp("sg1", "[2001:db8:1::1]:4500");
    let to: SocketAddr = "[2001:db8:1::102]:0".parse().unwrap();
    for number in [99, 100] {
        let _ = plain.send_to(&esp(0x2002, number), &to.into());
        let _ = port.send_to(&esp(0x2002, number), "[2001:db8:1::102]:4500");
    }
    assert_eq!(seen(&outside, "2001:db8:1::102"), [99]);
}
