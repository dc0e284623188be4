//! Some of what can happen in a large world: a seed decides what.
//!
//! A run has a stormy part, in which everything may go wrong at any time, and a
//! calm one, in which the world comes to rest and must be in order.

use std::{fmt, time::Duration};

use cxtp::engine::EngineConfig;
use protocol_spec::{id::SessionId, transfer::TransferMode};

use super::{
    Tally, World,
    budget::Budget,
    invariants::{Invariant, Violation},
    rng::Rng,
    search::{begin, take},
    setup::{Setup, session_id},
    step::Step,
    traffic::BURST,
};

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Steps of the stormy part.
    pub steps: usize,
    /// Most steps of the calm part.
    pub calm: usize,
}

/// A run that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which run.
    pub seed: u64,
    /// After how many steps.
    pub steps: usize,
    /// What is broken.
    pub violation: Violation,
    /// The last things that happened.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, steps, violation, trace } = self;
        trace.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "seed {seed}, step {steps}: {violation}")?;
        write!(f, "replay it with SIMULATION_SEED={seed}")
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Steps taken.
    pub steps: usize,
    /// What the engines told.
    pub tally: Tally,
}

/// Runs one seed.
///
/// # Errors
/// The invariant that the run broke.
pub fn simulate(seed: u64, extent: Extent) -> Result<Summary, Box<Failure>> {
    Run::new(seed, extent, false).and_then(Run::finish).or_else(|failure| {
        // Once more, this time writing down what happens.
        Run::new(seed, extent, true).and_then(Run::finish).and(Err(failure))
    })
}

struct Run {
    seed: u64,
    rng: Rng,
    extent: Extent,
    world: World,
    steps: usize,
}

const NO_LIMIT: Budget = Budget {
    all: u8::MAX,
    crashes: u8::MAX,
    gateways: u8::MAX,
    disconnects: u8::MAX,
    replays: u8::MAX,
    refusals: u8::MAX,
    writes: u8::MAX,
    delays: u8::MAX,
    // Nothing comes back from a fence, and peers do not lie.
    fences: 0,
    lies: 0,
    rekeys: u8::MAX,
    ends: u8::MAX,
    relists: u8::MAX,
    cancels: u8::MAX,
    bursts: u8::MAX,
    traffic: u8::MAX,
    imports: u8::MAX,
};

/// Shorter times than by default, so that a run sees many of them pass.
fn hurry(config: &mut EngineConfig) {
    config.request_retry = Duration::from_millis(200);
    config.retry_max = Duration::from_secs(2);
    config.stage_timeout = Duration::from_secs(2);
    config.staged_timeout = Duration::from_secs(4);
    config.request_rate = 1000;
}

impl Run {
    fn new(seed: u64, extent: Extent, logged: bool) -> Result<Self, Box<Failure>> {
        let mut rng = Rng::new(seed);
        let gateways = 2 + rng.below(4);
        let sessions = 20 + rng.below(181);
        let setup = Setup {
            name: "simulation",
            gateways,
            homes: (0..sessions).map(|_| rng.below(gateways)).collect(),
            errands: Vec::new(),
            budget: NO_LIMIT,
            horizon: Duration::MAX,
            tune: hurry,
            sabotage: None,
        };
        let mut world = begin(setup).map_err(|violation| {
            Box::new(Failure { seed, steps: 0, violation, trace: Vec::new() })
        })?;
        world.log = logged.then(Vec::new);
        Ok(Self { seed, rng, extent, world, steps: 0 })
    }

    fn finish(mut self) -> Result<Summary, Box<Failure>> {
        match self.storm().and_then(|()| self.calm()) {
            Ok(()) => Ok(Summary { steps: self.steps, tally: self.world.tally }),
            Err(violation) => Err(Box::new(Failure {
                seed: self.seed,
                steps: self.steps,
                violation,
                trace: self.world.log.take().unwrap_or_default(),
            })),
        }
    }

    fn storm(&mut self) -> Result<(), Violation> {
        while self.steps < self.extent.steps {
            self.steps += 1;
            self.world.budget = NO_LIMIT;
            self.world.horizon = self.world.now + Duration::from_secs(100);
            self.pass_time();
            match self.rng.below(1000) {
                0..600 => self.something_pending()?,
                600..900 => self.traffic()?,
                900..920 => self.life()?,
                920..960 => self.operator(),
                _ => self.fault()?,
            }
        }
        Ok(())
    }

    /// Nothing goes wrong any more, and all that can happen by itself does.
    fn calm(&mut self) -> Result<(), Violation> {
        self.world.horizon = self.world.now + Duration::from_secs(600);
        let mut steps = Vec::new();
        for _ in 0..self.extent.calm {
            steps.clear();
            self.world.progress(&mut steps);
            let Some(step) = self.rng.pick(&steps).copied() else {
                return self.world.check_at_rest();
            };
            self.steps += 1;
            take(&mut self.world, step)?;
        }
        Err(Violation {
            invariant: Invariant::Engine,
            detail: format!("no rest after {} calm steps", self.extent.calm),
        })
    }

