use super::*;

const PAIRS: [(&str, &str); 2] =
    [("192.0.2.1:4500", "198.51.100.7:4500"), ("[2001:db8::1]:4500", "[2001:db8::7]:1024")];

/// The sum over pseudo header and payload, which is all ones where it is right.
fn is_right(packet: &[u8]) -> bool {
    let (source, destination) = addresses(packet).unwrap();
    let (header, protocol) = if source.is_ipv4() { (20, packet[9]) } else { (40, packet[6]) };
    let payload = &packet[header..];
    let all = [&pseudo(source, destination, protocol, payload.len()).to_be_bytes(), payload];
    checksum(&all.concat()) == 0
}

#[test]
fn a_datagram_is_the_packet_that_it_came_in() {
    for (from, to) in PAIRS {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        for payload in [&b"ESP"[..], b"ESP of an even length."] {
            let packet = datagram(from, to, payload);
            assert_eq!(addresses(&packet), Some((from.ip(), to.ip())));
            assert!(is_right(&packet), "{packet:02x?}");
            assert!(packet.ends_with(payload));
            let header = packet.len() - payload.len() - 8;
            assert_eq!(packet[header..header + 2], from.port().to_be_bytes());
            if from.is_ipv4() {
                assert_eq!(checksum(&packet[..20]), 0);
            }
        }
    }
}

#[test]
fn only_a_checksum_that_was_left_to_the_device_is_completed() {
    let (from, to) = (PAIRS[0].0.parse().unwrap(), PAIRS[0].1.parse().unwrap());
    let whole = datagram(from, to, b"payload");
    let mut again = whole.clone();
    finish(&mut again);
    assert_eq!(again, whole);
    let mut broken = whole.clone();
    broken[30] ^= 1;
    let before = broken.clone();
    finish(&mut broken);
    assert_eq!(broken, before, "a broken packet is not made whole");
    let mut partial = whole.clone();
    let sum = pseudo(from.ip(), to.ip(), UDP, whole.len() - 20);
    partial[26..28].copy_from_slice(&sum.to_be_bytes());
    finish(&mut partial);
    assert_eq!(partial, whole);
}

#[test]
fn what_is_no_packet_is_left_alone() {
    for octets in [&[][..], &[0x45], &[0x45; 19], &[0x60; 39], &[0x4f; 24], &[0xff; 64]] {
        let mut same = octets.to_vec();
        finish(&mut same);
        assert_eq!(same, octets);
    }
}
