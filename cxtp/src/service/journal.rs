//! The journal: what must survive a crash of the daemon, behind a trait, and its
//! body on redb.
//!
//! Writes are gathered: while one commit is on its way to the disk, the records
//! of all later ones wait and go together in the next, so that a batch pays for
//! a few syncs and not for one a session.

mod scribe;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_spec::{codec, id::GatewayEpoch};
use redb::{
    Database, DatabaseError, Durability, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction, backends::FileBackend,
};
use thiserror::Error;

pub use self::scribe::{Scribe, Written};
use crate::engine::{Record, Recovered};

/// Newest record of each session, by its id; see [`Entry`].
const RECORDS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("records");
/// Facts about the gateway.
const GATEWAY: TableDefinition<'_, &str, u64> = TableDefinition::new("gateway");
/// Which life of the gateway was the last.
const EPOCH: &str = "epoch";
/// Octets of the database that are kept in memory.
const CACHE: usize = 64 << 20;
/// Between two looks for records that are over.
const PRUNE: Duration = Duration::from_secs(3600);

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
}

/// A record with the time at which it was written, in seconds since 1970.
#[derive(bincode::Encode, bincode::Decode)]
struct Entry {
    written: u64,
    record: Record,
}

impl Entry {
    /// Whether it says nothing any more to anybody.
    fn is_over(&self, tombstone: Duration, unix: u64) -> bool {
        let keep = match &self.record {
            Record::Moved { keep, .. } => *keep,
            Record::Aborted { .. } | Record::Ended { .. } => tombstone,
            // How a session that goes on, or is in doubt, stands: only another
            // record takes their place.
            Record::Committed { .. } | Record::Resumed { .. } | Record::Active { .. } => {
                return false;
            }
        };
        self.written.saturating_add(keep.as_secs()) < unix
    }
}

/// Opens the storage, at the start and again after a failure.
type Open = Box<dyn FnMut() -> Result<Database, DatabaseError> + Send>;

/// The journal on disk.
pub struct Store {
    path: PathBuf,
    open: Open,
    /// Absent after a failure, until the next write opens it again.
    database: Option<Database>,
    tombstone: Duration,
    pruned: u64,
}

impl Store {
    /// Opens or makes the journal in `directory`, begins a new life of the
    /// gateway and returns what the last one left behind. Sessions that are gone
    /// are remembered for the time of a `tombstone`.
    ///
    /// # Errors
    /// [`JournalError`] says which file, why, and what to do.
    pub fn open(
        directory: &Path,
        tombstone: Duration,
        unix: u64,
    ) -> Result<(Self, Recovered), JournalError> {
        let failed = |error| JournalError::File { path: directory.to_owned(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let mode = fs::metadata(directory).map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(JournalError::Exposed { path: directory.to_owned(), mode });
        }
        let path = directory.join("journal.redb");
        let file = path.clone();
        let open = move || {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&file)?;
            builder().create_with_backend(FileBackend::new(file)?)
        };
        Self::begin(path, Box::new(open), tombstone, unix)
    }

    /// A journal on any storage, for tests that make it fail.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn on_backend<B: StorageBackend>(
        mut open: impl FnMut() -> B + Send + 'static,
        tombstone: Duration,
        unix: u64,
    ) -> Result<(Self, Recovered), JournalError> {
        let open = move || builder().create_with_backend(open());
        Self::begin(PathBuf::from("storage"), Box::new(open), tombstone, unix)
    }

    fn begin(
        path: PathBuf,
        open: Open,
        tombstone: Duration,
        unix: u64,
    ) -> Result<(Self, Recovered), JournalError> {
        let mut store = Self { path, open, database: None, tombstone, pruned: unix };
        store.database = Some(store.reopen()?);
        let begun = store.transaction(|write| begin_life(write, tombstone, unix));
        let recovered = begun.map_err(|problem| damaged(&store.path, problem))?;
        Ok((store, recovered))
    }

    fn reopen(&mut self) -> Result<Database, JournalError> {
        // The library checks the file when it opens it, and yet asserts here and
        // there on one that somebody else has written into.
        let opened = catch_unwind(AssertUnwindSafe(|| (self.open)()));
        let opened = opened.map_err(|_| damaged(&self.path, "the library gave up on it"))?;
        opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => JournalError::InUse(
                self.path.parent().map_or_else(|| self.path.clone(), Path::to_owned),
            ),
            DatabaseError::Storage(redb::StorageError::Io(error))
                if !matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                JournalError::File { path: self.path.clone(), error }
            }
            other => damaged(&self.path, other),
        })
    }

    /// One transaction, on disk when this returns. After a failure the database
    /// is opened again the next time: the library refuses to go on with it, and
    /// a disk that was full has room again some time.
    fn transaction<R>(
        &mut self,
        work: impl FnOnce(&WriteTransaction) -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            let result = work(&write)?;
            write.commit()?;
            Ok::<_, Problem>(result)
        }));
        let result = done.map_err(|_| Problem("the library gave up on it".into()))??;
        self.database = Some(database);
        Ok(result)
    }

    fn write(&mut self, records: &[Record], unix: u64) -> Result<(), Problem> {
        let tombstone = self.tombstone;
        let prune_now = unix.saturating_sub(self.pruned) >= PRUNE.as_secs();
        self.transaction(|write| {
            let mut table = write.open_table(RECORDS)?;
            for record in records {
                let key = record.session().0;
                let entry = Entry { written: unix, record: record.clone() };
                let octets = codec::encode(&entry).map_err(|e| Problem(e.to_string()))?;
                table.insert(key, octets.as_slice())?;
            }
            if prune_now {
                // What cannot be read is kept, and named at the next start.
                table.retain(|_, octets| {
                    !codec::decode::<Entry>(octets).is_ok_and(|e| e.is_over(tombstone, unix))
                })?;
            }
            Ok(())
        })?;
        if prune_now {
            self.pruned = unix;
        }
        Ok(())
    }
}

fn begin_life(
    write: &WriteTransaction,
    tombstone: Duration,
    unix: u64,
) -> Result<Recovered, Problem> {
    let mut recovered = Recovered::default();
    let mut gateway = write.open_table(GATEWAY)?;
    let last = gateway.get(EPOCH)?.map_or(0, |epoch| epoch.value());
    //= spec CXTP-6.1-4
    recovered.gateway_epoch = GatewayEpoch(last).next();
    gateway.insert(EPOCH, recovered.gateway_epoch.0)?;
    let mut records = write.open_table(RECORDS)?;
    let mut over = Vec::new();
    for item in records.iter()? {
        let (key, value) = item?;
        let entry: Entry = codec::decode(value.value()).map_err(|e| Problem(e.to_string()))?;
        if entry.record.session().0 != key.value() {
            return Err(Problem("a record stands under another session's id".into()));
        }
        if entry.is_over(tombstone, unix) {
            over.push(key.value());
        } else {
            recovered.records.push(entry.record);
        }
    }
    for key in over {
        records.remove(key)?;
    }
    Ok(recovered)
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

impl Journal for Store {
    fn append(&mut self, records: &[Record], unix: u64) -> Result<(), JournalError> {
        self.write(records, unix).map_err(|problem| JournalError::Unwritten(problem.0))
    }
}

/// What the library says, as text; its error types are many.
struct Problem(String);

impl<E: std::error::Error> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn damaged(path: &Path, problem: impl std::fmt::Display) -> JournalError {
    JournalError::Damaged { path: path.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests;
