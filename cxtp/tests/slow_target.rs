//! A slow target bounds the memory of the source: what is under way does not
//! depend on how many sessions are to move, and other work goes on.
#![cfg(feature = "service")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails in a helper fails the test"
)]

mod common;
mod service_support;
mod slow_support;

use std::{alloc::System, sync::Arc};

use cap::Cap;
use common::{Capture, EVE, Hostile, Peak, Pki, until, within};
use cxtp::service::api::Summary;
use protocol_spec::id::SessionId;
use service_support::free_address;
use slow_support::{Flight, Node, Reader, SlowGateway, one_owner_each, standstill};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tracing::Level;

/// Counts what is allocated.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);
/// The heap belongs to the process: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

const FEW: u32 = 5_000;
const MANY: u32 = 20_000;
/// Sessions of one batch that are under way at a time: `transfer.staging_window`.
const WINDOW: usize = 2048;
/// Contexts that may be under way to one gateway, in all batches.
const LANE: usize = 4096;
/// Sessions that the slow gateway cannot take.
const REFUSED: u32 = 10;

/// What was on its way while the target stood still.
#[derive(Debug)]
struct Held {
    contexts: usize,
    octets: usize,
}

impl Held {
    /// The most of it came to hardly more than with fewer sessions.
    fn is_bounded_by(&self, other: &Self) {
        println!("{FEW} sessions: {other:?}; {MANY} sessions: {self:?}");
        assert!(self.contexts * 5 < other.contexts * 6, "contexts: {other:?}, then {self:?}");
        assert!(self.octets * 5 < other.octets * 6, "octets: {other:?}, then {self:?}");
    }
}

