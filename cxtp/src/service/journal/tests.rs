use std::{
    fs,
    path::Path,
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use protocol_spec::{
    id::{GatewayEpoch, SessionEpoch, SessionId},
    status::{Refusal, Status},
};

use super::*;
use crate::engine::Recovered;

mod faults;

const DAY: Duration = Duration::from_secs(86_400);

/// A disk that does not answer for as long as the other end of its channel lives.
struct Hangs(Receiver<()>);

impl Journal for Hangs {
    fn append(&mut self, _: &[Record], _: u64) -> Result<(), JournalError> {
        let _ = self.0.recv();
        Ok(())
    }
}

#[test]
fn the_end_does_not_wait_for_ever_for_a_disk_that_hangs() {
    let (go, wait) = mpsc::channel();
    let scribe = Scribe::start(Box::new(Hangs(wait)), |_| ()).unwrap();
    assert!(scribe.write(0, vec![resumed(0, 1)], 0));
    let (tell, ended) = mpsc::channel();
    let end = std::thread::spawn(move || {
        drop(scribe);
        tell.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(20)).unwrap();
    drop(go);
    end.join().unwrap();
}

fn resumed(session: u8, epoch: u64) -> Record {
    Record::Resumed {
        session: SessionId([session; 16]),
        epoch: SessionEpoch(epoch),
        from: Vec::new(),
    }
}

fn moved(session: u8, keep: Duration) -> Record {
    Record::Moved {
        session: SessionId([session; 16]),
        epoch: SessionEpoch(1),
        target: "gw-b".parse().unwrap(),
        keep,
    }
}

// proves CXTP-6.1-4
#[test]
fn the_newest_record_of_a_session_is_found_after_a_restart_and_each_start_is_a_new_life() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, recovered) = Store::open(directory.path(), DAY, 100).unwrap();
    assert_eq!(recovered, Recovered { gateway_epoch: GatewayEpoch(1), records: vec![] });
    store.append(&[resumed(1, 1), resumed(2, 5)], 100).unwrap();
    store.append(&[resumed(1, 2)], 100).unwrap();
    drop(store);
    let (_, recovered) = Store::open(directory.path(), DAY, 100).unwrap();
    assert_eq!(recovered.gateway_epoch, GatewayEpoch(2));
    assert_eq!(recovered.records, vec![resumed(1, 2), resumed(2, 5)]);
}

#[test]
fn a_tombstone_is_forgotten_once_its_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), DAY, 1000).unwrap();
    store
        .append(&[moved(1, Duration::from_secs(10)), moved(2, Duration::from_secs(99))], 1000)
        .unwrap();
    drop(store);
    let (_, recovered) = Store::open(directory.path(), DAY, 1050).unwrap();
    assert_eq!(recovered.records, vec![moved(2, Duration::from_secs(99))]);
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::open(directory.path(), DAY, 0).unwrap();
    let second = Store::open(directory.path(), DAY, 0);
    assert!(matches!(second, Err(JournalError::InUse(_))));
}

#[test]
fn a_damaged_journal_is_named_and_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    fs::write(&path, b"not a journal").unwrap();
    let error = Store::open(directory.path(), DAY, 0).err().unwrap();
    assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("journal.redb"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"not a journal");
}

#[test]
fn only_the_owner_can_read_the_journal() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let _store = Store::open(&state, DAY, 0).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files = ["journal.redb", "journal.log"].map(|file| mode(&state.join(file)));
    assert_eq!((mode(&state), files), (0o700, [0o600; 2]));
}

/// A journal that counts its commits, waits for a sign before each, and fails
/// when told to.
struct Slow {
    go: Receiver<bool>,
    commits: mpsc::Sender<usize>,
}

impl Journal for Slow {
    fn append(&mut self, records: &[Record], _: u64) -> Result<(), JournalError> {
        let good = self.go.recv_timeout(Duration::from_secs(5)).unwrap();
        self.commits.send(records.len()).unwrap();
        if good { Ok(()) } else { Err(JournalError::Unwritten("disk full".into())) }
    }
}

