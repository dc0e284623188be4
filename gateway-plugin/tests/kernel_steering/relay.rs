//! What goes on to another gateway, what must not leave, and addresses that move.

use std::net::SocketAddr;

use gateway_plugin::steering::{Bypass, Config, InnerReach, Mode, Steering, Traffic};
use protocol_spec::{context::Prefix, id::SessionId};
use socket2::Domain;

use crate::net::{
    Frame, NEVER, SHARED4, SHARED6, SOON, Tap, build, esp, id, ike, neighbour, numbers, open,
    own_shared, prefix, raw, say, send_numbers, session, session6, sh, tunnel, udp, until, within,
};

const TARGET: [u8; 6] = [2, 0, 0, 0, 1, 2];
const SOURCE: [u8; 6] = [2, 0, 0, 0, 1, 1];

fn mono_lan(config: &mut Config) {
    config.shared = vec![SHARED4.parse().unwrap(), SHARED6.parse().unwrap()];
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn outer_packets_reach_the_targets_mac_unopened() {
    build();
    own_shared("sg1");
    let mut source = open("sg1", mono_lan);
    within("sg1", || {
        source.divert(id(1), &session(1), &neighbour(2)).unwrap();
        source.divert(id(2), &session6(2), &neighbour(2)).unwrap();
    });
    // The target has the address without telling the network.
    sh(&format!(
        "ip netns exec sg2 sysctl -qw net.ipv4.conf.all.arp_ignore=1 \
         net.ipv4.conf.all.arp_announce=2; \
         ip -n sg2 addr add {SHARED4}/32 dev lo; ip -n sg2 addr add {SHARED6}/128 dev lo"
    ));
    let target = Tap::open("sg2");
    let here = raw("sg1", 50, Domain::IPV4);
    here.set_read_timeout(Some(NEVER)).unwrap();
    let spi = session(1).ike.unwrap().0;
    let to: SocketAddr = format!("{SHARED4}:0").parse().unwrap();
    raw("eu", 50, Domain::IPV4).send_to(&esp(0x1001, 1), &to.into()).unwrap();
    let user = udp("eu", "192.0.2.101:4500");
    user.send_to(&esp(0x1001, 2), format!("{SHARED4}:4500")).unwrap();
    user.send_to(&ike(spi, true), format!("{SHARED4}:4500")).unwrap();
    user.send_to(&ike(spi, false), format!("{SHARED4}:500")).unwrap();
    let to: SocketAddr = format!("[{SHARED6}]:0").parse().unwrap();
    raw("eu2", 50, Domain::IPV6).send_to(&esp(0x1002, 3), &to.into()).unwrap();
    udp("eu2", "[2001:db8:1::102]:4500")
        .send_to(&esp(0x1002, 4), format!("[{SHARED6}]:4500"))
        .unwrap();

    let relayed = target.frames(6, SOON, |f| {
        f.to_mac(TARGET)
            && (f.has(SHARED4) || f.has(SHARED6))
            && matches!(f.protocol(), Some(17 | 50))
    });
    let carried: Vec<_> = relayed
        .iter()
        .map(|f| if f.protocol() == Some(17) { &f.payload()[8..] } else { f.payload() })
        .collect();
    assert_eq!(
        carried,
        [
            esp(0x1001, 1),
            esp(0x1001, 2),
            ike(spi, true),
            ike(spi, false),
            esp(0x1002, 3),
            esp(0x1002, 4)
        ]
    );
    assert!(relayed.iter().all(|f| f.sender() == SOURCE), "switches learn no wrong port");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 200];
    assert!(here.recv(&mut buffer).is_err(), "the source does not take them");

    let to: SocketAddr = format!("{SHARED4}:0").parse().unwrap();
    raw("eu", 50, Domain::IPV4).send_to(&esp(0x1009, 9), &to.into()).unwrap();
    here.set_read_timeout(Some(SOON)).unwrap();
    assert!(here.recv(&mut buffer).is_ok(), "another session's packets stay");

    within("sg1", || source.restore(id(1)).unwrap());
    raw("eu", 50, Domain::IPV4).send_to(&esp(0x1001, 5), &to.into()).unwrap();
    assert!(here.recv(&mut buffer).is_ok(), "restored");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn outer_packets_reach_the_targets_own_address() {
    build();
    let mut source = open("sg1", |_| {});
    let own = |traffic: Traffic, local: &str| Traffic { local: local.parse().unwrap(), ..traffic };
    let six = neighbour_with_six();
    within("sg1", || {
        source.divert(id(1), &own(session(1), "192.0.2.1:4500"), &neighbour(2)).unwrap();
        source.divert(id(2), &own(session6(2), "[2001:db8:1::1]:4500"), &six).unwrap();
    });
    let spi = session(1).ike.unwrap().0;
    let four = udp("sg2", "192.0.2.2:4500");
    let port = udp("sg2", "192.0.2.2:500");
    let plain = raw("sg2", 50, Domain::IPV4);
    plain.set_read_timeout(Some(SOON)).unwrap();
    let user = udp("eu", "192.0.2.101:4500");
    let mut buffer = [0; 200];
    // These sockets take only what has a good checksum.
    for (message, to) in [(esp(0x1001, 1), 4500), (ike(spi, true), 4500)] {
        user.send_to(&message, ("192.0.2.1", to)).unwrap();
        let (length, from) = four.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], message);
        assert_eq!(from, "192.0.2.101:4500".parse().unwrap());
    }
    user.send_to(&ike(spi, false), "192.0.2.1:500").unwrap();
    let length = port.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], ike(spi, false));
    let to: SocketAddr = "192.0.2.1:0".parse().unwrap();
    raw("eu", 50, Domain::IPV4).send_to(&esp(0x1001, 2), &to.into()).unwrap();
    let mut raw_buffer = [std::mem::MaybeUninit::uninit(); 200];
    assert_eq!(plain.recv(&mut raw_buffer).unwrap(), 20 + esp(0x1001, 2).len());

    let target6 = udp("sg2", "[2001:db8:1::2]:4500");
    let user6 = udp("eu2", "[2001:db8:1::102]:4500");
    user6.send_to(&esp(0x1002, 3), "[2001:db8:1::1]:4500").unwrap();
    let length = target6.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], esp(0x1002, 3));
}

