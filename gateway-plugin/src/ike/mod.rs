//! The few IKEv2 exchanges that a gateway speaks itself with a moved session's
//! keys, so that an unmodified daemon need not: telling the end user a new
//! address (RFC 4555), asking whether it lives, agreeing on Message IDs
//! (RFC 6311), and answering what arrives while no daemon owns the session.
//!
//! ```text
//! IkeSa -- keys::derive --> Association --> exchange::Request   (we ask)
//!                               |      \--> answer::Responder   (we answer)
//!                  crypt: SK payload, message: header and chain, notify
//! ```
//!
//! All of that is without sockets, clocks and randomness: time and random octets
//! are arguments. [`port`] and [`tap`] are the two ends that touch the network,
//! beside a daemon that holds the ports; [`random`] asks the operating system.

pub mod answer;
mod association;
pub mod crypt;
mod error;
pub mod exchange;
#[cfg(test)]
mod golden;
pub mod keys;
pub mod message;
pub mod notify;
mod packet;
pub mod port;
pub mod random;
pub mod responder;
pub mod tap;

pub use association::Association;
pub use error::IkeError;
