//! Peers that are not who they should be, or do what their role does not allow.
#![cfg(feature = "service")]
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod common;

use std::time::Duration;

use common::{CARL, Closed, EVE, Hostile, World, say};
use protocol_spec::{
    id::{GatewayEpoch, RequestId},
    message::{Authority, CtReq, Hello, Lane, Message},
};
use tracing::Level;

const EVE_URI: &str = "cxtp://gateway/eve";

/// The octets of a hello as an honest gateway says it.
fn good_hello() -> Vec<u8> {
    Message::Hello(say::hello(EVE, Lane::Control)).to_frame().unwrap().to_vec()
}

/// Whether TLS or QUIC refused the connection, before any word of ours.
fn refused_by_tls(closed: &Closed) -> bool {
    matches!(closed, Closed::Refused(_))
}

/// Shows a certificate that TLS must refuse, and looks for the words in the log.
async fn is_refused_by_tls(attacker: impl FnOnce(&World) -> Hostile, words: &[&str]) {
    let world = World::start().await;
    let hostile = attacker(&world);
    let closed = world.during(hostile.is_closed_after(&good_hello())).await;
    assert!(refused_by_tls(&closed), "{closed:?}");
    world.says(Level::WARN, words).await;
    let status = world.b.status().await;
    assert_ne!(status.peers[EVE], "up");
    world.finish().await;
}

// proves CXTP-2.1-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused() {
    let attacker =
        |world: &World| Hostile::new(&world.pki.of_other_authority(EVE_URI), world.b.address);
    is_refused_by_tls(attacker, &["refused a connection", "127.0.0.1", "certificate"]).await;
}

// proves CXTP-2.1-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused() {
    let attacker = |world: &World| Hostile::new(&world.pki.expired(EVE_URI), world.b.address);
    is_refused_by_tls(attacker, &["refused a connection", "127.0.0.1", "xpired"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_valid_yet_is_refused() {
    let attacker = |world: &World| Hostile::new(&world.pki.not_yet_valid(EVE_URI), world.b.address);
    is_refused_by_tls(attacker, &["refused a connection", "127.0.0.1", "certificate"]).await;
}

// proves CXTP-2.1-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_a_certificate_is_refused() {
    let attacker = |world: &World| Hostile::nobody(world.b.address);
    is_refused_by_tls(attacker, &["refused a connection", "127.0.0.1", "certificate"]).await;
}

/// Shows a good certificate that names nobody who may connect.
async fn is_told(uris: &[&str], hello: &str, code: u64, words: &[&str]) {
    let world = World::start().await;
    let hostile = Hostile::new(&world.pki.paper_for(uris), world.b.address);
    let first = Message::Hello(say::hello(hello, Lane::Control)).to_frame().unwrap();
    let closed = world.during(hostile.is_closed_after(&first)).await;
    let Closed::Told { code: told, reason } = &closed else { panic!("{closed:?}") };
    assert_eq!(*told, code, "{reason}");
    for word in words {
        assert!(reason.contains(word), "`{reason}` does not say `{word}`");
    }
    world.says(Level::WARN, &[&["refused a connection"], words].concat()).await;
    world.finish().await;
}

// proves CXTP-2.2-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_not_configured_is_refused() {
    let words = ["not-authorized", "cxtp://gateway/mallory", "configuration"];
    is_told(&["cxtp://gateway/mallory"], "mallory", 0x4, &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_not_configured_is_refused() {
    let words = ["not-authorized", "cxtp://controller/eve", "configuration"];
    is_told(&["cxtp://controller/eve"], EVE, 0x4, &words).await;
}

// proves CXTP-2.3-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_with_a_name_that_is_not_in_the_certificate_is_refused() {
    // The name of a gateway that may connect, and whose sessions are worth having.
    is_told(&[EVE_URI], "gw-a", 0x5, &["gw-a", EVE_URI]).await;
}

// proves CXTP-2.2-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_with_two_names_is_refused() {
    is_told(&[EVE_URI, "cxtp://gateway/gw-a"], EVE, 0x4, &["more than one"]).await;
}

// proves CXTP-2.2-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_with_no_name_of_ours_is_refused() {
    is_told(&["https://gateway/eve"], EVE, 0x4, &["no cxtp:// URI"]).await;
}

