//! Streams that stall, that are many, that are never read or never end: each is
//! bounded, and the others go on.
#![cfg(feature = "service")]

mod common;

use std::time::Duration;

use common::{Closed, EVE, Link, STALL, World, say, within};
use protocol_spec::{
    frame::{CRITICAL, Header},
    id::{BatchId, RequestId, SessionEpoch, SessionId},
    limits::MAX_BODY,
    message::{Ctc, Kind, Message, Query, TargetState},
    status::{Refusal, Status},
};
use quinn::VarInt;
use tokio::time::{Instant, timeout};
use tracing::Level;

const STALLED: u64 = 0x7;
const OVERRUN: u64 = 0x8;
/// Streams that a peer may have open on one connection.
const STREAMS: usize = 96;

fn request(number: u64) -> RequestId {
    RequestId(say::id(number))
}

fn session(number: u64) -> SessionId {
    SessionId(say::id(0xee00_0000_0000 + number))
}

// proves CXTP-2.5-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_stalls_is_reset_and_the_others_go_on() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let frame = say::pushed(1, 1, vec![say::session(0x00ff_0001)]).to_frame().unwrap();
    let attack = async {
        let mut stalled = Vec::new();
        for cut in [1, 7, 8, 9, frame.len() - 1] {
            let mut stream = link.bulk.stream().await;
            stream.write(&frame[..cut]).await.unwrap();
            stalled.push((cut, stream));
        }
        // A large frame, an octet at a time.
        let mut drip = link.bulk.stream().await;
        let length = u32::try_from(MAX_BODY).unwrap();
        let header = Header { kind: Kind::Pctd as u8, flags: CRITICAL, length };
        drip.write(&header.to_octets()).await.unwrap();
        let begun = Instant::now();
        while drip.send.write_all(&[0]).await.is_ok() {
            assert!(begun.elapsed() < STALL * 10, "the daemon reads on and on");
            tokio::time::sleep(STALL / 20).await;
        }
        // Meanwhile the connection is good for what is whole.
        let mut stream = link.bulk.stream().await;
        stream.say(&say::pushed(2, 1, vec![world.fresh()])).await;
        let Some(Message::Ctdr(answer)) = stream.hear().await else { panic!("no CTDR") };
        assert!(matches!(answer.entries[0].state, TargetState::Staged { .. }), "{answer:?}");
        for (cut, stream) in &stalled {
            let code = within("the stream to be stopped", stream.send.stopped()).await.unwrap();
            assert_eq!(code.map(VarInt::into_inner), Some(STALLED), "after {cut} octets");
        }
    };
    world.during(attack).await;
    assert!(link.control.is_open() && link.bulk.is_open());
    world.says(Level::WARN, &[EVE, "stream", "stalled"]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_thousand_streams_only_so_many_are_open_at_a_time() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let begun = Instant::now();
    let attack = async {
        let mut streams = Vec::new();
        while streams.len() < 10_000 && begun.elapsed() < STALL * 6 {
            let opened = timeout(STALL / 4, link.bulk.connection.open_bi()).await;
            let Ok(Ok((mut send, receive))) = opened else { continue };
            // One octet, so that the daemon sees the stream, and then nothing.
            let _ = send.write_all(&[Kind::Pctd as u8]).await;
            streams.push((send, receive));
        }
        streams
    };
    let streams = world.during(attack).await;
    // Each that stalls makes room for another one, and no more than that.
    let rounds = begun.elapsed().as_millis() / STALL.as_millis() + 2;
    let most = STREAMS * usize::try_from(rounds).unwrap();
    // One of them is the stream of the hello.
    assert!((STREAMS - 1..=most).contains(&streams.len()), "{} of {most}", streams.len());
    assert!(link.control.is_open() && link.bulk.is_open());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_one_after_another_leave_nothing_behind() {
    let world = World::start().await;
    let mut link = world.gateway(EVE, &world.b).link(EVE).await;
    let Link { control, bulk } = &mut link;
    let attack = async {
        let ask = async {
            for number in 0..10_000 {
                let (mut send, mut receive) = bulk.connection.open_bi().await.unwrap();
                let message = Message::Query(Query { request: request(number), transfers: vec![] });
                send.write_all(&message.to_frame().unwrap()).await.unwrap();
                send.finish().unwrap();
                let _ = receive.stop(VarInt::from_u32(0));
            }
            let last = Query {
                request: request(10_000),
                transfers: vec![(session(0), SessionEpoch(1), BatchId([0xf3; 16]))],
            };
            control.shared.say(&Message::Query(last)).await;
            loop {
                match control.shared.hear().await {
                    Some(Message::QueryAnswer(m)) if m.request == request(10_000) => return,
                    Some(_) => {}
                    None => panic!("no answer"),
                }
            }
        };
        timeout(Duration::from_secs(40), ask).await.unwrap();
    };
    world.during(attack).await;
    assert!(link.control.is_open() && link.bulk.is_open());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_batches_opens_no_flood_of_streams() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    // The daemon may open one for each, and more.
    link.bulk.connection.set_max_concurrent_bi_streams(VarInt::from_u32(1 << 13));
    let attack = async {
        let mut stream = link.bulk.stream().await;
        for number in 0..5000 {
            let cancel = Ctc {
                batch: BatchId(say::id(number)),
                entries: vec![(session(number), SessionEpoch(1))],
                reason: Refusal::new(Status::Cancelled, "never was"),
            };
            stream.say(&Message::Ctc(cancel)).await;
        }
        let mut opened = Vec::new();
        let quiet = Duration::from_millis(700);
        while let Ok(Ok(pair)) = timeout(quiet, link.bulk.connection.accept_bi()).await {
            opened.push(pair);
        }
        opened.len()
    };
    let opened = world.during(attack).await;
    assert!(opened <= STREAMS, "the daemon opened {opened} streams");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_is_dropped() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b).reading_only(4096);
    let mut link = hostile.link(EVE).await;
    let attack = async {
        for number in 0..20_000 {
            let transfers =
                (0..100).map(|n| (session(n), SessionEpoch(1), BatchId(say::id(number)))).collect();
            let query = Message::Query(Query { request: request(number), transfers });
            let frame = query.to_frame().unwrap();
            if link.control.shared.write(&frame).await.is_err() {
                break;
            }
        }
        link.control.closed().await
    };
    let closed = world.during(attack).await;
    let Closed::Told { code: OVERRUN, .. } = &closed else { panic!("{closed:?}") };
    world.says(Level::WARN, &["peer down", EVE]).await;
    world.finish().await;
}

