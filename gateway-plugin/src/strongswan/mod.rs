//! strongSwan's charon, unmodified, as the IKE daemon of a Linux gateway.
//!
//! charon's `ha` plugin is meant for two nodes that keep one another informed.
//! Here the other node is we: [`ha`] speaks its messages, [`tracker`] makes
//! sessions of what it tells and messages of the sessions that come from
//! elsewhere. [`vici`] asks it what those messages do not say, and [`checks`]
//! judges the answers before anything moves.

mod charon;
pub mod checks;
pub mod ha;
pub mod tracker;
pub mod vici;

pub use charon::{Charon, CharonError, Settings as CharonSettings};
