//! The journal on disk: a database that holds the newest record of each session,
//! and the log in front of it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_spec::{codec, id::GatewayEpoch};
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableError, WriteTransaction, backends::FileBackend,
};

use super::{
    Journal, JournalError,
    log::{Log, Unread},
};
use crate::engine::{Record, Recovered};

/// Newest record of each session, by its id; see [`Entry`].
const RECORDS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("records");
/// Facts about the gateway.
const GATEWAY: TableDefinition<'_, &str, u64> = TableDefinition::new("gateway");
/// Which life of the gateway was the last.
const EPOCH: &str = "epoch";
/// Which life of the log holds what is newer than the database.
const LOG: &str = "log";
/// Octets of the database that are kept in memory.
const CACHE: usize = 64 << 20;
/// Between two looks for records that are over.
const PRUNE: Duration = Duration::from_secs(3600);

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

/// Opens the database, at the start and again after a failure.
type Open = Box<dyn FnMut() -> Result<Database, DatabaseError> + Send>;
/// Opens the file of the log, after the database.
type OpenLog = Box<dyn FnMut() -> io::Result<Box<dyn StorageBackend>> + Send>;

/// Newest entries by session, encoded.
type Entries = BTreeMap<[u8; 16], Vec<u8>>;

/// The journal on disk.
pub struct Store {
    path: PathBuf,
    open: Open,
    open_log: OpenLog,
    /// Absent after a failure, until the next write opens it again.
    opened: Option<Opened>,
    tombstone: Duration,
    /// When something was written last.
    latest: u64,
    pruned: u64,
}

/// What is open while all goes well.
struct Opened {
    database: Database,
    log: Log,
    /// What the log holds.
    logged: Entries,
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
        let (file, log, folder) = (path.clone(), log_beside(&path), directory.to_owned());
        let open = move || builder().create_with_backend(private(&file)?);
        let open_log = move || {
            let file = private(&log).map_err(io::Error::other)?;
            // The files are found again after a crash as well.
            fs::File::open(&folder)?.sync_all()?;
            Ok(Box::new(file) as Box<dyn StorageBackend>)
        };
        Self::begin(path, Box::new(open), Box::new(open_log), tombstone, unix)
    }

    /// A journal on any storage, for tests that make it fail: the database's and
    /// the log's.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn on_backend<B: StorageBackend>(
        mut open: impl FnMut() -> B + Send + 'static,
        mut open_log: impl FnMut() -> B + Send + 'static,
        tombstone: Duration,
        unix: u64,
    ) -> Result<(Self, Recovered), JournalError> {
        let open = move || builder().create_with_backend(open());
        let open_log = move || Ok(Box::new(open_log()) as Box<dyn StorageBackend>);
        let path = PathBuf::from("storage");
        Self::begin(path, Box::new(open), Box::new(open_log), tombstone, unix)
    }

    fn begin(
        path: PathBuf,
        open: Open,
        open_log: OpenLog,
        tombstone: Duration,
        unix: u64,
    ) -> Result<(Self, Recovered), JournalError> {
        let mut store =
            Self { path, open, open_log, opened: None, tombstone, latest: unix, pruned: unix };
        let (opened, recovered) = store.reopen(|write| begin_life(write, tombstone, unix))?;
        store.opened = Some(opened);
        Ok((store, recovered))
    }

    /// Opens both files and takes what the log holds into the database, with some
    /// other work in the same transaction. What is really there counts, whatever
    /// was or was not said of it.
    fn reopen<R>(
        &mut self,
        work: impl FnOnce(&WriteTransaction) -> Result<R, Problem>,
    ) -> Result<(Opened, R), JournalError> {
        let database = self.reopen_database()?;
        let life = life(&database).map_err(|problem| damaged(&self.path, problem))?;
        let path = log_beside(&self.path);
        let read = (self.open_log)().map_err(Unread::Io).and_then(|file| match life {
            0 => Log::make(file).map(|log| (log, Vec::new())),
            life => Log::read(file, life),
        });
        let (log, pieces) = read.map_err(|unread| match unread {
            Unread::Io(error) => JournalError::File { path: path.clone(), error },
            Unread::Damaged(problem) => damaged(&path, problem),
        })?;
        let mut logged = Entries::new();
        for piece in pieces {
            unpack(&piece, &mut logged).map_err(|problem| damaged(&path, problem))?;
        }
        let mut opened = Opened { database, log, logged };
        let result = opened.fold(work).map_err(|problem| damaged(&self.path, problem))?;
        Ok((opened, result))
    }

    fn reopen_database(&mut self) -> Result<Database, JournalError> {
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

    /// What is open, until the caller puts it back. After a failure both files
    /// are opened again the next time: the library refuses to go on, what the log
    /// holds is not known, and a disk that was full has room again some time.
    fn take(&mut self) -> Result<Opened, Problem> {
        match self.opened.take() {
            Some(opened) => Ok(opened),
            None => Ok(self.reopen(|_| Ok(()))?.0),
        }
    }

    fn write(&mut self, records: &[Record], unix: u64) -> Result<(), Problem> {
        let (mut piece, mut entries) = (Vec::new(), Vec::with_capacity(records.len()));
        for record in records {
            let entry = codec::encode(&Entry { written: unix, record: record.clone() })?;
            piece.extend(u32::try_from(entry.len())?.to_be_bytes());
            piece.extend(&*entry);
            entries.push((record.session().0, entry.to_vec()));
        }
        self.latest = self.latest.max(unix);
        let mut opened = self.take()?;
        let fits = opened.log.takes(piece.len());
        if fits && !piece.is_empty() {
            opened.log.append(&piece)?;
        }
        opened.logged.extend(entries);
        if !fits {
            self.fold(&mut opened)?;
        }
        self.opened = Some(opened);
        Ok(())
    }

    /// Takes what the log holds into the database, and what is over out of it.
    fn fold(&mut self, opened: &mut Opened) -> Result<(), Problem> {
        let (tombstone, latest) = (self.tombstone, self.latest);
        let prune = latest.saturating_sub(self.pruned) >= PRUNE.as_secs();
        opened.fold(|write| {
            if prune {
                // What cannot be read is kept, and named at the next start.
                write.open_table(RECORDS)?.retain(|_, octets| {
                    !codec::decode::<Entry>(octets).is_ok_and(|e| e.is_over(tombstone, latest))
                })?;
            }
            Ok(())
        })?;
        if prune {
            self.pruned = latest;
        }
        Ok(())
    }
}