// proves CXTP-2.5-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_large_frames_is_held_back_by_flow_control() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let frame = say::frame(0x7e, 0, &vec![0xee; MAX_BODY]);
    let attack = async {
        let write = |count: usize| {
            let (link, frame) = (&link, &frame);
            async move {
                let mut stream = link.bulk.stream().await;
                for _ in 0..count {
                    stream.write(frame).await.unwrap();
                }
            }
        };
        tokio::join!(write(25), write(25), write(25), write(25));
    };
    world.during(attack).await;
    assert!(link.control.is_open() && link.bulk.is_open());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bodies_that_are_begun_and_never_end_take_bounded_room() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let length = u32::try_from(MAX_BODY).unwrap();
    let header = Header { kind: Kind::Pctd as u8, flags: CRITICAL, length }.to_octets();
    let attack = async {
        let mut streams = Vec::new();
        for _ in 1..STREAMS {
            let mut stream = link.bulk.stream().await;
            stream.write(&header).await.unwrap();
            // All but the end of what it claims, as far as flow control lets it.
            let most = vec![0x11; MAX_BODY - 1];
            let _ = timeout(Duration::from_millis(20), stream.send.write_all(&most)).await;
            streams.push(stream);
        }
        for stream in &streams {
            let stopped = within("the stream to be stopped", stream.send.stopped()).await;
            assert_eq!(stopped.unwrap().map(VarInt::into_inner), Some(STALLED));
        }
    };
    world.during(attack).await;
    // What it held was given back: the peer may go on.
    let mut stream = link.bulk.stream().await;
    stream.say(&say::pushed(2, 1, vec![world.fresh()])).await;
    assert!(matches!(stream.hear().await, Some(Message::Ctdr(_))));
    world.finish().await;
}
