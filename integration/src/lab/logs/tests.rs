use super::*;

#[test]
fn keys_are_found_in_every_form() {
    let key: Vec<u8> = (1..=20).collect();
    let mut keys = Keys::default();
    keys.add(&key);
    assert!(keys.stands_in(b"..0102030405060708090a0b0c0d0e0f1011121314.."));
    assert!(keys.stands_in(b"key=0102030405060708090A0B0C"));
    assert!(keys.stands_in(b"AQIDBAUGBwgJCgsMDQ4PEBESExQ="));
    assert!(keys.stands_in(&[&[9, 9], key.as_slice()].concat()));
    assert!(!keys.stands_in(b"0102030405060708 090a0b0c0d0e0f10"));
    assert_eq!(keys.len(), 1);
}

#[test]
fn odd_words_are_no_keys() {
    assert_eq!(octets("00ff10").unwrap(), [0, 255, 16]);
    assert!(octets("0x12").is_none());
    assert_eq!(base64(&[1, 2, 3, 4]), "AQID");
}
