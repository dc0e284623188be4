//! The service around the engine: driver loop, journal, configuration, control
//! API.

pub mod api;
pub mod client;
pub mod config;
pub mod seal;
