//! Steering against a real kernel: what is held waits, what is blocked stays, what
//! is relayed arrives, and nothing inner leaves outside in clear.
//!
//! Needs root, ESP and nftables: the lab runs these in its guest, one at a time.

#![cfg(feature = "linux")]
#![expect(clippy::unwrap_used, reason = "a test says by panicking what it found")]

#[path = "kernel_steering/hold.rs"]
mod hold;
#[path = "kernel_steering/limit.rs"]
mod limit;
#[path = "kernel_steering/net.rs"]
mod net;
#[path = "kernel_steering/relay.rs"]
mod relay;
#[path = "kernel_steering/shared.rs"]
mod shared;
