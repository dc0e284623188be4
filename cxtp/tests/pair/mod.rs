//! Two engines, each with a scripted gateway and journal, and a wire between
//! them; no clock, no thread. Anything that an engine wants can be held back,
//! dropped or refused, and every step is followed by a look at the invariants.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the harness")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use cxtp::engine::{
    BatchSummary, Command, Engine, EngineConfig, Event, GatewayCommand, GatewayReply, Input,
    Moment, Output, PeerPolicy, Record, Recovered, Reply, SessionView, StageOrder, Standing,
};
use protocol_spec::{
    KeyMaterial,
    context::{
        Authentication, ChildSa, ChildTransforms, Context, ENCR_AES_GCM_16, Extensions,
        Identification, IkeKeys, IkeSa, IkeSecrets, IkeTransforms, InboundSa, Lifetime,
        LifetimeUsed, Load, Mode, Nat, OutboundSa, Protocol, ReplayWindow, SaKeys, SideEffects,
    },
    id::{
        BatchId, GatewayEpoch, Generation, Identity, Name, RequestId, Role, SessionEpoch, SessionId,
    },
    message::{Kind, Message},
    profile::{Capabilities, FeatureSet},
    status::{Refusal, Status},
    transfer::{ChildFinals, Finals, Outcome, SaRef, SessionState, SessionStatus, TransferMode},
};

mod gateway;
mod words;

pub use gateway::*;
pub use words::*;

/// One gateway with its engine.
pub struct Node {
    pub engine: Engine,
    pub config: EngineConfig,
    pub gateway: Gateway,
    pub journal: BTreeMap<SessionId, Record>,
    pub journal_fails: bool,
    pub life: u64,
    pub events: Vec<Event>,
    pub replies: Vec<(RequestId, Reply)>,
}

pub struct Pair {
    pub nodes: [Node; 2],
    pub now: Moment,
    queue: VecDeque<(usize, Input)>,
    /// Words of outputs that are held back, with the node that wants them.
    pub hold: BTreeSet<(usize, &'static str)>,
    /// Words of outputs that are dropped.
    pub drop: BTreeSet<(usize, &'static str)>,
    held: VecDeque<(usize, Output)>,
    /// Numbers used by each session, whoever used them.
    used: BTreeSet<(SessionId, u64)>,
    /// Messages to controllers and clients.
    pub outside: Vec<(Identity, Message)>,
    /// Every message that was sent, by its kind.
    pub sent: Vec<(usize, Kind)>,
    pub check: bool,
}

fn word(output: &Output) -> &'static str {
    match output {
        Output::Send { message, .. } => match message.kind() {
            Kind::Pctd => "pctd",
            Kind::Ctd => "ctd",
            Kind::Ctdr => "ctdr",
            Kind::Ctc => "ctc",
            Kind::Query => "query",
            Kind::QueryAnswer => "answer",
            Kind::CtReq => "ctreq",
            Kind::Ctar => "ctar",
            Kind::Grant => "grant",
            _ => "message",
        },
        Output::Gateway(command) => act(command),
        Output::Journal { .. } => "journal",
        _ => "",
    }
}

pub fn config(node: usize) -> EngineConfig {
    let mut config = EngineConfig::new(name(node));
    let policy = PeerPolicy { may_pull: true, pulls_per_minute: 10_000, ..PeerPolicy::default() };
    config.peers.insert(name(1 - node), policy);
    config
}

impl Node {
    fn new(config: EngineConfig, now: Moment) -> Self {
        let recovered = Recovered { gateway_epoch: GatewayEpoch(1), records: Vec::new() };
        Self {
            engine: Engine::new(config.clone(), recovered, now),
            config,
            gateway: Gateway::default(),
            journal: BTreeMap::new(),
            journal_fails: false,
            life: 1,
            events: Vec::new(),
            replies: Vec::new(),
        }
    }

    pub fn view(&self, number: u32) -> Option<SessionView> {
        self.engine.session(session(number))
    }

    pub fn standing(&self, number: u32) -> Option<Standing> {
        self.view(number).map(|view| view.standing)
    }

    pub fn is_active(&self, number: u32) -> bool {
        let id = session(number);
        let held = self.gateway.sessions.get(&id);
        held.is_some_and(|held| held.state == SessionState::Active)
    }

