//! Two good daemons in this process, `gw-a` and `gw-b`, and what they must keep
//! up whatever a third one does.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use cxtp::service::{
    self,
    api::{Line, Mode, Request, Status, Summary},
    client::{ClientError, ControlClient},
    config::Config,
};
use protocol_spec::{context::Context, id::SessionId};
use ring::signature::{Ed25519KeyPair, KeyPair};
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use super::{Capture, Hostile, ModelGateway, Panics, Peak, Pki, resident, say, until, within};

/// Log, memory and panics belong to the process: one world at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// By how many MiB the whole process may grow during an attack. What the
/// daemons may hold of one peer is 16 MiB of messages and as much in QUIC, each.
const GROWTH: usize = 96;
/// How long one good transfer may take while the attack goes on. It takes
/// milliseconds; this is for a small machine that does other things as well.
const SLOWEST: Duration = Duration::from_secs(5);
/// Warnings and errors that one attack may bring about, whatever its length.
const LOUDEST: usize = 200;

/// Gateways that are in the configuration of both daemons and are not to be
/// trusted. They sort before them, so they are the ones who dial.
pub(crate) const EVE: &str = "eve";
pub(crate) const CARL: &str = "carl";
/// Sessions that one of them may have staged at one time.
pub(crate) const MAX_STAGED: usize = 50;
/// CTAR and CT-Req that a peer may send in a second.
pub(crate) const REQUEST_RATE: usize = 10;
/// A stream that was begun must go on within this time.
pub(crate) const STALL: Duration = Duration::from_millis(400);

/// The good daemons and the detectors.
pub(crate) struct World {
    pub(crate) a: Daemon,
    pub(crate) b: Daemon,
    pub(crate) pki: Pki,
    pub(crate) log: Capture,
    /// Signs the orders of the controller `noc`.
    pub(crate) noc: Ed25519KeyPair,
    memory: Peak,
    panics: Panics,
    next: AtomicU32,
    _directory: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// A daemon in this process, with its gateway.
pub(crate) struct Daemon {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) gateway: ModelGateway,
    control: PathBuf,
    service: service::Service,
}

