use super::*;
use crate::lab::net::user_outer;

const SG1: usize = 11;
const SG2: usize = 12;
const EU: usize = 13;

fn observer(moves: u64) -> Observer {
    let link = |node: &str, index| Link { node: node.into(), network: Network::Outer, index };
    Observer::new(&[link("sg1", SG1), link("sg2", SG2), link("eu1", EU)], moves)
}

fn frame(source: IpAddr, destination: IpAddr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        panic!("the tests' frames are IPv4")
    };
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(content);
    frame
}

fn see(observer: &mut Observer, link: usize, octets: &[u8]) {
    observer.see(Frame { link, at: Duration::ZERO, octets });
}

fn esp(observer: &mut Observer, link: usize, number: u32) {
    let content = [0xc000_0001_u32.to_be_bytes(), number.to_be_bytes()].concat();
    let to = user_outer(1).of(false);
    see(observer, link, &frame(SHARED.of(false), to, 50, &content));
}

fn ike(initiator_spi: u64, exchange: u8, flags: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    let mut udp = [500_u16.to_be_bytes(), 500_u16.to_be_bytes()].concat();
    udp.extend([0; 4]);
    udp.extend(initiator_spi.to_be_bytes());
    udp.extend(7_u64.to_be_bytes());
    udp.extend([46, 0x20, exchange, flags]);
    udp.extend(id.to_be_bytes());
    udp.extend([0, 0, 0, 28]);
    udp.extend(rest);
    udp
}

#[test]
fn a_move_above_all_numbers_is_no_finding() {
    let mut observer = observer(1);
    for (link, number) in [(SG1, 1), (SG1, 2), (SG2, 70_000), (SG2, 70_001)] {
        esp(&mut observer, link, number);
    }
    let seen = observer.seen();
    assert_eq!((seen.owner_violations, seen.seq_reuse, seen.handovers), (0, 0, 1));
    assert_eq!(observer.owners(), [(0xc000_0001, 1)]);
}

#[test]
fn the_source_speaks_after_the_target() {
    let mut observer = observer(1);
    for (link, number) in [(SG1, 1), (SG2, 70_000), (SG1, 2)] {
        esp(&mut observer, link, number);
    }
    assert_eq!(observer.seen().owner_violations, 1);
    assert_eq!(observer.seen().seq_reuse, 0);
}

#[test]
fn the_source_speaks_above_the_target() {
    let mut observer = observer(1);
    for (link, number) in [(SG1, 1), (SG2, 70_000), (SG1, 70_001), (SG2, 70_002)] {
        esp(&mut observer, link, number);
    }
    assert_eq!(observer.seen().owner_violations, 2, "three changes of owner, one move");
}

#[test]
fn a_number_twice() {
    let mut observer = observer(1);
    for (link, number) in [(SG1, 1), (SG1, 2), (SG2, 2)] {
        esp(&mut observer, link, number);
    }
    assert_eq!(observer.seen().seq_reuse, 1);
}

#[test]
fn what_is_passed_on_unopened_is_nobodys_packet() {
    let mut observer = observer(1);
    let content = [1_u32.to_be_bytes(), 5_u32.to_be_bytes()].concat();
    let packet = frame(user_outer(1).of(false), SHARED.of(false), 50, &content);
    see(&mut observer, EU, &packet);
    see(&mut observer, SG1, &packet);
    let seen = observer.seen();
    assert_eq!((seen.esp_to_gateways, seen.esp_to_users, seen.seq_reuse), (1, 0, 0));
}

#[test]
fn an_inner_address_outside() {
    let mut observer = observer(0);
    let (inner, user) = ("192.168.7.10".parse().unwrap(), "10.9.1.1".parse().unwrap());
    see(&mut observer, SG1, &frame(inner, user, 17, &[0; 16]));
    assert_eq!(observer.seen().cleartext_leaks, 1);
    assert!(observer.seen().findings[0].contains("sg1 sent 192.168.7.10 > 10.9.1.1"));
    let outer = (user_outer(1).of(false), SHARED.of(false));
    see(&mut observer, EU, &frame(outer.0, outer.1, 1, &[0; 16]));
    assert_eq!(observer.seen().cleartext_leaks, 1, "a ping between outer addresses");
    see(&mut observer, SG1, &frame(outer.1, outer.0, 4, &[0; 40]));
    assert_eq!(observer.seen().cleartext_leaks, 2, "a tunnel without ESP");
}

#[test]
fn new_ike_sas_count_from_the_mark() {
    let mut observer = observer(0);
    let (user, gateway) = (user_outer(1).of(false), OUTER[0].of(false));
    see(&mut observer, EU, &frame(user, gateway, 17, &ike(1, 34, 8, 0, &[])));
    observer.mark();
    // The same again is a repetition.
    see(&mut observer, EU, &frame(user, gateway, 17, &ike(1, 34, 8, 0, &[])));
    assert_eq!(observer.seen().new_ike_sas, 0);
    see(&mut observer, EU, &frame(user, gateway, 17, &ike(2, 34, 8, 0, &[])));
    assert_eq!(observer.seen().new_ike_sas, 1);
}

#[test]
fn two_messages_with_one_message_id() {
    let mut observer = observer(1);
    let (user, gateway) = (user_outer(1).of(false), SHARED.of(false));
    see(&mut observer, EU, &frame(user, gateway, 17, &ike(1, 34, 8, 0, &[])));
    let answer = frame(gateway, user, 17, &ike(1, 37, 0x20, 5, b"one"));
    see(&mut observer, SG1, &answer);
    see(&mut observer, SG2, &answer);
    assert_eq!(observer.seen().message_id_reuse, 0);
    see(&mut observer, SG2, &frame(gateway, user, 17, &ike(1, 37, 0x20, 5, b"two")));
    assert_eq!(observer.seen().message_id_reuse, 1);
}

#[test]
fn prefixes() {
    let net = Prefix::parse("10.9.0.0/16").unwrap();
    assert!(net.contains("10.9.255.1".parse().unwrap()));
    assert!(!net.contains("10.8.0.1".parse().unwrap()));
    let net = Prefix::parse("fd00:9::/64").unwrap();
    assert!(net.contains("fd00:9::1:1".parse().unwrap()));
    assert!(!net.contains("fd00:1::1".parse().unwrap()));
    assert!(!net.contains("10.9.0.1".parse().unwrap()));
}
