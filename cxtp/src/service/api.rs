//! The control API: JSON, one object a line, over a Unix socket.
//!
//! A client sends one [`Request`] and reads [`Line`]s until [`Line::Done`] or
//! [`Line::Error`]. What a person sees in `cxtpctl` is made from these alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The daemon, its gateway, its peers. Answer: [`Status`].
    Status,
    /// All sessions. Answer: array of [`Session`], in chunks as [`Line::Sessions`].
    Sessions,
    /// One session with everything but its keys. Answer: a JSON object.
    Show {
        /// Which.
        session: String,
    },
    /// Moves sessions. The first line is the event `batch-begun` with the `batch`
    /// that [`Request::Cancel`] takes; progress comes as [`Line::Progress`]. Answer:
    /// [`Summary`].
    Transfer {
        /// Which; `None` for all that are active here.
        sessions: Option<Vec<String>>,
        /// Target gateway.
        to: String,
        /// `predictive` or `reactive`.
        mode: Mode,
    },
    /// Carries out a controller's signed order at the target: pulls sessions.
    /// Answer: [`Summary`].
    Pull {
        /// The order, encoded with the codec, in hexadecimal.
        order: String,
    },
    /// Stops a batch: what is not committed goes on here. Answer: `{}`.
    Cancel {
        /// Which.
        batch: String,
    },
    /// Would the target take them? Answer: [`PreflightReport`].
    Preflight {
        /// Which; `None` for all that are active here.
        sessions: Option<Vec<String>>,
        /// Target gateway.
        to: String,
    },
    /// Ends a doubt. Answer: `{}`.
    Resolve {
        /// Which.
        session: String,
        /// How.
        resolution: Resolution,
    },
    /// Hands a session out, sealed to a gateway. Answer: [`Sealed`].
    Get {
        /// Which.
        session: String,
        /// For whom.
        to: String,
    },
    /// Takes a session that was sealed to this gateway. Answer: `{}`.
    Put {
        /// What `get` answered.
        sealed: Sealed,
    },
    /// Events as they happen, as [`Line::Event`], until the client goes away.
    Watch,
}

/// How a transfer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The source sends.
    Predictive,
    /// The target asks.
    Reactive,
}

/// How a doubt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// Go on here: the target does not have it and never will.
    ResumeHere,
    /// Release here: the target has it.
    ReleaseHere,
}

/// What the daemon answers, one a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// How far a long request is.
    Progress(Progress),
    /// Some of the sessions.
    Sessions(Vec<Session>),
    /// Something happened.
    Event(Event),
    /// The answer; the last line.
    Done(serde_json::Value),
    /// It was not done; the last line.
    Error(Refused),
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Sessions in the batch.
    pub sessions: usize,
    /// Ended in any way.
    pub ended: usize,
    /// Of those, moved.
    pub moved: usize,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Name from the status registry of the protocol.
    pub status: String,
    /// What is wrong, where, and what to do.
    pub detail: String,
}

/// The daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This gateway.
    pub name: String,
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Which life of the daemon.
    pub gateway_epoch: u64,
    /// Kind and state of the gateway: `up`, or why not.
    pub gateway: String,
    /// Sessions by state: `active`, `paused`, `staged`, `in-doubt`, `lost`.
    pub sessions: BTreeMap<String, usize>,
    /// Batches that run.
    pub batches: usize,
    /// Peers by name: `up`, or why not.
    pub peers: BTreeMap<String, String>,
}

/// A session in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub session: String,
    /// `active`, `paused`, `staged`, `moving`, `in-doubt`, `moved`, `lost`.
    pub state: String,
    /// Its newest ownership.
    pub epoch: u64,
    /// Its generation.
    pub generation: u64,
    /// The other gateway, where one is involved.
    pub with: Option<String>,
    /// Why, where it is in doubt or lost.
    pub reason: Option<String>,
    /// While it is moving: its state in the table of its source or its target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// The result of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Names it.
    pub batch: String,
    /// Sessions in it.
    pub sessions: usize,
    /// Owned by the target now.
    pub moved: usize,
    /// Refused by the target; they go on at the source.
    pub refused: usize,
    /// Stopped; they go on at the source.
    pub aborted: usize,
    /// In doubt.
    pub in_doubt: usize,
    /// Lost.
    pub lost: usize,
    /// From pause to active, microseconds, over the moved ones.
    pub gap_us_p50: u64,
    /// 99th percentile.
    pub gap_us_p99: u64,
    /// Longest.
    pub gap_us_max: u64,
    /// Those that did not move (at most 100), and why.
    pub failures: Vec<Failure>,
}

/// A session that did not move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub session: String,
    /// `refused`, `aborted`, `in-doubt`, `lost`.
    pub outcome: String,
    /// Why.
    pub reason: Refused,
}

/// What a target would take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightReport {
    /// Sessions asked about.
    pub sessions: usize,
    /// Would be taken.
    pub accepted: usize,
    /// Would not be, and why.
    pub refused: Vec<Failure>,
}

/// A session sealed to one gateway's key (HPKE, RFC 9180), in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Always `cxtp-sealed-session/1`.
    pub format: String,
    /// Which session; authenticated, as are the next two.
    pub session: String,
    /// Who gave it.
    pub source: String,
    /// Who can open it.
    pub target: String,
    /// Encapsulated key.
    pub encapsulated_key: String,
    /// Ciphertext with its tag.
    pub ciphertext: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// What kind, in kebab-case: `session-up`, `transfer-ended`, …
    pub event: String,
    /// Its fields.
    #[serde(flatten)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}
