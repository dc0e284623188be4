//! The service around the engine: driver loop, journal, configuration, control
//! API.

pub mod api;
pub mod client;
pub mod clock;
pub mod config;
mod control;
mod daemon;
mod driver;
pub mod hands;
pub mod journal;
mod report;
pub mod seal;
mod thread;
mod work;

pub use control::ControlError;
pub use daemon::{Service, StartError, daemon_main, start};
