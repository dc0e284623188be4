//! Peers that send too much, too slowly, or never read: each is bounded, and the
//! others go on.
#![cfg(feature = "service")]
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod common;

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use common::{Closed, EVE, Hostile, Link, REQUEST_RATE, STALL, Stream, World, say, within};
use protocol_spec::{
    frame::{CRITICAL, Header},
    id::{BatchId, RequestId, SessionEpoch, SessionId},
    limits::MAX_BODY,
    message::{
        Authority, CtReq, Ctaa, Ctar, Ctc, Hello, Kind, Lane, Message, Preflight, Query,
        TargetState,
    },
    status::{Refusal, Status},
    token::{Order, OrderClaims, Token, TokenClaims},
    transfer::TransferMode,
};
use quinn::VarInt;
use ring::signature::Ed25519KeyPair;
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

/// Sends requests as fast as the daemon takes them, and counts the answers by
/// their status.
async fn flood(
    stream: &mut Stream,
    requests: impl IntoIterator<Item = Message>,
) -> BTreeMap<&'static str, usize> {
    let Stream { send, receive } = stream;
    let sent = AtomicUsize::new(0);
    let write = async {
        for message in requests {
            send.write_all(&message.to_frame().unwrap()).await.unwrap();
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut counts = BTreeMap::new();
    let read = async {
        let mut answers = 0;
        // Until there is silence: then all has been answered that will be.
        let quiet = Duration::from_millis(1500);
        while let Ok(Some(message)) = timeout(quiet, common::heard(receive)).await {
            let Message::Ctaa(Ctaa { refused, .. }) = message else { continue };
            answers += 1;
            let status = refused.first().map_or("accepted", |(_, why)| why.status.name());
            *counts.entry(status).or_default() += 1;
        }
        answers
    };
    let (_, answers) = tokio::join!(write, read);
    let sent = sent.load(Ordering::Relaxed);
    assert!(answers <= sent, "{answers} answers to {sent} requests");
    counts
}

/// Five minutes from now, in seconds of the wall clock.
fn soon() -> u64 {
    u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap() + 300
}

fn bogus_token(number: u64, of: SessionId) -> Authority {
    let claims = TokenClaims {
        session: Some(of),
        ike_spis: (number, number),
        source: say::name("gw-a"),
        target: say::name("gw-b"),
        mode: TransferMode::Reactive,
        sequence: number,
        expires: soon(),
    };
    Authority::Token(Token { claims, mac: [0xab; 16] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_ctar_is_limited_and_refused_with_the_reason() {
    let world = World::start().await;
    let wanted = world.at_a().await;
    let hostile = Hostile::new(&world.pki.paper("cxtp://client/phone"), world.b.address);
    let hello = Hello { capabilities: None, ..say::hello("phone", Lane::Control) };
    let mut talk = hostile.greet(hello).await.unwrap();
    let begun = Instant::now();
    let requests = (0..5000).map(|number| {
        Message::Ctar(Ctar {
            request: request(number),
            source: say::name("gw-a"),
            target: say::name("gw-b"),
            mode: TransferMode::Reactive,
            sessions: vec![wanted],
            authority: bogus_token(number, wanted),
        })
    });
    let counts = world.during(flood(&mut talk.shared, requests)).await;
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    let limited = counts.get("rate-limited").copied().unwrap_or(0);
    let others: usize = counts.values().sum::<usize>() - limited;
    assert!(limited > 4000, "{counts:?}");
    // Those within the rate are passed on to the source, which refuses them.
    assert!(others <= REQUEST_RATE * seconds, "{counts:?}");
    assert!(world.a.gateway.active(wanted).is_some());
    world.says(Level::WARN, &["cxtp://client/phone", "rate-limited"]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_ct_req_is_limited_and_pulls_nothing() {
    let world = World::start().await;
    let mut wanted = Vec::new();
    for _ in 0..10 {
        wanted.push(world.at_a().await);
    }
    let mut link = world.gateway(EVE, &world.a).link(EVE).await;
    world.says(Level::INFO, &["peer up", EVE]).await;
    let stranger = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let begun = Instant::now();
    let requests = (0..4000_u64).map(|number| {
        let request = request(number);
        let authority = match number % 5 {
            0 => Authority::Known(request),
            1 => Authority::Standby,
            2 => bogus_token(number, wanted[0]),
            // Signed by a key that is not the controller's, or by the right one
            // for somebody else.
            kind => {
                let claims = OrderClaims {
                    id: request,
                    controller: say::name("noc"),
                    sessions: wanted.clone(),
                    source: say::name("gw-a"),
                    target: say::name(if kind == 3 { EVE } else { "gw-b" }),
                    expires: soon(),
                };
                let key = if kind == 3 { &stranger } else { &world.noc };
                Authority::Order(Order::sign(claims, key).unwrap())
            }
        };
        Message::CtReq(CtReq { request, sessions: wanted.clone(), authority })
    });
    let counts = world.during(flood(&mut link.control.shared, requests)).await;
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    let limited = counts.get("rate-limited").copied().unwrap_or(0);
    let others: usize = counts.values().sum::<usize>() - limited;
    assert!(limited > 3000, "{counts:?}");
    assert!(others > 0 && others <= REQUEST_RATE * seconds, "{counts:?}");
    assert_eq!(counts.get("accepted"), None, "{counts:?}");
    for session in wanted {
        assert!(world.a.gateway.active(session).is_some());
    }
    world.says(Level::WARN, &[EVE, "rate-limited"]).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_preflights_does_not_keep_the_gateway_from_its_work() {
    let world = World::start().await;
    let mut link = world.gateway(EVE, &world.b).link(EVE).await;
    let profiles: Vec<_> = (0..200).map(|_| world.fresh().profile()).collect();
    let attack = async {
        let Stream { send, receive } = &mut link.control.shared;
        let write = async {
            for number in 0..500 {
                let question = Preflight { request: request(number), profiles: profiles.clone() };
                let frame = Message::Preflight(question).to_frame().unwrap();
                send.write_all(&frame).await.unwrap();
            }
        };
        let read = async {
            let mut answers = 0;
            let quiet = Duration::from_millis(1500);
            while let Ok(Some(message)) = timeout(quiet, common::heard(receive)).await {
                answers += usize::from(matches!(message, Message::PreflightAnswer(_)));
            }
            answers
        };
        tokio::join!(write, read).1
    };
    let answers = world.during(attack).await;
    assert!((1..=500).contains(&answers), "{answers} answers");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_that_are_taken_back_again_and_again_leave_nothing_staged() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let attack = async {
        for batch in 0..40 {
            let mut stream = link.bulk.stream().await;
            let contexts: Vec<_> = (0..40).map(|_| world.fresh()).collect();
            let entries: Vec<_> = contexts.iter().map(|c| (c.session, SessionEpoch(1))).collect();
            stream.say(&say::pushed(batch, 1, contexts)).await;
            let reason = Refusal::new(Status::Cancelled, "again");
            stream
                .say(&Message::Ctc(Ctc { batch: BatchId(say::id(batch)), entries, reason }))
                .await;
            let mut settled = 0;
            while settled < 40 {
                let Some(Message::Ctdr(answer)) = stream.hear().await else { panic!("no CTDR") };
                let is_settled = |state: &TargetState| !matches!(state, TargetState::Staged { .. });
                settled += answer.entries.iter().filter(|e| is_settled(&e.state)).count();
            }
        }
    };
    world.during(attack).await;
    common::until("nothing to be staged", || world.b.gateway.staged().0 <= 1).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_never_say_hello_are_closed_and_bounded() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    let attack = async {
        let mut silent = Vec::new();
        let mut refused = 0;
        for _ in 0..150 {
            match hostile.connect().await {
                Ok(connection) => silent.push(connection),
                Err(_) => refused += 1,
            }
        }
        assert!(!silent.is_empty());
        for connection in &silent {
            let closed: Closed =
                within("the silent to be closed", connection.closed()).await.into();
            let fair = match &closed {
                Closed::Told { code, reason } => *code == STALLED && reason.contains("hello"),
                // Told before the handshake was whole.
                Closed::Refused(_) => true,
            };
            assert!(fair, "{closed:?}");
        }
        refused
    };
    world.during(attack).await;
    world.says(Level::WARN, &["refused a connection", "no hello came in time"]).await;
    // Nobody is kept out for long.
    hostile.link(EVE).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_are_not_quic_are_ignored() {
    let world = World::start().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let attack = async {
        for number in 0_u32..5000 {
            let mut octets = vec![0; 1 + usize::try_from(number % 1400).unwrap()];
            let seed = number.wrapping_mul(0x9e37_79b9);
            for (place, octet) in octets.iter_mut().enumerate() {
                *octet = seed.rotate_left(u32::try_from(place % 31).unwrap()) as u8;
            }
            // Long headers with our version as well, so that some are looked at.
            if number % 4 == 0 && octets.len() > 5 {
                octets[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
            }
            let _ = socket.send_to(&octets, world.b.address);
            if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    world.during(attack).await;
    world.gateway(EVE, &world.b).link(EVE).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_are_begun_and_left_do_not_keep_peers_out() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    let attack = async {
        for _ in 0..400 {
            hostile.begin_and_leave().await;
        }
    };
    world.during(attack).await;
    within("a peer to get in", async {
        while hostile.connect().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_connects_again_and_again_disturbs_only_itself() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    let attack = async {
        let mut last = None;
        for _ in 0..60 {
            let link = hostile.link(EVE).await;
            last.replace(link);
        }
        last
    };
    let last = world.during(attack).await.unwrap();
    let mut stream = last.bulk.stream().await;
    stream.say(&say::pushed(1, 1, vec![world.fresh()])).await;
    assert!(matches!(stream.hear().await, Some(Message::Ctdr(_))), "the newest link works");
    world.finish().await;
}
