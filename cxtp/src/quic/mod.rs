//! The transport: QUIC with certificates on both sides, two connections with
//! each gateway, and messages in between.
//!
//! It never makes the driver wait. What it hears goes into one bounded channel,
//! in order; what it is told to say goes into bounded queues, and a peer that
//! does not empty its own is dropped.

pub mod beat;
pub mod close;
mod connections;
mod endpoint;
mod frames;
mod hello;
mod lane;
mod link;
pub(crate) mod seldom;
pub mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use protocol_spec::{
    id::{BatchId, GatewayEpoch, Identity, Name, Role},
    message::{Bye, Lane, Message},
    profile::Capabilities,
    status::Refusal,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    beat::Pulse,
    close::{Code, Ended},
    connections::Connections,
    hello::Door,
    link::Surroundings,
    seldom::Seldom,
    tls::Credentials,
};
use crate::service::config::TransportTimes;

/// How long a peer is given to hear our Bye, and the socket to empty itself.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the transport hears.
#[derive(Debug)]
pub enum Inbound {
    /// All connections with a peer are there, and its hello.
    PeerUp {
        /// Who, as its certificate says.
        peer: Identity,
        /// Which life of it.
        epoch: GatewayEpoch,
        /// What its gateway can carry.
        capabilities: Option<Capabilities>,
    },
    /// A connection with a peer is gone.
    PeerDown {
        /// Who.
        peer: Identity,
        /// Why, for a person.
        reason: String,
    },
    /// A peer said something.
    Message {
        /// Who, as its certificate says.
        from: Identity,
        /// What.
        message: Message,
        /// Room of the peer, given back when the message was handled.
        room: OwnedSemaphorePermit,
    },
}

/// What a transport needs to know.
pub struct Setup {
    /// This gateway.
    pub name: Name,
    /// Which life of it.
    pub epoch: GatewayEpoch,
    /// Who we are and whom we believe.
    pub credentials: Credentials,
    /// UDP address.
    pub listen: SocketAddr,
    /// Gateways that may connect, and where they are.
    pub gateways: BTreeMap<Name, Option<String>>,
    /// Controllers that may connect.
    pub controllers: BTreeSet<Name>,
    /// Whether clients may connect.
    pub clients: bool,
    /// Times.
    pub times: TransportTimes,
}

/// The transport.
pub struct Transport {
    shared: Arc<Shared>,
    gateways: BTreeMap<Name, Option<String>>,
    opened: OnceLock<()>,
}

/// What the tasks of a transport share.
struct Shared {
    endpoint: quinn::Endpoint,
    credentials: Credentials,
    door: Door,
    times: TransportTimes,
    connections: Connections,
    /// Bounds what is said about connections that were refused.
    refusals: Seldom,
    surroundings: Surroundings,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Transport {
    /// Binds the socket. Nobody is let in or dialled before
    /// [`Transport::open`].
    ///
    /// # Errors
    /// What the system says of the address.
    pub fn bind(setup: Setup, inbound: mpsc::Sender<Inbound>) -> io::Result<Self> {
        let endpoint = endpoint::bind(setup.listen, &setup.credentials, &setup.times)?;
        let door = Door {
            name: setup.name.clone(),
            epoch: setup.epoch,
            capabilities: Mutex::new(None),
            gateways: setup.gateways.keys().cloned().collect(),
            controllers: setup.controllers,
            clients: setup.clients,
        };
        let surroundings = Surroundings {
            epoch: setup.epoch,
            inbound,
            drained: Arc::new(Notify::new()),
            heartbeat: setup.times.heartbeat,
            stall: setup.times.stall,
        };
        let connections = Connections::default();
        for (name, address) in &setup.gateways {
            let dialled = setup.name < *name && address.is_some();
            let note = if dialled { "not connected yet" } else { "has not connected yet" };
            connections.note(&gateway(name), note.to_owned());
        }
        let shared = Shared {
            endpoint,
            credentials: setup.credentials,
            door,
            times: setup.times,
            connections,
            refusals: Seldom::default(),
            surroundings,
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared), gateways: setup.gateways, opened: OnceLock::new() })
    }

    /// The socket's own address.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Says from now on what our gateway can carry, and begins to let peers in
    /// and to dial them. The gateway whose name sorts lower dials.
    pub fn open(&self, capabilities: Capabilities) {
        if let Ok(mut known) = self.shared.door.capabilities.lock() {
            *known = Some(capabilities);
        }
        if self.opened.set(()).is_err() {
            return;
        }
        self.shared.tracker.spawn(Arc::clone(&self.shared).accept());
        for (name, address) in &self.gateways {
            if let Some(address) = address.clone().filter(|_| self.shared.door.name < *name) {
                self.shared.tracker.spawn(Arc::clone(&self.shared).dial(name.clone(), address));
            }
        }
    }

    /// Says something to a peer, without waiting. If it cannot be delivered,
    /// [`Inbound::PeerDown`] follows or has come already.
    pub fn send(&self, to: &Identity, lane: Lane, message: Message) {
        if let Some(link) = self.shared.connections.link(to) {
            link.say(lane, message);
        }
    }

    /// Nothing more will be said about a batch.
    pub fn finish(&self, batch: BatchId) {
        self.shared.connections.links().iter().for_each(|link| link.finish(batch));
    }

    /// Contexts that wait to be sent to a gateway.
    pub fn backlog(&self, to: &Name) -> usize {
        self.shared.connections.link(&gateway(to)).map_or(0, |link| link.backlog())
    }

    /// Woken when a backlog shrinks.
    pub fn drained(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.surroundings.drained)
    }

    /// How it stands with each gateway: `up`, or why not.
    pub fn gateways(&self) -> BTreeMap<Name, String> {
        self.shared.connections.gateways()
    }

    /// What was heard of a gateway lately, if it is up.
    pub fn pulse(&self, of: &Name) -> Option<Pulse> {
        self.shared.connections.link(&gateway(of)).map(|link| *link.pulse.borrow())
    }

    /// Says Bye to all and closes.
    pub async fn stop(&self, reason: Refusal) {
        self.shared.cancel.cancel();
        let links = self.shared.connections.links();
        for link in &links {
            link.say(Lane::Control, Message::Bye(Bye { reason: reason.clone() }));
        }
        // A peer that has heard it closes the link.
        let heard = async {
            for link in &links {
                link.done.cancelled().await;
            }
        };
        let _ = timeout(FAREWELL, heard).await;
        for link in &links {
            link.end(Ended::refused(Code::Bye, &reason));
        }
        self.shared.endpoint.close(endpoint::bye(), reason.to_string().as_bytes());
        self.shared.tracker.close();
        let gone = async {
            self.shared.tracker.wait().await;
            self.shared.endpoint.wait_idle().await;
        };
        let _ = timeout(FAREWELL, gone).await;
    }
}

fn gateway(name: &Name) -> Identity {
    Identity { role: Role::Gateway, name: name.clone() }
}
