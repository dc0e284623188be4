//! Disks that fail, are full, or forget what was not synced.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use redb::StorageBackend;

use super::*;

/// What is wrong with a disk, and when it begins to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The write or sync after so many fails once; half of a write is done.
    Once(u64),
    /// That one and all later ones fail: a crash.
    From(u64),
    Never,
}

/// A disk in memory.
#[derive(Debug, Clone)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    fault: Fault,
    /// Writes and syncs, of all files.
    done: u64,
    syncs: u64,
    files: BTreeMap<&'static str, File>,
}

#[derive(Debug, Default)]
struct File {
    written: Vec<u8>,
    synced: Vec<u8>,
}

impl Disk {
    fn new() -> Self {
        let (fault, files) = (Fault::Never, BTreeMap::new());
        Self(Arc::new(Mutex::new(State { fault, done: 0, syncs: 0, files })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn store(&self) -> Result<(Store, Recovered), JournalError> {
        let handle = |name| {
            let disk = self.clone();
            move || Handle(disk.clone(), name)
        };
        Store::on_backend(handle("database"), handle("log"), DAY, 0)
    }

    /// What the disk holds after the power failed: what was synced, or that and
    /// what happened to be written.
    fn crashed(&self, written: bool) -> Self {
        let state = self.state();
        let files = state.files.iter().map(|(name, file)| {
            let kept = if written { &file.written } else { &file.synced };
            (*name, File { written: kept.clone(), synced: kept.clone() })
        });
        let files = files.collect();
        Self(Arc::new(Mutex::new(State { fault: Fault::Never, done: 0, syncs: 0, files })))
    }
}

#[derive(Debug)]
struct Handle(Disk, &'static str);

impl Handle {
    fn file<R>(&self, act: impl FnOnce(&mut File) -> R) -> R {
        act(self.0.state().files.entry(self.1).or_default())
    }

    /// Counts a write or sync; whether it fails.
    fn fails(&self) -> bool {
        let mut state = self.0.state();
        state.done += 1;
        match state.fault {
            Fault::Never => false,
            Fault::Once(after) => state.done == after + 1,
            Fault::From(after) => state.done > after,
        }
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file(|file| file.written.len() as u64))
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let end = start + out.len();
        self.file(|file| {
            let octets = file.written.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(octets);
            Ok(())
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file(|file| file.written.resize(usize::try_from(len).unwrap(), 0));
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.fails() {
            return Err(io::ErrorKind::Other.into());
        }
        self.0.state().syncs += 1;
        self.file(|file| file.synced.clone_from(&file.written));
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let fails = self.fails();
        let data = if fails { &data[..data.len() / 2] } else { data };
        let start = usize::try_from(offset).unwrap();
        self.file(|file| file.written[start..start + data.len()].copy_from_slice(data));
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// The newest epoch of each session that was acknowledged, and that was tried.
#[derive(Default)]
struct Known(BTreeMap<u8, (u64, u64)>);

impl Known {
    fn append(&mut self, store: &mut Store, session: u8) {
        let (said, tried) = self.0.entry(session).or_default();
        *tried += 1;
        if store.append(&[resumed(session, *tried)], 0).is_ok() {
            *said = *tried;
        }
    }

    fn check(&self, recovered: &Recovered, when: &str) {
        let found: BTreeMap<u8, u64> =
            recovered.records.iter().map(|r| (r.session().0[0], r.epoch().0)).collect();
        assert_eq!(found.len(), recovered.records.len(), "{when}");
        assert!(found.keys().all(|session| self.0.contains_key(session)), "{when}: invented");
        for (session, (said, tried)) in &self.0 {
            let found = found.get(session).copied().unwrap_or(0);
            assert!((*said..=*tried).contains(&found), "{when}: {session}: {said} {found} {tried}");
        }
    }
}

/// Some life of a journal; returns what it must know afterwards, and how many
/// writes and syncs it took.
fn live(disk: &Disk, fault: Fault) -> (Known, u64) {
    let mut known = Known::default();
    let (mut store, _) = disk.store().unwrap();
    {
        let mut state = disk.state();
        (state.fault, state.done) = (fault, 0);
    }
    for round in 0..3 {
        for session in [round, 7, round] {
            known.append(&mut store, session);
        }
        let _ = store.tidy();
    }
    known.append(&mut store, 7);
    let done = disk.state().done;
    (known, done)
}

#[test]
fn whatever_write_or_sync_fails_all_that_was_acknowledged_is_there_and_nothing_else() {
    let (known, done) = live(&Disk::new(), Fault::Never);
    assert!(done > 20 && known.0.values().all(|(said, tried)| said == tried));
    for after in 0..done {
        for fault in [Fault::Once(after), Fault::From(after)] {
            let disk = Disk::new();
            let (known, _) = live(&disk, fault);
            if matches!(fault, Fault::Once(_)) {
                // One that failed is all that was not acknowledged.
                let missed: u64 = known.0.values().map(|(said, tried)| tried - said).sum();
                assert!(missed <= 1, "{fault:?}");
            }
            for written in [false, true] {
                let (_, recovered) = disk.crashed(written).store().unwrap();
                known.check(&recovered, &format!("{fault:?} {written}"));
            }
        }
    }
}

#[test]
fn a_disk_that_was_full_is_written_again_once_it_has_room() {
    let disk = Disk::new();
    let (mut store, _) = disk.store().unwrap();
    store.append(&[resumed(1, 1)], 0).unwrap();
    disk.state().fault = Fault::From(0);
    for _ in 0..3 {
        let error = store.append(&[resumed(2, 1)], 0).unwrap_err();
        assert!(matches!(error, JournalError::Unwritten(_)), "{error}");
    }
    disk.state().fault = Fault::Never;
    store.append(&[resumed(3, 1)], 0).unwrap();
    drop(store);
    let found = sessions(&disk.store().unwrap().1);
    assert!(found.contains(&1) && found.contains(&3), "{found:?}");
}

#[test]
fn what_is_appended_costs_one_write_and_one_sync() {
    let disk = Disk::new();
    let (mut store, _) = disk.store().unwrap();
    let counted = || {
        let state = disk.state();
        (state.done, state.syncs)
    };
    for session in 0..5 {
        let (done, syncs) = counted();
        store.append(&[resumed(session, 1)], 0).unwrap();
        assert_eq!(counted(), (done + 2, syncs + 1));
    }
}

#[test]
fn more_than_the_log_holds_goes_into_the_database() {
    let disk = Disk::new();
    let (mut store, _) = disk.store().unwrap();
    let lost = |session: u16, text: &str| Record::Ended {
        session: SessionId(std::array::from_fn(|at| session.to_be_bytes()[at % 2])),
        epoch: SessionEpoch(1),
        lost: Some(Refusal::new(Status::GatewayLost, text)),
    };
    // Fills it several times over, and more than it holds at once.
    let long = "x".repeat(200);
    for session in 0..30 {
        let records: Vec<_> = (0..400).map(|of| lost(session * 400 + of, &long)).collect();
        store.append(&records, 0).unwrap();
    }
    let many: Vec<_> = (0..9000).map(|session| lost(session, &long)).collect();
    store.append(&many, 0).unwrap();
    store.append(&[lost(0, "the newest")], 0).unwrap();
    let (_, recovered) = disk.crashed(false).store().unwrap();
    assert_eq!(recovered.records.len(), 12_000);
    assert_eq!(recovered.records[0], lost(0, "the newest"));
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let [database, log] = ["journal.redb", "journal.log"].map(|file| directory.path().join(file));
    let open = || Store::open(directory.path(), DAY, 0);
    let (mut store, _) = open().unwrap();
    let old = fs::read(&database).unwrap();
    store.append(&[resumed(1, 1)], 0).unwrap();
    store.tidy().unwrap();
    store.append(&[resumed(1, 2)], 0).unwrap();
    drop(store);
    let (good, frames) = (fs::read(&database).unwrap(), fs::read(&log).unwrap());
    let refused = || {
        let error = open().err().unwrap();
        assert!(matches!(&error, JournalError::Damaged { path, .. } if *path == log), "{error}");
        error.to_string()
    };
    // A database of before; none; no log; a part of it.
    fs::write(&database, &old).unwrap();
    assert!(refused().contains("newer"));
    fs::remove_file(&database).unwrap();
    assert!(refused().contains("gone"));
    fs::write(&database, &good).unwrap();
    fs::remove_file(&log).unwrap();
    assert!(refused().contains("missing"));
    fs::write(&log, &frames[..frames.len() / 2]).unwrap();
    assert!(refused().contains("missing"));
    fs::write(&log, &frames).unwrap();
    assert_eq!(open().unwrap().1.records, [resumed(1, 2)]);
}
