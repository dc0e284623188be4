use super::{ALPN, Authority, BadFrame, Bye, CtReq, Kind, Message, Query, VERSION, negotiate};
use crate::{
    codec::Malformed,
    frame::{CRITICAL, HEADER, Header, TooLong},
    id::{BatchId, RequestId, SessionEpoch, SessionId},
    limits::{MAX_BODY, MAX_ENTRIES},
    samples::order_claims,
    status::{Refusal, Status},
    token::Order,
};

fn bye() -> Message {
    Message::Bye(Bye { reason: Refusal::new(Status::ShuttingDown, "maintenance") })
}

// proves CXTP-3.1-1
#[test]
fn a_frame_is_laid_out_as_the_text_says() {
    let frame = bye().to_frame().unwrap();
    let body = [251, 0x06, 0x01, 11];
    assert_eq!(frame[..HEADER], [0x27, 0, 0, 0, 0, 0, 0, 15]);
    assert_eq!(frame[HEADER..HEADER + 4], body);
    assert_eq!(&frame[HEADER + 4..], b"maintenance");
    assert_eq!(Message::from_frame(&frame), Ok(Some(bye())));
}

// proves CXTP-3.1-1
#[test]
fn reserved_flags_and_octets_are_ignored() {
    let mut frame = bye().to_frame().unwrap();
    frame[1] = 0x7f;
    frame[2] = 0xff;
    frame[3] = 0xff;
    assert_eq!(Message::from_frame(&frame), Ok(Some(bye())));
}

// proves CXTP-3.1-2
#[test]
fn a_header_that_claims_too_much_is_refused_before_its_body_is_read() {
    let claim = |length: u32| {
        let [a, b, c, d] = length.to_be_bytes();
        Header::from_octets([0x04, CRITICAL, 0, 0, a, b, c, d])
    };
    let most = u32::try_from(MAX_BODY).unwrap();
    assert!(claim(most).is_ok());
    assert_eq!(claim(most + 1), Err(TooLong { kind: 4, length: most + 1 }));
    assert_eq!(claim(u32::MAX), Err(TooLong { kind: 4, length: u32::MAX }));
}

// proves CXTP-3.1-3
#[test]
fn no_frame_is_written_that_a_peer_would_refuse() {
    // The signature takes what the rest of the body leaves.
    let order = |octets| {
        let order = Order { claims: order_claims(), signature: vec![0; octets] };
        let authority = Authority::Order(order);
        Message::CtReq(CtReq { request: RequestId([1; 16]), sessions: vec![], authority })
            .to_frame()
    };
    let rest = order(MAX_BODY / 2).unwrap().len() - HEADER - MAX_BODY / 2;
    assert_eq!(order(MAX_BODY - rest).unwrap().len(), HEADER + MAX_BODY);
    assert_eq!(order(MAX_BODY - rest + 1).err(), Some(Malformed::Oversized));
    assert_eq!(requests(MAX_ENTRIES + 1).to_frame().err(), Some(Malformed::Oversized));
}

fn requests(count: usize) -> Message {
    Message::CtReq(CtReq {
        request: RequestId([1; 16]),
        sessions: vec![SessionId([2; 16]); count],
        authority: Authority::Standby,
    })
}

// proves CXTP-3.4-4
#[test]
fn more_entries_than_a_message_may_have_are_refused() {
    let most = requests(MAX_ENTRIES).to_frame().unwrap();
    assert!(matches!(Message::from_frame(&most), Ok(Some(Message::CtReq(_)))));
    // One more entry, put in by hand, since no sender writes it.
    let body = crate::codec::encode(&CtReq {
        request: RequestId([1; 16]),
        sessions: vec![SessionId([2; 16]); MAX_ENTRIES + 1],
        authority: Authority::Standby,
    })
    .unwrap();
    let length = u32::try_from(body.len()).unwrap();
    let header = Header { kind: Kind::CtReq as u8, flags: CRITICAL, length };
    assert_eq!(Message::from_parts(header, &body), Err(BadFrame::TooManyEntries(Kind::CtReq)));
}

// proves CXTP-3.1-4
// proves CXTP-3.1-5
#[test]
fn an_unknown_type_is_skipped_unless_it_is_critical() {
    for kind in (0..=u8::MAX).filter(|kind| Kind::from_octet(*kind).is_none()) {
        let header = |flags| Header { kind, flags, length: 3 };
        assert_eq!(Message::from_parts(header(0), b"abc"), Ok(None));
        assert_eq!(Message::from_parts(header(0x7f), b"abc"), Ok(None));
        let critical = Message::from_parts(header(CRITICAL), b"abc");
        assert_eq!(critical, Err(BadFrame::UnknownCritical(kind)));
    }
}

#[test]
fn the_length_is_that_of_the_body() {
    let frame = bye().to_frame().unwrap();
    assert_eq!(Message::from_frame(&frame[..frame.len() - 1]), Err(BadFrame::Length));
    assert_eq!(Message::from_frame(&[frame.as_slice(), &[0]].concat()), Err(BadFrame::Length));
    assert_eq!(Message::from_frame(&frame[..7]), Err(BadFrame::Length));
}

// proves CXTP-9.1-1
#[test]
fn the_highest_common_version_is_used() {
    for (ours, theirs, common) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 3), (2, 5), Some(3)),
        ((2, 5), (1, 3), Some(3)),
        ((1, 1), (1, u16::MAX), Some(1)),
        ((1, 1), (2, 3), None),
        ((4, 5), (2, 3), None),
        ((1, 1), (3, 0), None),
        ((3, 0), (1, 1), None),
    ] {
        assert_eq!(negotiate(ours, theirs), common, "{ours:?} {theirs:?}");
    }
}

#[test]
fn the_alpn_names_the_version() {
    assert_eq!(ALPN, format!("cxtp/{VERSION}").as_bytes());
}

// proves CXTP-8.2-2
#[test]
fn an_explanation_is_cut_at_256_octets_and_a_longer_one_refused() {
    let cut = Refusal::new(Status::Busy, "ä".repeat(200));
    assert_eq!(cut.detail.len(), 256);
    let odd = Refusal::new(Status::Busy, format!("x{}", "ä".repeat(200)));
    assert_eq!(odd.detail.len(), 255);
    let long = Refusal { status: Status::Busy, detail: "x".repeat(257) };
    let frame = Message::Bye(Bye { reason: long }).to_frame().unwrap();
    let read = Message::from_frame(&frame);
    assert_eq!(read, Err(BadFrame::Body { kind: Kind::Bye, reason: Malformed::BadValue }));
}

// proves CXTP-8.2-1
#[test]
fn a_status_from_a_newer_registry_is_kept() {
    for code in [0x00, 0x11, 0xff, 0x1ff, 0xfffe] {
        let status = Status::from_code(code);
        assert_eq!(status, Status::Unknown(code));
        let message = Message::Bye(Bye { reason: Refusal::new(status, "") });
        assert_eq!(Message::from_frame(&message.to_frame().unwrap()), Ok(Some(message)));
    }
    for status in Status::ALL {
        assert_eq!(Status::from_code(status.code()), *status);
    }
}

#[test]
fn entries_are_counted_in_every_message_that_speaks_of_sessions() {
    let query = Message::Query(Query {
        request: RequestId([0; 16]),
        transfers: vec![(SessionId([0; 16]), SessionEpoch(1), BatchId([0; 16])); 3],
    });
    assert_eq!(query.entries(), 3);
    assert_eq!(bye().entries(), 0);
}