/// A batch to a gateway whose every order to stage waits until the test has seen
/// that the daemons go on.
async fn behind_a_slow_gateway(sessions: u32) -> Held {
    let (directory, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let flight = Arc::new(Flight::default());
    let gateways = [(); 3].map(|()| SlowGateway::start(&flight));
    gateways[0].meet("gw-a", "gw-b", &gateways[1]);
    gateways[0].meet("gw-a", "gw-c", &gateways[2]);
    gateways[1].gate.close();
    let all = gateways[0].provision(0..sessions);
    gateways[1].provision(0..REFUSED);
    let [at_a, at_b, at_c] = gateways;
    let places = [(); 3].map(|()| free_address());
    let path = directory.path();
    let ahead = [("gw-b", places[1]), ("gw-c", places[2])];
    let back = [("gw-a", places[0])];
    let a = Node::start("gw-a", places[0], &ahead, at_a, &pki, path).await;
    let b = Node::start("gw-b", places[1], &back, at_b, &pki, path).await;
    let c = Node::start("gw-c", places[2], &back, at_c, &pki, path).await;
    a.is_ready("gw-b", all.len()).await;
    a.is_ready("gw-c", all.len()).await;

    let heap = Peak::watch(|| HEAP.allocated());
    let batch = a.transfer(None, "gw-b");
    standstill("the target to hold everything up", || flight.now()).await;
    let held = Held { contexts: flight.most(), octets: heap.growth() };
    drop(heap);
    assert!(held.contexts <= WINDOW, "{held:?}");

    // Meanwhile a session comes up and moves to somebody else.
    let other = a.gateway.provision(sessions..sessions + 1);
    a.is_ready("gw-c", 1).await;
    until("the new session to be known", || a.gateway.active().len() > all.len()).await;
    let summary = a.transfer(Some(&other), "gw-c").await.unwrap();
    assert_eq!(summary.moved, 1, "{summary:?}");
    assert_eq!(c.gateway.active(), other);

    // Each order waits for both daemons.
    while !batch.is_finished() {
        if b.gateway.gate.holds_one() {
            assert_eq!((a.status().await.batches, b.status().await.gateway.as_str()), (1, "up"));
            b.gateway.gate.let_one_through();
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let summary = batch.await.unwrap();
    assert_eq!(
        (summary.moved, summary.refused),
        ((sessions - REFUSED) as usize, 10),
        "{summary:?}"
    );
    for failure in &summary.failures {
        assert_eq!(failure.reason.status, "spi-collision", "{failure:?}");
    }
    assert!(flight.most() <= WINDOW + 1, "{} contexts at a time", flight.most());
    one_owner_each(&all, [a.gateway.active(), b.gateway.active()]);
    tokio::join!(a.stop(), b.stop(), c.stop());
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stages_slowly_bounds_the_source() {
    let _alone = ALONE.lock().await;
    let few = behind_a_slow_gateway(FEW).await;
    behind_a_slow_gateway(MANY).await.is_bounded_by(&few);
}

/// A source, and a peer that reads only when it is let.
struct Readable {
    a: Node,
    all: Vec<SessionId>,
    flight: Arc<Flight>,
    reader: Reader,
    _directory: TempDir,
}

impl Readable {
    async fn start(sessions: u32, own: &[(&str, &str)]) -> Self {
        let (directory, pki) = (tempfile::tempdir().unwrap(), Pki::new());
        let flight = Arc::new(Flight::default());
        let gateway = SlowGateway::start(&flight);
        gateway.meet_nobody(EVE);
        let all = gateway.provision(0..sessions);
        let a = Node::alone("gw-a", EVE, gateway, own, &pki, directory.path()).await;
        let paper = pki.paper(&format!("cxtp://gateway/{EVE}"));
        let eve = Hostile::new(&paper, a.address).reading_only(64 << 10);
        let reader = Reader::start(eve.link(EVE).await, &flight);
        a.is_ready(EVE, all.len()).await;
        Self { a, all, flight, reader, _directory: directory }
    }

    /// Fails unless nothing moved, for a reason, and all goes on at the source.
    async fn stays(self, summary: &Summary) {
        assert_eq!((summary.moved, summary.aborted), (0, self.all.len()), "{summary:?}");
        assert!(summary.failures.iter().all(|f| !f.reason.detail.is_empty()), "{summary:?}");
        assert_eq!(self.a.gateway.active().len(), self.all.len());
        one_owner_each(&self.all, [self.a.gateway.active(), self.reader.taken.active()]);
        self.a.stop().await;
    }
}

/// Batches to a peer that stops reading, until nothing moves any more, and then
/// goes on.
async fn behind_a_slow_reader(sessions: u32, batches: usize) -> Held {
    let Readable { a, all, flight, reader, _directory } = Readable::start(sessions, &[]).await;
    reader.may_read(false);
    let heap = Peak::watch(|| HEAP.allocated());
    let parts: Vec<_> = all.chunks(all.len().div_ceil(batches)).collect();
    let under_way: Vec<_> = match parts[..] {
        [_] => vec![a.transfer(None, EVE)],
        _ => parts.iter().map(|part| a.transfer(Some(part), EVE)).collect(),
    };
    standstill("the peer to hold everything up", || flight.now()).await;
    let held = Held { contexts: flight.most(), octets: heap.growth() };
    drop(heap);
    assert_eq!(a.status().await.batches, batches);

    reader.may_read(true);
    let mut moved = 0;
    for batch in under_way {
        let summary = batch.await.unwrap();
        assert_eq!(summary.moved, summary.sessions, "{summary:?}");
        moved += summary.moved;
    }
    assert_eq!(moved, all.len());
    one_owner_each(&all, [a.gateway.active(), reader.taken.active()]);
    a.stop().await;
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_reading_bounds_the_source() {
    let _alone = ALONE.lock().await;
    let few = behind_a_slow_reader(FEW, 1).await;
    let many = behind_a_slow_reader(MANY, 1).await;
    assert!(many.contexts <= WINDOW, "{many:?}");
    many.is_bounded_by(&few);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_batches_to_a_peer_that_stops_reading_share_its_bound() {
    let _alone = ALONE.lock().await;
    let held = behind_a_slow_reader(MANY, 20).await;
    assert!(held.contexts <= LANE, "{held:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_again_leaves_every_session_with_its_source() {
    let _alone = ALONE.lock().await;
    let world = Readable::start(FEW, &[("transport", "stall_ms = 500")]).await;
    world.reader.may_read(false);
    let summary = world.a.transfer(None, EVE).await.unwrap();
    world.stays(&summary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_too_late_leaves_every_session_with_its_source() {
    let _alone = ALONE.lock().await;
    let world = Readable::start(MANY, &[("transfer", "stage_timeout_ms = 300")]).await;
    world.reader.may_read(false);
    // Window after window is given up, and the next one begins.
    let summary = world.a.transfer(None, EVE).await.unwrap();
    assert!(world.flight.most() <= LANE, "{} contexts", world.flight.most());
    // It hears of them now, and that they were taken back.
    world.reader.may_read(true);
    let taken = &world.reader.taken;
    standstill("what was read to be taken back", || taken.taken_back().len()).await;
    assert_eq!(taken.staged(), []);
    world.stays(&summary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_whose_gateway_hangs_ends_in_time_and_says_so() {
    let _alone = ALONE.lock().await;
    let log = Capture::begin();
    let (directory, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let flight = Arc::new(Flight::default());
    let gateways = [(); 2].map(|()| SlowGateway::start(&flight));
    gateways[0].meet("gw-a", "gw-b", &gateways[1]);
    gateways[1].gate.close();
    let all = gateways[0].provision(0..100);
    let [at_a, at_b] = gateways;
    let (places, path) = ([(); 2].map(|()| free_address()), directory.path());
    let a = Node::start("gw-a", places[0], &[("gw-b", places[1])], at_a, &pki, path).await;
    let b = Node::start("gw-b", places[1], &[("gw-a", places[0])], at_b, &pki, path).await;
    a.is_ready("gw-b", all.len()).await;
    let batch = a.transfer(None, "gw-b");
    until("the gateway to hang", || b.gateway.gate.holds_one()).await;
    let hangs = b.gateway.clone();
    within("the daemon to end", b.stop()).await;
    assert!(log.has(Level::WARN, &["gateway", "left behind"]), "{}", log.tail());
    hangs.gate.open();
    let summary = batch.await.unwrap();
    assert_eq!(summary.aborted, all.len(), "{summary:?}");
    one_owner_each(&all, [a.gateway.active(), hangs.active()]);
    a.stop().await;
}
