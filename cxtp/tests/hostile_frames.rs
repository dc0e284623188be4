//! Octets that are not what the protocol says, from a peer that may connect.
#![cfg(feature = "service")]
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod common;

use bytes::Bytes;
use common::{Closed, EVE, World, say, until};
use protocol_spec::{
    frame::{CRITICAL, Header},
    id::{BatchId, GatewayEpoch, RequestId, SessionEpoch, SessionId},
    limits::{MAX_BODY, MAX_ENTRIES},
    message::{Heartbeat, Hello, Kind, Lane, Message, Query, TargetState},
};
use tracing::Level;

const MALFORMED: u64 = 0x1;
const UNKNOWN_CRITICAL: u64 = 0x2;
const TOO_LONG: u64 = 0x3;
const NO_VERSION: u64 = 0x6;

/// A type from a version to come.
const FUTURE: u8 = 0x7e;

fn frame_of(message: &Message) -> Vec<u8> {
    message.to_frame().unwrap().to_vec()
}

fn header(kind: Kind, length: u32) -> Vec<u8> {
    Header { kind: kind as u8, flags: CRITICAL, length }.to_octets().to_vec()
}

/// The body of a message, and its type.
fn parts(message: &Message) -> (u8, Vec<u8>) {
    (message.kind() as u8, message.to_frame().unwrap()[8..].to_vec())
}

fn query(transfers: Vec<(SessionId, SessionEpoch, BatchId)>) -> Message {
    Message::Query(Query { request: RequestId([0xf1; 16]), transfers })
}

/// Writes octets on a stream of its own and ends it there; the daemon closes both
/// connections, says why to the peer and in the log, and lets the peer come again.
async fn close_the_link(all: &[(&str, Vec<u8>)], code: u64, words: &[&str]) {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    for (what, octets) in all {
        let link = hostile.link(EVE).await;
        let attack = async {
            let mut stream = link.bulk.stream().await;
            // It may be closed before all is written.
            let _ = stream.write(octets).await;
            let _ = stream.send.finish();
            link.bulk.closed().await
        };
        let closed = world.during(attack).await;
        let Closed::Told { code: told, reason } = &closed else { panic!("{what}: {closed:?}") };
        assert_eq!(*told, code, "{what}: {reason}");
        for word in words {
            assert!(reason.contains(word), "{what}: `{reason}` does not say `{word}`");
        }
        link.control.closed().await;
        world.says(Level::WARN, &["peer down", EVE, reason]).await;
    }
    hostile.link(EVE).await;
    world.finish().await;
}

// proves CXTP-3.1-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_type_that_is_not_critical_is_skipped() {
    let world = World::start().await;
    let context = world.fresh();
    let session = context.session;
    let mut link = world.gateway(EVE, &world.b).link(EVE).await;
    let attack = async {
        link.control.shared.write(&say::frame(FUTURE, 0, b"from the future")).await.unwrap();
        let datagram = Bytes::from(say::frame(FUTURE, 0, b"from the future"));
        link.control.connection.send_datagram(datagram).unwrap();
        let mut stream = link.bulk.stream().await;
        stream.write(&say::frame(FUTURE, 0, &vec![0xee; MAX_BODY])).await.unwrap();
        stream.write(&say::frame(FUTURE, 0x7f, &[])).await.unwrap();
        stream.say(&say::pushed(1, 1, vec![context])).await;
        stream.hear().await
    };
    let Some(Message::Ctdr(answer)) = world.during(attack).await else { panic!("no CTDR") };
    assert!(matches!(answer.entries[0].state, TargetState::Staged { .. }), "{answer:?}");
    assert!(world.b.gateway.holds(session));
    assert!(link.control.is_open() && link.bulk.is_open());
    let kind = FUTURE.to_string();
    world.says(Level::DEBUG, &["skipped a message of an unknown type", &kind]).await;
    world.finish().await;
}

// proves CXTP-3.1-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_version_puts_into_the_header_is_ignored() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let mut frame = frame_of(&say::pushed(1, 1, vec![world.fresh()]));
    (frame[1], frame[2], frame[3]) = (0xff, 0xff, 0xff);
    let mut stream = link.bulk.stream().await;
    stream.write(&frame).await.unwrap();
    let Some(Message::Ctdr(answer)) = stream.hear().await else { panic!("no CTDR") };
    assert!(matches!(answer.entries[0].state, TargetState::Staged { .. }), "{answer:?}");
    world.finish().await;
}

