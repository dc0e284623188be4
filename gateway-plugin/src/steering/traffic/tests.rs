use super::*;

fn prefix(address: &str, bits: u8) -> Prefix {
    Prefix { address: address.parse().unwrap(), bits }
}

fn traffic() -> Traffic {
    Traffic {
        inner: vec![prefix("10.8.0.5", 32)],
        children: vec![(0x0102_0304, 0x0506_0708)],
        ike: Some((0x1122_3344_5566_7788, 9)),
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: "198.51.100.7:4500".parse().unwrap(),
        udp_encapsulated: false,
    }
}

#[test]
fn keys_are_the_octets_of_the_packet() {
    let traffic = traffic();
    assert_eq!(traffic.hold_esp()[0], Element::of(Set::HoldSpi, [1, 2, 3, 4]));
    assert_eq!(traffic.block_data()[0].key, [198, 51, 100, 7, 5, 6, 7, 8]);
    let ike = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    assert_eq!(traffic.hold_ike()[0].key, ike);
    assert_eq!(traffic.block_ike()[0].key, [&[198, 51, 100, 7][..], &ike].concat());
}

#[test]
fn a_client_is_an_address_and_its_port_where_esp_is_in_udp() {
    let mut traffic = traffic();
    assert_eq!(traffic.client(Purpose::Own), [Element::of(Set::OwnHost4, [198, 51, 100, 7])]);
    traffic.udp_encapsulated = true;
    let key = [198, 51, 100, 7, 0x11, 0x94, 0, 0];
    assert_eq!(traffic.client(Purpose::Own), [Element::of(Set::Own4, key)]);
    assert_eq!(traffic.client(Purpose::Other), [Element::of(Set::Other4, key)]);
}

#[test]
fn what_would_catch_other_traffic_is_refused() {
    for inner in [
        vec![prefix("0.0.0.0", 0)],
        vec![prefix("198.51.100.0", 24)],
        vec![prefix("10.8.0.0", 16), prefix("10.8.0.5", 32)],
        vec![prefix("10.8.0.0", 33)],
    ] {
        assert!(Traffic { inner, ..traffic() }.check().is_err());
    }
    let local = "[2001:db8::1]:500".parse().unwrap();
    assert!(Traffic { local, ..traffic() }.check().is_err());
    assert!(traffic().check().is_ok());
}

#[test]
fn prefixes_hold_their_addresses() {
    let inside = |p: Prefix, address: &str| contains(p, address.parse().unwrap());
    assert!(inside(prefix("10.8.0.0", 22), "10.8.3.255"));
    assert!(!inside(prefix("10.8.0.0", 22), "10.8.4.0"));
    assert!(inside(prefix("2001:db8::", 33), "2001:db8:7fff::1"));
    assert!(!inside(prefix("2001:db8::", 33), "2001:db8:8000::1"));
    assert!(!inside(prefix("::", 0), "10.0.0.1"));
}

#[test]
fn a_neighbour_is_reached_by_its_address_of_the_right_version() {
    let mut neighbour = Neighbour {
        name: "sg2".parse().unwrap(),
        inner: "10.9.0.2".parse().unwrap(),
        inner_also: None,
        outer: "192.0.2.2".parse().unwrap(),
    };
    let six: IpAddr = "2001:db8::1".parse().unwrap();
    assert!(neighbour.inner_for(six).is_err());
    neighbour.inner_also = Some(six);
    assert_eq!(neighbour.inner_for(six).unwrap(), six);
}
