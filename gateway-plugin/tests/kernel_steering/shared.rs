//! One address, several gateways.

use std::{collections::BTreeMap, net::UdpSocket};

use gateway_plugin::steering::{Config, Layer2, Mode, Steering, Traffic};
use protocol_spec::id::Name;
use socket2::{Domain, Socket};

use crate::net::{
    NEVER, SHARED4, SHARED6, SOON, Tap, build, esp, id, neighbour, open, raw, say, session,
    session6, sh, udp, until, user, within,
};

const MULTICAST: Layer2 = Layer2::Multicast([3, 0, 0x5e, 0, 0, 0x10]);
const FLOODED: Layer2 = Layer2::Flooded([2, 0, 0x5e, 0, 0, 0x10]);

fn shared(layer2: Layer2) -> impl Fn(&mut Config) + Send + Copy {
    move |config| {
        config.shared = vec![SHARED4.parse().unwrap(), SHARED6.parse().unwrap()];
        config.mode = Mode::Shared(layer2);
        config.members = names(&["sg1", "sg2"]);
    }
}

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Two gateways, with what each of them takes.
struct Pair {
    gateways: [Steering; 2],
    esp: [Socket; 2],
    udp: [UdpSocket; 2],
    esp6: [Socket; 2],
}

const GATEWAYS: [&str; 2] = ["sg1", "sg2"];

impl Pair {
    fn new(layer2: Layer2) -> Self {
        build();
        let gateways = GATEWAYS.map(|gateway| open(gateway, shared(layer2)));
        let short = |socket: Socket| {
            socket.set_read_timeout(Some(NEVER)).unwrap();
            socket
        };
        Self {
            gateways,
            esp: GATEWAYS.map(|gateway| short(raw(gateway, 50, Domain::IPV4))),
            esp6: GATEWAYS.map(|gateway| short(raw(gateway, 50, Domain::IPV6))),
            udp: GATEWAYS.map(|gateway| {
                let socket = udp(gateway, &format!("{SHARED4}:4500"));
                socket.set_read_timeout(Some(NEVER)).unwrap();
                socket
            }),
        }
    }

    fn arrive(&mut self, gateway: usize, octet: u8, traffic: &Traffic) {
        let steering = &mut self.gateways[gateway];
        within(GATEWAYS[gateway], || {
            steering.known(id(octet), traffic).unwrap();
            steering.arrived(id(octet)).unwrap();
        });
    }

    fn elsewhere(&mut self, gateway: usize, octet: u8, traffic: &Traffic) {
        let steering = &mut self.gateways[gateway];
        within(GATEWAYS[gateway], || steering.elsewhere(id(octet), traffic).unwrap());
    }

    /// Which gateway took each number of each SPI, over both IP versions.
    fn taken(&self) -> BTreeMap<(u32, u32), Vec<usize>> {
        let mut taken: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        let mut note = |octets: &[u8], gateway| {
            let word = |at: usize| u32::from_be_bytes(*octets[at..].first_chunk().unwrap());
            taken.entry((word(0), word(4))).or_default().push(gateway);
        };
        for gateway in 0..2 {
            let mut buffer = [0; 200];
            while let Ok(length) = std::io::Read::read(&mut &self.esp[gateway], &mut buffer) {
                note(&buffer[20..length], gateway);
            }
            while let Ok(length) = std::io::Read::read(&mut &self.esp6[gateway], &mut buffer) {
                note(&buffer[..length], gateway);
            }
            while let Ok(length) = self.udp[gateway].recv(&mut buffer) {
                note(&buffer[..length], gateway);
            }
        }
        taken
    }
}

fn send(from: &Socket, spi: u32, numbers: std::ops::Range<u32>) {
    let to = if from.domain().unwrap() == Domain::IPV4 {
        format!("{SHARED4}:0")
    } else {
        format!("[{SHARED6}]:0")
    };
    let to: std::net::SocketAddr = to.parse().unwrap();
    for number in numbers {
        from.send_to(&esp(spi, number), &to.into()).unwrap();
    }
}

