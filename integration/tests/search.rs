//! Every order of everything that can happen in small worlds.
//!
//! `WORLD_DEPTH=3` lets more things go wrong in one run (the default is two);
//! then a run takes minutes instead of seconds.

use integration::world::{
    search::{Limit, search},
    setup::{Setup, small},
};
use protocol_spec::transfer::TransferMode::{Predictive, Reactive};

/// Searches it all and prints what was seen.
fn prove(setup: &Setup) {
    let started = now();
    let limit = Limit { states: 100_000_000, depth: 1000, deep: true };
    let mut report = search(setup, limit);
    if let Some(found) = &report.found {
        // The same again for a person: on the shortest way, if that is not too far.
        let near = Limit { states: 1_000_000, depth: found.way.len(), deep: false };
        let short = search(setup, near);
        report.found = short.found.or(report.found);
    }
    println!("{report}, {:.1} s", started.elapsed().as_secs_f64());
    assert!(report.found.is_none(), "see the trace above");
    assert!(report.complete, "the search was cut short");
    assert!(report.moved > 0, "no session ever moved");
}

#[expect(clippy::disallowed_methods, reason = "tells how long a search took")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// How many things may go wrong in one run.
fn depth(default: u8) -> u8 {
    let more = std::env::var("WORLD_DEPTH").ok().and_then(|text| text.parse().ok());
    more.unwrap_or(0).max(default)
}

#[test]
fn one_session_moves() {
    prove(&small::one(Predictive).faults(depth(2)));
}

#[test]
fn one_session_is_pulled() {
    prove(&small::one(Reactive).faults(depth(1)));
}

#[test]
fn two_sessions_move_in_one_batch() {
    prove(&small::pair().faults(depth(1)));
}

#[test]
fn two_sessions_move_in_two_batches() {
    prove(&small::crossing().faults(depth(1)));
}

#[test]
fn one_session_moves_there_and_back() {
    prove(&small::there_and_back().faults(depth(1)));
}

#[test]
fn one_session_is_asked_for_twice() {
    prove(&small::again().faults(depth(1)));
}

#[test]
fn one_session_goes_by_file() {
    prove(&small::filed().faults(depth(2)));
}

#[test]
fn a_target_is_switched_off() {
    prove(&small::fenced());
}
