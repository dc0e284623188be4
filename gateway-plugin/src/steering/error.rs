//! What can go wrong, said with what to do about it.

use std::io;

use protocol_spec::id::SessionId;
use thiserror::Error;

/// Why steering could not do what was asked. Nothing of the call has taken effect
/// for the session it names.
#[derive(Debug, Error)]
pub enum SteeringError {
    /// The configuration cannot work.
    #[error("steering.{key}: {why}")]
    Config {
        /// Which setting.
        key: &'static str,
        /// What is wrong with it, and what to write instead.
        why: String,
    },
    /// A program that we need is missing or failed.
    #[error("`{command}` failed: {why}")]
    Command {
        /// The command line.
        command: String,
        /// What it said, and what may be missing.
        why: String,
    },
    /// The kernel refused.
    #[error("{what}: {error}{hint}")]
    Kernel {
        /// What was asked of it.
        what: String,
        /// Its answer.
        error: io::Error,
        /// What would cure it, where that is known.
        hint: &'static str,
    },
    /// The kernel did not answer, or not in words that we know.
    #[error("{what}: {why}")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// What came instead of an answer.
        why: &'static str,
    },
    /// Another session has it already.
    #[error("{what} belongs to session {owner} already")]
    Taken {
        /// The SPI, prefix or client.
        what: String,
        /// Whose it is.
        owner: SessionId,
    },
    /// The traffic cannot be steered.
    #[error("{0}")]
    Traffic(String),
    /// No packet of the neighbour's came back in time.
    #[error("neighbour {name} ({address}) is not reachable: {why}")]
    Unreachable {
        /// Its name.
        name: String,
        /// Its address.
        address: std::net::IpAddr,
        /// What was tried.
        why: String,
    },
    /// This session has nothing here.
    #[error("session {0} is not known to steering: name its traffic first")]
    Unknown(SessionId),
}

impl SteeringError {
    /// A refusal of the kernel, with the cure where it is a common one.
    pub(super) fn kernel(what: impl Into<String>, error: io::Error) -> Self {
        let hint = match error.raw_os_error() {
            Some(nix::libc::EPERM) => ": run with CAP_NET_ADMIN",
            Some(nix::libc::EOPNOTSUPP | nix::libc::EPROTONOSUPPORT) => {
                ": the kernel lacks this part of netfilter"
            }
            Some(nix::libc::EBUSY) => ": is another process using it?",
            Some(nix::libc::ENOENT) => {
                ": the ruleset is not there; was it flushed? `repair` loads it again"
            }
            Some(nix::libc::EEXIST | nix::libc::ENOTEMPTY) => {
                ": it overlaps with what another session has"
            }
            Some(nix::libc::ENODEV) => ": no such interface",
            _ => "",
        };
        Self::Kernel { what: what.into(), error, hint }
    }
}
