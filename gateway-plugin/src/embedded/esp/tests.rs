use super::*;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Everything that RFC 4106 leaves to others: its test cases were published as
/// draft-mcgrew-gcm-test-01. Those with 192 bit keys are not among ours.
#[test]
fn published_test_cases() {
    let mut cases = 0;
    let file = include_str!("draft-mcgrew-gcm-test-01.txt");
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = line.split(' ').map(unhex).collect();
        let [key, nonce, aad, plain, sealed, icv] = &fields[..] else { panic!("{line}") };
        let keys = KeyMaterial::new([&key[..], &nonce[..4]].concat());
        let iv: [u8; 8] = nonce[4..].try_into().unwrap();
        let spi = u32::from_be_bytes(aad[..4].try_into().unwrap());
        let esn = aad.len() == 12;
        let number = aad[4..].iter().fold(0u64, |n, octet| n << 8 | u64::from(*octet));
        let payload = plain.len() - 2 - usize::from(plain[plain.len() - 2]);
        let next_header = plain[plain.len() - 1];
        let header = [&spi.to_be_bytes()[..], &number.to_be_bytes()[4..], &iv[..]].concat();
        let expected = [&header[..], sealed, icv].concat();

        let cipher = Cipher::new(&keys, number ^ u64::from_be_bytes(iv)).unwrap();
        let mut buffer = vec![0xaa; expected.len()];
        buffer[HEADER..HEADER + payload].copy_from_slice(&plain[..payload]);
        let total = cipher.seal(spi, number, esn, next_header, &mut buffer, payload).unwrap();
        assert_eq!(buffer[..total], expected, "sealing case {cases}");

        let (range, found) = cipher.open(number, esn, &mut buffer[..total]).unwrap();
        assert_eq!((&buffer[range], found), (&plain[..payload], next_header), "case {cases}");
        cases += 1;
    }
    assert_eq!(cases, 13);
}

fn sealed(cipher: &Cipher, number: u64, esn: bool, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEADER + payload.len() + TAILROOM];
    buffer[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    let total = cipher.seal(7, number, esn, NEXT_IPV4, &mut buffer, payload.len()).unwrap();
    buffer.truncate(total);
    buffer
}

#[test]
fn every_length_survives_and_ends_aligned() {
    let cipher = Cipher::new(&KeyMaterial::new(vec![9; 36]), 0x55).unwrap();
    for length in 0..70 {
        let payload: Vec<u8> = (0..length).collect();
        let mut packet = sealed(&cipher, 1, false, &payload);
        assert!(
            packet.len().is_multiple_of(4) && packet.len() <= HEADER + payload.len() + TAILROOM
        );
        let (range, next_header) = cipher.open(1, false, &mut packet).unwrap();
        assert_eq!((&packet[range], next_header), (&payload[..], NEXT_IPV4));
    }
}

#[test]
fn any_change_is_noticed() {
    let cipher = Cipher::new(&KeyMaterial::new(vec![9; 20]), 0).unwrap();
    let good = sealed(&cipher, 1 << 32 | 5, true, b"payload");
    for i in (0..good.len()).filter(|i| !(4..8).contains(i)) {
        let mut packet = good.clone();
        packet[i] ^= 1;
        let answer = cipher.open(1 << 32 | 5, true, &mut packet);
        assert_eq!(answer, Err(EspError::Forged), "octet {i}");
    }
    // The high half travels in the integrity check alone.
    assert_eq!(cipher.open(5, true, &mut good.clone()), Err(EspError::Forged));
    assert!(cipher.open(1 << 32 | 5, true, &mut good.clone()).is_ok());
}

#[test]
fn short_and_crooked_packets_are_refused() {
    let cipher = Cipher::new(&KeyMaterial::new(vec![9; 20]), 0).unwrap();
    for length in 0..HEADER + 4 + ICV {
        assert_eq!(cipher.open(1, false, &mut vec![0; length]), Err(EspError::Malformed));
    }
    let mut crooked = sealed(&cipher, 1, false, b"payload");
    crooked.pop();
    assert_eq!(cipher.open(1, false, &mut crooked), Err(EspError::Malformed));
    let mut short = [0; HEADER + 4];
    assert_eq!(cipher.seal(1, 1, false, NEXT_IPV4, &mut short, 4), Err(EspError::NoRoom));
}

#[test]
fn keys_have_two_lengths_and_are_never_shown() {
    for octets in 0..64 {
        let made = Cipher::new(&KeyMaterial::new(vec![0xab; octets]), 0);
        assert_eq!(made.is_ok(), Cipher::takes(octets), "{octets} octets");
    }
    let cipher = Cipher::new(&KeyMaterial::new(vec![0xab; 20]), 0).unwrap();
    assert_eq!(format!("{cipher:?}"), "Cipher(AES-128, redacted)");
}
