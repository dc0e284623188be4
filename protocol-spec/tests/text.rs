//! The examples and limits in the text are true.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, time::Duration};

use protocol_spec::{
    codec::{decode, encode},
    id::{GatewayEpoch, Identity, Name},
    limits,
    message::{Heartbeat, Message},
    samples::{hex, name},
    status::{Refusal, Status},
};

fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec").join(file);
    fs::read_to_string(path).unwrap()
}

// proves CXTP-3.2-1
// proves CXTP-3.3-1
// proves CXTP-3.3-2
#[test]
fn the_examples_of_the_encoding() {
    fn octets<T: bincode::Encode>(value: &T) -> Vec<u8> {
        encode(value).unwrap().to_vec()
    }
    let set: std::collections::BTreeSet<(u16, u16, u16)> = [(20, 128, 0), (20, 256, 0)].into();
    let ip: std::net::IpAddr = "192.0.2.1".parse().unwrap();
    let beat = Heartbeat { number: 7, epoch: GatewayEpoch(3), echo: None };
    let examples = [
        ("0", octets(&0_u64)),
        ("250", octets(&250_u64)),
        ("251", octets(&251_u64)),
        ("300", octets(&300_u64)),
        ("65,535", octets(&65_535_u64)),
        ("65,536", octets(&65_536_u64)),
        ("4,294,967,296", octets(&(1_u64 << 32))),
        ("text `gw-a`", octets(&name("gw-a"))),
        ("absent `u32?`", octets(&None::<u32>)),
        ("1400 as `u32?`", octets(&Some(1400_u32))),
        ("`{(u16, u16, u16)}` of (20, 128, 0) and (20, 256, 0)", octets(&set)),
        ("1.5 s", octets(&Duration::from_millis(1500))),
        ("`ip` 192.0.2.1", octets(&ip)),
        ("`endpoint` 192.0.2.1, port 4500", octets(&std::net::SocketAddr::new(ip, 4500))),
        ("`refusal` 0x106 without words", octets(&Refusal::new(Status::ShuttingDown, ""))),
        (
            "a heartbeat, number 7, epoch 3, no echo, in its frame",
            Message::Heartbeat(beat).to_frame().unwrap().to_vec(),
        ),
    ];
    let text = text("3-encoding.md");
    for (example, octets) in examples {
        let line = text.lines().find(|line| line.starts_with(&format!("| {example} |")));
        let cells: Vec<_> = line.expect(example).split('|').collect();
        assert_eq!(hex(cells[2]), octets, "{example}");
    }
}

#[test]
fn the_limits() {
    let rows = [
        ("3-encoding.md", "| octets of a body | 2^20 |", limits::MAX_BODY == 1 << 20),
        (
            "3-encoding.md",
            "| octets of a frame in a datagram | 1200 |",
            limits::MAX_DATAGRAM == 1200,
        ),
        ("3-encoding.md", "| entries of a message | 1024 |", limits::MAX_ENTRIES == 1024),
        ("3-encoding.md", "| octets of a key | 1024 |", limits::MAX_KEY_OCTETS == 1024),
        ("3-encoding.md", "| octets of a name | 64 |", limits::MAX_NAME == 64),
        ("3-encoding.md", "| octets of a refusal's text | 256 |", limits::MAX_DETAIL == 256),
        ("5-context.md", "| Child SAs | 256 |", limits::MAX_CHILDREN == 256),
        (
            "5-context.md",
            "| packets of a replay window | 4096 |",
            limits::MAX_REPLAY_WINDOW == 4096,
        ),
        ("5-context.md", "of an EAP identity | 256 |", limits::MAX_TEXT == 256),
        (
            "5-context.md",
            "| octets of identification data | 4096 |",
            limits::MAX_IDENTIFICATION == 4096,
        ),
        ("5-context.md", "| octets of a nonce | 256 |", limits::MAX_NONCE == 256),
        ("5-context.md", "policies of a Child SA | 256 each |", limits::MAX_LIST == 256),
        ("5-context.md", "| octets of a last response | 65,535 |", limits::MAX_RESPONSE == 65_535),
        (
            "6-procedures.md",
            "| CT_MAX_TRANSFER_TIME | 200 ms |",
            limits::CT_MAX_TRANSFER_TIME.as_millis() == 200,
        ),
        ("6-procedures.md", "| CT_REQUEST_RETRY | 2 s |", limits::CT_REQUEST_RETRY.as_secs() == 2),
        ("6-procedures.md", "| CT_RETRY_MAX | 15 s |", limits::CT_RETRY_MAX.as_secs() == 15),
        ("6-procedures.md", "| CT_REQUEST_RATE | 10 a second |", limits::CT_REQUEST_RATE == 10),
    ];
    for (file, row, holds) in rows {
        assert!(text(file).contains(row), "{file} does not say: {row}");
        assert!(holds, "the code does not say: {row}");
    }
}

// proves CXTP-2.2-2
#[test]
fn an_identity_has_one_spelling() {
    for good in ["cxtp://gateway/a", "cxtp://controller/c-1.example", "cxtp://client/7"] {
        assert_eq!(good.parse::<Identity>().unwrap().to_string(), good);
    }
    let longest = "a".repeat(64);
    assert!(format!("cxtp://gateway/{longest}").parse::<Identity>().is_ok());
    for bad in [
        "",
        "cxtp://",
        "cxtp://gateway",
        "cxtp://gateway/",
        "cxtp://gateway/a/",
        "cxtp://gateway/a/b",
        "cxtp://gateway/a?x",
        "cxtp://gateway/a#x",
        "cxtp://gateway/a:1",
        "cxtp://gateway/A",
        "cxtp://gateway/a b",
        "cxtp://gateway/%61",
        "cxtp://gateway/ä",
        "cxtp://Gateway/a",
        "cxtp://root/a",
        "cxtp://gateway:1/a",
        "CXTP://gateway/a",
        "https://gateway/a",
        " cxtp://gateway/a",
    ] {
        assert!(bad.parse::<Identity>().is_err(), "{bad:?}");
    }
    assert!(format!("cxtp://gateway/{longest}a").parse::<Identity>().is_err());
}

#[test]
fn a_name_is_the_same_on_the_wire() {
    for bad in ["", "A", "a_b", "a/b", "ä"] {
        assert!(bad.parse::<Name>().is_err());
        let octets = encode(&bad.to_owned()).unwrap();
        assert!(decode::<Name>(&octets).is_err(), "{bad:?}");
    }
}
