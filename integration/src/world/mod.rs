//! The world in which engines are put to the proof: gateways, journals, a
//! network, end users, and everything that can go wrong with them.
//!
//! - [`gateway_model`], [`network`] and [`driver`] say what there is around an
//!   engine, [`possible`] what can happen next, within a [`budget`], [`step`] what
//!   then happens, [`traffic`] what end users do;
//! - [`invariants`] says what must be true afterwards;
//! - [`search`] does everything that can happen in a small world, in every
//!   order; [`simulation`] does some of it in a large one.
//!
//! Nothing here reads a clock, a socket or a random device: the same steps are
//! the same world, always.

pub mod budget;
pub mod driver;
pub mod gateway_model;
mod happen;
pub mod image;
pub mod invariants;
pub mod network;
pub mod possible;
pub mod rng;
pub mod search;
pub mod setup;
pub mod shared;
pub mod simulation;
pub mod step;
pub mod traffic;

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
    time::Duration,
};

use cxtp::engine::{Engine, EngineConfig, Moment, Record};
use protocol_spec::id::{BatchId, GatewayEpoch, Generation, Name, SessionId};

use self::{
    budget::Budget,
    driver::{Answer, Order},
    gateway_model::GatewayModel,
    invariants::{Facts, Violation},
    network::Link,
    setup::Setup,
    shared::Shared,
};

/// Everything there is.
#[derive(Clone)]
pub struct World {
    /// What was asked for.
    pub setup: Rc<Setup>,
    /// Time since the start; the same everywhere.
    pub now: Duration,
    /// Timers beyond this are not waited for.
    pub horizon: Duration,
    /// The gateways.
    pub nodes: Vec<Shared<Node>>,
    /// The connections.
    pub links: Vec<Shared<Link>>,
    /// The truth about each session.
    pub facts: BTreeMap<SessionId, Facts>,
    /// Errands that were begun.
    pub begun: Vec<(BatchId, usize)>,
    /// Sessions that were handed out as files, encoded.
    pub files: Vec<Rc<[u8]>>,
    /// Errands of the setup that are still to come.
    pub next_errand: usize,
    /// How much may still go wrong.
    pub budget: Budget,
    /// What was broken while a step was taken.
    broken: Option<Violation>,
    /// Lines for a person, where somebody wants them.
    pub log: Option<Vec<String>>,
    /// What engines told.
    pub tally: Tally,
}

/// A gateway: its own process, the daemon beside it, and the daemon's disk.
#[derive(Clone)]
pub struct Node {
    /// What it is called.
    pub name: Name,
    config: Rc<EngineConfig>,
    /// The daemon; `None` while it is dead.
    pub engine: Option<Engine>,
    /// It was switched off for good.
    pub fenced: bool,
    /// When the engine wants to hear of time again.
    pub deadline: Option<Duration>,
    /// The gateway process.
    pub gateway: GatewayModel,
    /// Orders that it has not carried out yet.
    pub orders: VecDeque<Order>,
    /// What it did and the daemon has not heard yet.
    pub answers: VecDeque<Answer>,
    /// What it told by itself and the daemon has not heard yet.
    pub news: VecDeque<News>,
    /// The daemon's disk.
    pub journal: Journal,
}

/// What a gateway tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// A session was rekeyed.
    Changed(SessionId, Generation),
    /// A session ended.
    Down(SessionId),
}

/// A journal: what survives a crash, what is being written, and what was
/// written without the engine knowing it yet.
#[derive(Clone, Debug, Default, Hash)]
pub struct Journal {
    /// The newest record of each session.
    pub durable: BTreeMap<SessionId, Record>,
    /// Written, not synced.
    pub unsynced: VecDeque<(u64, Vec<Record>)>,
    /// Synced (or failed), not told.
    pub settled: VecDeque<(u64, bool)>,
    /// Which life of the daemon this is.
    pub life: GatewayEpoch,
}

/// What happened, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transfers that ended with the session at its target.
    pub moved: u64,
    /// Transfers that the target refused.
    pub refused: u64,
    /// Transfers that were stopped.
    pub aborted: u64,
    /// Sessions reported in doubt.
    pub in_doubt: u64,
    /// Sessions reported lost.
    pub lost: u64,
    /// Daemons that crashed.
    pub crashes: u64,
    /// Times that a peer was accused of misbehaviour.
    pub accused: u64,
}

/// Lines kept at least for whoever reads along.
const LINES: usize = 1000;

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Name and configuration never change.
        self.engine.hash(state);
        self.fenced.hash(state);
        self.deadline.hash(state);
        self.gateway.hash(state);
        self.orders.hash(state);
        self.answers.hash(state);
        self.news.hash(state);
        self.journal.hash(state);
    }
}

impl World {
    /// The time as the drivers read it.
    pub fn moment(&self) -> Moment {
        Moment { monotonic: self.now, unix: 1_800_000_000 + self.now.as_secs() }
    }

    /// Names the state, apart from the budget.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.now.hash(&mut hasher);
        self.nodes.iter().for_each(|node| node.fingerprint().hash(&mut hasher));
        self.links.iter().for_each(|link| link.fingerprint().hash(&mut hasher));
        self.facts.hash(&mut hasher);
        self.begun.hash(&mut hasher);
        self.files.hash(&mut hasher);
        self.next_errand.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether some session is used elsewhere than where it began.
    pub fn has_moved(&self) -> bool {
        let away = |(number, home): (usize, &usize)| {
            let session = setup::session_id(number);
            let mut nodes = self.nodes.iter().enumerate();
            nodes.any(|(at, node)| at != *home && node.gateway.is_active(session))
        };
        self.setup.homes.iter().enumerate().any(away)
    }

    /// Adds a line for whoever reads along.
    fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            if log.len() >= 2 * LINES {
                log.drain(..LINES);
            }
            log.push(line());
        }
    }

    /// The connection of two gateways.
    fn link(&self, a: usize, b: usize) -> Option<usize> {
        self.links.iter().position(|link| link.joins(a) && link.joins(b) && a != b)
    }
}