impl Opened {
    /// One transaction, on disk when this returns: what the log holds, some other
    /// work, and that the log begins anew.
    fn fold<R>(
        &mut self,
        work: impl FnOnce(&WriteTransaction) -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        let life = self.log.life() + 1;
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            let mut records = write.open_table(RECORDS)?;
            for (session, entry) in &self.logged {
                records.insert(session, entry.as_slice())?;
            }
            drop(records);
            write.open_table(GATEWAY)?.insert(LOG, life)?;
            let result = work(&write)?;
            write.commit()?;
            Ok::<_, Problem>(result)
        }));
        let result = done.map_err(|_| Problem("the library gave up on it".into()))??;
        self.log.begin(life);
        self.logged.clear();
        Ok(result)
    }
}

/// Takes the entries out of a piece of the log; the newest of a session stays.
fn unpack(mut piece: &[u8], entries: &mut Entries) -> Result<(), Problem> {
    let short = || Problem("a record ends too early".into());
    while !piece.is_empty() {
        let (length, rest) = piece.split_first_chunk().ok_or_else(short)?;
        let (entry, rest) =
            rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(short)?;
        let session = codec::decode::<Entry>(entry)?.record.session();
        entries.insert(session.0, entry.to_vec());
        piece = rest;
    }
    Ok(())
}

/// Which life of the log belongs to a database; none yet: 0.
fn life(database: &Database) -> Result<u64, Problem> {
    match database.begin_read()?.open_table(GATEWAY) {
        Ok(gateway) => Ok(gateway.get(LOG)?.map_or(0, |life| life.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn log_beside(database: &Path) -> PathBuf {
    database.with_extension("log")
}

/// Opens or makes a file that nobody else can read.
fn private(path: &Path) -> Result<FileBackend, DatabaseError> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    FileBackend::new(options.open(path)?)
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

    fn tidy(&mut self) -> Result<(), JournalError> {
        let Some(mut opened) = self.opened.take() else { return Ok(()) };
        if !opened.logged.is_empty() {
            self.fold(&mut opened).map_err(|problem| JournalError::Unwritten(problem.0))?;
        }
        self.opened = Some(opened);
        Ok(())
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
