//! Any message survives the wire; whatever is done to its octets is refused or is
//! another message, and never a panic.

use proptest::{collection::vec, prelude::*};
use protocol_spec::{
    codec::{Malformed, decode, encode},
    context::Context,
    frame::HEADER,
    message::{BadFrame, Message},
};

mod shape;
use shape::{Entropy, Shape};

fn message() -> impl Strategy<Value = Message> {
    vec(any::<u8>(), 0..3000).prop_map(|octets| Message::draw(&mut Entropy(&octets)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_message_comes_back_as_it_was(message in message()) {
        let frame = message.to_frame().unwrap();
        prop_assert_eq!(Message::from_frame(&frame), Ok(Some(message)));
    }

    #[test]
    fn a_context_comes_back_as_it_was(octets in vec(any::<u8>(), 0..3000)) {
        let context = Context::draw(&mut Entropy(&octets));
        prop_assert_eq!(decode::<Context>(&encode(&context).unwrap()), Ok(context));
    }

    // proves CXTP-3.4-3
    #[test]
    fn an_octet_more_or_less_is_refused(message in message(), at in any::<prop::sample::Index>()) {
        let frame = message.to_frame().unwrap();
        let body = &frame[HEADER..];
        let header = |length: usize| {
            let mut header: [u8; HEADER] = frame[..HEADER].try_into().unwrap();
            header[4..].copy_from_slice(&(length as u32).to_be_bytes());
            protocol_spec::frame::Header::from_octets(header).unwrap()
        };
        let longer = [body, &[0]].concat();
        let refused = Message::from_parts(header(longer.len()), &longer);
        prop_assert_eq!(refused, Err(BadFrame::Body { kind: message.kind(), reason: Malformed::Trailing }));

        // Cut anywhere: no value ends where another one goes on.
        let cut = at.index(body.len());
        let shorter = Message::from_parts(header(cut), &body[..cut]);
        prop_assert!(shorter.is_err(), "{} octets of {} were a message", cut, body.len());
    }

    // proves CXTP-3.4-2
    #[test]
    fn what_decodes_has_one_encoding_only(
        message in message(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut frame = message.to_frame().unwrap().to_vec();
        for (at, octet) in changes {
            let at = at.index(frame.len());
            frame[at] = octet;
        }
        // Flags and the reserved octets may differ and are ignored.
        if let Ok(Some(other)) = Message::from_frame(&frame) {
            let again = other.to_frame().unwrap();
            prop_assert_eq!(&again[HEADER..], &frame[HEADER..]);
        }
    }

    #[test]
    fn random_octets_never_panic(octets in vec(any::<u8>(), 0..200)) {
        protocol_spec::fuzzing::frame(&octets);
        protocol_spec::fuzzing::message(&octets);
        protocol_spec::fuzzing::context(&octets);
        protocol_spec::fuzzing::authority(&octets);
        protocol_spec::fuzzing::identity(&octets);
    }

    /// What a hostile source may write: sound octets, unsound sense.
    #[test]
    fn checks_never_panic(octets in vec(any::<u8>(), 0..3000)) {
        let context = Context::draw(&mut Entropy(&octets));
        let _ = context.check();
        let _ = context.features();
        let profile = context.profile();
        let _ = context.check_grants(&[]);
        for child in &profile.children {
            let _ = child.usage.grant(std::time::Duration::MAX, u64::MAX);
        }
        let _ = context.ike.as_ref().and_then(|ike| ike.sk_d());
    }
}
