//! Sessions move back and forth between two gateways, acts fail or end half-way,
//! processes are killed and started again: I1 and I2 hold after each step.

use proptest::prelude::*;
use protocol_spec::{
    id::{Generation, SessionId},
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, SaRef},
};

use super::{
    Bench, Fail, Kind,
    bench::index,
    drive::{Ledger, other},
    ground::lock,
};
use crate::conformance::{Harness, Side};

/// What the protocol does next, if it can.
#[derive(Clone, Copy, Debug)]
enum Step {
    Stage,
    Discard,
    Pause,
    /// Resume and discard before the commit.
    Abort,
    /// Commit and activate.
    Activate,
    /// The target takes its word back before the source goes on.
    TakeBack,
    Release,
    Rekey,
    Packets,
}

/// A step, and what goes wrong with it.
#[derive(Clone, Copy, Debug)]
struct Trial {
    step: Step,
    /// Which call fails, if any; whether all after it; whether it is done.
    fault: Option<(u32, bool, bool)>,
    /// Which processes end after it; in the middle of it where every call from one
    /// on fails without effect.
    killed: [bool; 2],
}

/// Where the protocol stands.
enum Stand {
    Idle,
    Staged(Vec<GrantedRange>, Generation),
    Paused(Vec<GrantedRange>, Generation, Finals),
    /// The source never resumes by itself from here.
    Committed(Vec<GrantedRange>, Finals),
    Activated(Finals),
    /// The source was told to go on: it may do so although it refused.
    Aborting(u64, Vec<(SaRef, u64)>),
    /// The target has given its word that it will not.
    TakingBack(Vec<GrantedRange>),
}

struct Protocol {
    bench: Bench,
    id: SessionId,
    owner: Side,
    /// The newest that was given out, and the one that is staged.
    epoch: u64,
    staged: u64,
    stand: Stand,
    /// Whether half a staging may be at the target.
    untidy: bool,
}

fn ends(grants: &[GrantedRange]) -> Vec<(SaRef, u64)> {
    grants.iter().map(|grant| (grant.sa, grant.end)).collect()
}

impl Protocol {
    fn new(kind: Kind) -> Self {
        let mut bench = Bench::new(kind);
        let id = bench.provision().unwrap();
        let (owner, stand) = (Side::Source, Stand::Idle);
        Self { bench, id, owner, epoch: 0, staged: 0, stand, untidy: false }
    }

