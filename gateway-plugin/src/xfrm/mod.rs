//! The Linux kernel's SAs and policies over netlink.
//!
//! [`Kernel`] reads and writes them, [`Follower`] tells what changes by itself,
//! [`Mirror`] finds one among many.
//! Both speak in the words of the context: IANA transform numbers, our replay
//! window, durations; what the kernel has otherwise (names, ring bitmaps,
//! wall-clock instants) stays in here. The socket, [`netlink`], serves any other
//! netlink protocol too.

mod algorithm;
mod clock;
mod convert;
mod decode;
mod encode;
mod error;
mod follow;
mod kernel;
mod mirror;
pub mod netlink;
mod policy;
mod probe;
mod sa;
#[cfg(test)]
mod tests;
pub mod window;

pub use self::{
    decode::Foreign,
    error::XfrmError,
    follow::{Cause, Follower, Group, KernelEvent},
    kernel::{Kernel, Listing, encoded},
    mirror::Mirror,
    policy::{Action, KernelPolicy, Template},
    probe::Transforms,
    sa::{Counters, Encapsulation, KernelSa, Limits, SaFlags, SaId, SaSelector},
};
