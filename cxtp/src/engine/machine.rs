//! The engine itself: takes inputs apart, and keeps the sessions apart from all
//! the rest, so that one look-up serves a whole step.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use protocol_spec::{
    id::{BatchId, GatewayEpoch, Identity, RequestId, Role, SessionId},
    limits::MAX_ENTRIES,
    message::Message,
    status::{Refusal, Status},
};

use super::{
    Command, EngineConfig, Event, GatewayCommand, GatewayReply, Input, Moment, Output, Record,
    Recovered,
    authority::Used,
    batch::Batch,
    deadlines::{Deadlines, Timer},
    outbox::Outbox,
    peers::{Bucket, Peer},
    preflight::{Preflight, Question},
    pulls::{Order, Pull},
    session::{Place, Session},
};

/// The protocol as one deterministic machine; the module describes how it is
/// driven. A copy has the same state and an empty outbox: outputs that were not
/// taken yet belong to the original alone, since contexts are never copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Engine {
    pub(super) core: Core,
    pub(super) sessions: BTreeMap<SessionId, Session>,
}

/// All but the sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Core {
    pub(super) config: Settings,
    pub(super) life: GatewayEpoch,
    /// Only during a call; the start of time otherwise.
    pub(super) now: Moment,
    pub(super) outbox: Outbox,
    pub(super) deadlines: Deadlines,
    pub(super) tickets: BTreeMap<u64, Vec<SessionId>>,
    /// Sessions whose records this call has gathered.
    pub(super) writing: Vec<SessionId>,
    /// The gateway has said what it holds.
    pub(super) listed: bool,
    pub(super) peers: BTreeMap<Identity, Peer>,
    pub(super) batches: BTreeMap<BatchId, Batch>,
    /// Batches whose windows may have room.
    pub(super) stirred: BTreeSet<BatchId>,
    /// Batches with sessions that wait for their turn to pause.
    pub(super) ready: BTreeSet<BatchId>,
    /// Sessions in the pause window.
    pub(super) paused: usize,
    pub(super) orders: BTreeMap<RequestId, Order>,
    pub(super) pulls: BTreeMap<RequestId, Pull>,
    pub(super) used: Used,
    pub(super) preflights: BTreeMap<RequestId, Preflight>,
    pub(super) questions: BTreeMap<RequestId, Question>,
    pub(super) unknown_spis: Bucket,
}

/// The configuration; it never changes, so it is not part of what is compared.
#[derive(Clone, Debug)]
pub(super) struct Settings(Arc<EngineConfig>);

impl Deref for Settings {
    type Target = EngineConfig;
    fn deref(&self) -> &EngineConfig {
        &self.0
    }
}

impl PartialEq for Settings {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Settings {}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Engine {
    /// An engine with what its journal held. Its first output asks the gateway
    /// what it holds; until the answer it takes nothing from peers.
    pub fn new(config: EngineConfig, recovered: Recovered, now: Moment) -> Self {
        let core = Core {
            config: Settings(Arc::new(config)),
            life: recovered.gateway_epoch,
            now,
            outbox: Outbox::default(),
            deadlines: Deadlines::default(),
            tickets: BTreeMap::new(),
            writing: Vec::new(),
            listed: false,
            peers: BTreeMap::new(),
            batches: BTreeMap::new(),
            stirred: BTreeSet::new(),
            ready: BTreeSet::new(),
            paused: 0,
            orders: BTreeMap::new(),
            pulls: BTreeMap::new(),
            used: Used::default(),
            preflights: BTreeMap::new(),
            questions: BTreeMap::new(),
            unknown_spis: Bucket::default(),
        };
        let mut engine = Self { core, sessions: BTreeMap::new() };
        engine.recover(recovered.records);
        engine.core.outbox.command(GatewayCommand::List);
        engine.finish();
        engine
    }

