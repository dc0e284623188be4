use super::*;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SHARED: [u8; 6] = [3, 0, 0x5e, 0, 0, 9];

#[test]
fn a_gratuitous_arp_names_the_address_twice() {
    let frame = arp(OWN, Ipv4Addr::new(192, 0, 2, 7), SHARED, 1);
    assert_eq!(frame.len(), 42);
    assert_eq!(frame[6..12], OWN, "frames are sent from our own MAC address");
    assert_eq!(frame[22..28], SHARED, "and announce the shared one");
    assert_eq!(frame[28..32], [192, 0, 2, 7]);
    assert_eq!(frame[38..42], [192, 0, 2, 7]);
}

#[test]
fn the_checksum_of_an_advertisement_is_right() {
    let frame = advertisement(OWN, "2001:db8::7".parse().unwrap(), OWN);
    assert_eq!(frame.len(), 14 + 40 + 32);
    let mut pseudo = frame[22..54].to_vec();
    pseudo.extend_from_slice(&[0, 0, 0, 32, 0, 0, 0, 58]);
    pseudo.extend_from_slice(&frame[54..]);
    assert_eq!(checksum(&pseudo), 0);
}

#[test]
fn the_sum_is_that_of_rfc_1071() {
    assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    assert_eq!(sum(&[1]), 0x0100);
}

#[test]
fn a_question_teaches_nobody() {
    let frame = question(OWN, Ipv4Addr::new(192, 0, 2, 7).into());
    assert_eq!((&frame[22..28], &frame[28..32]), (&OWN[..], &[0; 4][..]));
    assert_eq!(frame[38..42], [192, 0, 2, 7]);

    let frame = question(OWN, "2001:db8::1:2:7".parse().unwrap());
    assert_eq!(frame.len(), 14 + 40 + 24);
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 2, 0, 7], "the group of the last three octets");
    assert_eq!(frame[22..38], [0; 16]);
    let mut pseudo = frame[22..54].to_vec();
    pseudo.extend_from_slice(&[0, 0, 0, 24, 0, 0, 0, 58]);
    pseudo.extend_from_slice(&frame[54..]);
    assert_eq!(checksum(&pseudo), 0);
}