// proves CXTP-3.1-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_type_that_is_critical_closes_the_link() {
    let all = [
        ("with a body", say::frame(FUTURE, CRITICAL, b"?")),
        ("without", { say::frame(FUTURE, CRITICAL, &[]) }),
    ];
    close_the_link(&all, UNKNOWN_CRITICAL, &["unknown", "critical", "0x7e"]).await;
}

// proves CXTP-9.1-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_version_is_told_so() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    let of = |versions| Hello { versions, ..say::hello(EVE, Lane::Control) };
    for versions in [(2, 3), (0, 0), (3, 1), (u16::MAX, u16::MAX)] {
        let Err(closed) = hostile.greet(of(versions)).await else { panic!("{versions:?}") };
        let Closed::Told { code: NO_VERSION, reason } = &closed else { panic!("{closed:?}") };
        assert!(reason.contains("no-version") && reason.contains("speak 1"), "{reason}");
    }
    world.says(Level::WARN, &["no-version", EVE, "2 to 3"]).await;
    // One of several is enough.
    let talk = hostile.greet(of((0, 9))).await.unwrap();
    assert_eq!(talk.hello.versions, (1, 1));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_in_the_middle_of_a_frame_closes_the_link() {
    let frame = frame_of(&say::pushed(1, 1, vec![say::session(0x00ff_0001)]));
    let all = [
        ("in the header", frame[..5].to_vec()),
        ("after the header", frame[..8].to_vec()),
        ("in the body", frame[..frame.len() / 2].to_vec()),
        ("before the last octet", frame[..frame.len() - 1].to_vec()),
        ("in the second frame", [&frame[..], &frame[..9]].concat()),
    ];
    close_the_link(&all, MALFORMED, &["middle of a frame"]).await;
}

// proves CXTP-3.1-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_of_gigabytes_closes_the_link_before_anything_is_allocated() {
    let most = u32::try_from(MAX_BODY).unwrap();
    let all = [
        ("4 GiB", header(Kind::Pctd, u32::MAX)),
        ("2 GiB", header(Kind::Ctar, 1 << 31)),
        ("one octet more", header(Kind::Query, most + 1)),
        (
            "of an unknown type",
            say::frame(FUTURE, 0, &[])[..4].iter().chain(&[0xff; 4]).copied().collect(),
        ),
    ];
    close_the_link(&all, TOO_LONG, &["claims a body of"]).await;
}

// proves CXTP-3.4-1
// proves CXTP-3.4-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_of_gigabytes_inside_a_body_closes_the_link() {
    // Marker of a 64-bit integer, then the number of entries.
    let claims = |number: u64| [&[0xfd][..], &number.to_le_bytes()].concat();
    let body = |number| [&[0xf1; 16][..], &claims(number)].concat();
    let all: Vec<_> = [1 << 24, 1 << 32, 1 << 40, u64::MAX]
        .into_iter()
        .map(|number| ("in a query", say::frame(Kind::Query as u8, CRITICAL, &body(number))))
        .collect();
    close_the_link(&all, MALFORMED, &["Query"]).await;
}

// proves CXTP-3.4-3
// proves CXTP-3.4-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn octets_after_a_body_close_the_link() {
    let (kind, body) = parts(&say::pushed(1, 1, vec![say::session(0x00ff_0001)]));
    let long = |more: &[u8]| say::frame(kind, CRITICAL, &[&body, more].concat());
    let all = [("one", long(&[0])), ("many", long(&[0xff; 1000]))];
    close_the_link(&all, MALFORMED, &["Pctd", "follow"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_ends_early_closes_the_link() {
    let (kind, body) = parts(&say::pushed(1, 1, vec![say::session(0x00ff_0001)]));
    let short = |octets| say::frame(kind, CRITICAL, &body[..octets]);
    let all = [("none", short(0)), ("some", short(40)), ("all but one", short(body.len() - 1))];
    close_the_link(&all, MALFORMED, &["Pctd", "ends in the middle"]).await;
}

// proves CXTP-3.4-2
// proves CXTP-3.4-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_encoding_of_the_same_closes_the_link() {
    // No entries: as one octet it is canonical, in 16, 32 and 64 bits it is not.
    let (kind, body) = parts(&query(vec![]));
    assert_eq!(body.last(), Some(&0));
    let with = |count: &[u8]| say::frame(kind, CRITICAL, &[&body[..16], count].concat());
    let all = [
        ("16 bits", with(&[0xfb, 0, 0])),
        ("32 bits", with(&[0xfc, 0, 0, 0, 0])),
        ("64 bits", with(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0])),
    ];
    close_the_link(&all, MALFORMED, &["Query", "canonical"]).await;
}

