//! What a world begins with.

pub mod small;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use cxtp::engine::{Engine, EngineConfig, PeerPolicy, Recovered, Sabotage};
use protocol_spec::{
    context::ENCR_AES_GCM_16,
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    profile::{Capabilities, FeatureSet},
    transfer::{SessionState, TransferMode},
};

use super::{
    Journal, Node, Tally, World,
    budget::Budget,
    gateway_model::{GatewayModel, Held, MessageIds, Sa, Window},
    invariants::Facts,
    network::Link,
    shared::Shared,
};

/// What there is at the start, and what will be asked for.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the search is called in reports.
    pub name: &'static str,
    /// How many gateways.
    pub gateways: usize,
    /// For each session, the gateway where it begins.
    pub homes: Vec<usize>,
    /// What operators will ask for, in this order, each at any time.
    pub errands: Vec<Errand>,
    /// What may go wrong.
    pub budget: Budget,
    /// Timers beyond this are not waited for.
    pub horizon: Duration,
    /// Changes the engines' settings.
    pub tune: fn(&mut EngineConfig),
    /// Which guard the engines are without.
    pub sabotage: Option<Sabotage>,
}

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Errand {
    /// Who is asked, and has the sessions.
    pub source: usize,
    /// Where they shall go.
    pub target: usize,
    /// Which sessions, by number.
    pub sessions: Vec<usize>,
    /// How.
    pub way: Way,
}

/// How a session gets from one gateway to another.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// Over the connection of the two.
    Connection(TransferMode),
    /// In a file that the operator carries.
    File,
}

/// The id of the session with this number.
pub fn session_id(number: usize) -> SessionId {
    let mut octets = [0x51; 16];
    octets[8..].copy_from_slice(&(number as u64).to_be_bytes());
    SessionId(octets)
}

/// The number of a session of the world.
pub fn number_of(session: SessionId) -> usize {
    let [.., a, b] = session.0;
    usize::from(u16::from_be_bytes([a, b]))
}

/// The id of the batch of the errand with this number.
pub fn batch_id(number: usize) -> BatchId {
    let mut octets = [0xb0; 16];
    octets[8..].copy_from_slice(&(number as u64).to_be_bytes());
    BatchId(octets)
}

/// The name of the gateway with this number: `a`, `b` and so on.
pub fn gateway_name(number: usize) -> Name {
    let letter = char::from(b'a'.saturating_add(u8::try_from(number % 26).unwrap_or_default()));
    // One letter is always a name; the fallback is never reached.
    letter.to_string().parse().unwrap_or_else(|_| unreachable!("a letter is a name"))
}

/// What every gateway of the world can carry.
pub fn capabilities() -> Capabilities {
    Capabilities {
        features: FeatureSet(u64::MAX),
        child_transforms: BTreeSet::from([(ENCR_AES_GCM_16, 128, 0)]),
        ike_transforms: BTreeSet::new(),
        max_replay_window: 4096,
        max_sessions: 1 << 20,
    }
}

/// Inbound SPI of the SAs of a session after so many rekeys.
pub fn spi(number: usize, generation: Generation) -> u32 {
    let session = u32::try_from(number).unwrap_or(u32::MAX >> 12);
    let rekeys = u32::try_from(generation.0).unwrap_or(u32::MAX);
    (session << 12) + 0x100 + rekeys
}

impl World {
    /// The world at its start: daemons have listed their gateways and know each
    /// other, and no errand was begun.
    pub fn new(setup: Setup) -> Self {
        let setup = Rc::new(setup);
        let nodes = (0..setup.gateways).map(|number| Shared::new(node(&setup, number))).collect();
        let links = (0..setup.gateways)
            .flat_map(|high| (0..high).map(move |low| Shared::new(Link::new(low, high))))
            .collect();
        let facts = (0..setup.homes.len())
            .map(|number| {
                let facts = Facts { spi: spi(number, Generation(0)), ..Facts::default() };
                (session_id(number), facts)
            })
            .collect();
        let mut world = Self {
            now: Duration::ZERO,
            horizon: setup.horizon,
            nodes,
            links,
            facts,
            begun: Vec::new(),
            files: Vec::new(),
            next_errand: 0,
            budget: setup.budget,
            broken: None,
            log: None,
            tally: Tally::default(),
            setup,
        };
        (0..world.nodes.len()).for_each(|number| world.start(number));
        world
    }

    /// Starts the daemon of a gateway over what its journal holds.
    pub(super) fn start(&mut self, number: usize) {
        let now = self.moment();
        let node = self.nodes[number].edit();
        node.orders.clear();
        node.answers.clear();
        node.news.clear();
        node.journal.life = node.journal.life.next();
        let recovered = Recovered {
            gateway_epoch: node.journal.life,
            records: node.journal.durable.values().cloned().collect(),
        };
        node.engine = Some(Engine::new((*node.config).clone(), recovered, now));
        self.drain(number);
    }
}

fn node(setup: &Setup, number: usize) -> Node {
    let name = gateway_name(number);
    let mut config = EngineConfig::new(name.clone());
    let policy = PeerPolicy { may_pull: true, pulls_per_minute: 1000, ..PeerPolicy::default() };
    config.peers = (0..setup.gateways)
        .filter(|other| *other != number)
        .map(|other| (gateway_name(other), policy.clone()))
        .collect();
    config.sabotage = setup.sabotage;
    (setup.tune)(&mut config);
    let sessions: BTreeMap<_, _> = setup
        .homes
        .iter()
        .enumerate()
        .filter(|(_, home)| **home == number)
        .map(|(session, _)| (session_id(session), fresh(session)))
        .collect();
    Node {
        name,
        config: Rc::new(config),
        engine: None,
        fenced: false,
        deadline: None,
        gateway: GatewayModel { sessions },
        orders: VecDeque::new(),
        answers: VecDeque::new(),
        news: VecDeque::new(),
        journal: Journal::default(),
    }
}

fn fresh(number: usize) -> Held {
    Held {
        epoch: SessionEpoch(0),
        generation: Generation(0),
        state: SessionState::Active,
        ike: MessageIds::default(),
        sa: Sa {
            spi: spi(number, Generation(0)),
            sequence: 0,
            end: u64::MAX,
            window: Window::default(),
        },
    }
}