    /// Does a step that is the protocol's to do now.
    fn step(&mut self, step: Step) -> Result<(), Refusal> {
        let (bench, id, source) = (&mut self.bench, self.id, self.owner);
        let target = other(source);
        match (step, &self.stand) {
            (Step::Stage, Stand::Idle | Stand::Staged(..)) => {
                self.epoch += 1;
                self.untidy = true;
                self.stand = Stand::Idle;
                let (grants, generation) = bench.stage(source, id, self.epoch)?;
                self.staged = self.epoch;
                self.stand = Stand::Staged(grants, generation);
            }
            (Step::Discard, Stand::Idle | Stand::Staged(..)) if self.untidy => {
                self.stand = Stand::Idle;
                bench.discard(target, id, self.epoch)?;
                self.untidy = false;
            }
            (Step::Pause, Stand::Staged(grants, generation)) => {
                let paused = (grants.clone(), *generation);
                // Whatever a pause that failed has done is taken back first of all.
                self.epoch += 1;
                self.stand = Stand::Aborting(self.epoch, Vec::new());
                let finals = bench.pause(source, id)?;
                self.stand = Stand::Paused(paused.0, paused.1, finals);
            }
            (Step::Abort, Stand::Paused(..)) => {
                self.epoch += 1;
                self.stand = Stand::Aborting(self.epoch, Vec::new());
                return self.step(step);
            }
            (_, Stand::Aborting(epoch, from)) => {
                bench.resume(source, id, *epoch, from.clone())?;
                self.stand = Stand::Idle;
            }
            (Step::Activate, Stand::Paused(grants, generation, finals))
                if *generation == finals.generation =>
            {
                self.stand = Stand::Committed(grants.clone(), finals.clone());
                return self.step(step);
            }
            (Step::Activate, Stand::Committed(_, finals)) => {
                bench.activate(target, id, self.staged, finals)?;
                self.stand = Stand::Activated(finals.clone());
                self.untidy = false;
            }
            (Step::Activate, Stand::Activated(finals)) => {
                bench.activate(target, id, self.staged, finals)?;
            }
            (Step::TakeBack, Stand::Committed(grants, _)) => {
                self.stand = Stand::TakingBack(grants.clone());
                return self.step(step);
            }
            (_, Stand::TakingBack(grants)) => {
                bench.discard(target, id, self.staged)?;
                self.untidy = false;
                self.epoch += 1;
                self.stand = Stand::Aborting(self.epoch, ends(grants));
                return self.step(step);
            }
            (Step::Release, Stand::Activated(_)) => {
                bench.release(source, id, self.staged)?;
                self.owner = target;
                self.stand = Stand::Idle;
            }
            (Step::Rekey, Stand::Idle | Stand::Staged(..)) => bench.rekey(source, id).unwrap(),
            (Step::Packets, _) => {
                for side in [source, target] {
                    (0..40).for_each(|_| _ = bench.passes(side, id));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn try_out(&mut self, trial: Trial, ledger: &mut Ledger) {
        let by = std::thread::current().id();
        let fault = trial.fault.map(|(at, onwards, done)| Fail { by, at, onwards, done });
        for side in [Side::Source, Side::Target] {
            self.bench.survive(side);
            self.bench.fail(side, fault);
        }
        let done = self.step(trial.step);
        for side in [Side::Source, Side::Target] {
            self.bench.fail(side, None);
        }
        for (side, killed) in [Side::Source, Side::Target].into_iter().zip(trial.killed) {
            if killed {
                self.bench.start(side);
            }
        }
        let what = format!("{trial:?}");
        if let (None, Err(refusal)) = (fault, &done) {
            panic!("{what}: {refusal}");
        }
        // After two faults in a row it takes the target a moment; the source is silent.
        if matches!(self.stand, Stand::Committed(..)) {
            assert!(
                self.bench.silent_soon(other(self.owner), self.id),
                "{what}: the target speaks"
            );
        }
        self.bench.audit(self.id, ledger, &what);
    }

    /// Goes on without faults until the session is in use again.
    fn end(mut self, ledger: &mut Ledger) {
        let calm = |step| Trial { step, fault: None, killed: [false; 2] };
        for step in [Step::Activate, Step::Release, Step::Abort, Step::Discard, Step::Packets] {
            self.try_out(calm(step), ledger);
        }
        assert!(self.bench.passes_soon(self.owner, self.id), "nobody has the session");
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Stage),
        1 => Just(Step::Discard),
        4 => Just(Step::Pause),
        1 => Just(Step::Abort),
        5 => Just(Step::Activate),
        1 => Just(Step::TakeBack),
        4 => Just(Step::Release),
        1 => Just(Step::Rekey),
        3 => Just(Step::Packets),
    ]
}

fn trial() -> impl Strategy<Value = Trial> {
    let fault = proptest::option::weighted(0.4, (1..20u32, any::<bool>(), any::<bool>()));
    let killed = [proptest::bool::weighted(0.15), proptest::bool::weighted(0.15)];
    (step(), fault, killed).prop_map(|(step, fault, killed)| Trial { step, fault, killed })
}

fn holds(kind: Kind, trials: Vec<Trial>) {
    let mut protocol = Protocol::new(kind);
    let mut ledger = Ledger::default();
    for trial in trials {
        protocol.try_out(trial, &mut ledger);
    }
    protocol.end(&mut ledger);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_two_gateways_speak_and_no_number_is_used_twice(
        trials in proptest::collection::vec(trial(), 1..60),
    ) {
        holds(Kind::Kernel, trials);
    }

    #[test]
    fn nor_with_a_daemon_that_installs_children(
        trials in proptest::collection::vec(trial(), 1..60),
    ) {
        holds(Kind::Charon, trials);
    }
}

#[test]
fn a_daemon_that_is_slow_is_waited_for() {
    let mut bench = Bench::new(Kind::Charon);
    let id = bench.provision().unwrap();
    lock(&bench.grounds[index(Side::Target)]).slow = true;
    bench.stage(Side::Source, id, 1).unwrap();
    let finals = bench.pause(Side::Source, id).unwrap();
    bench.activate(Side::Target, id, 1, &finals).unwrap();
    assert!(bench.passes(Side::Target, id));
}

#[test]
fn a_daemon_that_is_slow_to_answer_costs_no_packet_at_the_pause() {
    let mut bench = Bench::new(Kind::Charon);
    let id = bench.provision().unwrap();
    bench.stage(Side::Source, id, 1).unwrap();
    lock(&bench.grounds[index(Side::Source)]).slow = true;
    let late = bench.pause(Side::Source, id).unwrap_err();
    assert_eq!(late.status, Status::Busy);
    assert!(bench.passes(Side::Source, id));
    lock(&bench.grounds[index(Side::Source)]).slow = false;
    let finals = bench.pause(Side::Source, id).unwrap();
    bench.activate(Side::Target, id, 1, &finals).unwrap();
    assert!(bench.passes(Side::Target, id));
}
