//! The gateway in user space: real ESP in UDP over real sockets, no root, no
//! kernel. The demo and the load tests run on it.
//!
//! ```text
//!  end users                    gateway process                    inner network
//!  ESP in UDP  <-- outer -->  SAD | sessions | SPD  <-- inner -->  IP packets in UDP
//!                               |            |
//!                 neighbours <--relay     socket--> cxtpd (GatewayPlugin), IKE (GatewayAdmin)
//! ```
//!
//! Read in this order: `session` (a session is its context, and a packet changes
//! the context itself), `acts` (the trait), `datapath` (what becomes of a packet
//! in each state), `remote` (the same gateway behind the socket of its process), and
//! `user` (end users and inner host that count what arrives).
//!
//! What becomes of a packet:
//!
//! | session | from the end user | for the end user |
//! | --- | --- | --- |
//! | Active | opened, to the inner host | sealed, to the end user |
//! | Paused | unopened to the target's relay | unsealed to the target's relay |
//! | Paused, and the target gave it back | held | held |
//! | Staged | held | held |
//! | released | unopened to the target's relay | unsealed to the target's relay |
//! | unknown | counted, [`UnknownSpi`](crate::GatewayEvent::UnknownSpi) | counted |
//! | unknown, from a neighbour | back to it, at most eight times | back to it |
//!
//! With `--network` the inner side, the way to neighbours and what leads end users here
//! are the host's own (`network`), so that sessions move to and from gateways of the
//! kernel; end users then send ESP in UDP to port 4500 as to any other.
//!
//! The network between relays is part of the inner network: it carries inner
//! packets in clear, and only datagrams from a neighbour's own address are taken.

mod acts;
mod admin;
mod admission;
mod command;
mod config;
mod counters;
mod datapath;
pub mod esp;
mod gateway;
mod network;
pub(crate) mod packet;
mod remote;
mod session;
mod table;
mod user;
pub mod window;
mod wire;

pub use crate::holder::{GatewayServer, RemoteGateway};
pub use admin::GatewayAdmin;
pub use command::gateway_main;
pub use config::{GatewayConfig, Sabotage};
pub use counters::Counters;
#[cfg(feature = "linux")]
pub(crate) use gateway::make_room;
pub use gateway::{Addresses, EmbeddedGateway};
#[cfg(feature = "linux")]
pub(crate) use network::Network;
pub use user::{
    Counts, FleetConfig, FleetReport, Gap, SessionReport, SessionShape, UserFleet, Wire,
    WireObserver, user_main,
};
#[cfg(feature = "linux")]
pub(crate) use wire::Kind as RelayKind;
