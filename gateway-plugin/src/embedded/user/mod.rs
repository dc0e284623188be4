//! Embedded end users and the inner host behind the gateways, in one process:
//! they set their sessions up at a gateway, send numbered packets both ways and
//! count what arrives.
//!
//! An end user follows the gateway that its newest authenticated packet came
//! from; the inner host follows announcements with the highest epoch. Neither
//! knows anything of moves.

mod command;
mod fleet;
mod report;
mod shape;
mod tally;
mod traffic;

pub use command::user_main;
pub use fleet::{FleetConfig, UserFleet};
pub use report::{FleetReport, SessionReport};
pub use shape::SessionShape;
pub use tally::{Counts, Gap};
pub use traffic::{Wire, WireObserver};
