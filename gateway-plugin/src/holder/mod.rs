//! A gateway in a process of its own, behind a socket: the holder of the sessions.
//!
//! `cxtpd` speaks to it as to any [`GatewayPlugin`](crate::GatewayPlugin). When
//! `cxtpd` is killed, the holder goes on, with what holds sessions back and with
//! their keys, in memory and nowhere else.

pub(crate) mod call;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod program;
pub(crate) mod random;
pub(crate) mod server;

use std::time::Duration;

pub use client::RemoteGateway;
pub use program::stay_in_memory;
pub use server::{GatewayServer, ServedGateway};

/// How often a thread looks whether it shall end.
pub(crate) const LOOK_UP: Duration = Duration::from_millis(50);
