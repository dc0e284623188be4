//! An address that moves as a whole.

use std::time::Duration;

use super::{Bench, Kind, bench::index, ground::lock};
use crate::conformance::{
    Harness,
    Side::{Source, Target},
};

/// Whether the target would take the address, at some time within so many looks.
fn takes(bench: &Bench, looks: u32) -> bool {
    let ground = &bench.grounds[index(Target)];
    lock(ground).may_take = false;
    (0..looks).any(|_| {
        std::thread::park_timeout(Duration::from_millis(5));
        lock(ground).may_take
    })
}

#[test]
fn an_address_is_taken_for_sessions_in_use_only() {
    let mut bench = Bench::new(Kind::Charon);
    let id = bench.provision().unwrap();
    bench.stage(Source, id, 1).unwrap();
    assert!(!takes(&bench, 40), "the session is only staged");
    let finals = bench.pause(Source, id).unwrap();
    assert!(!takes(&bench, 40), "it is not activated yet");
    bench.activate(Target, id, 1, &finals).unwrap();
    assert!(takes(&bench, 400));
    bench.start(Target);
    assert!(takes(&bench, 400), "the process was started again");
}
