//! One engine on a desk: a test plays its gateway, its journal and its peers, one
//! word at a time, and looks at what it wants after each.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use cxtp::engine::{
    Command, Engine, EngineConfig, Event, GatewayCommand, GatewayReply, Input, Moment, Output,
    PeerPolicy, Record, Recovered, Reply, Standing,
};
use protocol_spec::{
    context::Context,
    id::{BatchId, GatewayEpoch, Identity, Name, RequestId, Role, SessionEpoch, SessionId},
    message::{Ctd, CtdEntry, Ctdr, CtdrEntry, Message, Pctd, PctdEntry, TargetState as Said},
    samples,
    status::{Refusal, Status},
    transfer::{Finals, SessionState, SessionStatus, TransferMode},
};

/// The session of `samples::context`.
pub(crate) const S: SessionId = SessionId([0xa1; 16]);
pub(crate) const BATCH: BatchId = BatchId([0xb0; 16]);
pub(crate) const REQUEST: RequestId = RequestId([0xb0; 16]);
pub(crate) const UNIX: u64 = 1_000_000;

pub(crate) fn gateway(name: &str) -> Identity {
    Identity { role: Role::Gateway, name: samples::name(name) }
}

pub(crate) fn context() -> Context {
    samples::context(0x4b)
}

pub(crate) fn finals() -> Finals {
    samples::finals(&context())
}

/// Everything that the engine wanted after one word.
#[derive(Debug, Default)]
pub(crate) struct Wants(pub(crate) Vec<Output>);

impl Wants {
    fn pick<'a, T>(&'a self, pick: impl FnMut(&'a Output) -> Option<T>) -> Vec<T> {
        self.0.iter().filter_map(pick).collect()
    }

    pub(crate) fn said(&self) -> Vec<(&Name, &Message)> {
        self.pick(|output| match output {
            Output::Send { to, message, .. } => Some((&to.name, message)),
            _ => None,
        })
    }

    pub(crate) fn orders(&self) -> Vec<&GatewayCommand> {
        self.pick(|output| match output {
            Output::Gateway(order) => Some(order),
            _ => None,
        })
    }

    pub(crate) fn records(&self) -> Vec<&Record> {
        let all = self.pick(|output| match output {
            Output::Journal { records, .. } => Some(records),
            _ => None,
        });
        all.into_iter().flatten().collect()
    }

    pub(crate) fn ticket(&self) -> u64 {
        let tickets = self.pick(|output| match output {
            Output::Journal { ticket, .. } => Some(*ticket),
            _ => None,
        });
        assert_eq!(tickets.len(), 1, "{self:?}");
        tickets[0]
    }

    pub(crate) fn events(&self) -> Vec<&Event> {
        self.pick(|output| match output {
            Output::Event(event) => Some(event),
            _ => None,
        })
    }

    pub(crate) fn replies(&self) -> Vec<&Reply> {
        self.pick(|output| match output {
            Output::Reply { reply, .. } => Some(reply),
            _ => None,
        })
    }

    /// The one entry of the one CTDR, or QueryAnswer.
    pub(crate) fn entry(&self) -> &CtdrEntry {
        let entries: Vec<&CtdrEntry> = self
            .said()
            .into_iter()
            .flat_map(|(_, message)| match message {
                Message::Ctdr(m) => m.entries.iter(),
                Message::QueryAnswer(m) => m.entries.iter(),
                _ => [].iter(),
            })
            .collect();
        assert_eq!(entries.len(), 1, "{self:?}");
        entries[0]
    }

