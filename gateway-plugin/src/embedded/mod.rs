//! The gateway in user space.

mod acts;
mod admission;
mod clock;
mod config;
mod counters;
mod datapath;
pub mod esp;
mod gateway;
mod packet;
mod random;
mod session;
mod table;
pub mod window;
mod wire;

pub use config::{GatewayConfig, Sabotage};
pub use counters::Counters;
pub use gateway::{Addresses, EmbeddedGateway};