    pub fn outcomes(&self) -> Vec<(SessionId, Outcome)> {
        let ended = |event: &Event| match event {
            Event::TransferEnded { session, outcome, .. } => Some((*session, outcome.clone())),
            _ => None,
        };
        self.events.iter().filter_map(ended).collect()
    }

    pub fn summary(&self, id: BatchId) -> Option<BatchSummary> {
        self.events.iter().find_map(|event| match event {
            Event::BatchEnded(summary) if summary.batch == id => Some(summary.clone()),
            _ => None,
        })
    }

    pub fn misbehaviour(&self) -> Vec<Status> {
        let reason = |event: &Event| match event {
            Event::PeerMisbehaved { reason, .. } => Some(reason.status),
            _ => None,
        };
        self.events.iter().filter_map(reason).collect()
    }

    pub fn lost(&self) -> Vec<(SessionId, Status)> {
        let lost = |event: &Event| match event {
            Event::Lost { session, reason } => Some((*session, reason.status)),
            _ => None,
        };
        self.events.iter().filter_map(lost).collect()
    }
}

impl Pair {
    /// Two connected gateways; the first has sessions `0..count`.
    pub fn new(count: u32) -> Self {
        Self::with(config(A), config(B), count)
    }

    pub fn with(a: EngineConfig, b: EngineConfig, count: u32) -> Self {
        let now = Moment { monotonic: Duration::from_secs(100), unix: 1_000_000 };
        let mut pair = Self {
            nodes: [Node::new(a, now), Node::new(b, now)],
            now,
            queue: VecDeque::new(),
            hold: BTreeSet::new(),
            drop: BTreeSet::new(),
            held: VecDeque::new(),
            used: BTreeSet::new(),
            outside: Vec::new(),
            sent: Vec::new(),
            check: true,
        };
        for number in 0..count {
            let held = Held {
                epoch: SessionEpoch(0),
                generation: Generation(1),
                state: SessionState::Active,
                sequence: 0,
                end: u64::MAX,
            };
            pair.nodes[A].gateway.sessions.insert(session(number), held);
        }
        pair.drain(A);
        pair.drain(B);
        pair.run();
        pair.connect();
        pair
    }

    pub fn connect(&mut self) {
        for node in [A, B] {
            let other = 1 - node;
            let epoch = GatewayEpoch(self.nodes[other].life);
            let capabilities = Some(Capabilities {
                features: FeatureSet(u64::MAX),
                child_transforms: BTreeSet::new(),
                ike_transforms: BTreeSet::new(),
                max_replay_window: 4096,
                max_sessions: 1_000_000,
            });
            self.input(node, Input::PeerUp { peer: gateway(other), epoch, capabilities });
        }
        self.run();
    }

    pub fn disconnect(&mut self) {
        self.held.retain(|(_, output)| !matches!(output, Output::Send { .. }));
        for node in [A, B] {
            self.input(node, Input::PeerDown { peer: gateway(1 - node) });
        }
        self.run();
    }

    pub fn input(&mut self, node: usize, input: Input) {
        self.queue.push_back((node, input));
    }

    pub fn message(&mut self, from: usize, message: Message) {
        self.input(1 - from, Input::Message { from: gateway(from), message });
        self.run();
    }

