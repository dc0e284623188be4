//! The engine: the protocol as a deterministic machine.
//!
//! It has no socket, clock, task, file or randomness of its own. What it hears
//! comes in as an [`Input`] with the time; what it wants done comes out as an
//! [`Output`]. One contract drives it:
//!
//! 1. call `Engine::handle` with one input and the time;
//! 2. call `Engine::poll_output` until it returns [`Output::Wait`];
//! 3. do what the outputs say, in any order and at the same time; whatever must
//!    wait for something else is an output only after that has come back as an
//!    input;
//! 4. when the deadline of `Wait` passes, hand in [`Input::Tick`].
//!
//! The engine never holds key material beyond one call: contexts pass through it
//! from an input to an output.

mod arrival;
mod authority;
mod batch;
mod config;
mod deadlines;
mod departure;
mod inbound;
mod io;
mod journal;
mod machine;
mod offer;
mod operator;
mod outbox;
mod peers;
mod preflight;
mod pulls;
mod recovery;
mod sabotage;
mod session;
pub mod source;
pub mod table;
pub mod target;
mod views;

pub use config::{EngineConfig, PeerPolicy};
pub use io::{
    BatchSummary, Command, Event, Exported, GatewayCommand, GatewayReply, Input, Moment, Output,
    Reply, Resolution, SaNumbers, StageOrder,
};
pub use journal::{Record, Recovered};
pub use machine::Engine;
pub(crate) use outbox::{FILL, estimate};
#[cfg(feature = "sabotage")]
pub use sabotage::Sabotage;
pub use views::{Progress, SessionView, Standing};