impl World {
    /// Starts both, and waits until they are connected.
    pub(crate) async fn start() -> Self {
        let alone = ALONE.lock().await;
        let log = Capture::begin();
        let panics = Panics::watch();
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new();
        let seed = [7; 32];
        let noc = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let controller = say::hex(noc.public_key().as_ref());
        let settings = |name: &str, peer: &str| settings(name, peer, &controller);
        let path = directory.path();
        pki.write("gw-a", path);
        pki.write("gw-b", path);
        let b = Daemon::start("gw-b", &settings("gw-b", "[peers.gw-a]"), path).await;
        let peer = format!("[peers.gw-b]\naddress = \"{}\"", b.address);
        let a = Daemon::start("gw-a", &settings("gw-a", &peer), path).await;
        within("the daemons to connect", async {
            while !(a.is_up_with("gw-b").await && b.is_up_with("gw-a").await) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let world = Self {
            a,
            b,
            pki,
            log,
            noc,
            memory: Peak::watch(resident),
            panics,
            next: AtomicU32::new(1),
            _directory: directory,
            _alone: alone,
        };
        world.good_transfer().await;
        world
    }

    /// A context that no other in this world has anything in common with.
    pub(crate) fn fresh(&self) -> Context {
        say::session(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A session that is in use at gateway A, and that its daemon knows.
    pub(crate) async fn at_a(&self) -> SessionId {
        let context = self.fresh();
        let session = context.session;
        self.a.gateway.provision(context);
        self.a.knows(session).await;
        session
    }

    /// A hostile gateway with a good certificate, in front of gateway B.
    pub(crate) fn gateway(&self, name: &str, to: &Daemon) -> Hostile {
        Hostile::new(&self.pki.paper(&format!("cxtp://gateway/{name}")), to.address)
    }

    /// Moves a session from A to B, and holds the gateways against it.
    pub(crate) async fn good_transfer(&self) {
        let begun = Instant::now();
        let session = self.at_a().await;
        let summary = self.a.transfer(session, "gw-b").await;
        assert_eq!(summary.moved, 1, "{summary:?}\n{}", self.log.tail());
        let epoch = self.b.gateway.active(session);
        assert!(epoch.is_some_and(|epoch| epoch.0 > 0), "{epoch:?}");
        assert_eq!(self.a.gateway.active(session), None, "two owners");
        assert_eq!(self.b.gateway.activations(session), 1);
        let took = begun.elapsed();
        assert!(took < SLOWEST, "a good transfer took {took:?}\n{}", self.log.tail());
    }

    /// Attacks, while good transfers go on all the time.
    pub(crate) async fn during<T>(&self, attack: impl Future<Output = T>) -> T {
        let over = AtomicBool::new(false);
        let attack = async {
            let result = attack.await;
            over.store(true, Ordering::Relaxed);
            result
        };
        let good = async {
            loop {
                self.good_transfer().await;
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // At a pace, so that the attack gets its share of the processor.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::join!(attack, good).0
    }

    /// Waits for a line of the log.
    pub(crate) async fn says(&self, level: tracing::Level, words: &[&str]) {
        let begun = Instant::now();
        while !self.log.has(level, words) {
            let tail = || self.log.tail();
            assert!(begun.elapsed() < super::PATIENCE, "no {level} {words:?} in\n{}", tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks every detector, and ends both daemons as an operator would.
    pub(crate) async fn finish(self) {
        self.good_transfer().await;
        for daemon in [&self.a, &self.b] {
            let status = daemon.status().await;
            assert_eq!(status.gateway, "up", "{}", daemon.name);
            assert_eq!(status.batches, 0, "{}: a batch hangs", daemon.name);
        }
        assert!(self.a.is_up_with("gw-b").await, "{}", self.log.tail());
        let (at_a, at_b) = (self.a.gateway.all_active(), self.b.gateway.all_active());
        let both: Vec<_> = at_a.iter().filter(|id| at_b.contains(id)).collect();
        assert!(both.is_empty(), "two owners of {both:?}");
        let growth = self.memory.growth() >> 20;
        assert!(growth < GROWTH, "memory grew by {growth} MiB");
        let loud = self.log.loud();
        assert!(loud < LOUDEST, "{loud} warnings\n{}", self.log.tail());
        let Self { a, b, log, panics, .. } = self;
        within("the daemons to end", async { tokio::join!(a.stop(), b.stop()) }).await;
        assert_eq!(log.leak(), None, "a key in the log");
        assert_eq!(panics.seen(), Vec::<String>::new());
    }
}

fn settings(name: &str, peer: &str, controller: &str) -> String {
    let stall = STALL.as_millis();
    format!(
        r#"
name = "{name}"
state_dir = "{name}.state"
control_socket = "{name}.control"
listen = "127.0.0.1:0"
accept_clients = true
[tls]
ca = "ca.pem"
certificate = "{name}.pem"
key = "{name}.key"
[gateway]
socket = "none"
[transport]
heartbeat_ms = 100
stall_ms = {stall}
[transfer]
request_rate = {REQUEST_RATE}
request_retry_ms = 300
retry_max_ms = 2000
[controllers.noc]
public_key = "{controller}"
[peers.{EVE}]
may_pull = true
max_staged = {MAX_STAGED}
pulls_per_minute = 20
[peers.{CARL}]
max_staged = {MAX_STAGED}
{peer}
"#
    )
}

impl Daemon {
    async fn start(name: &'static str, settings: &str, directory: &std::path::Path) -> Self {
        let config = Config::from_toml(settings, directory).unwrap();
        let control = config.control_socket.clone();
        let gateway = ModelGateway::default();
        let service = service::start(config, Box::new(gateway.clone())).await.unwrap();
        let address = service.local_addr();
        Self { name, address, gateway, control, service }
    }

    /// Asks the daemon, as `cxtpctl` does.
    pub(crate) async fn ask(&self, request: &Request) -> Result<serde_json::Value, ClientError> {
        let asked = async {
            let mut client = ControlClient::connect(&self.control).await?;
            client.call(request).await
        };
        within("the daemon to answer its operator", asked).await
    }

    pub(crate) async fn status(&self) -> Status {
        serde_json::from_value(self.ask(&Request::Status).await.unwrap()).unwrap()
    }

    async fn is_up_with(&self, peer: &str) -> bool {
        self.status().await.peers.get(peer).is_some_and(|state| state == "up")
    }

    /// Waits until the daemon knows a session.
    pub(crate) async fn knows(&self, session: SessionId) {
        let request = Request::Show { session: session.to_string() };
        within("the daemon to know the session", async {
            while self.ask(&request).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Moves one session, and waits for the end.
    pub(crate) async fn transfer(&self, session: SessionId, to: &str) -> Summary {
        let request = Request::Transfer {
            sessions: Some(vec![session.to_string()]),
            to: to.to_owned(),
            mode: Mode::Predictive,
        };
        serde_json::from_value(self.ask(&request).await.unwrap()).unwrap()
    }

    /// How the daemon lists a session.
    pub(crate) async fn listed(&self, session: SessionId) -> Option<service::api::Session> {
        let asked = async {
            let mut client = ControlClient::connect(&self.control).await.unwrap();
            let mut lines = client.request(&Request::Sessions).await.unwrap();
            let mut found = None;
            while let Some(line) = lines.next().await.unwrap() {
                if let Line::Sessions(some) = line {
                    let id = session.to_string();
                    found = found.or(some.into_iter().find(|other| other.session == id));
                }
            }
            found
        };
        within("the daemon to list its sessions", asked).await
    }

    async fn stop(self) {
        self.service.stop().await;
    }
}
