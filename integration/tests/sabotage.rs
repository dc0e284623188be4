//! The search is only worth something if it finds what is wrong: engines with
//! one guard of the protocol taken out, each of which must break the invariant
//! that the guard is there for.

use cxtp::engine::Sabotage;
use integration::world::{
    budget::Budget,
    invariants::Invariant::{self, I1, I2, I3},
    search::{Limit, search},
    setup::{Setup, small},
};
use protocol_spec::transfer::TransferMode::Predictive;

/// The smallest world in which the guard is missed, and what breaks.
fn trap(guard: Sabotage) -> (Setup, Invariant) {
    let one = |budget| small::one(Predictive).budget(budget);
    let none = Budget::default();
    match guard {
        Sabotage::ResumeOnTimeoutAfterCommit => (one(Budget { all: 1, delays: 1, ..none }), I1),
        Sabotage::ActivateBeforeJournal => {
            (one(Budget { all: 2, writes: 1, delays: 1, ..none }), I1)
        }
        Sabotage::BaseTooLow => (one(Budget { traffic: 1, ..none }), I2),
        Sabotage::OldEpochAccepted => {
            (small::there_and_back().budget(Budget { all: 2, replays: 2, ..none }), I1)
        }
        Sabotage::CommitNotJournaled => (one(Budget { all: 1, crashes: 1, ..none }), I1),
        Sabotage::SendCtdBeforeJournal => (one(Budget { all: 1, crashes: 1, ..none }), I1),
        Sabotage::AbortNotJournaled => {
            (one(Budget { all: 3, crashes: 1, delays: 1, replays: 1, ..none }), I1)
        }
        Sabotage::RestageSkipped => (one(Budget { all: 1, rekeys: 1, ..none }), I3),
        Sabotage::ResumeNotAboveGrant => (small::fenced(), I2),
        Sabotage::AnySourceActivates => (small::liar(), I1),
    }
}

fn springs(guard: Sabotage) {
    let (setup, invariant) = trap(guard);
    let limit = |deep| Limit { states: 2_000_000, depth: 1000, deep };
    let whole = search(&setup, limit(true));
    assert!(whole.found.is_none(), "with the guard nothing may break:\n{whole}");
    let report = search(&setup.without(guard), limit(false));
    println!("without {guard:?}: {report}");
    let found = report.found.unwrap_or_else(|| panic!("nobody misses {guard:?}"));
    assert_eq!(found.violation.invariant, invariant, "{guard:?} breaks something else");
}

#[test]
fn every_guard_is_missed() {
    for guard in Sabotage::ALL {
        springs(*guard);
    }
}