    pub fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Command(command));
        self.run();
    }

    pub fn transfer(&mut self, count: u32) {
        self.transfer_as(A, 1, (0..count).map(session).collect(), TransferMode::Predictive);
    }

    pub fn transfer_as(
        &mut self,
        node: usize,
        number: u8,
        sessions: Vec<SessionId>,
        mode: TransferMode,
    ) {
        let (batch, target) = (batch(number), name(1 - node));
        self.command(node, Command::Transfer { batch, sessions, target, mode });
    }

    /// Does everything that is wanted and not held back.
    pub fn run(&mut self) {
        for steps in 0.. {
            let Some((node, input)) = self.queue.pop_front() else { return };
            assert!(steps < 100_000, "they never come to rest: {input:?}");
            self.nodes[node].engine.handle(input, self.now);
            self.drain(node);
            self.inspect();
        }
    }

    fn drain(&mut self, node: usize) {
        loop {
            let output = self.nodes[node].engine.poll_output();
            if matches!(output, Output::Wait(_)) {
                return;
            }
            let word = word(&output);
            if self.drop.contains(&(node, word)) {
                continue;
            }
            if self.hold.contains(&(node, word)) {
                self.held.push_back((node, output));
            } else {
                self.perform(node, output);
            }
        }
    }

    fn perform(&mut self, node: usize, output: Output) {
        let this = &mut self.nodes[node];
        match output {
            Output::Wait(_) => {}
            Output::Send { to, lane: _, message } => {
                assert!(message.entries() <= protocol_spec::limits::MAX_ENTRIES);
                assert!(message.to_frame().is_ok(), "a message that does not fit its frame");
                self.sent.push((node, message.kind()));
                if to == gateway(1 - node) {
                    self.queue
                        .push_back((1 - node, Input::Message { from: gateway(node), message }));
                } else {
                    self.outside.push((to, message));
                }
            }
            Output::Gateway(command) => {
                if let Some(reply) = this.gateway.obey(command) {
                    self.queue.push_back((node, Input::Gateway(reply)));
                }
            }
            Output::Journal { ticket, records } => {
                let input = if this.journal_fails {
                    Input::JournalFailed { ticket, detail: "disk full".to_owned() }
                } else {
                    this.journal.extend(records.into_iter().map(|r| (r.session(), r)));
                    Input::Journaled { ticket }
                };
                self.queue.push_back((node, input));
            }
            Output::Event(event) => this.events.push(event),
            Output::Reply { request, reply } => this.replies.push((request, reply)),
        }
    }

    /// Lets go what was held back, and holds nothing back any more.
    pub fn release(&mut self) {
        self.hold.clear();
        self.drop.clear();
        self.let_go();
    }

    /// Lets go what was held back so far.
    pub fn let_go(&mut self) {
        for (node, output) in std::mem::take(&mut self.held) {
            self.perform(node, output);
        }
        self.run();
    }

    /// Takes out the messages that are held back.
    pub fn take_held(&mut self) -> Vec<Message> {
        let message = |(_, output)| match output {
            Output::Send { message, .. } => Some(message),
            _ => None,
        };
        self.held.drain(..).filter_map(message).collect()
    }

    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets time pass.
    pub fn advance(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.unix += by.as_secs();
        self.input(A, Input::Tick);
        self.input(B, Input::Tick);
        self.run();
    }

    /// The daemon of a node dies and comes back; its gateway goes on. Records
    /// that were held back are lost, and so is what it had said.
    pub fn crash(&mut self, node: usize) {
        self.held.retain(|(wants, _)| *wants != node);
        self.queue.retain(|(to, _)| *to != node);
        self.disconnect_one(1 - node);
        let this = &mut self.nodes[node];
        this.life += 1;
        let records = this.journal.values().cloned().collect();
        let recovered = Recovered { gateway_epoch: GatewayEpoch(this.life), records };
        this.engine = Engine::new(this.config.clone(), recovered, self.now);
        self.drain(node);
        self.run();
    }

    pub fn disconnect_one(&mut self, node: usize) {
        self.input(node, Input::PeerDown { peer: gateway(1 - node) });
        self.run();
    }

    /// I1: at most one owner. I2: no number is used twice, none beyond a grant.
    fn inspect(&mut self) {
        if !self.check || self.nodes[A].gateway.sessions.len() > 64 {
            return;
        }
        for node in [A, B] {
            let ids: Vec<SessionId> = self.nodes[node].gateway.sessions.keys().copied().collect();
            for id in ids {
                let held = self.nodes[node].gateway.sessions.get_mut(&id).unwrap();
                if held.state != SessionState::Active || held.sequence + 1 >= held.end {
                    continue;
                }
                held.sequence += 1;
                let fresh = self.used.insert((id, held.sequence));
                assert!(fresh, "I2: {id} used {} twice", held.sequence);
                let other = self.nodes[1 - node].gateway.sessions.get(&id);
                let two = other.is_some_and(|held| held.state == SessionState::Active);
                assert!(!two, "I1: {id} has two owners");
            }
        }
    }

    /// Whether every session `0..count` is in use at exactly this node, and the
    /// other node's gateway holds nothing of it.
    #[track_caller]
    pub fn assert_owner(&self, node: usize, count: u32) {
        for number in 0..count {
            let id = session(number);
            assert!(self.nodes[node].is_active(number), "{id} is not active at {}", name(node));
            let other = self.nodes[1 - node].gateway.sessions.get(&id);
            assert!(other.is_none(), "{id} is still held by {}: {other:?}", name(1 - node));
            let standing = self.nodes[node].standing(number);
            assert_eq!(standing, Some(Standing::Active), "{id} at {}", name(node));
        }
    }
}
