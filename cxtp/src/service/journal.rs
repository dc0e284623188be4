//! The journal: what must survive a crash of the daemon, behind a trait, and its
//! body on redb with a log in front.
//!
//! Writes are gathered: while one commit is on its way to the disk, the records
//! of all later ones wait and go together in the next, so that a batch pays for
//! a few syncs and not for one a session.

mod log;
mod scribe;
mod store;

use std::{io, path::PathBuf};

use thiserror::Error;

pub use self::{
    scribe::{Scribe, Written},
    store::Store,
};
use crate::engine::Record;

/// Why the journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The directory or file cannot be used.
    #[error("{}: {error}; cxtpd must own it and be able to write there", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others than its owner could change what it says.
    #[error(
        "{}: its mode is {mode:04o}, so that others can write there; run `chmod 700 {}`",
        path.display(), path.display()
    )]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another daemon has it.
    #[error("{}: another cxtpd is using this state; give each its own `state_dir`", .0.display())]
    InUse(PathBuf),
    /// It cannot be read.
    #[error(
        "{}: the journal is damaged ({problem}); keep the file, and start with an empty `state_dir` only \
         once you know which gateway owns each session", path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What the library or the codec says.
        problem: String,
    },
    /// It could not be written; nothing may be assumed of the records.
    #[error("the journal could not be written: {0}")]
    Unwritten(String),
}

/// Where records go.
pub trait Journal: Send {
    /// Writes records and returns once they are on disk.
    ///
    /// # Errors
    /// [`JournalError::Unwritten`]: they may or may not be there.
    fn append(&mut self, records: &[Record], unix: u64) -> Result<(), JournalError>;

    /// Does what is easier while nobody waits for the disk; loses nothing if it
    /// cannot.
    ///
    /// # Errors
    /// As [`Journal::append`].
    fn tidy(&mut self) -> Result<(), JournalError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
