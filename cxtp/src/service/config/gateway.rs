//! The gateway beside the daemon, and what follows from what it is.

use std::path::PathBuf;

use super::{ConfigError, engine_defaults, wrong};

/// The gateway whose sessions we move: a process of its own.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// What it is.
    pub kind: GatewayKind,
    /// Its plugin socket.
    pub socket: PathBuf,
}

/// The kinds of gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayKind {
    /// In user space: `cxtp-gateway`.
    Embedded,
    /// The Linux kernel: `cxtp-linux`.
    Linux,
}

impl GatewayKind {
    /// The kind that `gateway.kind` names.
    pub(super) fn named(word: &str) -> Result<Self, ConfigError> {
        match word {
            "embedded" => Ok(Self::Embedded),
            "linux" => Ok(Self::Linux),
            _ => {
                let problem = "no such kind of gateway";
                Err(wrong("gateway.kind", word, problem, "set it to `embedded` or `linux`"))
            }
        }
    }

    /// How many sessions of a batch are sent and not paused yet. Where all of them are
    /// staged before the first one is paused, the last one waits for all others.
    pub(super) fn staging_window(self) -> usize {
        match self {
            Self::Embedded => engine_defaults().staging_window,
            Self::Linux => 64,
        }
    }

    /// How many sessions of a batch are paused at a time. A kernel and an IKE
    /// daemon take a millisecond or more for each act, and each paused session
    /// waits for the acts on the others.
    pub(super) fn pause_window(self) -> usize {
        match self {
            Self::Embedded => engine_defaults().pause_window,
            Self::Linux => 1,
        }
    }

    /// Whether a batch stages its window before it pauses the first session.
    pub(super) fn stages_first(self) -> bool {
        self == Self::Linux
    }

    /// How many sessions one call is about at most. Nothing that a stopped session
    /// waits for is done before its answer: where an act takes an IKE daemon ten
    /// milliseconds or more, each is a call of its own.
    pub(in crate::service) fn sessions_at_once(self) -> usize {
        match self {
            Self::Embedded => 1024,
            Self::Linux => 1,
        }
    }
}
