use proptest::prelude::*;
use protocol_spec::samples::hex;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_stand_on_the_wire_as_in_rfc_4555() {
    let bodies = |addresses: &[IpAddr]| {
        additional_addresses(addresses)
            .iter()
            .map(|notify| notify.payload().body)
            .collect::<Vec<_>>()
    };
    assert_eq!(bodies(&[]), [vec![0, 0, 0x40, 0x0f]]);
    assert_eq!(bodies(&[ip("192.0.2.7")]), [vec![0, 0, 0x40, 0x0d, 192, 0, 2, 7]]);
    let six = bodies(&[ip("2001:db8::7")]);
    assert_eq!(six, [hex("0000400e 20010db8000000000000000000000007")]);
}

#[test]
fn additional_addresses_are_read_back() {
    let addresses = [ip("192.0.2.7"), ip("2001:db8::7")];
    let read: Vec<_> =
        additional_addresses(&addresses).iter().filter_map(additional_address).collect();
    assert_eq!(read, addresses);
    let wrong = Notify::new(kind::ADDITIONAL_IP4_ADDRESS, vec![1, 2, 3]);
    assert_eq!(additional_address(&wrong), None);
}

#[test]
fn a_nat_hash_covers_spis_address_and_port() {
    // sha1(0102030405060708 1112131415161718 c0000201 1194), by sha1sum.
    let hash =
        nat_hash((0x0102_0304_0506_0708, 0x1112_1314_1516_1718), "192.0.2.1:4500".parse().unwrap());
    assert_eq!(hash, hex("5184f43875ff7d9e3dfdc92bd1dee1a08204de3e"));
    let mapped = nat_hash(
        (0x0102_0304_0506_0708, 0x1112_1314_1516_1718),
        "[::ffff:192.0.2.1]:4500".parse().unwrap(),
    );
    assert_eq!(mapped, hash);
}

#[test]
fn no_nats_allowed_holds_both_ends() {
    let notify =
        no_nats_allowed("192.0.2.1:500".parse().unwrap(), "198.51.100.7:4500".parse().unwrap());
    assert_eq!(notify.data, [192, 0, 2, 1, 198, 51, 100, 7, 0x01, 0xf4, 0x11, 0x94]);
}

#[test]
fn message_ids_have_exactly_twelve_octets() {
    let ids = MessageIds { nonce: [1, 2, 3, 4], expected_send: 5, expected_receive: 6 };
    let notify = ids.notify();
    assert_eq!(notify.payload().body, hex("00004026 01020304 00000005 00000006"));
    assert_eq!(MessageIds::from_notify(&notify), Some(ids));
    for data in [&notify.data[..11], &[&notify.data[..], &[0]].concat()] {
        let wrong = Notify::new(kind::MESSAGE_ID_SYNC, data.to_vec());
        assert_eq!(MessageIds::from_notify(&wrong), None);
    }
    let other = Notify::new(kind::COOKIE2, notify.data);
    assert_eq!(MessageIds::from_notify(&other), None);
}

proptest! {
    #[test]
    fn no_body_panics_and_what_is_read_is_written_back(
        body in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let found = Payload::new(payload::NOTIFY, body);
        if let Ok(notify) = Notify::parse(&found) {
            prop_assert_eq!(notify.payload(), found);
        }
    }
}
