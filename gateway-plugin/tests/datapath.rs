//! What becomes of single packets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{all, name, pair, pause, stage, until};
use gateway_plugin::{
    Discard, EventSink, GatewayEvent, GatewayPlugin,
    embedded::{
        EmbeddedGateway, GatewayConfig, SessionShape,
        esp::{Cipher, HEADER, NEXT_IPV4, TAILROOM},
    },
};
use protocol_spec::{
    KeyMaterial,
    context::{Context, Direction},
    id::{SessionEpoch, SessionId},
    status::Status,
};

const HOST: [u8; 4] = [192, 0, 2, 1];

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn inner_packet(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend(source.into_iter().chain(destination));
    packet.resize(40, 7);
    packet
}

/// One end user by hand.
struct User {
    session: SessionId,
    address: [u8; 4],
    spi: u32,
    cipher: Cipher,
    number: u64,
}

impl User {
    fn new(gateway: &EmbeddedGateway, remote: SocketAddr, change: impl Fn(&mut Context)) -> Self {
        let at = gateway.addresses().unwrap().outer;
        let mut context = SessionShape::default().context(1, 0, at, remote).unwrap();
        change(&mut context);
        let child = &context.children[0];
        let IpAddr::V4(address) = child.policies[0].destination.prefix.address else { panic!() };
        let (spi, cipher) =
            (child.inbound.spi, Cipher::new(&child.inbound.keys.encryption, 3).unwrap());
        let session = gateway.provision(vec![context]).remove(0).unwrap();
        Self { session, address: address.octets(), spi, cipher, number: 0 }
    }

    fn sealed(&mut self, source: [u8; 4]) -> Vec<u8> {
        let mut datagram = vec![0; HEADER];
        datagram.extend(inner_packet(source, HOST));
        datagram.resize(HEADER + 40 + TAILROOM, 0);
        self.number += 1;
        let total =
            self.cipher.seal(self.spi, self.number, false, NEXT_IPV4, &mut datagram, 40).unwrap();
        datagram.truncate(total);
        datagram
    }

    fn packet(&mut self) -> Vec<u8> {
        self.sealed(self.address)
    }
}

fn relayed(kind: u8, hops: u8, source: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let IpAddr::V4(ip) = source.ip() else { panic!() };
    let mut datagram = vec![b'R', kind, hops, 4];
    datagram.extend(ip.to_ipv6_mapped().octets());
    datagram.extend(source.port().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(packet);
    datagram
}

#[test]
fn the_newest_authenticated_packet_says_where_the_end_user_is() {
    let gateway = EmbeddedGateway::start(GatewayConfig::default()).unwrap();
    let (old, new, neighbour) = (udp(), udp(), udp());
    gateway.set_neighbour(name("gw-x"), neighbour.local_addr().unwrap());
    let mut user = User::new(&gateway, old.local_addr().unwrap(), |_| {});
    let (sink, events) = EventSink::bounded(16);
    gateway.clone().subscribe(sink).unwrap();
    let at = gateway.addresses().unwrap();
    let (first, second, third) = (user.packet(), user.packet(), user.packet());
    let opened = |n| until("opening", || gateway.counters().opened == n);

    new.send_to(&second, at.outer).unwrap();
    opened(1);
    let event = events.next(Duration::from_secs(5));
    assert!(matches!(event, Some(GatewayEvent::Changed { .. })), "{event:?}");
    // An older one from elsewhere says nothing, and a forged one even less.
    old.send_to(&first, at.outer).unwrap();
    opened(2);
    let mut forged = third.clone();
    *forged.last_mut().unwrap() ^= 1;
    old.send_to(&forged, at.outer).unwrap();
    until("the forgery", || gateway.counters().dropped_forged == 1);
    let to_user = inner_packet(HOST, user.address);
    let mut buffer = [0; 2048];
    udp().send_to(&to_user, at.inner).unwrap();
    assert_eq!(new.recv_from(&mut buffer).unwrap().1, at.outer);

    // Through a neighbour: where it came from first counts, not the neighbour.
    let source = old.local_addr().unwrap();
    neighbour.send_to(&relayed(1, 1, source, &third), at.relay).unwrap();
    opened(3);
    udp().send_to(&to_user, at.inner).unwrap();
    assert_eq!(old.recv_from(&mut buffer).unwrap().1, at.outer);
    assert_eq!(gateway.counters().roamed, 2);
}

#[test]
fn other_datagrams_in_the_port_are_told_apart() {
    let gateway = EmbeddedGateway::start(GatewayConfig::default()).unwrap();
    let (sink, events) = EventSink::bounded(1000);
    gateway.clone().subscribe(sink).unwrap();
    let (user, at) = (udp(), gateway.addresses().unwrap());
    user.send_to(&[0xff], at.outer).unwrap();
    user.send_to(&[0, 0, 0, 0, 1, 2, 3], at.outer).unwrap();
    user.send_to(&[1, 2, 3], at.outer).unwrap();
    user.send_to(&[], at.outer).unwrap();
    for _ in 0..300 {
        user.send_to(&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 1], at.outer).unwrap();
    }
    until("all datagrams", || gateway.counters().unknown_spi == 300);
    let counters = gateway.counters();
    assert_eq!((counters.keepalives, counters.ignored_ike, counters.dropped_malformed), (1, 1, 2));
    let from = user.local_addr().unwrap();
    let mut told = 0;
    while let Some(event) = events.next(Duration::from_millis(100)) {
        assert_eq!(event, GatewayEvent::UnknownSpi { spi: 0x1234_5678, from });
        told += 1;
    }
    assert!((1..=60).contains(&told), "told {told} times");
}

