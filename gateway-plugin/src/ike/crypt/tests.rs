use proptest::prelude::*;
use protocol_spec::{
    context::{IkeSecrets, IkeTransforms},
    samples,
};

use super::*;
use crate::ike::{
    golden,
    message::INFORMATIONAL,
    notify::{Notify, kind},
};

/// Every suite that we speak: encryption, key bits, integrity.
const SUITES: [(u16, u16, u16); 15] = [
    (12, 128, 2),
    (12, 128, 12),
    (12, 128, 13),
    (12, 128, 14),
    (12, 192, 2),
    (12, 192, 12),
    (12, 192, 13),
    (12, 192, 14),
    (12, 256, 2),
    (12, 256, 12),
    (12, 256, 13),
    (12, 256, 14),
    (20, 128, 0),
    (20, 256, 0),
    (28, 0, 0),
];

fn crypt((encryption, key_bits, integrity): (u16, u16, u16)) -> Crypt {
    Crypt::new(&IkeSa {
        transforms: IkeTransforms { encryption, key_bits, integrity, prf: 5, key_exchange: 31 },
        secrets: IkeSecrets::Seed {
            nonce_initiator: vec![1; 32],
            nonce_responder: vec![2; 32],
            shared: vec![samples::key(3, 32)],
            replaced: None,
        },
        ..samples::ike(0)
    })
    .unwrap()
}

fn header(from_initiator: bool) -> Header {
    Header {
        spi_initiator: 1,
        spi_responder: 2,
        next: 0,
        exchange: INFORMATIONAL,
        from_initiator,
        response: false,
        message_id: 3,
    }
}

/// How the daemon's log writes payloads.
fn described(payloads: &[Payload]) -> String {
    let words: Vec<String> = payloads
        .iter()
        .map(|found| match found.kind {
            payload::DELETE => "D".to_owned(),
            payload::NOTIFY => match Notify::parse(found).unwrap().kind {
                kind::ADDITIONAL_IP4_ADDRESS => "N(ADD_4_ADDR)".to_owned(),
                number => format!("N({number})"),
            },
            number => number.to_string(),
        })
        .collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

#[test]
fn messages_between_stock_daemons_open() {
    let mut opened = 0;
    for session in golden::all() {
        for (ike, octets, payloads) in session.messages() {
            let (header, found) = Crypt::new(&session.ike(ike)).unwrap().open(&octets).unwrap();
            assert_eq!(header.exchange, INFORMATIONAL);
            assert_eq!(described(&found), payloads);
            opened += 1;
        }
    }
    assert_eq!(opened, 24);
}

#[test]
fn aead_messages_are_sealed_to_the_octets_that_the_daemon_sent() {
    let mut sealed = 0;
    for session in golden::all() {
        for (ike, octets, _) in session.messages() {
            let crypt = Crypt::new(&session.ike(ike)).unwrap();
            if crypt.suite.integrity.is_some() {
                // The daemon pads with random octets there.
                continue;
            }
            let (header, payloads) = crypt.open(&octets).unwrap();
            let mut iv = Iv([0; 16]);
            iv.0[..AEAD_IV].copy_from_slice(&octets[HEADER + PAYLOAD_HEADER..][..AEAD_IV]);
            assert_eq!(crypt.seal(header, &payloads, &iv), Ok(octets));
            sealed += 1;
        }
    }
    assert_eq!(sealed, 12);
}

#[test]
fn a_message_of_one_side_does_not_open_as_one_of_the_other() {
    for suite in SUITES {
        let crypt = crypt(suite);
        let mut message = crypt.seal(header(true), &[], &Iv([7; 16])).unwrap();
        assert!(crypt.open(&message).is_ok());
        message[19] ^= 0x08;
        assert_eq!(crypt.open(&message), Err(IkeError::Forged));
    }
}

#[test]
fn messages_without_encrypted_payload_and_fragments_are_refused() {
    let crypt = crypt(SUITES[0]);
    let empty = header(true).write(HEADER).unwrap();
    assert_eq!(crypt.open(&empty), Err(IkeError::Unprotected));
    let mut fragment = Header { next: payload::FRAGMENT, ..header(true) }
        .write(HEADER + PAYLOAD_HEADER)
        .unwrap()
        .to_vec();
    fragment.extend_from_slice(&[0, 0, 0, 4]);
    assert_eq!(crypt.open(&fragment), Err(IkeError::Malformed("a fragment")));
}

#[test]
fn keys_are_not_in_the_debug_text() {
    let text = format!("{:?}", crypt(SUITES[0]));
    assert!(text.contains("redacted"));
    assert!(!text.contains("[0x") && !text.contains("[1"));
}

fn payloads() -> impl Strategy<Value = Vec<Payload>> {
    let payload = (
        prop_oneof![Just(payload::NOTIFY), Just(payload::DELETE)],
        proptest::collection::vec(any::<u8>(), 0..60),
    );
    proptest::collection::vec(payload.prop_map(|(kind, body)| Payload::new(kind, body)), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens(
        suite in proptest::sample::select(SUITES.to_vec()),
        payloads in payloads(),
        iv in any::<[u8; 16]>(),
        from_initiator in any::<bool>(),
    ) {
        let crypt = crypt(suite);
        let message = crypt.seal(header(from_initiator), &payloads, &Iv(iv)).unwrap();
        let (opened, found) = crypt.open(&message).unwrap();
        prop_assert_eq!(opened, Header { next: payload::ENCRYPTED, ..header(from_initiator) });
        prop_assert_eq!(found, payloads);
    }

    #[test]
    fn any_changed_bit_is_refused(
        suite in proptest::sample::select(SUITES.to_vec()),
        payloads in payloads(),
        at in any::<proptest::sample::Index>(),
    ) {
        let crypt = crypt(suite);
        let mut message = crypt.seal(header(true), &payloads, &Iv([9; 16])).unwrap();
        let at = at.index(message.len() * 8);
        message[at / 8] ^= 1 << (at % 8);
        prop_assert!(crypt.open(&message).is_err(), "bit {} was changed", at);
    }

    #[test]
    fn any_truncation_is_refused(
        suite in proptest::sample::select(SUITES.to_vec()),
        payloads in payloads(),
        length in any::<proptest::sample::Index>(),
    ) {
        let crypt = crypt(suite);
        let message = crypt.seal(header(false), &payloads, &Iv([9; 16])).unwrap();
        let mut cut = message[..length.index(message.len())].to_vec();
        prop_assert!(crypt.open(&cut).is_err());
        // With lengths that fit it comes as far as the integrity check.
        if let Some(body) = cut.len().checked_sub(HEADER).filter(|body| *body >= PAYLOAD_HEADER) {
            let total = u32::try_from(cut.len()).unwrap().to_be_bytes();
            cut[24..28].copy_from_slice(&total);
            cut[30..32].copy_from_slice(&u16::try_from(body).unwrap().to_be_bytes());
            prop_assert!(crypt.open(&cut).is_err());
        }
    }

    #[test]
    fn no_octets_panic(
        suite in proptest::sample::select(SUITES.to_vec()),
        octets in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let total = HEADER + octets.len();
        let mut message =
            Header { next: payload::ENCRYPTED, ..header(true) }.write(total).unwrap().to_vec();
        message.extend_from_slice(&octets);
        prop_assert!(crypt(suite).open(&message).is_err());
    }
}
