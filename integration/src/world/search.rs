//! Everything that can happen in a small world, in every order.
//!
//! Breadth first, so that the first way to a broken invariant is a shortest one
//! (or deep first, where that needs too much memory). A state that was seen before is not looked at again unless more may
//! still happen in it than before. A state in which nothing happens by itself
//! any more is at rest and must satisfy I3 and I5.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    World,
    budget::Budget,
    invariants::{Invariant, Violation},
    setup::Setup,
    step::Step,
};

/// Where a search stops although there is more to see.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// States.
    pub states: usize,
    /// Steps from the start.
    pub depth: usize,
    /// Goes as deep as it can first, which needs a fraction of the memory; then
    /// the way to what it finds is not the shortest.
    pub deep: bool,
}

impl Limit {
    /// The state that is looked at next.
    fn next<T>(&self, waiting: &mut VecDeque<T>) -> Option<T> {
        if self.deep { waiting.pop_back() } else { waiting.pop_front() }
    }
}

/// What a search saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Of which setup.
    pub name: &'static str,
    /// Different states.
    pub states: usize,
    /// Steps taken.
    pub steps: usize,
    /// States in which nothing happens by itself any more.
    pub at_rest: usize,
    /// Of those, states in which a session is used elsewhere than at its home.
    pub moved: usize,
    /// Steps of the longest way that was gone.
    pub depth: usize,
    /// Whether everything was seen.
    pub complete: bool,
    /// What was wrong.
    pub found: Option<Found>,
}

/// A broken invariant and the way to it.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is broken.
    pub violation: Violation,
    /// The shortest way there.
    pub way: Vec<Step>,
    /// The same for a person.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, states, steps, at_rest, moved, depth, complete, found } = self;
        let extent = if *complete { "complete" } else { "cut short" };
        write!(
            f,
            "{name}: {states} states, {steps} steps, {at_rest} at rest, {moved} of them moved, depth {depth}, {extent}"
        )?;
        if let Some(found) = found {
            writeln!(f, "\n{} after {} steps:", found.violation, found.way.len())?;
            found.trace.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        Ok(())
    }
}

/// Budgets with which a state was reached; none covers another.
enum Visits {
    One(Budget),
    More(Vec<Budget>),
}

#[derive(Default)]
struct Seen(HashMap<u64, Visits>);

impl Seen {
    /// Whether something new may happen in this state.
    fn is_new(&mut self, world: &World) -> bool {
        let budget = world.budget;
        match self.0.entry(world.fingerprint()) {
            Entry::Vacant(entry) => {
                entry.insert(Visits::One(budget));
                true
            }
            Entry::Occupied(mut entry) => {
                let known = match entry.get_mut() {
                    Visits::One(known) => vec![*known],
                    Visits::More(known) => std::mem::take(known),
                };
                let new = !known.iter().any(|known| known.covers(&budget));
                let mut all: Vec<_> = if new {
                    known.into_iter().filter(|known| !budget.covers(known)).collect()
                } else {
                    known
                };
                all.extend(new.then_some(budget));
                entry.insert(match all.as_slice() {
                    [one] => Visits::One(*one),
                    _ => Visits::More(all),
                });
                new
            }
        }
    }
}

/// Takes a step; an engine that panics has broken its contract.
pub(super) fn take(world: &mut World, step: Step) -> Result<(), Violation> {
    catch_unwind(AssertUnwindSafe(|| world.take(step))).unwrap_or_else(|_| {
        Err(Violation { invariant: Invariant::Engine, detail: "the engine panicked".to_owned() })
    })
}

/// Brings a new world to where the search begins: all daemons are up and have
/// found each other.
pub(super) fn begin(setup: Setup) -> Result<World, Violation> {
    let mut world = World::new(setup);
    while let Some(step) = world.busy().first().copied() {
        take(&mut world, step)?;
    }
    Ok(world)
}

/// Searches everything within the limit.
pub fn search(setup: &Setup, limit: Limit) -> Report {
    let mut report = Report { name: setup.name, ..Report::default() };
    let mut ways = Ways(Vec::new());
    let mut seen = Seen::default();
    let mut waiting = match begin(setup.clone()) {
        Ok(world) => VecDeque::from([(world, None, 0)]),
        Err(violation) => {
            report.found = Some(Found { violation, way: Vec::new(), trace: Vec::new() });
            return report;
        }
    };
    let mut steps = Vec::new();
    while let Some((world, origin, depth)) = limit.next(&mut waiting) {
        steps.clear();
        world.progress(&mut steps);
        if steps.is_empty() {
            report.at_rest += 1;
            report.moved += usize::from(world.has_moved());
            if let Err(violation) = world.check_at_rest() {
                report.found = Some(found(setup, violation, ways.to(origin)));
                return report;
            }
        }
        world.chances(&mut steps);
        if limit.deep {
            // The last is the next: what happens by itself comes before what
            // goes wrong, so that states are reached with much of the budget.
            steps.reverse();
        }
        for step in steps.iter().copied() {
            report.steps += 1;
            let mut after = world.clone();
            if let Err(violation) = take(&mut after, step) {
                let mut way = ways.to(origin);
                way.push(step);
                report.found = Some(found(setup, violation, way));
                return report;
            }
            if seen.is_new(&after) {
                report.states += 1;
                report.depth = report.depth.max(depth + 1);
                waiting.push_back((after, Some(ways.add(origin, step)), depth + 1));
            }
        }
        if report.states > limit.states || depth > limit.depth {
            return report;
        }
    }
    report.complete = true;
    report
}

/// How each state was reached, as a tree that grows towards the start.
struct Ways(Vec<(u32, Step)>);

impl Ways {
    const START: u32 = u32::MAX;

    fn add(&mut self, origin: Option<u32>, step: Step) -> u32 {
        self.0.push((origin.unwrap_or(Self::START), step));
        u32::try_from(self.0.len() - 1).unwrap_or(Self::START)
    }

    fn to(&self, mut place: Option<u32>) -> Vec<Step> {
        let mut way = Vec::new();
        while let Some((origin, step)) = place.and_then(|at| self.0.get(at as usize)) {
            way.push(*step);
            place = Some(*origin).filter(|origin| *origin != Self::START);
        }
        way.reverse();
        way
    }
}

/// Walks the way again, this time writing down what happens.
fn found(setup: &Setup, violation: Violation, way: Vec<Step>) -> Found {
    let trace = match begin(setup.clone()) {
        Ok(mut world) => {
            world.log = Some(Vec::new());
            for step in &way {
                // The last one breaks something again, which is known already.
                let _ = take(&mut world, *step);
            }
            let mut lines = world.log.take().unwrap_or_default();
            lines.extend(world.picture());
            lines
        }
        Err(_) => Vec::new(),
    };
    Found { violation, way, trace }
}
