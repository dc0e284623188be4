use super::*;

#[test]
fn each_number_stands_once() {
    let mut encryption: Vec<u16> =
        AEADS.iter().map(|it| it.number).chain(CIPHERS.iter().map(|it| it.number)).collect();
    let mut integrity: Vec<u16> = INTEGRITIES.iter().map(|it| it.number).collect();
    for numbers in [&mut encryption, &mut integrity] {
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
    }
    for name in AEADS.iter().map(|it| it.name).chain(CIPHERS.iter().map(|it| it.name)) {
        assert!(name.len() < 64 && name.ends_with(')'), "{name}");
    }
}

#[test]
fn key_lengths_are_those_of_the_rfcs() {
    let lengths = |encryption, key_bits, integrity| {
        let transforms = ChildTransforms { encryption, key_bits, integrity };
        let protocol = if encryption == 0 { Protocol::Ah } else { Protocol::Esp };
        Suite::of(protocol, &transforms)?.key_lengths(key_bits)
    };
    assert_eq!(lengths(20, 128, 0), Ok((20, 0)), "RFC 4106");
    assert_eq!(lengths(16, 256, 0), Ok((35, 0)), "RFC 4309");
    assert_eq!(lengths(28, 0, 0), Ok((36, 0)), "RFC 7634");
    assert_eq!(lengths(28, 256, 0), Ok((36, 0)));
    assert_eq!(lengths(12, 192, 2), Ok((24, 20)), "RFC 3602, 2404");
    assert_eq!(lengths(13, 256, 12), Ok((36, 32)), "RFC 3686, 4868");
    assert_eq!(lengths(3, 0, 13), Ok((24, 48)), "RFC 2451");
    assert_eq!(lengths(11, 0, 14), Ok((0, 64)), "RFC 2410");
    assert_eq!(lengths(0, 0, 12), Ok((0, 32)), "AH");
    assert!(lengths(20, 0, 0).is_err(), "AES-GCM needs its key length");
    assert!(lengths(20, 129, 0).is_err());
    assert!(lengths(20, 128, 12).is_err(), "an AEAD with integrity beside it");
    assert!(lengths(0, 0, 0).is_err());
    assert!(lengths(99, 128, 2).is_err());
    assert!(lengths(12, 128, 99).is_err());
}

#[test]
fn ah_encrypts_nothing_and_esp_has_a_cipher() {
    let of = |protocol, encryption, integrity| {
        Suite::of(protocol, &ChildTransforms { encryption, key_bits: 128, integrity })
    };
    assert!(of(Protocol::Ah, 20, 0).is_err());
    assert!(of(Protocol::Ah, 12, 2).is_err());
    assert!(of(Protocol::Esp, 0, 2).is_err());
    assert!(of(Protocol::Ah, 0, 2).is_ok());
}

#[test]
fn the_key_length_attribute_is_found_again() {
    assert_eq!(key_bits(AES, 4, 20), Some(128));
    assert_eq!(key_bits(AES, 3, 35), Some(256));
    assert_eq!(key_bits(&[256], 4, 36), Some(0));
    assert_eq!(key_bits(AES, 4, 21), None);
    assert_eq!(key_bits(AES, 4, 3), None);
    assert_eq!(key_bits(AES, 0, usize::MAX / 8), None);
}
