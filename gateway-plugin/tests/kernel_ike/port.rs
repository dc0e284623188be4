//! Sending beside whoever holds the port, and seeing what passes, in both address
//! families.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use gateway_plugin::ike::{
    message::{HEADER, Header, INFORMATIONAL},
    port::{Port, PortError},
    tap::Tap,
};

use crate::{
    address,
    world::{EU, SG1, SG2, World, in_namespace},
};

const PATIENCE: Duration = Duration::from_secs(5);
const SPIS: (u64, u64) = (1, 2);

/// A response of Message ID 3 without content.
fn message() -> [u8; HEADER] {
    let header = Header {
        spi_initiator: SPIS.0,
        spi_responder: SPIS.1,
        next: 0,
        exchange: INFORMATIONAL,
        from_initiator: false,
        response: true,
        message_id: 3,
    };
    header.write(HEADER).unwrap()
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn messages_leave_from_a_port_that_is_held_and_are_seen_at_both_ends() {
    let world = World::wire();
    for (name, ip) in [(EU, "fd00::10/64"), (SG1, "fd00::1/64"), (SG2, "fd00::2/64")] {
        world.ip(&["-n", name, "addr", "add", ip, "dev", "wan", "nodad"]);
    }
    for (from, to, port, marker) in [
        ("10.0.0.1", "10.0.0.10", 500, 0),
        ("10.0.0.1", "10.0.0.10", 4500, 4),
        ("fd00::1", "fd00::10", 500, 0),
        ("fd00::1", "fd00::10", 4500, 4),
    ] {
        let (local, remote) = (address(from, port), address(to, port));
        let theirs = in_namespace(EU, || UdpSocket::bind(remote).unwrap());
        theirs.set_read_timeout(Some(PATIENCE)).unwrap();
        let their_tap = in_namespace(EU, || Tap::start(Vec::new(), 8).unwrap());
        let their_sightings = their_tap.follow(SPIS).unwrap();
        in_namespace(SG1, || {
            let _daemon = UdpSocket::bind(local).unwrap();
            let tap = Tap::start(vec![local.ip()], 8).unwrap();
            let sightings = tap.follow(SPIS).unwrap();
            Port::open(local, remote).unwrap().send(&message()).unwrap();
            let sighting = sightings.recv_timeout(PATIENCE).expect("it left");
            assert!(sighting.outgoing);
            assert_eq!((sighting.source, sighting.destination), (local, remote));
            assert_eq!(sighting.message, message());
            let last = tap.last_response(SPIS).unwrap();
            assert_eq!((last.message_id, last.datagrams), (3, vec![message().to_vec()]));
            tap.forget(SPIS);
            assert_eq!(tap.last_response(SPIS), None);
        });
        let sighting = their_sightings.recv_timeout(PATIENCE).expect("it arrived");
        assert!(!sighting.outgoing);
        assert_eq!(sighting.source, local);
        // Through a socket it comes only with a right checksum.
        let mut buffer = [0; 100];
        let (octets, source): (usize, SocketAddr) = theirs.recv_from(&mut buffer).unwrap();
        assert_eq!(source, local);
        assert_eq!(buffer[..octets], [&[0; 4][..marker], &message()].concat());
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_path_that_cannot_be_is_refused_with_the_reason() {
    let _world = World::wire();
    in_namespace(SG1, || {
        let mixed = Port::open(address("10.0.0.1", 500), address("fd00::10", 500));
        assert!(matches!(mixed, Err(PortError::Unsendable { .. })));
        // No route leads there.
        let nowhere = Port::open(address("10.0.0.1", 500), address("203.0.113.1", 500));
        let text = nowhere.unwrap_err().to_string();
        assert!(text.starts_with("cannot send IKE from 10.0.0.1:500 to 203.0.113.1:500"), "{text}");
        let foreign = Port::open(address("10.0.0.99", 4500), address("10.0.0.10", 4500));
        let text = foreign.unwrap_err().to_string();
        assert!(text.ends_with("(give this host the address first)"), "{text}");
    });
}