// proves CXTP-3.3-3
// proves CXTP-3.4-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_its_type_does_not_have_closes_the_link() {
    let (kind, mut body) = parts(&say::pushed(1, 1, vec![say::session(0x00ff_0001)]));
    // The mode, behind the batch.
    body[16] = 9;
    let all = [("a mode", say::frame(kind, CRITICAL, &body))];
    close_the_link(&all, MALFORMED, &["Pctd", "does not have"]).await;
}

// proves CXTP-3.4-4
// proves CXTP-3.4-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_entries_than_a_message_may_have_close_the_link() {
    let entry = |n: usize| {
        let id = say::id(n.try_into().unwrap());
        (SessionId(id), SessionEpoch(1), BatchId(id))
    };
    // Our own encoder refuses to write it, so it is made from one that is right.
    let (kind, mut body) = parts(&query((0..MAX_ENTRIES).map(entry).collect()));
    assert_eq!(body[16..19], [0xfb, 0x00, 0x04], "1024, in 16 bits");
    body[17] = 0x01;
    let last = body.len() - 33;
    body.extend_from_within(last..);
    let all = [("one more", say::frame(kind, CRITICAL, &body))];
    close_the_link(&all, MALFORMED, &["Query", "more than 1024 entries"]).await;
}

// proves CXTP-2.3-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hello_closes_the_link() {
    let hello = Message::Hello(say::hello("gw-a", Lane::Control));
    close_the_link(&[("as another", frame_of(&hello))], MALFORMED, &["second hello"]).await;
}

// proves CXTP-2.6-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datagram_that_is_no_message_closes_the_link() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    let heartbeat = |length: usize| {
        let mut frame = header(Kind::Heartbeat, 3);
        frame.resize(length, 0xff);
        frame
    };
    let all = [
        ("nothing", vec![]),
        ("half a header", vec![0x21, 0, 0, 0]),
        ("a body that ends early", heartbeat(10)),
        ("a body that is no heartbeat", heartbeat(11)),
        ("more than it says", heartbeat(900)),
        ("what belongs on a stream", frame_of(&query(vec![]))),
        ("what is critical and unknown", say::frame(FUTURE, CRITICAL, &[])),
    ];
    for (what, octets) in all {
        let link = hostile.link(EVE).await;
        let attack = async {
            link.control.connection.send_datagram(octets.into()).unwrap();
            link.control.closed().await
        };
        let closed = world.during(attack).await;
        let Closed::Told { code, reason } = &closed else { panic!("{what}: {closed:?}") };
        assert!([MALFORMED, UNKNOWN_CRITICAL].contains(code), "{what}: {code} {reason}");
        link.bulk.closed().await;
        world.says(Level::WARN, &["peer down", EVE, reason]).await;
    }
    world.finish().await;
}

// proves CXTP-2.6-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_heartbeats_changes_nothing() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let attack = async {
        for number in 0..20_000 {
            let epoch = GatewayEpoch(number % 3);
            // Of another life, from the past, with an echo of what never was.
            let beat = Heartbeat {
                number: u64::MAX - number,
                epoch,
                echo: Some((u64::MAX, GatewayEpoch(number))),
            };
            let frame = Bytes::from(frame_of(&Message::Heartbeat(beat)));
            link.control.connection.send_datagram_wait(frame).await.unwrap();
        }
    };
    world.during(attack).await;
    assert!(link.control.is_open() && link.bulk.is_open());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_octets_close_the_link_or_are_skipped() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    let attack = async {
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        for round in 0..60 {
            let link = hostile.link(EVE).await;
            let mut octets: Vec<u8> = (0..64).flat_map(|_| random()).collect();
            if round % 3 > 0 {
                // A header that is believed, so that bodies are looked at as well.
                let kind = Kind::ALL[usize::from(octets[0]) % Kind::ALL.len()];
                let length = u32::try_from(octets.len() - 8).unwrap();
                octets[..8].copy_from_slice(&header(kind, length));
            }
            let mut stream = link.bulk.stream().await;
            let _ = stream.write(&octets).await;
            let _ = stream.send.finish();
            let skippable = [Kind::ReplicaDelta as u8, Kind::ReplicaAck as u8];
            if octets[1] & CRITICAL != 0 && !skippable.contains(&octets[0]) {
                link.bulk.closed().await;
            }
        }
    };
    world.during(attack).await;
    assert!(!world.b.gateway.all_active().is_empty());
    until("nothing to be staged", || world.b.gateway.staged().0 <= 1).await;
    world.finish().await;
}