fn neighbour_with_six() -> gateway_plugin::steering::Neighbour {
    let outer = "2001:db8:1::2".parse().unwrap();
    gateway_plugin::steering::Neighbour { outer, ..neighbour(2) }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn blocked_packets_do_not_leave_and_restored_ones_do() {
    build();
    own_shared("sg1");
    let mut source = open("sg1", mono_lan);
    within("sg1", || {
        source.known(id(1), &session(1)).unwrap();
        source.block(id(1)).unwrap();
        source.known(id(2), &session6(2)).unwrap();
        source.block(id(2)).unwrap();
    });
    let outside = Tap::open("sw");
    let spi = session(1).ike.unwrap().0;
    let send_all = |number: u32| {
        let to: SocketAddr = "192.0.2.101:0".parse().unwrap();
        let here = raw("sg1", 50, Domain::IPV4);
        // Dropped at egress: the sender may be told so.
        let _ = here.send_to(&esp(0x2001, number), &to.into());
        let to: SocketAddr = "[2001:db8:1::102]:0".parse().unwrap();
        let _ = raw("sg1", 50, Domain::IPV6).send_to(&esp(0x2002, number), &to.into());
        let port = udp("sg1", &format!("{SHARED4}:4500"));
        let _ = port.send_to(&esp(0x2001, number), "192.0.2.101:4500");
        let _ = port.send_to(&ike(spi, true), "192.0.2.101:4500");
        let _ = udp("sg1", &format!("{SHARED4}:500")).send_to(&ike(spi, false), "192.0.2.101:500");
        let _ = udp("sg1", &format!("[{SHARED6}]:4500"))
            .send_to(&ike(spi + 1, true), "[2001:db8:1::102]:4500");
        // The last one, of another session, passes.
        let to: SocketAddr = "192.0.2.102:0".parse().unwrap();
        here.send_to(&esp(0x2001, number), &to.into()).unwrap();
    };
    let ours = |f: &Frame| f.sender() == SOURCE && matches!(f.protocol(), Some(17 | 50));
    send_all(1);
    let left = outside.frames(99, NEVER, |f| ours(f) && f.is_ip());
    assert!(!left.is_empty());
    assert!(left.iter().all(|f| f.has("192.0.2.102")), "{left:?}");

    within("sg1", || {
        source.restore(id(1)).unwrap();
        source.restore(id(2)).unwrap();
    });
    let user = Tap::open("eu");
    let user2 = Tap::open("eu2");
    send_all(2);
    assert_eq!(user.frames(4, SOON, |f| ours(f) && f.has("192.0.2.101")).len(), 4);
    assert_eq!(user2.frames(2, SOON, |f| ours(f) && f.has("2001:db8:1::102")).len(), 2);
}

/// Bypass policies by the `ip` program, of the namespace in which it is called.
struct Policies;

impl Bypass for Policies {
    fn allow(&mut self, _: SessionId, inner: &[Prefix], _: u32) -> Result<(), String> {
        for prefix in inner {
            let destination = format!("{}/{}", prefix.address, prefix.bits);
            sh_here(&format!(
                "ip xfrm policy update dst {destination} dev in dir out priority 1 action allow"
            ))?;
        }
        Ok(())
    }

    fn revoke(&mut self, _: SessionId, inner: &[Prefix], _: u32) -> Result<(), String> {
        for prefix in inner {
            let destination = format!("{}/{}", prefix.address, prefix.bits);
            sh_here(&format!("ip xfrm policy delete dst {destination} dev in dir out"))?;
        }
        Ok(())
    }
}

fn sh_here(script: &str) -> Result<(), String> {
    let status = std::process::Command::new("bash").args(["-c", script]).status();
    status.map_err(|e| e.to_string())?.success().then_some(()).ok_or(script.to_owned())
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_diversion_switches_between_encrypting_and_passing_in_clear() {
    build();
    own_shared("sg1");
    tunnel("sg1", 1);
    let mut source = within("sg1", || {
        let mut config = Config::new("sg1".parse().unwrap(), "out", "in");
        mono_lan(&mut config);
        Steering::open(config, Box::new(Policies)).unwrap()
    });
    within("sg1", || source.known(id(1), &session(1)).unwrap());
    let server = udp("srv", "10.9.0.9:7000");
    let user = udp("eu", "10.8.0.1:7000");
    send_numbers(&server, "10.8.0.1:7000", 0..5);
    assert_eq!(numbers(&user, NEVER), [0, 1, 2, 3, 4]);

    within("sg1", || source.divert(id(1), &session(1), &neighbour(2)).unwrap());
    assert!(within("sg1", || source.list().unwrap())[0].1.diverts);
    let target = Tap::open("sg2");
    send_numbers(&server, "10.8.0.1:7000", 5..10);
    let inside = [2, 0, 0, 0, 2, 2];
    let diverted = target.frames(5, SOON, |f| f.has("10.8.0.1") && f.to_mac(inside));
    assert_eq!(diverted.len(), 5, "in clear, to the target, inside");
    assert!(numbers(&user, NEVER).is_empty(), "and not by the tunnel");
    let redirects = say("srv", "ip route get 10.8.0.1");
    assert!(redirects.contains("via 10.9.0.1"), "the server learnt no other way: {redirects}");

    within("sg1", || source.restore(id(1)).unwrap());
    send_numbers(&server, "10.8.0.1:7000", 10..15);
    assert_eq!(numbers(&user, NEVER), [10, 11, 12, 13, 14]);

    // It leaves for good: what is routed here goes on to the new owner.
    within("sg1", || {
        source.divert(id(1), &session(1), &neighbour(2)).unwrap();
        source.block(id(1)).unwrap();
        source.released(id(1)).unwrap();
        source.drained(id(1)).unwrap();
    });
    let standing = within("sg1", || source.list().unwrap())[0].1.clone();
    assert!(standing.diverts && !standing.relays && !standing.blocks, "{standing:?}");
    send_numbers(&server, "10.8.0.1:7000", 15..20);
    assert_eq!(target.frames(5, SOON, |f| f.has("10.8.0.1") && f.to_mac(inside)).len(), 5);

    // And comes back.
    within("sg1", || source.hold(id(1), &session(1)).unwrap());
    send_numbers(&server, "10.8.0.1:7000", 20..25);
    until("held packets", || source.held(id(1)).packets == 5);
    within("sg1", || {
        source.arrived(id(1)).unwrap();
        source.let_go_data(id(1)).unwrap();
    });
    assert_eq!(numbers(&user, NEVER), [20, 21, 22, 23, 24], "by the tunnel");
    within("sg1", || source.forget(id(1)).unwrap());
    assert_eq!(within("sg1", || source.list().unwrap()), []);
    assert!(!say("sg1", "ip xfrm policy").contains("dev in"), "the bypass is gone");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_target_that_is_not_there_is_said_and_nothing_changes() {
    build();
    own_shared("sg1");
    let mut source = open("sg1", mono_lan);
    let mut nobody = neighbour(2);
    nobody.outer = "192.0.2.77".parse().unwrap();
    let error = within("sg1", || source.divert(id(1), &session(1), &nobody).unwrap_err());
    assert!(error.to_string().contains("192.0.2.77"), "{error}");
    let mut nowhere = neighbour(2);
    nowhere.outer = "203.0.113.1".parse().unwrap();
    let error = within("sg1", || source.divert(id(1), &session(1), &nowhere).unwrap_err());
    assert!(error.to_string().contains("no route"), "{error}");
    let standing = within("sg1", || source.list().unwrap());
    assert!(standing.iter().all(|(_, s)| !s.relays && !s.diverts), "{standing:?}");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_whole_address_moves_and_the_network_hears_of_it() {
    build();
    let address_mode = |config: &mut Config| {
        mono_lan(config);
        config.mode = Mode::Address;
    };
    let mut first = open("sg1", address_mode);
    let mut second = open("sg2", address_mode);
    let user = udp("eu", "0.0.0.0:0");
    let user6 = udp("eu", "[::]:0");
    for (gateway, other, mac) in
        [("sg1", "sg2", "02:00:00:00:01:01"), ("sg2", "sg1", "02:00:00:00:01:02")]
    {
        let (takes, gives) =
            if gateway == "sg1" { (&mut first, &mut second) } else { (&mut second, &mut first) };
        for address in [SHARED4, SHARED6] {
            let address = address.parse().unwrap();
            within(other, || gives.give_up(address).unwrap());
            within(gateway, || takes.take(address).unwrap());
        }
        let four = udp(gateway, &format!("{SHARED4}:4500"));
        let six = udp(gateway, &format!("[{SHARED6}]:4500"));
        user.send_to(b"hello", format!("{SHARED4}:4500")).unwrap();
        user6.send_to(b"hello", format!("[{SHARED6}]:4500")).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(four.recv(&mut buffer).unwrap(), 5);
        assert_eq!(six.recv(&mut buffer).unwrap(), 5);
        for address in [SHARED4, SHARED6] {
            let table = say("eu", &format!("ip neigh show {address}"));
            assert!(table.contains(mac), "{gateway}: {table}");
        }
    }
    let error = within("sg1", || first.take("192.0.2.77".parse().unwrap()).unwrap_err());
    assert!(error.to_string().contains("not among the shared addresses"));
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn inner_addresses_are_answered_for_by_the_owner() {
    build();
    // The end user's inner address is on the inner network's own prefix.
    sh("ip -n srv route del 10.8.0.0/24; ip -n srv addr add 10.8.0.9/24 dev in");
    let proxy = |config: &mut Config| config.inner_reach = InnerReach::Proxy;
    let mut first = open("sg1", proxy);
    let mut second = open("sg2", proxy);
    let server = udp("srv", "10.8.0.9:7000");
    let traffic = Traffic { inner: vec![prefix("10.8.0.1/32")], ..session(1) };
    for (gateway, mac) in [("sg1", "02:00:00:00:02:01"), ("sg2", "02:00:00:00:02:02")] {
        let owner = if gateway == "sg1" { &mut first } else { &mut second };
        let taps = Tap::open(gateway);
        within(gateway, || {
            owner.known(id(1), &traffic).unwrap();
            owner.arrived(id(1)).unwrap();
        });
        send_numbers(&server, "10.8.0.1:7000", 0..1);
        let came = taps.frames(1, SOON, |f| f.has("10.8.0.1") && f.protocol() == Some(17));
        assert_eq!(came.len(), 1, "{gateway}");
        let table = say("srv", "ip neigh show 10.8.0.1");
        assert!(table.contains(mac), "{gateway}: {table}");
        within(gateway, || owner.released(id(1)).unwrap());
    }
}
