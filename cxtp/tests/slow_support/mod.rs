//! A source with many embedded sessions, and targets that are slow.

mod gateway;
mod reader;

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use cxtp::service::{
    self, Service,
    api::{Mode, Request, Status, Summary},
    client::ControlClient,
    config::Config,
};
use protocol_spec::id::SessionId;

pub(crate) use self::{
    gateway::{Flight, SlowGateway},
    reader::Reader,
};
use crate::{
    common::{Pki, until, within},
    service_support::{free_address, settings},
};

/// How long many sessions may take to move on a small machine.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// A daemon in this process beside an embedded gateway.
pub(crate) struct Node {
    pub(crate) gateway: SlowGateway,
    pub(crate) address: SocketAddr,
    control: PathBuf,
    service: Service,
}

impl Node {
    /// Starts one with these peers.
    pub(crate) async fn start(
        name: &str,
        address: SocketAddr,
        peers: &[(&str, SocketAddr)],
        gateway: SlowGateway,
        pki: &Pki,
        directory: &Path,
    ) -> Self {
        let peers = peers.iter().map(|(peer, at)| format!("[peers.{peer}]\naddress = \"{at}\"\n"));
        let text = settings(name, address) + &peers.collect::<String>();
        Self::with(name, &text, gateway, pki, directory).await
    }

    /// Starts one with a peer that dials it, and settings of its own, each the
    /// table and the line.
    pub(crate) async fn alone(
        name: &str,
        peer: &str,
        gateway: SlowGateway,
        own: &[(&str, &str)],
        pki: &Pki,
        directory: &Path,
    ) -> Self {
        let mut text = settings(name, free_address());
        for (table, line) in own {
            text = text.replace(&format!("[{table}]"), &format!("[{table}]\n{line}"));
        }
        text += &format!("[peers.{peer}]\n");
        Self::with(name, &text, gateway, pki, directory).await
    }

    async fn with(
        name: &str,
        text: &str,
        gateway: SlowGateway,
        pki: &Pki,
        directory: &Path,
    ) -> Self {
        pki.write(name, directory);
        let config = Config::from_toml(text, directory).unwrap();
        let control = config.control_socket.clone();
        let service = service::start(config, Box::new(gateway.clone())).await.unwrap();
        Self { gateway, address: service.local_addr(), control, service }
    }

    pub(crate) async fn status(&self) -> Status {
        let answer = within("a status", async {
            ControlClient::connect(&self.control).await.unwrap().call(&Request::Status).await
        });
        serde_json::from_value(answer.await.unwrap()).unwrap()
    }

    /// Waits until the peer is up and so many sessions are known to be active.
    pub(crate) async fn is_ready(&self, peer: &str, sessions: usize) {
        within("the daemon to be ready", async {
            loop {
                let status = self.status().await;
                let known = status.sessions.get("active").copied().unwrap_or(0);
                if status.peers[peer] == "up" && known >= sessions {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Asks for a transfer, of all sessions with `None`; the summary comes later.
    pub(crate) fn transfer(
        &self,
        sessions: Option<&[SessionId]>,
        to: &str,
    ) -> tokio::task::JoinHandle<Summary> {
        let sessions = sessions.map(|ids| ids.iter().map(ToString::to_string).collect());
        let request = Request::Transfer { sessions, to: to.to_owned(), mode: Mode::Predictive };
        let control = self.control.clone();
        tokio::spawn(async move {
            let mut client = ControlClient::connect(&control).await.unwrap();
            let answer = tokio::time::timeout(LONG, client.call(&request)).await;
            serde_json::from_value(answer.expect("the batch hangs").unwrap()).unwrap()
        })
    }

    pub(crate) async fn stop(self) {
        self.service.stop().await;
    }
}

/// Waits until a figure stands still above zero: what could move has moved.
pub(crate) async fn standstill(what: &str, figure: impl Fn() -> usize) {
    const STILL: u32 = 100;
    let (mut last, mut same) = (0, 0);
    until(what, || {
        let now = figure();
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        same >= STILL
    })
    .await;
}

/// Fails unless each of these sessions has exactly one owner.
pub(crate) fn one_owner_each(all: &[SessionId], owners: [Vec<SessionId>; 2]) {
    let [first, second] = owners.map(|own| own.into_iter().collect::<HashSet<_>>());
    for session in all {
        let owners = [&first, &second].into_iter().filter(|own| own.contains(session)).count();
        assert_eq!(owners, 1, "owners of {session}");
    }
}
