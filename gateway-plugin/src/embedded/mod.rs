//! The gateway in user space.

mod acts;
mod admin;
mod admission;
mod call;
mod client;
mod clock;
mod command;
mod config;
mod counters;
mod datapath;
pub mod esp;
mod gateway;
mod packet;
mod process;
mod random;
mod session;
mod table;
mod user;
pub mod window;
mod wire;

pub use admin::GatewayAdmin;
pub use client::RemoteGateway;
pub use command::gateway_main;
pub use config::{GatewayConfig, Sabotage};
pub use counters::Counters;
pub use gateway::{Addresses, EmbeddedGateway};
pub use process::GatewayServer;
pub use user::{
    Counts, FleetConfig, FleetReport, Gap, SessionReport, SessionShape, UserFleet, Wire,
    WireObserver,
};
