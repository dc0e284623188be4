use super::*;

#[test]
fn relay_headers_survive() {
    for source in ["192.0.2.7:4500", "[2001:db8::7]:4501"] {
        for kind in [Kind::Outer, Kind::Inner] {
            let header = RelayHeader { kind, hops: 3, source: source.parse().unwrap() };
            let mut octets = [0xff; RELAY];
            header.write(&mut octets);
            assert_eq!(RelayHeader::read(&octets), Some(header));
        }
    }
}

#[test]
fn anything_else_is_no_relay_header() {
    let header = RelayHeader { kind: Kind::Outer, hops: 1, source: "192.0.2.7:1".parse().unwrap() };
    let mut good = [0; RELAY];
    header.write(&mut good);
    for (at, value) in [(0, b'A'), (1, 0), (1, 3), (3, 5), (14, 0)] {
        let mut octets = good;
        octets[at] = value;
        assert_eq!(RelayHeader::read(&octets), None, "octet {at}");
    }
}

#[test]
fn announcements_survive_and_nothing_else_is_one() {
    let entries: Vec<_> = (0..MAX_ANNOUNCED as u64)
        .map(|i| Announced {
            epoch: SessionEpoch(i),
            prefix: if i % 2 == 0 {
                Prefix { address: Ipv4Addr::from_bits(i as u32).into(), bits: 32 }
            } else {
                Prefix { address: Ipv6Addr::from_bits(i.into()).into(), bits: 64 }
            },
        })
        .collect();
    let octets = announcement(&entries);
    assert!(octets.len() <= 1200);
    assert_eq!(read_announcement(&octets), Some(entries));
    assert_eq!(read_announcement(&octets[..octets.len() - 1]), None);
    assert_eq!(read_announcement(&[]), None);
    assert_eq!(read_announcement(&[0x45, 0]), None);
}
