//! What can go wrong with a call. Holds no argument of a request, hence no key.

use std::{path::PathBuf, time::Duration};

use thiserror::Error;

use super::section::MAX_NESTING;

/// Why a call did not succeed. Where the connection may be out of step after it,
/// it is closed, and the next call opens a new one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ViciError {
    /// Nobody answers at the socket.
    #[error(
        "cannot connect to charon at {path}: {reason}; is charon running, with `load = yes` \
         for its vici plugin and this socket, and may this user open it?"
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        reason: String,
        /// Whether that is because no process has it open: charon does not run.
        absent: bool,
    },
    /// The deadline passed.
    #[error("charon did not finish `{command}` within {within:?}")]
    TimedOut {
        /// What was asked.
        command: String,
        /// The time that it was given.
        within: Duration,
    },
    /// The connection broke before the answer was complete. Whether charon did
    /// what it was asked for is not known.
    #[error("charon closed the connection during `{command}`: {reason}")]
    Lost {
        /// What was asked.
        command: String,
        /// What the system said.
        reason: String,
    },
    /// What came is not vici.
    #[error("charon's answer to `{command}` is not vici: {reason}")]
    Malformed {
        /// What was asked.
        command: String,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// A packet that is none of those that may come now.
    #[error("charon answered `{command}` with an unexpected {kind}")]
    Unexpected {
        /// What was asked.
        command: String,
        /// What came.
        kind: &'static str,
    },
    /// More came than fits.
    #[error("charon answered `{command}` with more than {bound} entries")]
    TooMany {
        /// What was asked.
        command: String,
        /// The bound.
        bound: usize,
    },
    /// charon has no such command.
    #[error("charon knows no command `{command}`: a newer strongSwan may")]
    UnknownCommand {
        /// What was asked.
        command: String,
    },
    /// charon has no such event.
    #[error("charon knows no event `{event}`: a newer strongSwan may")]
    UnknownEvent {
        /// What was asked for.
        event: String,
    },
    /// charon says no.
    #[error("charon refuses `{command}`: {reason}")]
    Refused {
        /// What was asked.
        command: String,
        /// Its own words.
        reason: String,
    },
    /// The answer lacks something or has it wrong.
    #[error("charon's answer to `{command}`: {reason}")]
    Answer {
        /// What was asked.
        command: String,
        /// What is wrong, by name.
        reason: AnswerError,
    },
    /// The request cannot be written.
    #[error("`{command}` cannot be sent: {reason}")]
    Unwritable {
        /// What was asked.
        command: String,
        /// Why.
        reason: Unwritable,
    },
}

/// Something in an answer that is missing or not as it should be, by its path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{path}` {problem}")]
pub struct AnswerError {
    /// Names from the outermost section inwards, with dots between.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl AnswerError {
    /// The name is not there.
    pub fn missing(name: &str) -> Self {
        Self::bad(name, "is missing")
    }

    /// The name is there, but not right.
    pub fn bad(name: &str, problem: &str) -> Self {
        Self { path: name.to_owned(), problem: problem.to_owned() }
    }

    /// The value under the name is not what it should be. Shows at most 64
    /// characters of it.
    pub fn bad_value(name: &str, value: &str, what: &str) -> Self {
        let shown: String = value.chars().take(64).collect();
        Self::bad(name, &format!("is `{shown}`, not {what}"))
    }

    /// The same, seen from the section around it.
    #[must_use]
    pub fn within(mut self, section: &str) -> Self {
        self.path = format!("{section}.{}", self.path);
        self
    }
}

/// What cannot be written as a vici message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unwritable {
    /// A name is too long.
    #[error("a name of {0} octets: 255 are the most")]
    Name(usize),
    /// A value is too long.
    #[error("a value of {0} octets: 65535 are the most")]
    Value(usize),
    /// Sections too deep.
    #[error("sections nested deeper than {MAX_NESTING}")]
    Nesting,
    /// The packet is too long.
    #[error("a packet of {0} octets: 524288 are the most")]
    Packet(usize),
}

/// What is wrong with received octets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The length before a packet exceeds charon's own bound.
    #[error("a packet of {0} octets: 524288 are the most")]
    Oversized(usize),
    /// It ends in the middle of something.
    #[error("the octets end in the middle of a packet, name or value")]
    Truncated,
    /// A packet type that does not exist.
    #[error("packet type {0} does not exist")]
    PacketType(u8),
    /// An element type that does not exist.
    #[error("element type {0} does not exist")]
    ElementType(u8),
    /// An element where it may not be.
    #[error("element type {0} where it may not stand")]
    Misplaced(u8),
    /// A name that is no text.
    #[error("a name that is not UTF-8")]
    Name,
    /// A section or list is not closed.
    #[error("a section or list that is not closed")]
    Open,
    /// Sections too deep.
    #[error("sections nested deeper than {MAX_NESTING}")]
    Nesting,
    /// Octets behind a packet that has no message.
    #[error("octets behind the end of the packet")]
    Trailing,
}