// proves CXTP-6.3-2
#[test]
fn what_is_held_is_bounded() {
    let (mut a, mut b) = pair(|config| config.held_in_all = 700);
    let remote = udp().local_addr().unwrap();
    let users = [User::new(&a, remote, |_| {}), {
        let at = a.addresses().unwrap().outer;
        let context = SessionShape::default().context(1, 1, at, remote).unwrap();
        let cipher = Cipher::new(&context.children[0].inbound.keys.encryption, 1).unwrap();
        let (spi, address) = (context.children[0].inbound.spi, [10, 0, 0, 2]);
        let session = a.provision(vec![context]).remove(0).unwrap();
        User { session, address, spi, cipher, number: 0 }
    }];
    let ids = users.each_ref().map(|user| user.session);
    stage(&mut a, &mut b, "gw-a", &ids, 1);
    let (host, at) = (udp(), b.addresses().unwrap().inner);
    for _ in 0..600 {
        host.send_to(&inner_packet(HOST, users[0].address), at).unwrap();
    }
    until("the first queue", || b.counters().held + b.counters().dropped_held == 600);
    assert_eq!(b.counters().dropped_held, 600 - 512);
    for _ in 0..300 {
        host.send_to(&inner_packet(HOST, users[1].address), at).unwrap();
    }
    until("the second queue", || b.counters().held + b.counters().dropped_held == 900);
    assert_eq!(b.counters().held, 700);
    assert_eq!((b.counters().sealed, b.counters().opened), (0, 0), "nothing passes while staged");
    let epoch = SessionEpoch(1);
    all(b.discard(ids.iter().map(|id| Discard { session: *id, epoch }).collect()).unwrap());
    until("their return", || a.counters().sealed == 700);
}

#[test]
fn packets_do_not_run_in_circles_and_strangers_relay_nothing() {
    let gateway = EmbeddedGateway::start(GatewayConfig::default()).unwrap();
    let (neighbour, stranger) = (udp(), udp());
    gateway.set_neighbour(name("gw-x"), neighbour.local_addr().unwrap());
    let mut user = User::new(&gateway, neighbour.local_addr().unwrap(), |_| {});
    let at = gateway.addresses().unwrap();
    let source = stranger.local_addr().unwrap();
    let packet = user.packet();
    stranger.send_to(&relayed(1, 1, source, &packet), at.relay).unwrap();
    until("the stranger", || gateway.counters().dropped_strangers == 1);
    // Nobody's packet goes back to the neighbour that sent it, at most 8 times.
    let nobody = inner_packet(HOST, [10, 9, 9, 9]);
    let mut buffer = [0; 2048];
    neighbour.send_to(&relayed(2, 7, source, &nobody), at.relay).unwrap();
    let length = neighbour.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], relayed(2, 8, source, &nobody));
    neighbour.send_to(&relayed(2, 8, source, &nobody), at.relay).unwrap();
    until("the end of the circle", || gateway.counters().dropped_hops == 1);
    for length in 0..30 {
        neighbour.send_to(&vec![b'R'; length], at.relay).unwrap();
    }
    until("the nonsense", || gateway.counters().dropped_malformed == 30);
    assert_eq!(gateway.counters().opened, 0);
}

