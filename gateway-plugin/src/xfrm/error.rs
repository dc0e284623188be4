//! What can go wrong with an SA or a policy, in words with a cure.

use nix::errno::Errno;
use thiserror::Error;

use super::netlink::{Malformed, NetlinkError};

/// Why something was not done in the kernel's databases, or it is not known
/// whether it was. Never holds a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum XfrmError {
    /// EEXIST: its place is taken.
    #[error("{0} is there already: remove it first, or let the end user rekey to another SPI")]
    Exists(String),
    /// ESRCH or ENOENT: it is not there.
    #[error("{0} is not in the kernel: it was deleted or has expired")]
    Missing(String),
    /// EPERM: this process may not.
    #[error(
        "the kernel refused {0}: this needs CAP_NET_ADMIN (run as root or under the systemd unit)"
    )]
    NotPermitted(String),
    /// The kernel has no ESP or AH.
    #[error(
        "the kernel cannot do {0}: load esp4, esp6, ah4 or ah6 (modprobe), or take a kernel built with CONFIG_INET_ESP, CONFIG_INET6_ESP, CONFIG_INET_AH, CONFIG_INET6_AH"
    )]
    NoProtocol(String),
    /// The kernel has not this algorithm.
    #[error(
        "the kernel has no algorithm for {0}: load its crypto module or choose another proposal"
    )]
    NoTransform(String),
    /// The kernel has no XFRM at all, or this host hides it.
    #[error("the kernel has no XFRM netlink ({0}): take a kernel built with CONFIG_XFRM_USER")]
    NoXfrm(String),
    /// The kernel holds it, but it cannot be carried to another gateway; says what
    /// and why.
    #[error("{0}")]
    Foreign(String),
    /// It cannot be written down for the kernel; says what and why.
    #[error("the kernel cannot hold {0}")]
    CannotHold(String),
    /// EINVAL and others: the kernel refused for another reason.
    #[error("{what}: {error}")]
    Kernel {
        /// What was asked for.
        what: String,
        /// Its answer.
        error: NetlinkError,
    },
}

impl XfrmError {
    /// The words for what netlink said about `what` (`ESP SPI 0x... to ...`).
    pub(crate) fn about(what: &dyn std::fmt::Display, error: NetlinkError) -> Self {
        let what = what.to_string();
        match &error {
            NetlinkError::Socket { doing: "open", .. } => Self::NoXfrm(error.to_string()),
            other => match other.errno() {
                Some(Errno::EEXIST) => Self::Exists(what),
                Some(Errno::ESRCH | Errno::ENOENT) => Self::Missing(what),
                Some(Errno::EPERM | Errno::EACCES) => Self::NotPermitted(what),
                _ => Self::Kernel { what, error },
            },
        }
    }

    /// As [`XfrmError::about`], for what is being installed: a missing part there
    /// is one of the kernel's own.
    pub(crate) fn installing(
        what: &dyn std::fmt::Display,
        algorithms: &dyn std::fmt::Display,
        error: NetlinkError,
    ) -> Self {
        match error.errno() {
            Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => {
                Self::NoProtocol(what.to_string())
            }
            // ENOSYS: no such algorithm known; ENOENT: known, but not there. A
            // kernel without ESP has no algorithm known either.
            Some(Errno::ENOSYS | Errno::ENOENT) => {
                Self::NoTransform(format!("{what} ({algorithms})"))
            }
            _ => Self::about(what, error),
        }
    }

    pub(crate) fn malformed(what: &dyn std::fmt::Display, error: Malformed) -> Self {
        Self::Kernel { what: what.to_string(), error: error.into() }
    }
}
