use proptest::prelude::*;

use super::*;

const PORTS: (u16, u16) = (500, 4500);

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend_from_slice(payload);
    packet
}

fn udp(port: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0, 1];
    datagram.extend_from_slice(&port.to_be_bytes());
    datagram.extend_from_slice(&[0; 4]);
    datagram.extend_from_slice(data);
    v4(UDP, &datagram)
}

fn kind(packet: &[u8]) -> Kind {
    see(packet, PORTS).unwrap().kind
}

#[test]
fn esp_and_ah_show_their_spi() {
    assert_eq!(kind(&v4(ESP, &[1, 2, 3, 4, 0, 0, 0, 1])), Kind::Protected([1, 2, 3, 4]));
    let ah = [6, 4, 0, 0, 1, 2, 3, 4, 0, 0, 0, 1];
    assert_eq!(kind(&v4(AH, &ah)), Kind::Protected([1, 2, 3, 4]));
}

#[test]
fn udp_carries_esp_or_ike() {
    let ike = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    assert_eq!(kind(&udp(500, &ike)), Kind::Ike([1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(kind(&udp(4500, &ike)), Kind::Protected([1, 2, 3, 4]));
    let marked = [&[0; 4][..], &ike].concat();
    assert_eq!(kind(&udp(4500, &marked)), Kind::Ike([1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(kind(&udp(4500, &[0xff])), Kind::Other, "a NAT keepalive is nobody's");
    assert_eq!(kind(&udp(53, &ike)), Kind::Other);
}

#[test]
fn a_later_fragment_has_no_spi() {
    let mut packet = v4(ESP, &[1, 2, 3, 4]);
    packet[7] = 1;
    assert_eq!(kind(&packet), Kind::Other);
}

#[test]
fn ipv6_extension_headers_are_passed_over() {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, HOP_BY_HOP, 64];
    packet.extend_from_slice(&[0x20; 16]);
    packet.extend_from_slice(&[0x30; 16]);
    packet.extend_from_slice(&[DESTINATION, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(&[ESP, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(&[1, 2, 3, 4]);
    let seen = see(&packet, PORTS).unwrap();
    assert_eq!(seen.kind, Kind::Protected([1, 2, 3, 4]));
    assert_eq!(seen.destination, IpAddr::from([0x30; 16]));
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic(packet in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = see(&packet, PORTS);
    }
}
