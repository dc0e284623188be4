use std::net::SocketAddr;

use super::*;
use crate::ike::packet::{self, tests::ip_packet};

/// The kernel's machine, as far as the program uses it.
fn run(packet: &[u8]) -> u32 {
    let load = |at: usize, octets: usize| -> Option<u32> {
        let octets = packet.get(at..at + octets)?;
        Some(octets.iter().fold(0, |value, octet| value << 8 | u32::from(*octet)))
    };
    let (mut a, mut x, mut at) = (0, 0, 0);
    loop {
        let (code, yes, no, k) = PROGRAM[at];
        let place = k as usize;
        at += 1;
        let loaded = match code {
            LOAD_OCTET => load(place, 1),
            LOAD_HALF => load(place, 2),
            LOAD_WORD => load(place, 4),
            LOAD_HALF_AT_X => load(place + x, 2),
            LOAD_WORD_AT_X => load(place + x, 4),
            LOAD_HEADER_LENGTH => {
                let Some(octet) = load(place, 1) else { return 0 };
                x = 4 * (octet as usize & 0xf);
                continue;
            }
            AND => Some(a & k),
            EQUAL | ANY_BIT => {
                let met = if code == EQUAL { a == k } else { a & k != 0 };
                at += usize::from(if met { yes } else { no });
                continue;
            }
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        };
        // Beyond the packet's end the kernel takes nothing.
        let Some(value) = loaded else { return 0 };
        a = value;
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn ike_on_both_ports_passes_in_either_direction_and_family() {
    for (source, destination) in [
        ("192.0.2.1:500", "198.51.100.7:500"),
        ("192.0.2.1:4500", "198.51.100.7:40000"),
        ("198.51.100.7:40000", "192.0.2.1:4500"),
        ("198.51.100.7:40000", "192.0.2.1:500"),
        ("[2001:db8::1]:4500", "[2001:db8::7]:4500"),
        ("[2001:db8::1]:500", "[2001:db8::7]:1234"),
        ("[2001:db8::1]:1234", "[2001:db8::7]:4500"),
        ("[2001:db8::1]:1234", "[2001:db8::7]:500"),
    ] {
        let (source, destination) = (address(source), address(destination));
        let udp = packet::datagram(source, destination, &[1; 28]).unwrap();
        assert!(run(&ip_packet(source, destination, &udp)) > 65_535, "{source} {destination}");
    }
}

#[test]
fn everything_else_is_kept_out() {
    for (source, destination) in [
        ("192.0.2.1:4500", "198.51.100.7:4500"),
        ("192.0.2.1:53", "198.51.100.7:53"),
        ("[2001:db8::1]:4500", "[2001:db8::7]:4500"),
        ("[2001:db8::1]:53", "[2001:db8::7]:53"),
    ] {
        let (source, destination) = (address(source), address(destination));
        let mut udp = packet::datagram(source, destination, &[1; 28]).unwrap();
        // An SPI in place of the marker.
        udp[8] = 1;
        assert_eq!(run(&ip_packet(source, destination, &udp)), 0, "{source} {destination}");
    }
    let (source, destination) = (address("192.0.2.1:500"), address("198.51.100.7:500"));
    let udp = packet::datagram(source, destination, &[1; 28]).unwrap();
    let whole = ip_packet(source, destination, &udp);
    let mut tcp = whole.clone();
    tcp[9] = 6;
    let mut fragment = whole.clone();
    fragment[7] = 1;
    for packet in [&tcp, &fragment, &whole[..20], &[][..], &[0x50; 60]] {
        assert_eq!(run(packet), 0);
    }
}