fn each_is_taken_by_exactly_one_gateway(layer2: Layer2) {
    let mut pair = Pair::new(layer2);
    let users: Vec<_> = (1..=3).map(|n| raw(user(n), 50, Domain::IPV4)).collect();
    let users6: Vec<_> = (1..=3).map(|n| raw(user(n), 50, Domain::IPV6)).collect();
    // Nobody knows the clients: the hash decides, for each gateway alike.
    for (n, (user, user6)) in users.iter().zip(&users6).enumerate() {
        send(user, n as u32, 0..10);
        send(user6, 100 + n as u32, 0..10);
    }
    let taken = pair.taken();
    assert_eq!(taken.len(), 60, "{taken:?}");
    assert!(taken.values().all(|by| by.len() == 1), "{taken:?}");

    // Known clients are taken by their owner, whatever the hash says.
    for (n, owner) in [(1, 0), (2, 1), (3, 1)] {
        for (octet, traffic) in [(n, session(n)), (10 + n, session6(n))] {
            pair.arrive(owner, octet, &traffic);
            pair.elsewhere(1 - owner, octet, &traffic);
        }
    }
    for (n, (user, user6)) in users.iter().zip(&users6).enumerate() {
        send(user, n as u32, 10..20);
        send(user6, 100 + n as u32, 10..20);
    }
    let taken = pair.taken();
    assert_eq!(taken.len(), 60);
    for ((spi, _), by) in &taken {
        let owner = if spi % 100 == 0 { 0 } else { 1 };
        assert_eq!(by, &[owner], "SPI {spi}");
    }

    // The second client moves to the first gateway; the others are not touched.
    within("sg2", || pair.gateways[1].divert(id(2), &session(2), &neighbour(1)).unwrap());
    send(&users[1], 0x1002, 0..10);
    let relayed = pair.taken();
    assert_eq!(relayed.len(), 10, "{relayed:?}");
    assert!(relayed.values().all(|by| by == &[0]), "relayed to the target: {relayed:?}");
    pair.arrive(0, 2, &session(2));
    within("sg2", || pair.gateways[1].released(id(2)).unwrap());
    for (n, user) in users.iter().enumerate() {
        send(user, n as u32, 20..30);
    }
    let taken = pair.taken();
    assert_eq!(taken.len(), 30);
    for ((spi, _), by) in &taken {
        assert_eq!(by, &[[0, 0, 1][*spi as usize]], "SPI {spi}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn one_multicast_mac_each_packet_taken_once() {
    each_is_taken_by_exactly_one_gateway(MULTICAST);
    // Started again, a gateway owns whom it owned.
    let mut again = open("sg1", shared(MULTICAST));
    let standing = within("sg1", || again.list().unwrap());
    let owned: Vec<_> = standing.iter().filter(|(_, s)| s.owns_client).map(|(s, _)| *s).collect();
    assert_eq!(owned, [id(1), id(2), id(11)]);
    for address in [SHARED4, SHARED6] {
        let table = say("eu", &format!("ip neigh show {address}"));
        assert!(table.contains("03:00:5e:00:00:10"), "{address}: {table}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn one_flooded_mac_each_packet_taken_once() {
    each_is_taken_by_exactly_one_gateway(FLOODED);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn clients_behind_one_nat_are_told_apart_by_their_port() {
    let mut pair = Pair::new(MULTICAST);
    for (octet, port, owner) in [(1, 4001, 0), (2, 4002, 1)] {
        let traffic = Traffic {
            udp_encapsulated: true,
            remote: format!("192.0.2.101:{port}").parse().unwrap(),
            ..session(octet)
        };
        pair.arrive(owner, octet, &traffic);
        pair.elsewhere(1 - owner, octet, &traffic);
        let client = udp("eu", &format!("192.0.2.101:{port}"));
        for number in 0..5 {
            client.send_to(&esp(u32::from(octet), number), format!("{SHARED4}:4500")).unwrap();
        }
    }
    let taken = pair.taken();
    assert_eq!(taken.len(), 10);
    assert!(taken.iter().all(|((spi, _), by)| by == &[*spi as usize - 1]), "{taken:?}");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn frames_are_sent_from_the_own_mac_and_answers_name_the_shared_one() {
    let pair = Pair::new(FLOODED);
    let tap = Tap::open("eu");
    let user = udp("eu", "192.0.2.101:4500");
    let gateway = &pair.udp[0];
    gateway.send_to(b"01234567", "192.0.2.101:4500").unwrap();
    let mut buffer = [0; 20];
    let (_, from) = user.recv_from(&mut buffer).unwrap();
    assert_eq!(from, format!("{SHARED4}:4500").parse().unwrap());
    sh("ip -n eu neigh flush dev out");
    user.send_to(b"01234567", format!("{SHARED4}:4500")).unwrap();
    let six = udp("eu", "[2001:db8:1::101]:4500");
    six.send_to(b"01234567", format!("[{SHARED6}]:4500")).unwrap();
    let arp = |f: &crate::net::Frame| f.0[12..14] == [8, 6] && f.0[28..32] == [192, 0, 2, 10];
    let answers = tap.frames(2, SOON, arp);
    assert!(answers.iter().all(|f| f.0[22..28] == FLOODED.mac()), "{answers:?}");
    assert!(answers.iter().all(|f| f.sender()[..5] == [2, 0, 0, 0, 1]), "never learnt");
    // A neighbour advertisement with a bad checksum would not be believed.
    let learnt = || say("eu", &format!("ip neigh show {SHARED6}")).contains("02:00:5e:00:00:10");
    until("the shared MAC address", learnt);
}
