//! A token and an order with the keys that made them.

use std::error::Error;

use protocol_spec::{
    KeyMaterial, codec,
    samples::{order_claims, token_claims},
    token::{Order, Token},
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::{hex, shape::Shape};

pub(crate) fn all() -> Result<Vec<(&'static str, Value)>, Box<dyn Error>> {
    let mut vectors = Vec::new();
    for (name, prf) in
        [("token-sha1", 2), ("token-sha256", 5), ("token-sha384", 6), ("token-sha512", 7)]
    {
        let sk_d = KeyMaterial::new((0..32).collect());
        let token = Token::issue(token_claims(), &sk_d, prf).ok_or("no such function")?;
        let vector = json!({
            "name": name,
            "description": "A token and the SK_d and prf that made it",
            "sk_d": hex(sk_d.expose()),
            "prf": prf,
            "claims": token.claims.json(),
            "claims_encoded": hex(&codec::encode(&token.claims)?),
            "mac": hex(&token.mac),
        });
        vectors.push((name, vector));
    }
    let seed: Vec<u8> = (0..32).collect();
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| "no key")?;
    let order = Order::sign(order_claims(), &key).ok_or("too large")?;
    let vector = json!({
        "name": "order",
        "description": "An order and the Ed25519 key that signed it",
        "private_key": hex(&seed),
        "public_key": hex(key.public_key().as_ref()),
        "claims": order.claims.json(),
        "claims_encoded": hex(&codec::encode(&order.claims)?),
        "signature": hex(&order.signature),
    });
    vectors.push(("order", vector));
    Ok(vectors)
}