    /// The status with which the one entry is refused.
    pub(crate) fn refused(&self) -> Status {
        match &self.entry().state {
            Said::Refused { refusal, .. } => refusal.status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn orders_to_resume(&self) -> bool {
        self.orders().iter().any(|order| matches!(order, GatewayCommand::Resume(_)))
    }

    pub(crate) fn orders_to_pause(&self) -> bool {
        self.orders().iter().any(|order| matches!(order, GatewayCommand::Pause(_)))
    }

    pub(crate) fn says(&self, what: fn(&Message) -> bool) -> bool {
        self.said().iter().any(|(_, message)| what(message))
    }

    /// Nothing is said, written or done.
    pub(crate) fn is_quiet(&self) -> bool {
        self.said().is_empty() && self.orders().is_empty() && self.records().is_empty()
    }
}

pub(crate) struct Desk {
    pub(crate) engine: Engine,
    now: Duration,
    deadline: Option<Duration>,
}

impl Desk {
    /// Gateway `a` with the peers `b` and `c`, which may do everything.
    pub(crate) fn config() -> EngineConfig {
        let mut config = EngineConfig::new(samples::name("a"));
        for peer in ["b", "c"] {
            let policy = PeerPolicy { may_pull: true, pulls_per_minute: 10, ..Default::default() };
            config.peers.insert(samples::name(peer), policy);
        }
        config
    }

    /// An engine that has just started, and what it wants.
    pub(crate) fn start(config: EngineConfig, records: Vec<Record>) -> (Self, Wants) {
        let recovered = Recovered { gateway_epoch: GatewayEpoch(1), records };
        let engine = Engine::new(config, recovered, Moment::default());
        let mut desk = Self { engine, now: Duration::ZERO, deadline: None };
        let wants = desk.drain();
        (desk, wants)
    }

    /// A running engine whose gateway holds these, and whose peers are there.
    pub(crate) fn with(config: EngineConfig, held: Vec<SessionStatus>) -> Self {
        let (mut desk, _) = Self::start(config, Vec::new());
        desk.gateway(GatewayReply::Listed(held));
        desk.up("b");
        desk.up("c");
        desk
    }

    /// One whose gateway holds the session S, never moved.
    pub(crate) fn source() -> Self {
        Self::with(Self::config(), vec![status(SessionState::Active, 0)])
    }

    /// One that holds nothing.
    pub(crate) fn target() -> Self {
        Self::with(Self::config(), Vec::new())
    }

    fn moment(&self) -> Moment {
        Moment { monotonic: self.now, unix: UNIX + self.now.as_secs() }
    }

    fn drain(&mut self) -> Wants {
        let mut wants = Wants::default();
        loop {
            match self.engine.poll_output() {
                Output::Wait(deadline) => {
                    self.deadline = deadline;
                    return wants;
                }
                output => wants.0.push(output),
            }
        }
    }

    pub(crate) fn hear(&mut self, input: Input) -> Wants {
        let moment = self.moment();
        self.engine.handle(input, moment);
        self.drain()
    }

    /// Lets time pass, with a tick at each deadline.
    pub(crate) fn pass(&mut self, time: Duration) -> Wants {
        let end = self.now + time;
        let mut all = Wants::default();
        while let Some(deadline) = self.deadline.filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            all.0.extend(self.hear(Input::Tick).0);
        }
        self.now = end;
        all.0.extend(self.hear(Input::Tick).0);
        all
    }

    pub(crate) fn up(&mut self, peer: &str) -> Wants {
        let (peer, epoch) = (gateway(peer), GatewayEpoch(1));
        self.hear(Input::PeerUp { peer, epoch, capabilities: None })
    }

    pub(crate) fn down(&mut self, peer: &str) -> Wants {
        self.hear(Input::PeerDown { peer: gateway(peer) })
    }

    pub(crate) fn gateway(&mut self, reply: GatewayReply) -> Wants {
        self.hear(Input::Gateway(reply))
    }

    pub(crate) fn from(&mut self, peer: &str, message: Message) -> Wants {
        self.hear(Input::Message { from: gateway(peer), message })
    }

    /// What was wanted is on disk.
    pub(crate) fn written(&mut self, wants: &Wants) -> Wants {
        self.hear(Input::Journaled { ticket: wants.ticket() })
    }

    pub(crate) fn not_written(&mut self, wants: &Wants) -> Wants {
        let detail = "disk full".to_owned();
        self.hear(Input::JournalFailed { ticket: wants.ticket(), detail })
    }

    pub(crate) fn standing(&self) -> Option<Standing> {
        self.engine.session(S).map(|view| view.standing)
    }

    // --- the source's way, step by step -------------------------------------

    pub(crate) fn transfer(&mut self) -> Wants {
        let (sessions, target) = (vec![S], samples::name("b"));
        let mode = TransferMode::Predictive;
        self.hear(Input::Command(Command::Transfer { batch: BATCH, sessions, target, mode }))
    }

    pub(crate) fn read(&mut self) -> Wants {
        self.gateway(GatewayReply::Snapshots(vec![(S, Ok(context()))]))
    }

    pub(crate) fn answer(&mut self, peer: &str, epoch: u64, state: Said) -> Wants {
        let entries = vec![CtdrEntry { session: S, epoch: SessionEpoch(epoch), state }];
        self.from(peer, Message::Ctdr(Ctdr { batch: BATCH, entries }))
    }

    pub(crate) fn staged(&mut self) -> Wants {
        self.answer("b", 1, Said::Staged { generation: context().generation })
    }

    pub(crate) fn paused(&mut self, finals: Finals) -> Wants {
        self.gateway(GatewayReply::Paused(vec![(S, Ok(finals))]))
    }

    /// Up to the writing of *committed*, and what was wanted then.
    pub(crate) fn committing() -> (Self, Wants) {
        let mut desk = Self::source();
        desk.transfer();
        desk.read();
        desk.staged();
        let wants = desk.paused(finals());
        (desk, wants)
    }

    /// Committed, and what was wanted then.
    pub(crate) fn committed() -> (Self, Wants) {
        let (mut desk, wants) = Self::committing();
        let wants = desk.written(&wants);
        (desk, wants)
    }

    // --- the target's way ---------------------------------------------------

    pub(crate) fn offer(&mut self, peer: &str, epoch: u64, context: Context) -> Wants {
        let grants = samples::grants(&context);
        let entries = vec![PctdEntry { epoch: SessionEpoch(epoch), grants, context }];
        let mode = TransferMode::Predictive;
        self.from(peer, Message::Pctd(Pctd { batch: BATCH, mode, entries }))
    }

    pub(crate) fn installed(&mut self, epoch: u64) -> Wants {
        let result = Ok(context().generation);
        self.gateway(GatewayReply::Staged(vec![(S, SessionEpoch(epoch), result)]))
    }

    pub(crate) fn finals(&mut self, peer: &str, epoch: u64) -> Wants {
        let entry = CtdEntry { session: S, epoch: SessionEpoch(epoch), finals: finals() };
        self.from(peer, Message::Ctd(Ctd { batch: BATCH, entries: vec![entry] }))
    }

    pub(crate) fn activated(&mut self, epoch: u64) -> Wants {
        self.gateway(GatewayReply::Activated(vec![(S, SessionEpoch(epoch), Ok(()))]))
    }

    /// Holds S staged for `b` under epoch 1.
    pub(crate) fn holding() -> Self {
        let mut desk = Self::target();
        desk.offer("b", 1, context());
        desk.installed(1);
        desk
    }

    /// Owns S, taken from `b` under epoch 1.
    pub(crate) fn owning() -> Self {
        let mut desk = Self::holding();
        let wants = desk.finals("b", 1);
        desk.written(&wants);
        desk.activated(1);
        desk
    }
}

/// What the gateway shows of S.
pub(crate) fn status(state: SessionState, epoch: u64) -> SessionStatus {
    let generation = context().generation;
    SessionStatus { session: S, epoch: SessionEpoch(epoch), generation, state }
}

pub(crate) fn refusal(status: Status) -> Refusal {
    Refusal::new(status, "because")
}
