use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

use super::{Order, OrderClaims, Token, TokenClaims};
use crate::{
    codec,
    ike_keys::Prf,
    key::KeyMaterial,
    samples::{name, order_claims, token_claims},
    transfer::TransferMode,
};

fn sk_d() -> KeyMaterial {
    KeyMaterial::new(vec![0x5d; 32])
}

type Change<T> = (&'static str, fn(&mut T));

// proves CXTP-7.1-1
#[test]
fn the_mac_is_what_the_text_says() {
    let token = Token::issue(token_claims(), &sk_d(), 5).unwrap();
    // The text, followed by hand with nothing but HMAC.
    let prf = Prf::from_number(5).unwrap();
    let key = prf.apply(sk_d().expose(), &[b"cxtp/1 token\x01"]);
    let claims = codec::encode(&token.claims).unwrap();
    let mac = prf.apply(key.expose(), &[b"cxtp/1 token", &claims]);
    assert_eq!(token.mac.as_slice(), &mac.expose()[..16]);
}

// proves CXTP-7.1-2
#[test]
fn a_token_verifies_under_its_own_key_and_function_only() {
    for prf in [2, 5, 6, 7] {
        let token = Token::issue(token_claims(), &sk_d(), prf).unwrap();
        assert!(token.verify(&sk_d(), prf));
        assert!(!token.verify(&KeyMaterial::new(vec![0x5c; 32]), prf));
        for other in [2, 5, 6, 7].into_iter().filter(|other| *other != prf) {
            assert!(!token.verify(&sk_d(), other));
        }
    }
}

// proves CXTP-7.1-3
#[test]
fn a_function_without_hmac_issues_and_verifies_nothing() {
    let token = Token::issue(token_claims(), &sk_d(), 5).unwrap();
    for prf in [0, 1, 3, 4, 8, u16::MAX] {
        assert_eq!(Token::issue(token_claims(), &sk_d(), prf), None);
        assert!(!token.verify(&sk_d(), prf));
    }
}

// proves CXTP-7.1-2
#[test]
fn every_claim_is_covered_by_the_mac() {
    let changes: [Change<TokenClaims>; 8] = [
        ("session", |claims| claims.session = None),
        ("initiator's SPI", |claims| claims.ike_spis.0 ^= 1),
        ("responder's SPI", |claims| claims.ike_spis.1 ^= 1),
        ("source", |claims| claims.source = name("other")),
        ("target", |claims| claims.target = name("other")),
        ("mode", |claims| claims.mode = TransferMode::Predictive),
        ("sequence", |claims| claims.sequence ^= 1),
        ("expiry", |claims| claims.expires += 1),
    ];
    for (what, change) in changes {
        let mut token = Token::issue(token_claims(), &sk_d(), 5).unwrap();
        change(&mut token.claims);
        assert!(!token.verify(&sk_d(), 5), "{what} is not covered");
    }
    for bit in 0..128 {
        let mut token = Token::issue(token_claims(), &sk_d(), 5).unwrap();
        token.mac[bit / 8] ^= 1 << (bit % 8);
        assert!(!token.verify(&sk_d(), 5), "bit {bit} of the MAC is not compared");
    }
}

fn key_pair() -> Ed25519KeyPair {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
}

// proves CXTP-7.2-1
#[test]
fn an_order_verifies_under_its_controllers_key_only() {
    let key = key_pair();
    let order = Order::sign(order_claims(), &key).unwrap();
    assert!(order.verify(key.public_key().as_ref()));
    assert!(!order.verify(key_pair().public_key().as_ref()));
    assert!(!order.verify(&[]), "a key of the wrong length");

    // The text, followed by hand.
    let signed = [b"cxtp/1 order".as_slice(), &codec::encode(&order.claims).unwrap()].concat();
    assert_eq!(key.sign(&signed).as_ref(), order.signature);
}

// proves CXTP-7.2-1
#[test]
fn every_claim_is_covered_by_the_signature() {
    let key = key_pair();
    let changes: [Change<OrderClaims>; 6] = [
        ("id", |claims| claims.id.0[0] ^= 1),
        ("controller", |claims| claims.controller = name("other")),
        ("sessions", |claims| claims.sessions.truncate(1)),
        ("source", |claims| claims.source = name("other")),
        ("target", |claims| claims.target = name("other")),
        ("expiry", |claims| claims.expires += 1),
    ];
    for (what, change) in changes {
        let mut order = Order::sign(order_claims(), &key).unwrap();
        change(&mut order.claims);
        assert!(!order.verify(key.public_key().as_ref()), "{what} is not covered");
    }
    let mut short = Order::sign(order_claims(), &key).unwrap();
    short.signature.pop();
    assert!(!short.verify(key.public_key().as_ref()));
}
