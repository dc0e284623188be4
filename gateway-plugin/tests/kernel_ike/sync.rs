//! RFC 6311 with a stock end user: our small responder takes it in and announces
//! the extension, and a second owner that knows old Message IDs goes on.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::mpsc::Receiver,
    time::Duration,
};

use gateway_plugin::ike::{
    Association,
    answer::{Answer, Path, Responder},
    exchange::{Outcome, Output, Request, SyncOffer},
    port::Port,
    random,
    responder::{Established, Terms, take_in},
    tap::{Sighting, Tap},
};
use protocol_spec::{KeyMaterial, context::Identification};

use crate::{
    PACE, address,
    world::{Clock, EU, SECRET, SG1, World, in_namespace},
};

/// Takes the end user in, over the sockets that a daemon would have.
fn take_user_in(world: &World, ports: &[UdpSocket; 2]) -> Established {
    let terms = Terms {
        identity: Identification { kind: 2, data: b"gw.example.org".to_vec() },
        shared_key: KeyMaterial::new(SECRET.into()),
        spi: 0x5e55_1011_1213_1415,
        child_spi: 0xc123_4567,
        virtual_ip: Ipv4Addr::new(10, 9, 0, 1),
    };
    std::thread::scope(|scope| {
        let user = scope.spawn(|| world.initiate());
        let clock = Clock::start();
        let established = take_in(terms, ports, Duration::from_secs(15), || clock.now());
        user.join().unwrap();
        established.unwrap_or_else(|error| panic!("{error}: {}", world.log(EU)))
    })
}

/// Answers the end user's next new request.
fn answer_next(
    world: &World,
    association: &Association,
    responder: &mut Responder,
    sightings: &Receiver<Sighting>,
) {
    loop {
        let sighting = sightings
            .recv_timeout(PACE.total)
            .unwrap_or_else(|_| panic!("no request: {}", world.log(EU)));
        let path = Path { source: sighting.source, destination: sighting.destination };
        let iv = random::iv().unwrap();
        let answer = responder.handle_datagram(association, &sighting.message, path, &iv).unwrap();
        if let Answer::Reply { datagram, .. } = answer {
            return Port::open(path.destination, path.source).unwrap().send(&datagram).unwrap();
        }
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_stock_end_user_agrees_on_message_ids_with_an_owner_that_knows_old_ones() {
    let world = World::with_user("aes256-sha256-x25519");
    in_namespace(SG1, || {
        let tap = Tap::start(vec!["10.0.0.1".parse().unwrap()], 8).unwrap();
        let ports = [500, 4500].map(|port| UdpSocket::bind(("10.0.0.1", port)).unwrap());
        let ike = take_user_in(&world, &ports).ike;
        assert!(ike.extensions.message_id_sync && ike.extensions.mobike);
        assert_eq!(ike.remote, address("10.0.0.10", 4500));
        let association = Association::new(&ike).unwrap();
        let sightings = tap.follow(association.spis()).unwrap();
        let clock = Clock::start();
        let port = Port::open(ike.local, ike.remote).unwrap();

        // What the first owner still does, and the second one never hears of.
        world.ip(&["-n", EU, "addr", "add", "10.0.0.11/24", "dev", "wan"]);
        let mut first = Responder::new(ike.next_receive, None);
        answer_next(&world, &association, &mut first, &sightings);
        world.wait_for_log(EU, "parsed INFORMATIONAL response 2 [ ]");

        // The second owner; the answer to its first attempt is lost.
        let offer = SyncOffer { next_send: 100, next_receive: ike.next_receive, step: 10 };
        let draws = random::draws(3).unwrap();
        let mut sync =
            Request::message_id_sync(&association, offer, &draws, PACE, clock.now()).unwrap();
        let Output::Send(attempt) = sync.poll_output(clock.now()) else { panic!("no attempt") };
        port.send(&attempt).unwrap();
        loop {
            let sighting = sightings.recv_timeout(PACE.total).unwrap();
            if sighting.header.response && !sighting.outgoing && sighting.header.message_id == 0 {
                break;
            }
        }
        let outcome =
            port.exchange(&mut sync, &association, &sightings, || clock.now(), |_| {}).unwrap();
        // The end user's next request is its third: 1 was IKE_AUTH, 2 the addresses.
        assert_eq!(
            outcome,
            Outcome::Synced { next_send: 110, next_receive: 3 },
            "{}",
            world.log(EU)
        );

        // Both directions go on with the new numbers.
        let iv = random::iv().unwrap();
        let mut check =
            Request::dead_peer_detection(&association, 110, &iv, PACE, clock.now()).unwrap();
        let outcome = port.exchange(&mut check, &association, &sightings, || clock.now(), |_| {});
        assert_eq!(outcome.unwrap(), Outcome::Answered);
        world.ip(&["-n", EU, "addr", "add", "10.0.0.12/24", "dev", "wan"]);
        let mut second = Responder::new(3, None);
        answer_next(&world, &association, &mut second, &sightings);
        world.wait_for_log(EU, "parsed INFORMATIONAL response 3 [ ]");
    });
    assert_eq!(world.log(EU).matches("initiating IKE_SA").count(), 1);
}
