//! Larger worlds, in which a seed decides what happens.
//!
//! `SIMULATION_SEED=n` runs the one with this seed; `SIMULATION_RUNS=n` runs so
//! many instead of the usual few.

use integration::world::{
    Tally,
    simulation::{Extent, simulate},
};

/// Seeds that once broke something.
const REGRESSIONS: &[u64] = &[];

/// Where the usual runs begin.
const FIRST: u64 = 0x00c0_ffee;

const EXTENT: Extent = Extent { steps: 10_000, calm: 200_000 };

/// Runs a seed and returns what it did.
fn run(seed: u64) -> (usize, Tally) {
    match simulate(seed, EXTENT) {
        Ok(summary) => {
            println!("seed {seed}: {} steps, {:?}", summary.steps, summary.tally);
            (summary.steps, summary.tally)
        }
        Err(failure) => panic!("{failure}"),
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn storms_end_in_order() {
    if let Some(seed) = number("SIMULATION_SEED") {
        run(seed);
        return;
    }
    let runs = number("SIMULATION_RUNS").unwrap_or(150);
    let mut total = 0;
    let mut all = Tally::default();
    for seed in FIRST..FIRST + runs {
        let (steps, tally) = run(seed);
        total += steps;
        all.moved += tally.moved;
        all.refused += tally.refused;
        all.aborted += tally.aborted;
        all.in_doubt += tally.in_doubt;
        all.lost += tally.lost;
        all.crashes += tally.crashes;
    }
    println!("{runs} runs, {total} steps: {all:?}");
    // A storm in which nothing happens proves nothing.
    assert!(all.moved > 100 && all.refused > 10 && all.aborted > 10, "{all:?}");
    assert!(all.in_doubt > 10 && all.crashes > 10, "{all:?}");
}

#[test]
fn what_once_broke_holds() {
    for seed in REGRESSIONS {
        run(*seed);
    }
}

#[test]
fn a_seed_is_a_run() {
    let extent = Extent { steps: 2000, calm: 50_000 };
    let once = simulate(FIRST, extent).map(|summary| (summary.steps, summary.tally));
    let again = simulate(FIRST, extent).map(|summary| (summary.steps, summary.tally));
    assert_eq!(once.ok(), again.ok());
}
