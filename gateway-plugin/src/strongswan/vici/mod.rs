//! vici, the protocol by which charon is asked and told (public description:
//! `src/libcharon/plugins/vici/README.md` of strongSwan).
//!
//! [`section`] and [`codec`] read and write octets and do nothing else;
//! [`client`] keeps one connection for commands, [`events`] another one for
//! events; `calls` has a method of [`Client`] for each command that the gateway
//! uses, with typed answers ([`sa`], [`answers`]).
//!
//! What vici does not tell (5.9.8): Message IDs, sequence numbers, replay
//! windows, keys, extensions such as MOBIKE, further peer addresses, the
//! settings of `strongswan.conf`, and whether a connection has an `updown`
//! script. It has no command that sends a DPD request.

pub mod answers;
mod calls;
pub mod client;
mod clock;
pub mod codec;
mod connection;
pub mod error;
pub mod events;
#[cfg(test)]
mod fake;
pub mod names;
pub mod sa;
pub mod section;

pub use answers::{Algorithms, ConnectionInfo, Lease, Pool, Stats, Version};
pub use calls::Which;
pub use client::Client;
pub use error::{AnswerError, ViciError};
pub use events::{Event, Subscription};
pub use sa::{ChildSaInfo, IkeSaInfo};
pub use section::{Section, Value};

/// Where charon's Debian package puts its vici socket.
pub const DEFAULT_SOCKET: &str = "/run/charon.vici";
