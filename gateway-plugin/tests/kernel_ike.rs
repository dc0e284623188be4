//! Our own IKE exchanges with an end user that runs a stock daemon, with keys made
//! from what the gateway's daemon tells its high availability peer.

#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "kernel_ike/port.rs"]
mod port_and_tap;
#[path = "kernel_ike/sync.rs"]
mod sync;
#[path = "kernel_ike/world.rs"]
mod world;

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use gateway_plugin::ike::{
    Association,
    answer::{Answer, Learnt, Path, Responder},
    exchange::{Outcome, Pace, Request},
    port::Port,
    random,
    tap::Tap,
};

use self::world::{Clock, EU, SG1, SG2, World, in_namespace};

const PACE: Pace = Pace {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(2),
    total: Duration::from_secs(20),
};

/// CBC with HMAC, and the two kinds of AEAD.
const PROPOSALS: [&str; 3] =
    ["aes256-sha256-x25519", "aes128gcm16-prfsha256-x25519", "chacha20poly1305-prfsha512-x25519"];

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_stock_end_user_answers_our_liveness_check() {
    for proposal in PROPOSALS {
        let world = World::start(proposal);
        let (outcome, last) = in_namespace(SG1, || {
            let tap = Tap::start(vec!["10.0.0.1".parse().unwrap()], 8).unwrap();
            let ike = world.establish();
            let spis = (ike.spi_initiator, ike.spi_responder);
            let association = Association::new(&ike).unwrap();
            let sightings = tap.follow(spis).unwrap();
            let clock = Clock::start();
            let iv = random::iv().unwrap();
            let mut request =
                Request::dead_peer_detection(&association, ike.next_send, &iv, PACE, clock.now())
                    .unwrap();
            // The daemon of the gateway holds the port all the while.
            let port = Port::open(address("10.0.0.1", 4500), address("10.0.0.10", 4500)).unwrap();
            let outcome =
                port.exchange(&mut request, &association, &sightings, || clock.now(), |_| {});
            (outcome.unwrap(), tap.last_response(spis))
        });
        assert_eq!(outcome, Outcome::Answered, "{proposal}");
        let last = last.expect("the daemon's answer to IKE_AUTH passed the tap");
        assert_eq!((last.message_id, last.datagrams.len()), (1, 1), "{proposal}");
        // Only the end user's own words count: it was asked, and lives on.
        let log = world.log(EU);
        assert!(log.contains("parsed INFORMATIONAL request 0 [ ]"), "{proposal}: {log}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_stock_end_user_moves_to_the_address_that_we_announce_and_gets_its_answers_there() {
    for proposal in PROPOSALS {
        let mut world = World::start(proposal);
        let ike = in_namespace(SG1, || world.establish());
        world.kill(SG1);
        in_namespace(SG2, || {
            // As a daemon would, somebody holds the port and reads nothing.
            let _daemon = UdpSocket::bind("0.0.0.0:4500").unwrap();
            let tap = Tap::start(vec!["10.0.0.2".parse().unwrap()], 8).unwrap();
            let association = Association::new(&ike).unwrap();
            let sightings = tap.follow(association.spis()).unwrap();
            let clock = Clock::start();
            let mut request = Request::announce_address(
                &association,
                ike.next_send,
                &[],
                Some(random::cookie().unwrap()),
                &random::iv().unwrap(),
                PACE,
                clock.now(),
            )
            .unwrap();
            let port = Port::open(address("10.0.0.2", 4500), address("10.0.0.10", 4500)).unwrap();
            let outcome =
                port.exchange(&mut request, &association, &sightings, || clock.now(), |_| {});
            assert_eq!(outcome.unwrap(), Outcome::Answered, "{proposal}");

            // Unlike RFC 4555 this end user moves at once, without asking.
            world.wait_for(EU, "remote 'gw.example.org' @ 10.0.0.2[4500]");
            let kernel = world.kernel_sas(EU);
            assert!(kernel.contains("src 10.0.0.10 dst 10.0.0.2"), "{proposal}: {kernel}");
            assert!(!kernel.contains("10.0.0.1\n"), "{proposal}: {kernel}");

            // A request of its own, whose first answer is lost.
            world.ip(&["-n", EU, "addr", "add", "10.0.0.11/24", "dev", "wan"]);
            let mut responder = Responder::new(ike.next_receive, None);
            let mut lost = None;
            let repeated = loop {
                let sighting = sightings
                    .recv_timeout(PACE.total)
                    .unwrap_or_else(|_| panic!("{proposal}: no request: {}", world.log(EU)));
                let path = Path { source: sighting.source, destination: sighting.destination };
                let iv = random::iv().unwrap();
                match responder.handle_datagram(&association, &sighting.message, path, &iv).unwrap()
                {
                    Answer::Reply { datagram, learnt } => {
                        let addresses = Some(vec!["10.0.0.11".parse().unwrap()]);
                        assert_eq!(learnt, Learnt { update_addresses: false, addresses });
                        assert_eq!(path.destination, address("10.0.0.2", 4500));
                        lost = Some(datagram);
                    }
                    Answer::Repeat(datagrams) => break datagrams,
                    other => assert_eq!(other, Answer::Ignore),
                }
            };
            assert_eq!(repeated, [lost.unwrap()], "{proposal}");
            assert_eq!(responder.next(), ike.next_receive + 1);
            port.send(&repeated[0]).unwrap();
            let parsed = format!("parsed INFORMATIONAL response {} [ ]", ike.next_receive);
            world.wait_for_log(EU, &parsed);
            // What left by our own hand is remembered like a daemon's answer, once
            // the tap has seen it leave.
            while sightings.recv_timeout(PACE.total).unwrap().message != repeated[0] {}
            let last = tap.last_response(association.spis()).unwrap();
            assert_eq!((last.message_id, last.datagrams), (ike.next_receive, repeated));
        });
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn the_next_owner_repeats_a_daemons_answer_that_was_lost() {
    let mut world = World::start(PROPOSALS[0]);
    in_namespace(SG1, || {
        let tap = Tap::start(vec!["10.0.0.1".parse().unwrap()], 8).unwrap();
        let ike = world.establish();
        let association = Association::new(&ike).unwrap();
        let sightings = tap.follow(association.spis()).unwrap();
        let asked = ike.next_receive;

        world.nft(EU, "add table inet deaf");
        world.nft(EU, "add chain inet deaf in { type filter hook input priority 0; }");
        world.nft(EU, "add rule inet deaf in udp sport 4500 drop");
        world.ip(&["-n", EU, "addr", "add", "10.0.0.11/24", "dev", "wan"]);
        let given = loop {
            let sighting = sightings
                .recv_timeout(PACE.total)
                .unwrap_or_else(|_| panic!("no answer: {}", world.log(SG1)));
            if sighting.outgoing && sighting.header.message_id == asked {
                break sighting.message;
            }
        };
        world.kill(SG1);
        world.nft(EU, "delete table inet deaf");

        let last = tap.last_response(association.spis());
        assert_eq!(last.as_ref().map(|last| last.datagrams.clone()), Some(vec![given]));
        let mut responder = Responder::new(asked + 1, last);
        let port = Port::open(address("10.0.0.1", 4500), address("10.0.0.10", 4500)).unwrap();
        loop {
            let sighting = sightings.recv_timeout(PACE.total).expect("the request again");
            let path = Path { source: sighting.source, destination: sighting.destination };
            let iv = random::iv().unwrap();
            if let Answer::Repeat(datagrams) =
                responder.handle_datagram(&association, &sighting.message, path, &iv).unwrap()
            {
                datagrams.iter().for_each(|datagram| port.send(datagram).unwrap());
                break;
            }
        }
        world.wait_for_log(EU, &format!("parsed INFORMATIONAL response {asked} [ ]"));
    });
}
