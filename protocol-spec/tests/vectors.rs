//! The golden vectors: each is read and written again, and any changed octet is
//! noticed. `vectors/check.py` does the same from the text alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use protocol_spec::{
    KeyMaterial, codec,
    codec::Malformed,
    frame::HEADER,
    message::{BadFrame, Kind, Message},
    samples::{hex, order_claims, token_claims},
    token::{Order, Token},
};
use serde_json::Value;

mod shape;
use shape::Shape;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn vectors(kind: &str) -> Vec<(String, Value)> {
    let mut vectors: Vec<_> = fs::read_dir(folder().join(kind))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let vector: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let name = vector["name"].as_str().unwrap().to_owned();
            assert_eq!(path.file_stem().unwrap().to_str(), Some(name.as_str()));
            (name, vector)
        })
        .collect();
    vectors.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(!vectors.is_empty());
    vectors
}

fn octets(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    assert!(text.len().is_multiple_of(2) && text.bytes().all(|digit| digit.is_ascii_hexdigit()));
    hex(text)
}

fn read(frame: &[u8]) -> Message {
    Message::from_frame(frame).unwrap().unwrap()
}

#[test]
fn every_valid_vector_is_read_and_written_as_it_stands() {
    for (name, vector) in vectors("valid") {
        let frame = octets(&vector["frame"]);
        let message = read(&frame);
        assert_eq!(message.json(), vector["message"], "{name}");
        assert_eq!(message.to_frame().unwrap().as_slice(), frame, "{name}");
    }
}

// proves CXTP-3.3-1
// proves CXTP-3.3-2
// proves CXTP-4.1-1
#[test]
fn every_type_has_a_valid_vector() {
    let shown: BTreeSet<_> =
        vectors("valid").iter().map(|(_, vector)| read(&octets(&vector["frame"])).kind()).collect();
    assert_eq!(shown, Kind::ALL.iter().copied().collect());
}

#[test]
fn a_changed_octet_is_noticed() {
    for (name, vector) in vectors("valid") {
        let frame = octets(&vector["frame"]);
        for at in (0..frame.len()).filter(|at| !(1..4).contains(at)) {
            let mut changed = frame.clone();
            changed[at] ^= 1;
            let same = match Message::from_frame(&changed) {
                Ok(Some(message)) => message.json() == vector["message"],
                Ok(None) | Err(_) => false,
            };
            assert!(!same, "{name}: octet {at} may be anything");
        }
    }
}

fn error_name(error: BadFrame) -> &'static str {
    match error {
        BadFrame::TooLong(_) => "too-long",
        BadFrame::Length => "length",
        BadFrame::UnknownCritical(_) => "unknown-critical",
        BadFrame::TooManyEntries(_) => "too-many-entries",
        BadFrame::Body { reason, .. } => match reason {
            Malformed::Truncated => "truncated",
            Malformed::Oversized => "oversized",
            Malformed::Trailing => "trailing",
            Malformed::NotCanonical => "not-canonical",
            Malformed::BadValue => "bad-value",
        },
    }
}

#[test]
fn every_invalid_vector_is_refused_for_its_reason() {
    let mut seen = BTreeSet::new();
    for (name, vector) in vectors("invalid") {
        let error = Message::from_frame(&octets(&vector["frame"])).expect_err(&name);
        assert_eq!(error_name(error), vector["error"], "{name}");
        seen.insert(error_name(error));
    }
    assert_eq!(seen.len(), 9, "each error has a vector: {seen:?}");
}

#[test]
fn the_tokens_and_the_order_verify() {
    let mut tokens = 0;
    for (name, vector) in vectors("signed") {
        let encoded = octets(&vector["claims_encoded"]);
        if name == "order" {
            let claims = order_claims();
            assert_eq!(vector["claims"], claims.json());
            assert_eq!(codec::encode(&claims).unwrap().as_slice(), encoded);
            let order = Order { claims, signature: octets(&vector["signature"]) };
            assert!(order.verify(&octets(&vector["public_key"])));
            continue;
        }
        let claims = token_claims();
        assert_eq!(vector["claims"], claims.json());
        assert_eq!(codec::encode(&claims).unwrap().as_slice(), encoded);
        let sk_d = KeyMaterial::new(octets(&vector["sk_d"]));
        let prf = vector["prf"].as_u64().unwrap().try_into().unwrap();
        let mac = octets(&vector["mac"]).try_into().unwrap();
        assert!(Token { claims, mac }.verify(&sk_d, prf), "{name}");
        tokens += 1;
    }
    assert_eq!(tokens, 4);
}

// proves CXTP-5.1-1
#[test]
fn only_pctd_holds_keys() {
    // The samples' keys are runs of 0x4b.
    for (name, vector) in vectors("valid") {
        let frame = octets(&vector["frame"]);
        let keys = frame.windows(16).any(|window| window == [0x4b; 16]);
        let pctd = read(&frame).kind() == Kind::Pctd;
        let has_sa = frame.len() > HEADER + 60;
        assert_eq!(keys, pctd && has_sa, "{name}");
    }
}

/// The text is enough for another language.
#[test]
fn the_independent_decoder_agrees() {
    let Ok(python) = Command::new("python3").arg("--version").output() else {
        eprintln!("skipped: no python3 here; vectors/check.py was not run");
        return;
    };
    assert!(python.status.success());
    let check = |folder: &Path| {
        Command::new("python3").arg(self::folder().join("check.py")).arg(folder).output().unwrap()
    };
    let run = check(&folder());
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    let count = ["valid", "invalid", "signed"].map(|kind| vectors(kind).len());
    let wanted = format!("{} valid, {} invalid, {} signed", count[0], count[1], count[2]);
    assert!(said.contains(&wanted), "{said}");

    // It can say no: one octet of one vector is changed.
    let broken = std::env::temp_dir().join(format!("cxtp-vectors-{}", std::process::id()));
    for kind in ["valid", "invalid", "signed"] {
        fs::create_dir_all(broken.join(kind)).unwrap();
        for (name, mut vector) in vectors(kind) {
            if name == "heartbeat-echo" {
                let frame = vector["frame"].as_str().unwrap().replace("70110100", "71110100");
                assert_ne!(vector["frame"], frame);
                vector["frame"] = frame.into();
            }
            fs::write(broken.join(kind).join(format!("{name}.json")), vector.to_string()).unwrap();
        }
    }
    let run = check(&broken);
    fs::remove_dir_all(&broken).unwrap();
    assert!(!run.status.success(), "a changed octet was not noticed");
    assert!(String::from_utf8_lossy(&run.stdout).contains("heartbeat-echo"));
}
