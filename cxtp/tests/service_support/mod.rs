//! Two daemons in this process that a test can stop and start again.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use cxtp::service::{
    self, Service,
    api::{Line, Mode, Request, Session, Status, Summary},
    client::{ClientError, ControlClient},
    config::Config,
    seal::SealKey,
};
use protocol_spec::id::SessionId;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::common::{ModelGateway, Pki, say, within};

/// A daemon with its gateway, which outlives it.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) gateway: ModelGateway,
    pub(crate) control: PathBuf,
    pub(crate) state: PathBuf,
    settings: String,
    directory: PathBuf,
    service: Option<Service>,
}

/// `gw-a` and `gw-b`, which may pull from each other.
pub(crate) struct Pair {
    pub(crate) a: Site,
    pub(crate) b: Site,
    pub(crate) directory: TempDir,
}

/// The settings of a daemon and nothing about peers.
pub(crate) fn settings(name: &str, address: SocketAddr) -> String {
    format!(
        r#"
name = "{name}"
state_dir = "{name}.state"
control_socket = "{name}.control"
listen = "{address}"
[tls]
ca = "ca.pem"
certificate = "{name}.pem"
key = "{name}.key"
[gateway]
socket = "none"
[transport]
heartbeat_ms = 100
dead_after_ms = 2000
[transfer]
request_retry_ms = 300
retry_max_ms = 2000
"#
    )
}

/// An address that nobody has at the moment.
pub(crate) fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Pair {
    /// Starts both, and waits until they are connected.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let pki = Pki::new();
        let keys = [SealKey::generate(), SealKey::generate()];
        let names = ["gw-a", "gw-b"];
        let addresses = [free_address(), free_address()];
        let mut sites = Vec::new();
        for (at, name) in names.into_iter().enumerate() {
            pki.write(name, path);
            let key = path.join(format!("{name}.seal"));
            std::fs::write(&key, keys[at].to_text().as_str()).unwrap();
            own(&key);
            let other = 1 - at;
            let settings = format!(
                "{}[seal]\nkey = \"{name}.seal\"\n[peers.{}]\naddress = \"{}\"\nmay_pull = true\n\
                 pulls_per_minute = 100000\nseal_key = \"{}\"\n",
                settings(name, addresses[at]),
                names[other],
                addresses[other],
                keys[other].public().unwrap(),
            );
            sites.push(Site::start(name, path, settings).await);
        }
        let [a, b] = <[Site; 2]>::try_from(sites).ok().unwrap();
        let pair = Self { a, b, directory };
        pair.connected().await;
        pair
    }

    /// Waits until each says that the other one is up.
    pub(crate) async fn connected(&self) {
        let up = |status: Status, peer: &Site| status.peers[peer.name] == "up";
        within("the daemons to connect", async {
            while !(up(self.a.status().await, &self.b) && up(self.b.status().await, &self.a)) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub(crate) async fn stop(mut self) {
        within("the daemons to stop", async { tokio::join!(self.a.stop(), self.b.stop()) }).await;
    }
}

/// A daemon that ends as if killed.
pub(crate) struct Killable {
    runtime: Option<tokio::runtime::Runtime>,
    service: Service,
}

impl Drop for Killable {
    fn drop(&mut self) {
        // Its tasks are dropped where they stand, and say nothing more.
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// Makes a file its owner's alone.
pub(crate) fn own(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl Site {
    pub(crate) async fn start(name: &'static str, directory: &Path, settings: String) -> Self {
        let config = Config::from_toml(&settings, directory).unwrap();
        let mut site = Self {
            name,
            address: config.listen,
            gateway: ModelGateway::default(),
            control: config.control_socket.clone(),
            state: config.state_dir.clone(),
            settings,
            directory: directory.to_owned(),
            service: None,
        };
        site.start_again().await;
        site
    }

    /// Starts a new life of the daemon beside the same gateway.
    pub(crate) async fn start_again(&mut self) {
        let config = Config::from_toml(&self.settings, &self.directory).unwrap();
        // The socket of the life before is closed by a task of its own, which may
        // come late on a busy machine.
        within("the address to be free", async {
            while UdpSocket::bind(self.address).is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        let service = service::start(config, Box::new(self.gateway.clone())).await.unwrap();
        self.service = Some(service);
    }

    /// Another setting for the next life.
    pub(crate) fn set(&mut self, before: &str, after: &str) {
        assert!(self.settings.contains(before), "{}", self.settings);
        self.settings = self.settings.replace(before, after);
    }

    /// A life that ends without a word when what is returned is dropped.
    pub(crate) async fn live_and_be_killed(&self) -> Killable {
        let config = Config::from_toml(&self.settings, &self.directory).unwrap();
        let gateway = Box::new(self.gateway.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = runtime.spawn(service::start(config, gateway)).await.unwrap().unwrap();
        Killable { runtime: Some(runtime), service }
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(service) = self.service.take() {
            service.stop().await;
        }
    }

    /// Sessions come up here; returns once the daemon knows them all.
    pub(crate) async fn provision(&self, numbers: std::ops::Range<u32>) -> Vec<String> {
        let mut ids: Vec<SessionId> = Vec::new();
        for number in numbers {
            let context = say::session(number);
            ids.push(context.session);
            self.gateway.provision(context);
        }
        within("the daemon to know its sessions", async {
            while self.status().await.sessions.get("active").copied().unwrap_or(0) < ids.len() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        ids.iter().map(ToString::to_string).collect()
    }

    /// All lines of an answer.
    pub(crate) async fn lines(&self, request: &Request) -> Vec<Line> {
        within("an answer", async {
            let mut client = ControlClient::connect(&self.control).await.unwrap();
            let mut lines = client.request(request).await.unwrap();
            let mut all = Vec::new();
            while let Some(line) = lines.next().await.unwrap() {
                all.push(line);
            }
            all
        })
        .await
    }

    pub(crate) async fn call<T: DeserializeOwned>(&self, request: &Request) -> T {
        serde_json::from_value(self.ask(request).await.unwrap()).unwrap()
    }

    /// The name of the status with which a request is refused.
    pub(crate) async fn refusal(&self, request: &Request) -> String {
        match self.ask(request).await {
            Err(ClientError::Refused(refused)) => {
                assert!(!refused.detail.is_empty());
                refused.status
            }
            other => panic!("{request:?} is answered {other:?}"),
        }
    }

    async fn ask(&self, request: &Request) -> Result<serde_json::Value, ClientError> {
        within("an answer", async {
            ControlClient::connect(&self.control).await?.call(request).await
        })
        .await
    }

    pub(crate) async fn status(&self) -> Status {
        self.call(&Request::Status).await
    }

    pub(crate) async fn sessions(&self) -> Vec<Session> {
        let lines = self.lines(&Request::Sessions).await;
        let some = lines.into_iter().filter_map(|line| match line {
            Line::Sessions(some) => Some(some),
            _ => None,
        });
        some.flatten().collect()
    }

    pub(crate) async fn transfer(
        &self,
        sessions: Option<Vec<String>>,
        to: &str,
        mode: Mode,
    ) -> Summary {
        self.call(&Request::Transfer { sessions, to: to.to_owned(), mode }).await
    }
}