#[test]
fn policies_and_lifetimes_are_kept() {
    let gateway = EmbeddedGateway::start(GatewayConfig::default()).unwrap();
    let (socket, host) = (udp(), udp());
    gateway.set_inner_host(host.local_addr().unwrap());
    let mut user = User::new(&gateway, socket.local_addr().unwrap(), |context| {
        context.children[0].lifetime.hard.packets = Some(3);
    });
    let at = gateway.addresses().unwrap();
    let spoofed = user.sealed([10, 0, 0, 99]);
    socket.send_to(&spoofed, at.outer).unwrap();
    until("the spoofed packet", || gateway.counters().dropped_policy == 1);
    for _ in 0..4 {
        socket.send_to(&user.packet(), at.outer).unwrap();
    }
    until("the end of the SA", || gateway.counters().dropped_expired == 2);
    assert_eq!(gateway.counters().opened, 2);
    // The policy's own way out is checked as well.
    udp().send_to(&inner_packet(HOST, [10, 0, 0, 77]), at.inner).unwrap();
    until("the unknown address", || gateway.counters().unknown_inner == 1);
}

#[test]
fn sessions_run_over_ipv6_and_over_both() {
    use gateway_plugin::embedded::{FleetConfig, UserFleet};
    for outer in ["[::1]:0", "[::]:0"] {
        let config = GatewayConfig { outer: outer.parse().unwrap(), ..GatewayConfig::default() };
        let mut gateway = EmbeddedGateway::start(config).unwrap();
        let mut fleets = vec![];
        for (first, bind) in [(1, "::1"), (1000, "127.0.0.1")] {
            if outer == "[::1]:0" && bind == "127.0.0.1" {
                continue;
            }
            let config = FleetConfig {
                sessions: 5,
                rate: 100,
                first,
                bind: Some(bind.parse().unwrap()),
                shape: SessionShape { inner_v6: bind == "::1", ..SessionShape::default() },
                ..FleetConfig::default()
            };
            if bind == "127.0.0.1" {
                let port = gateway.addresses().unwrap().outer.port();
                let mut facade = V4Facade(gateway.clone(), port);
                fleets.push(UserFleet::start(config, &mut facade, &mut []).unwrap());
            } else {
                fleets.push(UserFleet::start(config, &mut gateway, &mut []).unwrap());
            }
            let fleet = fleets.last().unwrap();
            until("traffic", || {
                fleet.counters().0.received > 50 && fleet.counters().1.received > 50
            });
            let report = fleets.pop().unwrap().stop();
            assert_eq!((report.up.lost, report.down.lost, report.strays), (0, 0, 0), "{bind}");
        }
    }
}

/// The same gateway under its IPv4 address.
struct V4Facade(EmbeddedGateway, u16);

impl gateway_plugin::embedded::GatewayAdmin for V4Facade {
    fn addresses(&mut self) -> Result<gateway_plugin::embedded::Addresses, gateway_plugin::Fault> {
        let mut at = self.0.addresses().unwrap();
        at.outer = SocketAddr::from(([127, 0, 0, 1], self.1));
        Ok(at)
    }
    fn provision(
        &mut self,
        contexts: Vec<Context>,
    ) -> Result<Vec<Result<SessionId, protocol_spec::status::Refusal>>, gateway_plugin::Fault> {
        Ok(self.0.provision(contexts))
    }
    fn add_child(
        &mut self,
        _: SessionId,
        _: protocol_spec::context::ChildSa,
    ) -> Result<
        Result<protocol_spec::id::Generation, protocol_spec::status::Refusal>,
        gateway_plugin::Fault,
    > {
        unreachable!()
    }
    fn remove_child(
        &mut self,
        _: SessionId,
        _: u32,
    ) -> Result<
        Result<protocol_spec::id::Generation, protocol_spec::status::Refusal>,
        gateway_plugin::Fault,
    > {
        unreachable!()
    }
    fn remove(
        &mut self,
        _: SessionId,
    ) -> Result<Result<(), protocol_spec::status::Refusal>, gateway_plugin::Fault> {
        unreachable!()
    }
    fn counters(&mut self) -> Result<gateway_plugin::embedded::Counters, gateway_plugin::Fault> {
        Ok(self.0.counters())
    }
    fn set_neighbour(
        &mut self,
        _: protocol_spec::id::Name,
        _: SocketAddr,
    ) -> Result<(), gateway_plugin::Fault> {
        unreachable!()
    }
    fn set_inner_host(&mut self, address: SocketAddr) -> Result<(), gateway_plugin::Fault> {
        self.0.set_inner_host(address);
        Ok(())
    }
}