    /// Hears one thing.
    pub fn handle(&mut self, input: Input, now: Moment) {
        self.core.now = now;
        match input {
            Input::Tick => {}
            Input::PeerUp { peer, epoch, capabilities } => self.peer_up(peer, epoch, capabilities),
            Input::PeerDown { peer } => self.peer_down(&peer),
            Input::Message { from, message } => self.message(from, message),
            Input::Gateway(reply) => self.gateway(reply),
            Input::Journaled { ticket } => self.journaled(ticket, true),
            Input::JournalFailed { ticket, detail: _ } => self.journaled(ticket, false),
            Input::Command(command) => self.command(command),
        }
        self.expire();
        self.pump();
        self.finish();
    }

    /// The next thing that is wanted; [`Output::Wait`] once there is no more.
    pub fn poll_output(&mut self) -> Output {
        self.core.outbox.pop().unwrap_or_else(|| Output::Wait(self.core.deadlines.next()))
    }

    fn finish(&mut self) {
        let ticket = self.core.ticket();
        let peers = &self.core.peers;
        let up = |to: &Identity| peers.get(to).is_some_and(|peer| peer.up);
        self.core.outbox.flush(ticket, up);
        if !self.core.writing.is_empty() {
            self.core.tickets.insert(ticket, std::mem::take(&mut self.core.writing));
        }
        self.core.now = Moment::default();
    }

    fn expire(&mut self) {
        while let Some(timer) = self.core.deadlines.pop(self.core.now.monotonic) {
            match timer {
                Timer::Session(id) => self.session_deadline(id),
                Timer::Discard(id, epoch) => self.core.outbox.discard.push((id, epoch)),
                Timer::Preflight(request) => self.preflight_deadline(request),
                Timer::Order(request) => self.core.order_deadline(request),
                Timer::Pull(request) => self.core.pull_deadline(request),
                Timer::Used(owner, request) => self.core.used.forget(&owner, request),
            }
        }
    }

    fn session_deadline(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.deadline = None;
        match &session.place {
            Place::Leaving(_) => self.core.source_deadline(id, session),
            Place::Coming(_) => self.core.target_deadline(id, session),
            Place::Gone(_) => {
                self.sessions.remove(&id);
            }
            Place::Owned | Place::Recovered(_) => {}
        }
        self.forget(id);
    }

    fn journaled(&mut self, ticket: u64, written: bool) {
        for id in self.core.tickets.remove(&ticket).unwrap_or_default() {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if session.ticket != Some(ticket) {
                continue;
            }
            session.ticket = None;
            match &session.place {
                Place::Leaving(_) => self.core.source_journaled(id, session, written),
                Place::Coming(_) => self.core.target_journaled(id, session, written),
                Place::Owned | Place::Gone(_) | Place::Recovered(_) => {}
            }
        }
    }

    fn message(&mut self, from: Identity, message: Message) {
        let allowed = match (&message, from.role) {
            (Message::Ctar(_), _) => true,
            (Message::Ctaa(_), role) => role == Role::Gateway,
            (_, role) => role == Role::Gateway,
        };
        if !self.core.peers.get(&from).is_some_and(|peer| peer.up) {
            self.core.misbehaved(&from, Status::NotAuthorized, "it speaks before its hello");
            return;
        }
        if !allowed {
            self.core.misbehaved(&from, Status::NotAuthorized, "its role may not say this");
            return;
        }
        if message.entries() > MAX_ENTRIES {
            self.core.misbehaved(&from, Status::RateLimited, "a message with too many entries");
            return;
        }
        match message {
            Message::Pctd(pctd) => self.pctd(&from, pctd),
            Message::Ctd(ctd) => self.ctd(&from, ctd),
            Message::Ctdr(ctdr) => self.ctdr(&from, Some(ctdr.batch), ctdr.entries),
            Message::QueryAnswer(answer) => self.ctdr(&from, None, answer.entries),
            Message::Ctc(ctc) => self.ctc(&from, ctc),
            Message::Query(query) => self.query(&from, query),
            Message::Grant(grant) => self.core.granted(&from, grant),
            Message::Ctar(ctar) => self.ctar(&from, ctar),
            Message::Ctaa(ctaa) => self.core.ctaa(&from, ctaa),
            Message::CtReq(request) => self.ct_req(&from, request),
            Message::Preflight(preflight) => self.preflight_asked(&from, preflight),
            Message::PreflightAnswer(answer) => self.core.preflight_answered(&from, answer),
            Message::Hello(_)
            | Message::Heartbeat(_)
            | Message::Bye(_)
            | Message::ReplicaDelta(_)
            | Message::ReplicaAck(_) => {}
        }
    }

