//! No form in which a public type can be shown holds a key.

use std::fmt::Debug;

use protocol_spec::{
    KeyMaterial,
    check::BadContext,
    context::{Context, IkeSecrets, ReplacedSa},
    id::{BatchId, SessionEpoch},
    message::{Message, Pctd, PctdEntry},
    samples::{context, grants, key, token_claims},
    status::Refusal,
    token::Token,
    transfer::TransferMode,
};

/// Stands in every octet of every key; seldom anywhere else.
const MARK: u8 = 0xd7;

/// Whether a run of marks stands in the text, in any way in which octets are shown.
fn leaks(text: &str) -> bool {
    let dense: String = text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    let raw: String = std::iter::repeat_n(char::from(MARK), 3).collect();
    dense.contains("d7d7d7")
        || dense.contains("0xd70xd7")
        || dense.contains("215215215")
        || dense.contains("327327327")
        || dense.contains("1101011111010111")
        || text.contains(&raw)
        // Base64 of a run of the mark, at each of its three offsets.
        || ["19fX19fX", "fX19fX19", "X19fX19f"].iter().any(|run| text.contains(run))
}

fn assert_closed(what: &str, value: &dyn Debug) {
    for text in [format!("{value:?}"), format!("{value:#?}"), format!("{value:x?}")] {
        assert!(!leaks(&text), "{what} shows a key: {text}");
    }
}

fn seeded() -> Context {
    let mut context = context(MARK);
    if let Some(ike) = &mut context.ike {
        ike.secrets = IkeSecrets::Seed {
            nonce_initiator: vec![1; 32],
            nonce_responder: vec![2; 32],
            shared: vec![key(MARK, 32), key(MARK, 32)],
            replaced: Some(ReplacedSa { prf: 5, sk_d: key(MARK, 32) }),
        };
    }
    context
}

// proves CXTP-10.1-1
#[test]
fn no_type_shows_a_key() {
    let key = key(MARK, 36);
    assert_closed("a key", &key);
    assert_closed("a copy of a key", &key.duplicate());
    for context in [context(MARK), seeded()] {
        let ike = context.ike.as_ref().unwrap();
        assert_closed("SK_d", &ike.sk_d());
        assert_closed("the secrets", &ike.secrets);
        assert_closed("an IKE SA", ike);
        assert_closed("a Child SA", &context.children[0]);
        assert_closed("SA keys", &context.children[0].inbound.keys.duplicate());
        assert_closed("an inbound SA", &context.children[0].inbound);
        assert_closed("an outbound SA", &context.children[0].outbound);
        assert_closed("a profile", &context.profile());
        assert_closed("a context", &context);
        let grants = grants(&context);
        let entry = PctdEntry { epoch: SessionEpoch(1), grants, context };
        assert_closed("an entry", &entry);
        let (batch, mode) = (BatchId([1; 16]), TransferMode::Predictive);
        assert_closed("a PCTD", &Message::Pctd(Pctd { batch, mode, entries: vec![entry] }));
    }
}

// proves CXTP-10.1-1
#[test]
fn no_error_shows_a_key() {
    // Each fault of a context, found while its keys are at hand.
    let mut faulty = context(MARK);
    faulty.children[0].inbound.keys.encryption = key(MARK, 35);
    let bad = faulty.check().unwrap_err();
    assert!(matches!(bad, BadContext::KeyLength(_)));
    assert_closed("a bad context", &bad);
    assert!(!leaks(&bad.to_string()));
    assert!(!leaks(&Refusal::from(bad).to_string()));

    let (batch, mode) = (BatchId([1; 16]), TransferMode::Predictive);
    let entry = PctdEntry { epoch: SessionEpoch(1), grants: vec![], context: context(MARK) };
    let frame = Message::Pctd(Pctd { batch, mode, entries: vec![entry] }).to_frame().unwrap();
    assert!(frame.windows(36).any(|window| window == [MARK; 36]), "the frame does hold keys");
    for at in 8..frame.len() {
        for octet in [0, 0xff] {
            let mut changed = frame.to_vec();
            changed[at] = octet;
            match Message::from_frame(&changed) {
                Ok(message) => assert_closed("a changed message", &message),
                Err(e) => assert!(!leaks(&format!("{e} {e:?}")), "{e:?}"),
            }
        }
    }
}

#[test]
fn a_token_shows_its_mac_but_not_its_key() {
    let token = Token::issue(token_claims(), &key(MARK, 32), 5).unwrap();
    assert_closed("a token", &token);
}

/// The detector finds what it looks for.
#[test]
fn the_detector_finds_octets_in_every_form() {
    let octets = [MARK; 9];
    assert!(leaks(&format!("{octets:?}")));
    assert!(leaks(&format!("{octets:x?}")));
    assert!(leaks(&format!("{octets:02X?}")));
    assert!(leaks(&format!("{octets:#x?}")));
    assert!(leaks(&format!("{octets:#?}")));
    assert!(leaks(&format!("{:?}", octets.map(|octet| format!("{octet:o}")))));
    assert!(leaks(&octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>()));
    assert!(leaks(&octets.iter().map(|octet| char::from(*octet)).collect::<String>()));
    assert!(leaks("19fX19fX19fX"));
    let opened = KeyMaterial::new(octets.to_vec());
    assert!(leaks(&format!("{:?}", opened.expose())));
    assert!(!leaks(&format!("{opened:?}")));
}