#[test]
fn admission_knows_configurations_room_and_own_addresses() {
    let own = protocol_spec::context::Prefix { address: [10, 0, 0, 0].into(), bits: 30 };
    let (a, _) = pair(|_| {});
    let mut b = EmbeddedGateway::start(GatewayConfig {
        configurations: Some(["embedded".to_owned()].into()),
        hands_out: vec![own],
        max_sessions: 2,
        ..GatewayConfig::default()
    })
    .unwrap();
    b.set_neighbour(name("gw-a"), a.addresses().unwrap().relay);
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let mut answer = |first, change: &dyn Fn(&mut Context)| {
        let mut context = SessionShape::default().context(first, 0, nowhere, nowhere).unwrap();
        change(&mut context);
        b.admit(&[context.profile()]).unwrap().remove(0).1.map_err(|refusal| refusal.status)
    };
    assert_eq!(answer(10, &|_| {}), Ok(()));
    assert_eq!(answer(1, &|_| {}), Err(Status::AddressCollision), "its own range");
    let other = |context: &mut Context| {
        context.ike.as_mut().unwrap().configuration = "other".to_owned();
    };
    assert_eq!(answer(10, &other), Err(Status::NoConfiguration));
    let window = |context: &mut Context| context.children[0].inbound.window.size = 5000;
    assert_eq!(answer(10, &window), Err(Status::NoFeature));
    let mark = |context: &mut Context| context.children[0].if_id = Some(1);
    assert_eq!(answer(10, &mark), Err(Status::NoFeature));
    for i in 0..2 {
        let mut context = SessionShape::default().context(100, i, nowhere, nowhere).unwrap();
        context.children[0].policies.retain(|policy| policy.direction == Direction::Out);
        b.provision(vec![context]).remove(0).unwrap();
    }
    let profile = SessionShape::default().context(10, 0, nowhere, nowhere).unwrap().profile();
    let refused = b.admit(&[profile]).unwrap().remove(0).1.unwrap_err();
    assert_eq!(refused.status, Status::NoRoom);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(octets);
        Ok(octets.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_key_is_ever_written_out() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .init();
    let marked = || KeyMaterial::new([&[0xc5; 16][..], &[0x3a; 4]].concat());
    let (mut a, mut b) = pair(|_| {});
    let user = User::new(&a, "127.0.0.1:9".parse().unwrap(), |context| {
        context.children[0].inbound.keys.encryption = marked();
        context.children[0].outbound.keys.encryption = marked();
    });
    let ids = [user.session];
    let mut shown = format!("{:?}", a.snapshot(&ids).unwrap());
    stage(&mut a, &mut b, "gw-a", &ids, 1);
    let finals = pause(&mut a, "gw-b", &ids);
    shown += &format!("{finals:?} {:?} {:?}", user.cipher, a.list().unwrap());
    common::activate(&mut b, finals, 1);
    common::release(&mut a, "gw-b", &ids, 1);
    // A context with a bad key is refused without showing it.
    let mut context =
        SessionShape::default().context(9, 0, user_address(), user_address()).unwrap();
    context.children[0].inbound.keys.encryption = KeyMaterial::new(vec![0xc5; 23]);
    shown += &format!("{:?}", b.provision(vec![context]));
    tracing::info!("the log is read");
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("the log is read"));
    shown += &logged;
    for trace in ["c5c5", "C5C5", "197, 197", "197,197", "\\xc5\\xc5"] {
        assert!(!shown.contains(trace), "a key shows as {trace}");
    }
    assert!(shown.contains("redacted"));
}

fn user_address() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}
