use proptest::prelude::*;

use super::*;

fn header() -> Header {
    Header {
        spi_initiator: 0x0102_0304_0506_0708,
        spi_responder: 0x1112_1314_1516_1718,
        next: payload::ENCRYPTED,
        exchange: INFORMATIONAL,
        from_initiator: true,
        response: false,
        message_id: 0x2122_2324,
    }
}

#[test]
fn the_header_stands_on_the_wire_as_in_the_rfc() {
    let octets = header().write(HEADER).unwrap();
    let expected = [
        1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 46, 0x20, 37, 0x08,
        0x21, 0x22, 0x23, 0x24, 0, 0, 0, 28,
    ];
    assert_eq!(octets, expected);
    assert_eq!(Header::parse(&octets), Ok(header()));
}

#[test]
fn a_length_that_is_not_the_datagrams_is_refused() {
    let octets = header().write(HEADER).unwrap();
    for cut in 0..HEADER {
        assert!(matches!(Header::parse(&octets[..cut]), Err(IkeError::Malformed(_))));
    }
    let mut longer = octets.to_vec();
    longer.push(0);
    assert!(matches!(Header::parse(&longer), Err(IkeError::Malformed(_))));
    assert_eq!(header().write(MAX_MESSAGE + 1), Err(IkeError::TooLong));
}

#[test]
fn another_major_version_is_refused_and_another_minor_one_read() {
    let mut octets = header().write(HEADER).unwrap();
    octets[17] = 0x21;
    assert_eq!(Header::parse(&octets), Ok(header()));
    octets[17] = 0x10;
    assert_eq!(Header::parse(&octets), Err(IkeError::UnsupportedVersion(1)));
}

#[test]
fn a_chain_must_fill_its_octets_and_hold_no_encrypted_payload() {
    let mut octets = Vec::new();
    write_chain(&[Payload::new(payload::NOTIFY, vec![0, 0, 0x40, 0x0f])], &mut octets).unwrap();
    assert_eq!(octets, [0, 0, 0, 8, 0, 0, 0x40, 0x0f]);
    assert_eq!(read_chain(payload::NOTIFY, &octets).unwrap().len(), 1);
    assert_eq!(
        read_chain(payload::ENCRYPTED, &octets),
        Err(IkeError::Malformed("an encrypted payload where none may be"))
    );
    octets.push(0);
    assert_eq!(
        read_chain(payload::NOTIFY, &octets),
        Err(IkeError::Malformed("octets behind the last payload"))
    );
    // A payload that says it is shorter than its own header must not loop.
    assert!(read_chain(payload::NOTIFY, &[41, 0, 0, 0, 0, 0, 0, 4]).is_err());
}

#[test]
fn a_chain_of_more_payloads_than_any_daemon_sends_is_refused() {
    let payloads = vec![Payload::new(payload::NOTIFY, Vec::new()); 65];
    let mut octets = Vec::new();
    write_chain(&payloads[..64], &mut octets).unwrap();
    assert_eq!(read_chain(payload::NOTIFY, &octets).unwrap(), payloads[..64]);
    octets.clear();
    write_chain(&payloads, &mut octets).unwrap();
    assert_eq!(
        read_chain(payload::NOTIFY, &octets),
        Err(IkeError::Malformed("more than 64 payloads"))
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        payloads in proptest::collection::vec(
            (
                prop_oneof![Just(1_u8), Just(41), Just(42), Just(200)],
                any::<bool>(),
                proptest::collection::vec(any::<u8>(), 0..40),
            ),
            0..10,
        ),
    ) {
        let payloads: Vec<Payload> = payloads
            .into_iter()
            .map(|(kind, critical, body)| Payload { kind, critical, body })
            .collect();
        let mut octets = Vec::new();
        write_chain(&payloads, &mut octets).unwrap();
        let first = payloads.first().map_or(payload::NONE, |payload| payload.kind);
        prop_assert_eq!(read_chain(first, &octets), Ok(payloads));
    }

    #[test]
    fn no_octets_panic(first in any::<u8>(), octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Header::parse(&octets);
        if let Ok(payloads) = read_chain(first, &octets) {
            let total: usize = payloads.iter().map(|p| PAYLOAD_HEADER + p.body.len()).sum();
            prop_assert_eq!(total, octets.len());
        }
    }
}