#[test]
fn records_that_wait_share_one_commit_and_a_failure_reaches_each_ticket() {
    let (go, wait) = mpsc::channel();
    let (commits, counted) = mpsc::channel();
    let (done, heard) = mpsc::channel();
    let scribe = Scribe::start(Box::new(Slow { go: wait, commits }), move |written| {
        done.send(written).unwrap();
    })
    .unwrap();
    assert!(scribe.write(0, vec![resumed(0, 1)], 0));
    go.send(true).unwrap();
    let limit = Duration::from_secs(5);
    assert_eq!(heard.recv_timeout(limit).unwrap(), (0, Ok(())));
    assert_eq!(counted.recv_timeout(limit).unwrap(), 1);
    // The thread waits for records, takes the first that come, and whatever
    // comes while it is held up goes together.
    for ticket in 1..=4 {
        assert!(scribe.write(ticket, vec![resumed(1, ticket)], 0));
    }
    go.send(true).unwrap();
    go.send(false).unwrap();
    go.send(false).unwrap();
    go.send(false).unwrap();
    let answers: Vec<_> = (0..4).map(|_| heard.recv_timeout(limit).unwrap()).collect();
    assert_eq!(answers.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let sizes: Vec<_> = counted.try_iter().collect();
    assert_eq!(sizes.iter().sum::<usize>(), 4);
    let failed = answers.iter().filter(|(_, result)| result.is_err()).count();
    assert_eq!(failed, 4 - sizes[0]);
}

/// A journal that says when it is tidied.
struct Tidied(mpsc::Sender<&'static str>);

impl Journal for Tidied {
    fn append(&mut self, _: &[Record], _: u64) -> Result<(), JournalError> {
        self.0.send("written").unwrap();
        Ok(())
    }
    fn tidy(&mut self) -> Result<(), JournalError> {
        self.0.send("tidied").unwrap();
        Ok(())
    }
}

#[test]
fn it_is_tidied_once_nothing_was_written_for_a_while() {
    let (tell, heard) = mpsc::channel();
    let scribe = Scribe::start(Box::new(Tidied(tell)), |_| ()).unwrap();
    for ticket in 0..2 {
        assert!(scribe.write(ticket, vec![resumed(0, 1)], 0));
        let next = || heard.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!([next(), next()], ["written", "tidied"]);
    }
}

fn aborted(session: u8) -> Record {
    Record::Aborted {
        session: SessionId([session; 16]),
        epoch: SessionEpoch(1),
        source: "gw-b".parse().unwrap(),
        owned: None,
    }
}

fn sessions(recovered: &Recovered) -> Vec<u8> {
    recovered.records.iter().map(|record| record.session().0[0]).collect()
}

#[test]
fn what_is_gone_is_remembered_for_a_tombstone_and_what_is_open_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let open = |unix| Store::open(directory.path(), DAY, unix).unwrap();
    let (mut store, _) = open(1000);
    store.append(&[resumed(1, 1), aborted(2), moved(3, DAY * 9)], 1000).unwrap();
    drop(store);
    let (store, recovered) = open(1000 + DAY.as_secs());
    assert_eq!(sessions(&recovered), [1, 2, 3]);
    drop(store);
    let (mut store, recovered) = open(1001 + DAY.as_secs());
    assert_eq!(sessions(&recovered), [1, 3]);
    // A daemon that runs on forgets as well, without a restart.
    store.append(&[aborted(4)], 1001 + DAY.as_secs()).unwrap();
    store.append(&[resumed(5, 1)], 9 * DAY.as_secs() + 1001).unwrap();
    store.tidy().unwrap();
    drop(store);
    let (_, recovered) = open(0);
    assert_eq!(sessions(&recovered), [1, 5]);
}

#[test]
fn a_directory_in_which_others_can_write_is_refused_with_the_cure() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(directory.path(), DAY, 0).err().unwrap().to_string();
    assert!(error.contains("0777") && error.contains("chmod 700"), "{error}");
}

#[test]
fn a_damaged_file_never_panics_and_yields_no_record_that_nobody_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    let written: Vec<_> = (0..200).map(|session| resumed(session, 1)).collect();
    let (mut store, _) = Store::open(directory.path(), DAY, 0).unwrap();
    for record in written.chunks(10) {
        store.append(record, 0).unwrap();
    }
    store.tidy().unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();
    let open = |octets: &[u8]| {
        fs::write(&path, octets).unwrap();
        Store::open(directory.path(), DAY, 0).map(|(_, recovered)| recovered)
    };
    let cut = good[..good.len() / 2].to_vec();
    let inverted = good.iter().map(|octet| octet ^ 0xff).collect();
    for octets in [cut, inverted, vec![0x55; 8192]] {
        let error = open(&octets).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
    }
    // One octet here and there: it is found, or it meant nothing.
    for at in (0..good.len()).step_by(good.len() / 97) {
        let mut octets = good.clone();
        octets[at] ^= 0x10;
        match open(&octets) {
            Ok(recovered) => {
                assert!(recovered.records.iter().all(|record| written.contains(record)), "{at}");
            }
            Err(error) => assert!(matches!(error, JournalError::Damaged { .. }), "{at}: {error}"),
        }
    }
    assert_eq!(open(&good).unwrap().records, written);
}

// proves CXTP-10.1-2
#[test]
fn nothing_that_the_journal_holds_is_a_key() {
    // A record is made of numbers, names and reasons; this names each of them,
    // so that a new field of another type has to be looked at here.
    let lost = Some(Refusal::new(Status::GatewayLost, "the process ended"));
    let session = SessionId([9; 16]);
    let record = Record::Ended { session, epoch: SessionEpoch(3), lost };
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), DAY, 0).unwrap();
    store.append(&[record], 0).unwrap();
    drop(store);
    let read = |file| fs::read(directory.path().join(file)).unwrap();
    let octets = [read("journal.redb"), read("journal.log")].concat();
    let mark = protocol_spec::KeyMaterial::new(b"marked key material".to_vec());
    assert!(!octets.windows(mark.len()).any(|part| part == mark.expose()));
}
