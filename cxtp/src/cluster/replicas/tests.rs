#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use protocol_spec::{id::Generation, samples};

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn context(number: u8, generation: u64) -> Context {
    let generation = Generation(generation);
    Context { session: SessionId([number; 16]), generation, ..samples::context(number) }
}

fn entry(number: u8, epoch: u64, generation: u64) -> ReplicaEntry {
    let context = context(number, generation);
    ReplicaEntry { session: context.session, epoch: SessionEpoch(epoch), context: Some(context) }
}

fn nothing(number: u8) -> ReplicaEntry {
    ReplicaEntry { session: SessionId([number; 16]), epoch: SessionEpoch(0), context: None }
}

fn delta(number: u64, entries: Vec<ReplicaEntry>) -> ReplicaDelta {
    ReplicaDelta { number, complete: false, entries }
}

fn replicas() -> Replicas {
    let mut replicas = Replicas::new(1 << 20);
    replicas.connected(&name("a"));
    replicas.connected(&name("b"));
    replicas
}

#[test]
fn the_newest_context_is_held_and_taken_out_whole() {
    let mut replicas = replicas();
    let a = name("a");
    replicas.told(&a, delta(1, vec![entry(1, 3, 1)])).unwrap();
    let ack = replicas.told(&a, delta(2, vec![entry(1, 3, 2)])).unwrap();
    assert_eq!(ack, ReplicaAck { number: 2 });
    assert_eq!(replicas.of(&a).collect::<Vec<_>>(), [(SessionId([1; 16]), SessionEpoch(3))]);
    let taken = replicas.take(SessionId([1; 16])).unwrap();
    assert_eq!(taken, (a, SessionEpoch(3), context(1, 2)));
    assert_eq!((replicas.octets(), replicas.take(SessionId([1; 16]))), (0, None));
}

// proves CXTP-4.14-1
#[test]
fn after_a_delta_that_is_missed_or_comes_twice_nothing_is_acknowledged() {
    for wrong in [1, 3, 0, u64::MAX] {
        let mut replicas = replicas();
        let a = name("a");
        replicas.told(&a, delta(1, vec![entry(1, 1, 1)])).unwrap();
        assert!(replicas.told(&a, delta(wrong, vec![entry(2, 1, 1)])).is_err());
        assert!(replicas.told(&a, delta(2, vec![entry(3, 1, 1)])).is_err());
        assert_eq!(replicas.of(&a).count(), 1, "nothing of them is held");
        // Until it connects anew.
        replicas.connected(&a);
        assert!(replicas.told(&a, delta(1, vec![entry(2, 1, 1)])).is_ok());
    }
    let mut replicas = Replicas::new(1 << 20);
    assert!(replicas.told(&name("a"), delta(1, vec![])).is_err(), "it has not connected");
}

// proves CXTP-4.14-2
#[test]
fn a_replica_outlives_the_connection_and_the_life_of_its_owner() {
    let mut replicas = replicas();
    let a = name("a");
    replicas.told(&a, delta(1, vec![entry(1, 1, 1), entry(2, 1, 1)])).unwrap();
    replicas.connected(&a);
    assert_eq!(replicas.orphans(&a).count(), 0, "it has not said yet what it knows");
    let rest = ReplicaDelta { complete: true, ..delta(1, vec![entry(2, 1, 1)]) };
    replicas.told(&a, rest).unwrap();
    assert_eq!(replicas.orphans(&a).collect::<Vec<_>>(), [SessionId([1; 16])]);
    assert_eq!(replicas.of(&a).count(), 2);
}

// proves CXTP-4.14-3
#[test]
fn neither_an_older_ownership_nor_another_session_takes_a_replicas_place() {
    let mut replicas = replicas();
    let (a, b) = (name("a"), name("b"));
    replicas.told(&b, delta(1, vec![entry(1, 2, 5)])).unwrap();
    replicas.told(&a, delta(1, vec![entry(1, 1, 9)])).unwrap();
    replicas.told(&a, delta(2, vec![nothing(1)])).unwrap();
    assert_eq!(replicas.of(&b).collect::<Vec<_>>(), [(SessionId([1; 16]), SessionEpoch(2))]);
    let disguised = ReplicaEntry { session: SessionId([7; 16]), ..entry(1, 9, 9) };
    assert!(replicas.told(&a, delta(3, vec![disguised])).is_err());
    assert_eq!(replicas.take(SessionId([1; 16])), Some((b, SessionEpoch(2), context(1, 5))));
    assert_eq!(replicas.take(SessionId([7; 16])), None);
}

#[test]
fn an_owner_cannot_fill_the_standbys_memory() {
    let one = codec::encode(&context(1, 1)).unwrap().len();
    let mut replicas = Replicas::new(one * 2 + one / 2);
    let a = name("a");
    replicas.connected(&a);
    replicas.told(&a, delta(1, vec![entry(1, 1, 1), entry(2, 1, 1)])).unwrap();
    // In the place of one there is room.
    replicas.told(&a, delta(2, vec![entry(2, 1, 2)])).unwrap();
    let refused = replicas.told(&a, delta(3, vec![entry(3, 1, 1)])).unwrap_err();
    assert_eq!(refused.status, Status::RateLimited);
    assert!(replicas.octets() <= one * 2 + one / 2);
}

#[test]
fn no_key_is_shown() {
    let mut replicas = replicas();
    replicas.told(&name("a"), delta(1, vec![entry(0xd7, 1, 1)])).unwrap();
    let shown = format!("{replicas:?}");
    assert!(!shown.contains("215, 215"), "{shown}");
}
