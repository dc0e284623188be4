//! What the tests of hostile peers share: two good daemons with model gateways,
//! a peer that says whatever it likes, and the detectors that watch meanwhile.
//!
//! A test begins with [`World::start`], which also makes the tests of one process
//! run one after the other, since log, memory and panics belong to the process.
//! It ends with [`World::finish`], which asks every detector.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod gateway;
mod hostile;
mod log;
mod memory;
mod panics;
mod pki;
pub(crate) mod say;
mod world;

use std::{future::Future, time::Duration};

pub(crate) use self::{
    gateway::ModelGateway,
    hostile::{Closed, Hostile, Link, Stream, Talk, heard},
    log::{Capture, KEY_MARK, leaks_key},
    memory::{Peak, resident},
    panics::Panics,
    pki::{Paper, Pki},
    world::{CARL, Daemon, EVE, MAX_STAGED, REQUEST_RATE, STALL, World},
};

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for `what`, and fails the test if it does not come.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Looks again and again until `holds` does, and fails the test if it never does.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
