use proptest::prelude::*;
use protocol_spec::samples::hex;

use super::*;

/// An IP packet with these addresses around a UDP datagram.
pub(in crate::ike) fn ip_packet(
    source: SocketAddr,
    destination: SocketAddr,
    udp: &[u8],
) -> Vec<u8> {
    let mut packet = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = u16::try_from(20 + udp.len()).unwrap().to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, UDP, 0, 0];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = u16::try_from(udp.len()).unwrap().to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, UDP, 64];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            header
        }
        _ => panic!("one family"),
    };
    packet.extend_from_slice(udp);
    packet
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_datagram_is_written_with_marker_and_checksum() {
    // The checksums were worked out apart, by another program.
    for (source, destination, octets) in [
        ("192.0.2.1:500", "198.51.100.7:500", "01f4 01f4 000b 0bb2 010203"),
        ("192.0.2.1:4500", "198.51.100.7:40000", "1194 9c40 000f 61bd 00000000 010203"),
        ("[2001:db8::1]:4500", "[2001:db8::7]:4500", "1194 1194 000f 7d2c 00000000 010203"),
    ] {
        let (source, destination) = (address(source), address(destination));
        let udp = datagram(source, destination, &[1, 2, 3]).unwrap();
        assert_eq!(udp, hex(octets));
        let packet = ip_packet(source, destination, &udp);
        let found = find(&packet).unwrap();
        assert_eq!(found, Found { source, destination, message: &[1, 2, 3] });
    }
}

#[test]
fn two_families_and_too_long_messages_make_no_datagram() {
    let (four, six) = (address("192.0.2.1:500"), address("[2001:db8::1]:500"));
    assert_eq!(datagram(four, six, &[]), None);
    assert_eq!(datagram(four, four, &vec![0; 65_528]), None);
    assert!(datagram(four, four, &vec![0; 65_527]).is_some());
}

#[test]
fn esp_other_ports_fragments_and_link_padding() {
    let (source, destination) = (address("192.0.2.1:4500"), address("198.51.100.7:4500"));
    let udp = datagram(source, destination, &[1; 28]).unwrap();
    let whole = ip_packet(source, destination, &udp);
    let mut padded = whole.clone();
    padded.extend_from_slice(&[0; 6]);
    assert_eq!(find(&padded), find(&whole));
    assert!(find(&whole).is_some());
    let (mut esp, mut fragment, mut port) = (whole.clone(), whole.clone(), whole.clone());
    esp[31] = 1;
    fragment[7] = 1;
    port[21] += 1;
    port[23] += 1;
    for packet in [&esp, &fragment, &port, &whole[..whole.len() - 1]] {
        assert_eq!(find(packet), None);
    }
}

proptest! {
    #[test]
    fn no_packet_panics(
        version in prop_oneof![Just(0x45_u8), Just(0x40), Just(0x4f), Just(0x60), any::<u8>()],
        mut packet in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        if let Some(first) = packet.first_mut() {
            *first = version;
        }
        let _ = find(&packet);
    }
}
