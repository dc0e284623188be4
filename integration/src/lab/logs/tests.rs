use super::*;

const UP: &str = "1.0 07[IKE] IKE_SA vpn[1] established between 10.0.16.1[eu1]...10.0.0.1[gw]
1.0 07[IKE] CHILD_SA net{1} established with SPIs c7415aee_i c442ef4a_o and TS a === b
";
const CHILD_REKEYED: &str =
    "1.1 12[IKE] inbound CHILD_SA net{2} established with SPIs cbbd84fb_i cdcc5448_o and TS a === b
1.1 12[IKE] outbound CHILD_SA net{2} established with SPIs cbbd84fb_i cdcc5448_o and TS a === b
";
const CHILD_DELETE: &str = "1.2 11[IKE] received DELETE for ESP CHILD_SA with SPI c442ef4a\n";
const IKE_REKEYED: &str =
    "1.3 12[IKE] IKE_SA vpn[2] rekeyed between 10.0.16.1[eu1]...10.0.0.1[gw]\n";
const IKE_DELETE: &str = "1.4 11[IKE] received DELETE for IKE_SA vpn[1]\n";

#[test]
fn the_deletes_of_rekeys_are_expected() {
    let log = [UP, CHILD_REKEYED, CHILD_DELETE, IKE_REKEYED, IKE_DELETE].concat();
    assert_eq!(unexpected_deletes(&log), 0);
}

#[test]
fn any_other_delete_counts() {
    assert_eq!(unexpected_deletes(&[UP, CHILD_DELETE].concat()), 1);
    assert_eq!(unexpected_deletes(&[UP, IKE_DELETE].concat()), 1);
    let log = [UP, CHILD_REKEYED, IKE_DELETE, CHILD_DELETE, CHILD_DELETE].concat();
    assert_eq!(unexpected_deletes(&log), 2);
}

#[test]
fn keys_are_found_in_every_form() {
    let key: Vec<u8> = (1..=20).collect();
    let mut keys = Keys::default();
    keys.add(&key);
    assert!(keys.stands_in(b"..0102030405060708090a0b0c0d0e0f1011121314.."));
    assert!(keys.stands_in(b"key=0102030405060708090A0B0C"));
    assert!(keys.stands_in(b"AQIDBAUGBwgJCgsMDQ4PEBESExQ="));
    assert!(keys.stands_in(&[&[9, 9], key.as_slice()].concat()));
    assert!(!keys.stands_in(b"01020304 05060708 090a0b0c 0d0e0f10"));
    assert_eq!(keys.len(), 1);
}

#[test]
fn odd_words_are_no_keys() {
    assert_eq!(octets("00ff10").unwrap(), [0, 255, 16]);
    assert!(octets("0x12").is_none());
    assert_eq!(base64(&[1, 2, 3, 4]), "AQID");
}
