use super::*;

fn v4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(payload);
    packet
}

fn policy(direction: Direction, destination: &str, bits: u8, ports: (u16, u16)) -> Policy {
    let any = Selector {
        prefix: Prefix { address: Ipv4Addr::UNSPECIFIED.into(), bits: 0 },
        ports: (0, u16::MAX),
    };
    let destination =
        Selector { prefix: Prefix { address: destination.parse().unwrap(), bits }, ports };
    Policy { direction, priority: 0, source: any, destination, protocol: 17 }
}

#[test]
fn reads_addresses_and_ports() {
    let flow = Flow::parse(&v4(17, 0, &[0, 7, 0, 9, 1, 2])).unwrap();
    assert_eq!(flow.source, IpAddr::from([10, 0, 0, 1]));
    assert_eq!(flow.destination, IpAddr::from([10, 0, 0, 2]));
    assert_eq!((flow.protocol, flow.ports, flow.length), (17, (7, 9), 26));
    assert_eq!(flow.next_header(), NEXT_IPV4);
    let fragment = Flow::parse(&v4(17, 3, &[0, 7, 0, 9, 1, 2])).unwrap();
    assert_eq!(fragment.ports, (0, 0), "a later fragment shows no ports");
}

#[test]
fn padding_behind_the_packet_is_not_part_of_it() {
    let mut packet = v4(1, 0, &[1, 2, 3]);
    packet.extend([0; 40]);
    assert_eq!(Flow::parse(&packet).unwrap().length, 23);
}

#[test]
fn no_cut_of_a_packet_is_taken_for_one() {
    let mut v6 = vec![0x60, 0, 0, 0, 0, 4, 17, 64];
    v6.extend([0; 32]);
    v6.extend([0, 1, 0, 2]);
    assert_eq!(Flow::parse(&v6).unwrap().ports, (1, 2));
    for packet in [v6, v4(6, 0, &[0; 9])] {
        for cut in 0..packet.len() {
            assert_eq!(Flow::parse(&packet[..cut]), None, "{cut} octets");
        }
    }
    assert_eq!(Flow::parse(&[0x15; 60]), None, "neither 4 nor 6");
}

#[test]
fn policies_select_by_address_port_and_protocol() {
    let flow = Flow::parse(&v4(17, 0, &[0, 7, 0, 9])).unwrap();
    let yes = |p: Policy| flow.matches(&p);
    assert!(yes(policy(Direction::Out, "10.0.0.2", 32, (0, u16::MAX))));
    assert!(yes(policy(Direction::Out, "10.0.0.77", 24, (9, 9))));
    assert!(!yes(policy(Direction::Out, "10.0.0.2", 32, (10, 20))));
    assert!(!yes(policy(Direction::Out, "10.0.1.0", 24, (0, u16::MAX))));
    assert!(!yes(policy(Direction::Out, "::", 0, (0, u16::MAX))));
    assert!(!yes(Policy { protocol: 6, ..policy(Direction::Out, "10.0.0.2", 32, (0, 65535)) }));
}

#[test]
fn prefixes_of_every_length_mask() {
    let address: IpAddr = "ffff::ffff".parse().unwrap();
    assert_eq!(masked(address, 0), IpAddr::from(Ipv6Addr::UNSPECIFIED));
    assert_eq!(masked(address, 128), address);
    assert_eq!(masked(address, 200), address, "more than there are is all");
    assert_eq!(masked([255; 4].into(), 9), IpAddr::from([255, 128, 0, 0]));
}
