//! Peers that ask too much, or connect too often: each is bounded, and the others
//! go on.
#![cfg(feature = "service")]
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod common;

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use common::{Closed, EVE, Hostile, REQUEST_RATE, Stream, World, say, within};
use protocol_spec::{
    id::{BatchId, RequestId, SessionEpoch, SessionId},
    message::{Authority, CtReq, Ctaa, Ctar, Ctc, Hello, Lane, Message, Preflight, TargetState},
    status::{Refusal, Status},
    token::{Order, OrderClaims, Token, TokenClaims},
    transfer::TransferMode,
};
use ring::signature::Ed25519KeyPair;
use tokio::time::{Instant, timeout};
use tracing::Level;

const STALLED: u64 = 0x7;

fn request(number: u64) -> RequestId {
    RequestId(say::id(number))
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
