//! What the specification demands of the transport (section 2) and no other test
//! looks at, sentence by sentence.
#![cfg(feature = "service")]
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod common;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use common::{Closed, Daemon, EVE, Hostile, Pki, World, say, within};
use cxtp::{quic::tls::Credentials, service::config::TlsFiles};
use protocol_spec::{
    id::{Identity, Role},
    message::{Ctdr, CtdrEntry, Message, TargetState as Said},
};
use rustls::pki_types::UnixTime;

/// What a gateway of this name has in its files.
fn credentials(pki: &Pki, name: &str) -> Credentials {
    let directory = tempfile::tempdir().unwrap();
    pki.write(name, directory.path());
    let file = |file: String| directory.path().join(file);
    let files = TlsFiles {
        ca: file("ca.pem".to_owned()),
        certificate: file(format!("{name}.pem")),
        key: file(format!("{name}.key")),
    };
    Credentials::load(&files, &say::name(name), UnixTime::now()).unwrap()
}

/// A socket that lets in whom the credentials let in, and no further.
fn listen(credentials: &Credentials) -> (quinn::Endpoint, SocketAddr) {
    let crypto = Arc::new(credentials.server().unwrap());
    let config = quinn::ServerConfig::with_crypto(crypto);
    let endpoint = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            });
        }
    });
    (endpoint, address)
}

/// Waits until the daemon says that Eve is connected, or is not.
async fn is_up(daemon: &Daemon, up: bool) {
    let changed = async {
        while (daemon.status().await.peers[EVE] == "up") != up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the state of the peer to change", changed).await;
}

// proves CXTP-2.1-1
#[tokio::test]
async fn another_application_protocol_is_refused() {
    let pki = Pki::new();
    let (_endpoint, address) = listen(&credentials(&pki, "gw-b"));
    let paper = pki.paper("cxtp://gateway/gw-a");
    for protocol in ["h3", "cxtp/2", "cxtp"] {
        let closed = Hostile::speaking(&paper, protocol.as_bytes(), address).connect().await;
        assert!(matches!(closed, Err(Closed::Refused(_))), "{protocol}");
    }
    assert!(Hostile::new(&paper, address).connect().await.is_ok());
}

// proves CXTP-2.1-3
#[tokio::test]
async fn nothing_can_be_said_before_the_handshake() {
    let pki = Pki::new();
    let (_endpoint, address) = listen(&credentials(&pki, "gw-b"));
    let peer = Hostile::new(&pki.paper("cxtp://gateway/gw-a"), address);
    for _ in 0..3 {
        assert!(!peer.may_send_early());
        // Whatever a server gives out for the next time has come by now.
        let connection = peer.connect().await.unwrap();
        let pinged = within("a stream", connection.open_bi()).await;
        assert!(pinged.is_ok());
    }
    assert!(!peer.may_send_early());
}

// proves CXTP-2.2-3
#[tokio::test]
async fn who_is_dialled_must_be_who_answers() {
    let pki = Pki::new();
    let ours = credentials(&pki, "gw-a");
    let (_endpoint, address) = listen(&credentials(&pki, "gw-x"));
    let dial = async |name: &str| {
        let expected = Identity { role: Role::Gateway, name: say::name(name) };
        let crypto = Arc::new(ours.client(expected).unwrap());
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let config = quinn::ClientConfig::new(crypto);
        let connecting = endpoint.connect_with(config, address, "gateway").unwrap();
        within("a handshake", connecting).await.map(|_| ()).map_err(|error| error.to_string())
    };
    let error = dial("gw-b").await.unwrap_err();
    assert!(error.contains("gw-x") && error.contains("gw-b"), "{error}");
    assert_eq!(dial("gw-x").await, Ok(()));
}

// proves CXTP-2.4-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_loses_one_connection_loses_both() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    for lost in ["control", "bulk"] {
        let link = hostile.link(EVE).await;
        is_up(&world.b, true).await;
        let (lost_one, other) = match lost {
            "control" => (link.control, link.bulk),
            _ => (link.bulk, link.control),
        };
        lost_one.connection.close(0_u32.into(), b"");
        let closed = other.closed().await;
        assert!(matches!(closed, Closed::Told { code: 0xa, .. }), "{lost}: {closed:?}");
        is_up(&world.b, false).await;
    }
    world.finish().await;
}

// proves CXTP-2.5-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_stays_on_the_stream_that_its_source_opened() {
    let world = World::start().await;
    let session = world.at_a().await;
    let link = world.gateway(EVE, &world.a).link(EVE).await;
    is_up(&world.a, true).await;
    let target = async {
        let accepted = within("the stream of the batch", link.bulk.connection.accept_bi()).await;
        let (send, receive) = accepted.unwrap();
        let mut stream = common::Stream { send, receive };
        let Some(Message::Pctd(pctd)) = stream.hear().await else { panic!("no PCTD") };
        let entry = |state| CtdrEntry { session, epoch: pctd.entries[0].epoch, state };
        let answer = |state| Message::Ctdr(Ctdr { batch: pctd.batch, entries: vec![entry(state)] });
        let generation = pctd.entries[0].context.generation;
        stream.say(&answer(Said::Staged { generation })).await;
        let Some(Message::Ctd(ctd)) = stream.hear().await else { panic!("no CTD") };
        assert_eq!((ctd.batch, ctd.entries[0].session), (pctd.batch, session));
        stream.say(&answer(Said::Active)).await;
    };
    let ((), summary) = tokio::join!(target, world.a.transfer(session, EVE));
    assert_eq!(summary.moved, 1, "{summary:?}");
    world.finish().await;
}
