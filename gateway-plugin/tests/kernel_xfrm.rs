//! The `xfrm` module against a real kernel, each test in a network namespace of
//! its own.
#![cfg(feature = "linux")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]

#[path = "kernel_xfrm/common.rs"]
mod common;
#[path = "kernel_xfrm/counters.rs"]
mod counters;
#[path = "kernel_xfrm/events.rs"]
mod events;
#[path = "kernel_xfrm/policies.rs"]
mod policies;
#[path = "kernel_xfrm/sas.rs"]
mod sas;
#[path = "kernel_xfrm/speed.rs"]
mod speed;
#[path = "kernel_xfrm/traffic.rs"]
mod traffic;
