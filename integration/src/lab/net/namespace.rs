//! Acting inside a node.

use std::{fs::File, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

/// A node's network namespace, as `ip netns` names it.
#[derive(Clone, Debug)]
pub struct Namespace(String);

impl Namespace {
    /// The namespace of a node.
    pub fn of(node: &str) -> Self {
        Self(node.to_owned())
    }

    /// Does something as if in the node: sockets that it opens and processes that it
    /// starts are and stay there. Only this thread goes, and it comes back.
    ///
    /// # Errors
    /// Those of the work, or that there is no such node.
    pub fn enter<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let home = Home(File::open("/proc/thread-self/ns/net")?);
        let place = format!("/run/netns/{}", self.0);
        let there = File::open(&place).with_context(|| format!("no namespace {place}"))?;
        setns(there.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {place}"))?;
        let result = work();
        drop(home);
        result
    }
}

/// Where a thread came from. Goes back when dropped.
struct Home(File);

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET) {
            // Everything that this thread did from now on would happen in a wrong place.
            eprintln!("cannot leave a network namespace: {error}");
            std::process::abort();
        }
    }
}
