//! The small worlds that are searched.

use std::time::Duration;

use cxtp::engine::{EngineConfig, Sabotage};
use protocol_spec::transfer::TransferMode;

use super::{Errand, Setup, Way};
use crate::world::budget::Budget;

/// One of everything that can go wrong; how many of them in one run is said by
/// [`Setup::faults`].
const ONE_OF_EACH: Budget = Budget {
    all: 0,
    crashes: 1,
    gateways: 1,
    disconnects: 1,
    replays: 1,
    refusals: 1,
    writes: 1,
    delays: 1,
    fences: 0,
    lies: 0,
    rekeys: 1,
    ends: 1,
    relists: 1,
    cancels: 1,
    bursts: 1,
    traffic: 1,
    imports: 0,
};

const PREDICTIVE: Way = Way::Connection(TransferMode::Predictive);

fn world(name: &'static str, homes: &[usize], errands: Vec<Errand>) -> Setup {
    Setup {
        name,
        gateways: 2,
        homes: homes.to_vec(),
        errands,
        budget: ONE_OF_EACH,
        horizon: Duration::from_secs(600),
        tune: |_: &mut EngineConfig| {},
        sabotage: None,
    }
}

fn errand(source: usize, target: usize, sessions: &[usize], way: Way) -> Errand {
    Errand { source, target, sessions: sessions.to_vec(), way }
}

impl Setup {
    /// With so many things that may go wrong in one run.
    #[must_use]
    pub fn faults(mut self, all: u8) -> Self {
        self.budget.all = all;
        self
    }

    /// With just these things that may go wrong.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// With engines that are without a guard.
    #[must_use]
    pub fn without(mut self, guard: Sabotage) -> Self {
        self.sabotage = Some(guard);
        self
    }
}

/// One session, moved once.
pub fn one(mode: TransferMode) -> Setup {
    let name = match mode {
        TransferMode::Predictive => "one session, predictive",
        TransferMode::Reactive => "one session, reactive",
    };
    world(name, &[0], vec![errand(0, 1, &[0], Way::Connection(mode))])
}

/// Two sessions in one batch.
pub fn pair() -> Setup {
    let errands = vec![errand(0, 1, &[0, 1], PREDICTIVE)];
    world("two sessions, one batch", &[0, 0], errands)
}

/// Two sessions that change places. Their steps interleave in so many ways that
/// little else may happen.
pub fn crossing() -> Setup {
    let errands = vec![errand(0, 1, &[0], PREDICTIVE), errand(1, 0, &[1], PREDICTIVE)];
    let budget = Budget { crashes: 1, disconnects: 1, ..Budget::default() };
    world("two sessions, two batches", &[0, 1], errands).budget(budget)
}

/// One session that moves and comes back.
pub fn there_and_back() -> Setup {
    let errands = vec![errand(0, 1, &[0], PREDICTIVE), errand(1, 0, &[0], PREDICTIVE)];
    world("one session, there and back", &[0], errands)
}

/// One session that is asked for twice: its first transfer may have been given up.
pub fn again() -> Setup {
    let errands = vec![errand(0, 1, &[0], PREDICTIVE), errand(0, 1, &[0], PREDICTIVE)];
    world("one session, asked for twice", &[0], errands)
}

/// One session that goes into a file, which is put to use twice.
pub fn filed() -> Setup {
    let errands = vec![errand(0, 1, &[0], Way::File)];
    let mut setup = world("one session, by file", &[0], errands);
    setup.budget.imports = 2;
    setup
}

/// One session whose target is switched off for good, after which the operator
/// has it go on at its source.
pub fn fenced() -> Setup {
    let budget = Budget { all: 1, fences: 1, traffic: 2, ..Budget::default() };
    Setup { name: "one session, target switched off", ..one(TransferMode::Predictive) }
        .budget(budget)
}

/// One session, its two gateways and a third one that lies.
pub fn liar() -> Setup {
    let budget = Budget { all: 1, lies: 1, ..Budget::default() };
    Setup { name: "one session and a liar", gateways: 3, ..one(TransferMode::Predictive) }
        .budget(budget)
}
