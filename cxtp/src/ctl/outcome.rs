//! How a command ends: an answer or a problem, each with its exit code.

use std::{fmt, process::ExitCode};

use serde::Serialize;
use serde_json::{Map, Value};

use super::text::clean;
use crate::service::api::{Refused, Summary};

/// The exit codes. A number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done = 0,
    NotDone = 1,
    Usage = 2,
    Unreachable = 3,
    Partly = 4,
    InDoubt = 5,
    TimedOut = 6,
}

impl Exit {
    /// Every code with what it says, for `--help` and the man pages.
    pub(super) const ALL: [(Self, &str); 7] = [
        (Self::Done, "done"),
        (Self::NotDone, "not done: refused or aborted, for the reasons given; nothing has moved"),
        (Self::Usage, "wrong usage: nothing was tried"),
        (Self::Unreachable, "the daemon cannot be reached, or it does not speak this control API"),
        (Self::Partly, "partly done: some sessions did not move and go on where they are"),
        (Self::InDoubt, "sessions are in doubt or lost: look at them before anything else"),
        (Self::TimedOut, "the answer did not come in time; the daemon may still be at work"),
    ];

    pub(super) fn code(self) -> u8 {
        self as u8
    }

    /// How a batch ended: the worst that happened to any session counts.
    pub(super) fn of_batch(summary: &Summary) -> Self {
        if summary.in_doubt + summary.lost > 0 {
            Self::InDoubt
        } else {
            Self::of_parts(summary.moved, summary.sessions)
        }
    }

    /// How something ended of which `done` of `all` were done.
    pub(super) fn of_parts(done: usize, all: usize) -> Self {
        match done {
            done if done >= all => Self::Done,
            0 => Self::NotDone,
            _ => Self::Partly,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// What a command found out or did.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) exit: Exit,
    /// For a person.
    pub(super) text: String,
    /// For a script: every figure of the text. `None` where all was said before.
    pub(super) json: Option<Map<String, Value>>,
}

impl Answer {
    /// It was done; `facts` becomes the JSON object.
    pub(super) fn done(text: impl Into<String>, facts: &impl Serialize) -> Self {
        Self::new(Exit::Done, text, facts)
    }

    pub(super) fn new(exit: Exit, text: impl Into<String>, facts: &impl Serialize) -> Self {
        // Facts are plain structs and maps of strings and numbers, which always
        // become JSON; what is not an object stands under a name of its own.
        let json = match serde_json::to_value(facts) {
            Ok(Value::Object(object)) => object,
            Ok(other) => Map::from_iter([("answer".to_owned(), other)]),
            Err(_) => Map::new(),
        };
        Self { exit, text: text.into(), json: Some(json) }
    }

    /// It was done, and all was said on the way.
    pub(super) fn said() -> Self {
        Self { exit: Exit::Done, text: String::new(), json: None }
    }
}

/// Why a command did not do what it should.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) exit: Exit,
    /// A word for scripts: from the status registry, or one of this tool's own.
    pub(super) status: String,
    /// What is wrong, where, and what to do.
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(exit: Exit, status: &str, detail: impl Into<String>) -> Self {
        Self { exit, status: status.to_owned(), detail: detail.into() }
    }

    /// The arguments are well formed but make no sense.
    pub(super) fn usage(detail: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", detail)
    }

    /// A file of this machine is in the way.
    pub(super) fn file(detail: impl Into<String>) -> Self {
        Self::new(Exit::NotDone, "file", detail)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self { exit: Exit::NotDone, status: refused.status, detail: refused.detail }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", clean(&self.status), clean(&self.detail))
    }
}
