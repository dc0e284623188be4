//! The frames of the invalid vectors: each has one fault.

use protocol_spec::{
    codec::{self, Malformed},
    frame::{CRITICAL, HEADER, Header},
    id::{RequestId, SessionId},
    limits::{MAX_BODY, MAX_ENTRIES},
    message::{Authority, CtReq, Kind},
};

/// Name, what is wrong, the error's name, frame.
type Broken = (&'static str, &'static str, &'static str, Vec<u8>);

fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let header = Header { kind, flags, length: body.len() as u32 }.to_octets();
    [&header, body].concat()
}

fn of(kind: Kind, body: &[u8]) -> Vec<u8> {
    frame(kind as u8, CRITICAL, body)
}

/// A heartbeat with these octets for its number and its end.
fn beat(number: &[u8], end: &[u8]) -> Vec<u8> {
    of(Kind::Heartbeat, &[number, &[1], end].concat())
}

/// A hello of gateway `a` with these two sets.
fn hello(child_transforms: &[u8], role: u8) -> Vec<u8> {
    let body = [&[1, 1, 1, b'a', 5, role, 1, 0], child_transforms, &[0, 32, 1]].concat();
    of(Kind::Hello, &body)
}

/// Number of octets that `text` has, then `text`.
fn bye(text: &[u8], length: &[u8]) -> Vec<u8> {
    of(Kind::Bye, &[&[11], length, text].concat())
}

pub(crate) fn all() -> Result<Vec<Broken>, Malformed> {
    let too_many = codec::encode(&CtReq {
        request: RequestId([1; 16]),
        sessions: vec![SessionId([2; 16]); MAX_ENTRIES + 1],
        authority: Authority::Standby,
    })?;
    let mut too_long = frame(Kind::Pctd as u8, CRITICAL, &[]);
    let [a, b, c, d] = (MAX_BODY as u32 + 1).to_be_bytes();
    too_long.truncate(HEADER - 4);
    too_long.extend([a, b, c, d]);
    let good = beat(&[7], &[0]);
    let huge = [253, 0, 0, 0, 0, 0, 0, 0, 0x40];
    let ctaa = |rest: &[u8]| of(Kind::Ctaa, &[&[0x0e; 16], rest].concat());
    Ok(vec![
        ("header-cut", "Seven octets are no header", "length", good[..7].to_vec()),
        ("body-cut", "The header says one octet more", "length", good[..good.len() - 1].to_vec()),
        (
            "body-followed",
            "The header says one octet less",
            "length",
            [good.as_slice(), &[0]].concat(),
        ),
        ("body-too-long", "The header claims a body of 2^20 + 1 octets", "too-long", too_long),
        (
            "critical-unknown",
            "Type 0x7f is not registered and critical",
            "unknown-critical",
            frame(0x7f, CRITICAL, b"abc"),
        ),
        (
            "entries-too-many",
            "A CT-Req for 1025 sessions",
            "too-many-entries",
            of(Kind::CtReq, &too_many),
        ),
        ("value-cut", "A heartbeat that ends before its echo", "truncated", beat(&[7], &[])),
        (
            "integer-cut",
            "A 16-bit integer of which one octet is there",
            "truncated",
            of(Kind::Heartbeat, &[251, 0]),
        ),
        ("list-cut", "A list of one refusal that holds none", "truncated", ctaa(&[1])),
        ("value-followed", "An octet behind a heartbeat", "trailing", beat(&[7], &[0, 0])),
        ("length-huge", "A list of 2^62 refusals", "oversized", ctaa(&huge)),
        ("text-huge", "A text of 2^62 octets", "oversized", bye(b"x", &huge)),
        ("integer-long-16", "250 in the 16-bit form", "not-canonical", beat(&[251, 250, 0], &[0])),
        (
            "integer-long-32",
            "65535 in the 32-bit form",
            "not-canonical",
            beat(&[252, 255, 255, 0, 0], &[0]),
        ),
        (
            "integer-long-64",
            "5 in the 64-bit form",
            "not-canonical",
            beat(&[253, 5, 0, 0, 0, 0, 0, 0, 0], &[0]),
        ),
        (
            "length-long",
            "The length of a text in the 16-bit form",
            "not-canonical",
            bye(b"x", &[251, 1, 0]),
        ),
        (
            "variant-long",
            "The number of a variant in the 16-bit form",
            "not-canonical",
            of(Kind::CtReq, &[&[1; 16][..], &[0, 251, 3, 0]].concat()),
        ),
        (
            "set-unordered",
            "A set whose elements do not ascend",
            "not-canonical",
            hello(&[2, 20, 251, 0, 1, 0, 20, 128, 0], 0),
        ),
        (
            "set-repeated",
            "A set that holds an element twice",
            "not-canonical",
            hello(&[2, 20, 128, 0, 20, 128, 0], 0),
        ),
        (
            "integer-reserved-254",
            "First octet 254: a form of 128 bits, which no field has",
            "bad-value",
            beat(&[&[254][..], &[0; 16]].concat(), &[0]),
        ),
        ("integer-reserved-255", "First octet 255 means nothing", "bad-value", beat(&[255], &[0])),
        (
            "integer-wide",
            "A status in the 32-bit form, which 16 bits do not have",
            "bad-value",
            of(Kind::Bye, &[252, 0, 0, 1, 0, 0]),
        ),
        (
            "option-two",
            "An option that is neither absent nor present",
            "bad-value",
            beat(&[7], &[2]),
        ),
        (
            "variant-unknown",
            "Authority number 4 does not exist",
            "bad-value",
            of(Kind::CtReq, &[&[1; 16][..], &[0, 4]].concat()),
        ),
        ("lane-unknown", "Lane number 2 does not exist", "bad-value", hello(&[0], 2)),
        (
            "name-capital",
            "A name with a capital letter",
            "bad-value",
            of(Kind::Hello, &[1, 1, 1, b'A', 5, 0, 0]),
        ),
        ("name-empty", "An empty name", "bad-value", of(Kind::Hello, &[1, 1, 0, 5, 0, 0])),
        ("text-not-utf8", "A text that is not UTF-8", "bad-value", bye(&[0xff], &[1])),
        (
            "text-too-long",
            "An explanation of 257 octets",
            "bad-value",
            bye(&[b'x'; 257], &[251, 1, 1]),
        ),
    ])
}
