//! `order issue`: a controller's signed order; and reading one back.

use std::{path::Path, time::SystemTime};

use protocol_spec::{
    codec,
    id::RequestId,
    limits::MAX_ENTRIES,
    token::{Order, OrderClaims},
};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::Ed25519KeyPair,
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::json;

use super::{
    args::OrderArgs,
    files::{self, NewFile},
    outcome::{Answer, Exit, Problem},
    text,
};
use crate::service::seal::{from_hex, to_hex};

/// Longest file with an order.
const MAX_ORDER: usize = 1 << 20;

/// Signs an order and writes it into a new file, in hexadecimal.
pub(super) fn issue(args: &OrderArgs) -> Result<Answer, Problem> {
    if args.from == args.to {
        return Err(Problem::usage(format!(
            "--from and --to are both `{}`: a session moves between two gateways",
            args.to
        )));
    }
    if args.sessions.len() > MAX_ENTRIES {
        return Err(Problem::usage(format!(
            "an order carries at most {MAX_ENTRIES} sessions, these are {}: issue several",
            args.sessions.len()
        )));
    }
    let key = read_key(&args.key)?;
    let expires = unix_seconds().saturating_add(args.expires_in.into());
    let claims = OrderClaims {
        id: RequestId(random()?),
        controller: args.controller.clone(),
        sessions: args.sessions.clone(),
        source: args.from.clone(),
        target: args.to.clone(),
        expires,
    };
    let too_large =
        || Problem::usage("the order is too large: issue several with fewer sessions each");
    let order = Order::sign(claims, &key).ok_or_else(too_large)?;
    let octets = codec::encode(&order).map_err(|_| too_large())?;
    let mut file = NewFile::create(&args.out, files::PRIVATE)?;
    file.write(format!("{}\n", to_hex(&octets).as_str()).as_bytes())?;
    file.keep();

    let at = args.out.display().to_string();
    let text = format!(
        "order {} to move {} from {} to {} is in {at}; it counts once and for {} s\n\
         there: cxtpctl pull --order {at}",
        order.claims.id,
        text::sessions(args.sessions.len()),
        args.from,
        args.to,
        args.expires_in
    );
    let facts = json!({
        "order": order.claims.id.to_string(),
        "sessions": args.sessions.len(),
        "source": args.from.as_str(),
        "target": args.to.as_str(),
        "expires": expires,
        "expires_in": args.expires_in,
        "file": at,
    });
    Ok(Answer::done(text, &facts))
}

/// Reads an order's hexadecimal digits, and that they are an order.
pub(super) fn read(path: &Path) -> Result<String, Problem> {
    let octets = files::read(path, MAX_ORDER)?;
    let digits = String::from_utf8_lossy(&octets).trim().to_owned();
    let order = from_hex(&digits).and_then(|octets| codec::decode::<Order>(&octets).ok());
    match order {
        Some(_) => Ok(digits),
        None => Err(Problem::file(format!(
            "{} is not an order: give a file that `cxtpctl order issue` wrote",
            path.display()
        ))),
    }
}

fn read_key(path: &Path) -> Result<Ed25519KeyPair, Problem> {
    let pem = files::read_private(path)?;
    let not_a_key = || {
        Problem::file(format!(
            "{} is not an Ed25519 key in PEM (PKCS#8): give the NAME.order.key that `cxtpctl pki \
             issue` wrote for the controller",
            path.display()
        ))
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| not_a_key())?;
    // Keys of other tools come without the public half.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der()).map_err(|_| not_a_key())
}

fn random() -> Result<[u8; 16], Problem> {
    let mut octets = [0; 16];
    SystemRandom::new().fill(&mut octets).map_err(|_| {
        Problem::new(Exit::NotDone, "no-randomness", "the system gives no random numbers")
    })?;
    Ok(octets)
}

#[expect(clippy::disallowed_methods, reason = "an order expires at a time of the wall clock")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
