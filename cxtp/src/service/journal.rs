//! The journal: what must survive a crash of the daemon, behind a trait, and its
//! body on redb.
//!
//! Writes are gathered: while one commit is on its way to the disk, the records
//! of all later ones wait and go together in the next, so that a batch pays for
//! a few syncs and not for one a session.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use protocol_spec::{codec, id::GatewayEpoch};
use redb::{Database, Durability, ReadableTable, TableDefinition, backends::FileBackend};
use thiserror::Error;

use crate::engine::{Record, Recovered};

/// Newest record of each session, by its id; see [`Entry`].
const RECORDS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("records");
/// Facts about the gateway.
const GATEWAY: TableDefinition<'_, &str, u64> = TableDefinition::new("gateway");
/// Which life of the gateway was the last.
const EPOCH: &str = "epoch";
/// Writes that may wait for the disk.
const QUEUE: usize = 1024;

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
    fn is_over(&self, unix: u64) -> bool {
        matches!(&self.record, Record::Moved { keep, .. }
            if self.written.saturating_add(keep.as_secs()) < unix)
    }
}

/// The journal on disk.
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens or makes the journal in `directory`, begins a new life of the
    /// gateway and returns what the last one left behind.
    ///
    /// # Errors
    /// [`JournalError`] says which file, why, and what to do.
    pub fn open(directory: &Path, unix: u64) -> Result<(Self, Recovered), JournalError> {
        let failed = |error| JournalError::File { path: directory.to_owned(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let path = directory.join("journal.redb");
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| JournalError::File { path: path.clone(), error })?;
        let open = |file| redb::Builder::new().create_with_backend(FileBackend::new(file)?);
        let database = open(file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => JournalError::InUse(directory.to_owned()),
            other => damaged(&path, other),
        })?;
        let mut store = Self { database };
        let recovered = store.begin_life(unix).map_err(|problem| damaged(&path, problem))?;
        Ok((store, recovered))
    }

    fn begin_life(&mut self, unix: u64) -> Result<Recovered, Problem> {
        let write = self.database.begin_write()?;
        let mut recovered = Recovered::default();
        {
            let mut gateway = write.open_table(GATEWAY)?;
            let last = gateway.get(EPOCH)?.map_or(0, |epoch| epoch.value());
            //= spec CXTP-6.1-4
            recovered.gateway_epoch = GatewayEpoch(last).next();
            gateway.insert(EPOCH, recovered.gateway_epoch.0)?;
            let mut records = write.open_table(RECORDS)?;
            let mut over = Vec::new();
            for item in records.iter()? {
                let (key, value) = item?;
                let entry: Entry =
                    codec::decode(value.value()).map_err(|e| Problem(e.to_string()))?;
                if entry.record.session().0 != key.value() {
                    return Err(Problem("a record stands under another session's id".into()));
                }
                if entry.is_over(unix) {
                    over.push(key.value());
                } else {
                    recovered.records.push(entry.record);
                }
            }
            for key in over {
                records.remove(key)?;
            }
        }
        write.commit()?;
        Ok(recovered)
    }

    fn write(&mut self, records: &[Record], unix: u64) -> Result<(), Problem> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        {
            let mut table = write.open_table(RECORDS)?;
            for record in records {
                let key = record.session().0;
                let entry = Entry { written: unix, record: record.clone() };
                let octets = codec::encode(&entry).map_err(|e| Problem(e.to_string()))?;
                table.insert(key, octets.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }
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

/// What a [`Scribe`] says of a ticket.
pub type Written = (u64, Result<(), String>);

/// One write that waits for the disk.
struct Order {
    ticket: u64,
    records: Vec<Record>,
    unix: u64,
}

/// The thread that writes the journal.
pub struct Scribe {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Scribe {
    /// Starts it; `done` hears of every ticket, in order.
    ///
    /// # Errors
    /// What the system says of a new thread.
    pub fn start(
        journal: Box<dyn Journal>,
        done: impl Fn(Written) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_all(journal, &queue, &done))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Has records written. `false` if the queue is full or the thread is gone:
    /// then they are not written.
    pub fn write(&self, ticket: u64, records: Vec<Record>, unix: u64) -> bool {
        let order = Order { ticket, records, unix };
        self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok())
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(mut journal: Box<dyn Journal>, queue: &Receiver<Order>, done: &dyn Fn(Written)) {
    loop {
        let first = match queue.recv_timeout(Duration::from_secs(3600)) {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut tickets = vec![first.ticket];
        let (mut records, mut unix) = (first.records, first.unix);
        while let Ok(next) = queue.try_recv() {
            tickets.push(next.ticket);
            records.extend(next.records);
            unix = unix.max(next.unix);
        }
        let result = journal.append(&records, unix).map_err(|error| error.to_string());
        for ticket in tickets {
            done((ticket, result.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