    fn gateway(&mut self, reply: GatewayReply) {
        match reply {
            GatewayReply::Listed(all) => self.listed(all),
            GatewayReply::Up(status) => self.session_up(status),
            GatewayReply::Changed(id, generation) => self.session_changed(id, generation),
            GatewayReply::Down(id) => self.session_down(id, None),
            GatewayReply::Missing(id, reason) => self.session_down(id, Some(reason)),
            GatewayReply::Unusable(id, reason) => self.session_unusable(id, reason),
            GatewayReply::UnknownSpi(spi) => self.core.unknown_spi(spi),
            GatewayReply::Lost(detail) => self.gateway_lost(&detail),
            GatewayReply::Snapshots(all) => self.snapshots(all),
            GatewayReply::Admitted(question, all) => self.core.admitted(question, all),
            GatewayReply::Staged(all) => self.staged(all),
            GatewayReply::Paused(all) => self.paused(all),
            GatewayReply::Resumed(all) => self.resumed(all),
            GatewayReply::Activated(all) => self.activated(all),
            GatewayReply::Released(all) => self.released(all),
            GatewayReply::Discarded(all) => self.discarded(all),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Transfer { batch, sessions, target, mode } => {
                self.transfer(batch, sessions, target, mode);
            }
            Command::Pull { request, order } => self.pull(request, order),
            Command::Cancel { batch } => self.cancel(batch),
            Command::Preflight { request, sessions, target } => {
                self.preflight(request, sessions, target);
            }
            Command::Resolve { request, session, resolution } => {
                self.resolve(request, session, resolution);
            }
            Command::Export { request, session, target } => self.export(request, session, target),
            Command::Import { request, export } => self.import(request, *export),
        }
    }

    /// Removes a session that is not here and about which nothing is to be
    /// remembered.
    pub(super) fn forget(&mut self, id: SessionId) {
        let forgettable = self.sessions.get(&id).is_some_and(|session| {
            matches!(session.place, Place::Gone(_))
                && session.deadline.is_none()
                && session.ticket.is_none()
        });
        if forgettable {
            self.sessions.remove(&id);
        }
    }
}

impl Core {
    /// The number of the records that this call gathers: the lowest that is free.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.last_key_value().map_or(0, |(last, _)| last + 1)
    }

    /// Writes a record down; the session's next step waits for it.
    pub(super) fn record(&mut self, id: SessionId, session: &mut Session, record: Record) {
        session.ticket = Some(self.ticket());
        self.writing.push(id);
        self.outbox.records.push(record);
    }

    /// Sets or takes back a session's deadline, from now on.
    pub(super) fn deadline(
        &mut self,
        id: SessionId,
        session: &mut Session,
        wait: Option<Duration>,
    ) {
        let at = wait.map(|wait| self.now.monotonic + wait);
        self.deadlines.set(&mut session.deadline, id, at);
    }

    /// Reports what a peer may not do.
    pub(super) fn misbehaved(&mut self, peer: &Identity, status: Status, detail: &str) {
        let reason = Refusal::new(status, detail);
        self.outbox.event(Event::PeerMisbehaved { peer: peer.clone(), reason });
    }

    /// How long a tombstone is kept.
    pub(super) fn tombstone(&self) -> Duration {
        self.config.tombstone
    }
}