    /// Microseconds mostly, as between two steps of a busy machine; now and then
    /// something hangs.
    fn pass_time(&mut self) {
        let micros = match self.rng.below(2000) {
            0 => 1_000_000,
            1..=4 => 250_000,
            _ => 200,
        };
        self.world.now += Duration::from_micros(self.rng.below(micros) as u64);
    }

    fn something_pending(&mut self) -> Result<(), Violation> {
        let steps = self.world.busy();
        match self.rng.pick(&steps).copied() {
            // Acts may be done in any order.
            Some(Step::Act(node, _)) => {
                let orders = self.world.nodes[usize::from(node)].orders.len().min(4);
                let order = u8::try_from(self.rng.below(orders)).unwrap_or_default();
                take(&mut self.world, Step::Act(node, order))
            }
            Some(step) => take(&mut self.world, step),
            None => {
                self.world.now += Duration::from_millis(self.rng.below(400) as u64);
                Ok(())
            }
        }
    }

    fn any_node(&mut self) -> usize {
        self.rng.below(self.world.nodes.len())
    }

    /// A session that some gateway uses.
    fn any_active(&mut self) -> Option<(usize, SessionId)> {
        let session = session_id(self.rng.below(self.world.facts.len()));
        let node = self.world.nodes.iter().position(|node| node.gateway.is_active(session))?;
        Some((node, session))
    }

    fn traffic(&mut self) -> Result<(), Violation> {
        let Some((node, session)) = self.any_active() else { return Ok(()) };
        let count = self.rng.below(50) as u64;
        match self.rng.below(100) {
            0 => self.world.send(node, session, BURST),
            1..40 => self.world.send(node, session, 1 + count),
            40..80 => self.world.receive(node, session, if count < 10 { count } else { 0 }),
            80..90 => self.world.request(node, session),
            _ => self.world.respond(node, session),
        }
        self.world.check(session)
    }

    fn life(&mut self) -> Result<(), Violation> {
        let Some((node, session)) = self.any_active() else { return Ok(()) };
        if self.rng.chance(990) {
            self.world.rekey(node, session);
        } else {
            self.world.end(node, session);
        }
        self.world.check(session)
    }

    fn operator(&mut self) {
        let source = self.any_node();
        if self.rng.chance(100) {
            if let Some((batch, node)) = self.rng.pick(&self.world.begun).copied() {
                self.world.cancel(node, batch);
            }
            return;
        }
        if self.rng.chance(100) {
            let files = self.world.files.len();
            return if files > 0 {
                self.world.import(self.rng.below(files))
            };
        }
        let target = self.any_node();
        let held: Vec<_> = self.world.nodes[source].gateway.sessions.keys().copied().collect();
        if source == target || held.is_empty() {
            return;
        }
        // A few, mostly, so that many batches are under way.
        let most = if self.rng.chance(100) { held.len() } else { held.len().min(8) };
        let share = 1 + self.rng.below(most);
        let first = self.rng.below(held.len());
        let sessions: Vec<_> = held.iter().cycle().skip(first).take(share).copied().collect();
        if self.rng.chance(100) {
            return self.world.export(source, target, sessions[0]);
        }
        let mode = match self.rng.chance(300) {
            true => TransferMode::Reactive,
            false => TransferMode::Predictive,
        };
        self.world.transfer(source, target, sessions, mode);
    }

    fn fault(&mut self) -> Result<(), Violation> {
        let kind = match self.rng.below(100) {
            0..20 => |step: &Step| matches!(step, Step::Crash(_)),
            20..40 => |step: &Step| matches!(step, Step::Disconnect(_)),
            40..60 => |step: &Step| matches!(step, Step::Replay { .. }),
            60..80 => |step: &Step| matches!(step, Step::Refuse(..)),
            80..85 => |step: &Step| matches!(step, Step::FailWrite(..)),
            85..90 => |step: &Step| matches!(step, Step::Relist(_)),
            90..99 => |step: &Step| matches!(step, Step::Delay(_)),
            _ => |step: &Step| matches!(step, Step::LoseGateway(_)),
        };
        let mut steps = Vec::new();
        self.world.wrongs(&mut steps);
        steps.retain(kind);
        // Restarts take a moment, so crashes must not be as frequent as steps.
        match self.rng.pick(&steps).copied() {
            Some(Step::Crash(_)) if self.rng.chance(700) => Ok(()),
            Some(Step::LoseGateway(_)) if self.rng.chance(500) => Ok(()),
            Some(step) => take(&mut self.world, step),
            None => Ok(()),
        }
    }
}