// proves CXTP-2.2-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_with_a_role_that_does_not_exist_is_refused() {
    is_told(&["cxtp://operator/eve"], EVE, 0x4, &["cxtp://operator/eve"]).await;
}

// proves CXTP-2.3-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_before_the_hello_closes_the_connection() {
    let world = World::start().await;
    let context = world.fresh();
    let session = context.session;
    let hostile = world.gateway(EVE, &world.b);
    let first = say::pushed(1, 1, vec![context]).to_frame().unwrap();
    let closed = world.during(hostile.is_closed_after(&first)).await;
    let Closed::Told { code: 0x1, reason } = &closed else { panic!("{closed:?}") };
    assert!(reason.contains("before the hello"), "{reason}");
    world.says(Level::WARN, &["refused a connection", "before the hello"]).await;
    assert!(!world.b.gateway.holds(session));
    world.finish().await;
}

/// A controller or a client says what only gateways may say.
async fn a_role_may_not_send(role: &str, name: &str, message: Message) {
    let world = World::start().await;
    let uri = format!("cxtp://{role}/{name}");
    let hostile = Hostile::new(&world.pki.paper(&uri), world.b.address);
    let hello = Hello { capabilities: None, ..say::hello(name, Lane::Control) };
    let word = message.kind().name();
    let mut talk = hostile.greet(hello).await.unwrap();
    let closed = world
        .during(async {
            talk.shared.say(&message).await;
            talk.closed().await
        })
        .await;
    let Closed::Told { code: 0x4, reason } = &closed else { panic!("{closed:?}") };
    assert!(reason.contains(&uri) && reason.contains(word), "{reason}");
    world.says(Level::WARN, &[&uri, word]).await;
    assert_eq!(world.b.gateway.staged(), (0, 1), "nothing but good transfers, one at a time");
    world.finish().await;
}

// proves CXTP-2.5-5
// proves CXTP-5.1-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_contexts_is_dropped() {
    let message = say::pushed(1, 1, vec![say::session(0x00ff_0001)]);
    a_role_may_not_send("client", "phone", message).await;
}

// proves CXTP-2.5-5
// proves CXTP-5.1-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_sends_contexts_is_dropped() {
    let message = say::pushed(1, 1, vec![say::session(0x00ff_0001)]);
    a_role_may_not_send("controller", "noc", message).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_commits_is_dropped() {
    let message = say::committed(1, 1, &say::session(0x00ff_0001));
    a_role_may_not_send("controller", "noc", message).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pulls_is_dropped() {
    let request = RequestId(say::id(1));
    let sessions = vec![protocol_spec::id::SessionId(say::id(1))];
    let authority = Authority::Known(request);
    let message = Message::CtReq(CtReq { request, sessions, authority });
    a_role_may_not_send("client", "phone", message).await;
}

// proves CXTP-2.4-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_no_connection_for_batches() {
    let world = World::start().await;
    let hostile = Hostile::new(&world.pki.paper("cxtp://client/phone"), world.b.address);
    let hello = Hello { capabilities: None, ..say::hello("phone", Lane::Bulk) };
    let refused = hostile.greet(hello).await.map(|_| ()).unwrap_err();
    let Closed::Told { code: 0x4, reason } = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("cxtp://client/phone"), "{reason}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_life_of_a_gateway_does_not_displace_the_newer() {
    let world = World::start().await;
    let hostile = world.gateway(CARL, &world.b);
    let of_life = |epoch: u64, lane| Hello { epoch: GatewayEpoch(epoch), ..say::hello(CARL, lane) };
    let control = hostile.greet(of_life(7, Lane::Control)).await.unwrap();
    let bulk = hostile.greet(of_life(7, Lane::Bulk)).await.unwrap();
    world.says(Level::INFO, &["peer up", CARL]).await;
    let older = hostile.greet(of_life(6, Lane::Control)).await;
    let closed = match older {
        Err(closed) => closed,
        Ok(talk) => talk.closed().await,
    };
    let Closed::Told { code: 0x9, reason } = &closed else { panic!("{closed:?}") };
    assert!(reason.contains("newer life"), "{reason}");
    world.says(Level::WARN, &["newer life"]).await;
    // Longer than it would take to notice a connection that is gone.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(control.is_open() && bulk.is_open());
    world.finish().await;
}
