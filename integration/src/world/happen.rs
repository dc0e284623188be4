//! The steps of a world that are more than a line.

use std::mem;

use cxtp::engine::{Command, Exported, Input, Resolution};
use protocol_spec::{
    codec,
    id::{BatchId, RequestId, SessionId},
    message::{Ctd, CtdEntry, Message},
    transfer::{SessionState, TransferMode},
};

use super::{
    World,
    driver::{Answer, Order, act, brief, told},
    gateway_model::GatewayModel,
    invariants::{Invariant, Violation, label},
    setup::{Way, batch_id, gateway_name, session_id},
    step::Step,
};

impl World {
    /// A message reaches a daemon.
    pub(super) fn arrive(&mut self, to: usize, from: usize, frame: &[u8]) {
        match Message::from_frame(frame) {
            Ok(Some(message)) => {
                let from = self.identity(from);
                self.feed(to, Input::Message { from, message });
            }
            other => {
                let detail =
                    format!("{} sent what is no message: {other:?}", self.nodes[from].name);
                self.broken.get_or_insert(Violation { invariant: Invariant::Engine, detail });
            }
        }
    }

    /// A daemon learns how its connection with a peer stands.
    pub(super) fn notice(&mut self, node: usize, peer: usize) {
        let Some(number) = self.link(node, peer) else { return };
        let link = self.links[number].edit();
        if link.up {
            link.outgoing(node).told = true;
            self.introduce(node, peer);
        } else {
            link.forget(node);
            let peer = self.identity(peer);
            self.feed(node, Input::PeerDown { peer });
        }
    }

    /// A gateway carries out an order.
    pub(super) fn act(&mut self, node: usize, order: usize, refuse: Option<usize>) {
        let part = self.nodes[node].edit();
        let Some(order) = part.orders.remove(order) else { return };
        let answer = act(&mut part.gateway, &order, refuse);
        part.answers.extend(answer);
        let refused = match (&order, refuse) {
            (Order::Activate(all), Some(entry)) => all.get(entry).map(|(session, ..)| *session),
            _ => None,
        };
        if let Some(facts) = refused.and_then(|session| self.facts.get_mut(&session)) {
            facts.harmed = true;
        }
    }

    /// Records reach the disk.
    pub(super) fn sync(&mut self, node: usize) {
        let journal = &mut self.nodes[node].edit().journal;
        if let Some((ticket, records)) = journal.unsynced.pop_front() {
            for record in records {
                journal.durable.insert(record.session(), record);
            }
            journal.settled.push_back((ticket, true));
        }
    }

    /// Records do not reach the disk, or do so although the disk reports a fault.
    pub(super) fn fail_write(&mut self, node: usize, on_disk: bool) {
        let journal = &mut self.nodes[node].edit().journal;
        if let Some((ticket, records)) = journal.unsynced.pop_front() {
            for record in records.into_iter().filter(|_| on_disk) {
                journal.durable.insert(record.session(), record);
            }
            journal.settled.push_back((ticket, false));
        }
    }

    /// A daemon dies.
    pub(super) fn crash(&mut self, node: usize) {
        self.tally.crashes += 1;
        let part = self.nodes[node].edit();
        part.engine = None;
        part.deadline = None;
        part.orders.clear();
        part.news.clear();
        part.journal.unsynced.clear();
        part.journal.settled.clear();
        part.answers.clear();
        self.forget(node);
        for link in self.links.iter_mut().filter(|link| link.joins(node)) {
            let link = link.edit();
            link.up = false;
            link.forget(node);
        }
    }

    /// What died with a gateway, was never moved before and is in no journal, is
    /// known to the daemon beside that gateway alone: with both of them gone
    /// nobody is left who could report it.
    fn forget(&mut self, node: usize) {
        let (nodes, journal) = (&self.nodes, &self.nodes[node].journal.durable);
        let held = |session: &SessionId| nodes.iter().any(|n| n.gateway.snapshot(*session).is_ok());
        self.facts
            .iter_mut()
            .filter(|(session, facts)| {
                facts.harmed && !held(session) && !journal.contains_key(session)
            })
            .for_each(|(_, facts)| facts.reported_lost = true);
    }

    /// A gateway process dies.
    pub(super) fn lose_gateway(&mut self, node: usize) {
        let part = self.nodes[node].edit();
        let GatewayModel { sessions } = mem::take(&mut part.gateway);
        // A daemon that was not told yet what there was cannot report it.
        let unlisted = part.orders.iter().any(|order| matches!(order, Order::List))
            || part.answers.iter().any(|answer| matches!(answer, Answer::Listed(_)));
        part.news.clear();
        part.answers.push_back(Answer::Lost);
        for session in sessions.into_keys() {
            self.fact(session, |facts| {
                facts.harmed = true;
                facts.reported_lost |= unlisted;
            });
        }
    }

    /// A gateway is switched off for good.
    pub(super) fn fence(&mut self, node: usize) {
        self.lose_gateway(node);
        self.crash(node);
        self.nodes[node].edit().fenced = true;
    }

    /// A peer sends final data for a session that another one has staged.
    pub(super) fn lie(&mut self, to: usize, from: usize, session: SessionId) {
        let Some(held) = self.nodes[to].gateway.sessions.get(&session) else { return };
        let SessionState::Staged { batch, .. } = held.state else { return };
        let finals = held.finals();
        let entries = vec![CtdEntry { session, epoch: held.epoch, finals }];
        let message = Message::Ctd(Ctd { batch, entries });
        let from = self.identity(from);
        self.feed(to, Input::Message { from, message });
    }

    /// An operator ends a doubt: the target was switched off.
    pub(super) fn resolve(&mut self, node: usize, session: SessionId) {
        if let Some(facts) = self.facts.get_mut(&session) {
            facts.forced = true;
        }
        let request = RequestId(session.0);
        let resolution = Resolution::ResumeHere;
        self.feed(node, Input::Command(Command::Resolve { request, session, resolution }));
    }

    /// An operator asks for a transfer.
    pub(super) fn run_errand(&mut self) {
        let Some(errand) = self.setup.errands.get(self.next_errand).cloned() else { return };
        self.next_errand += 1;
        let sessions: Vec<_> = errand.sessions.iter().map(|s| session_id(*s)).collect();
        match errand.way {
            Way::Connection(mode) => {
                self.transfer(errand.source, errand.target, sessions, mode);
            }
            Way::File => {
                sessions.into_iter().for_each(|s| self.export(errand.source, errand.target, s));
            }
        }
    }

    /// An operator asks a gateway for a session as a file.
    pub fn export(&mut self, source: usize, target: usize, session: SessionId) {
        let batch = batch_id(self.begun.len());
        self.begun.push((batch, source));
        self.fact(session, |facts| facts.exported = true);
        let (request, target) = (RequestId(batch.0), gateway_name(target));
        self.feed(source, Input::Command(Command::Export { request, session, target }));
    }

    /// An operator puts a session back to use from a file, at the gateway that
    /// the file is for.
    pub fn import(&mut self, file: usize) {
        let Some(octets) = self.files.get(file) else { return };
        let Ok(export) = codec::decode::<Exported>(octets) else { return };
        let number = u64::try_from(self.files.len() + file).unwrap_or_default();
        let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
        let request = RequestId([0xf1, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]);
        if let Some(node) = self.nodes.iter().position(|node| node.name == export.target) {
            let export = Box::new(export);
            self.feed(node, Input::Command(Command::Import { request, export }));
        }
    }

    /// An operator asks a gateway for a transfer.
    pub fn transfer(
        &mut self,
        source: usize,
        target: usize,
        sessions: Vec<SessionId>,
        mode: TransferMode,
    ) {
        let batch = batch_id(self.begun.len());
        self.begun.push((batch, source));
        let target = gateway_name(target);
        let command = Command::Transfer { batch, sessions, target, mode };
        self.feed(source, Input::Command(command));
    }

    /// An operator cancels a batch.
    pub fn cancel(&mut self, node: usize, batch: BatchId) {
        self.feed(node, Input::Command(Command::Cancel { batch }));
    }

    /// A step in words.
    pub fn describe(&self, step: Step) -> String {
        let name = |node: u8| &self.nodes[usize::from(node)].name;
        let ends = |link: u8| self.links[usize::from(link)].ends.map(|n| &self.nodes[n].name);
        let message = |frame: Option<&[u8]>| match frame.map(Message::from_frame) {
            Some(Ok(Some(message))) => told(&message),
            _ => String::from("nothing"),
        };
        let incoming = |to: u8, from: u8| {
            let link = self.link(usize::from(to), usize::from(from))?;
            Some(self.links[link].incoming(usize::from(to)))
        };
        let session = |s: u16| label(session_id(usize::from(s)));
        match step {
            Step::Deliver { to, from, stream } => {
                let frame = incoming(to, from)
                    .and_then(|path| path.streams.values().nth(usize::from(stream)))
                    .and_then(|queue| queue.front());
                format!("{} hears {} from {}", name(to), message(frame.map(|f| &**f)), name(from))
            }
            Step::Replay { to, from, past } => {
                let frame = incoming(to, from).and_then(|path| path.past.get(usize::from(past)));
                let text = message(frame.map(|f| &**f));
                format!("FAULT: {} hears {text} from {} again", name(to), name(from))
            }
            Step::Notice(node, peer) => {
                let up = self
                    .link(usize::from(node), usize::from(peer))
                    .is_some_and(|link| self.links[link].up);
                let word = if up { "connected" } else { "gone" };
                format!("{} learns that {} is {word}", name(node), name(peer))
            }
            Step::Connect(link) => format!("{:?} connect", ends(link)),
            Step::Disconnect(link) => format!("FAULT: the connection of {:?} breaks", ends(link)),
            Step::Act(node, order) => {
                let orders = &self.nodes[usize::from(node)].orders;
                format!("gateway of {} does {}", name(node), brief(&orders.get(usize::from(order))))
            }
            Step::Refuse(node, entry) => {
                let orders = &self.nodes[usize::from(node)].orders;
                let order = brief(&orders.front());
                format!("FAULT: gateway of {} refuses entry {entry} of {order}", name(node))
            }
            Step::Answer(node) => {
                let answers = &self.nodes[usize::from(node)].answers;
                format!("{} hears of its gateway {}", name(node), brief(&answers.front()))
            }
            Step::News(node) => {
                let news = self.nodes[usize::from(node)].news.front();
                format!("{} hears of its gateway {}", name(node), brief(&news))
            }
            Step::Sync(node) => format!("the records of {} reach the disk", name(node)),
            Step::FailWrite(node, true) => {
                format!("FAULT: a write of {} fails and is on disk", name(node))
            }
            Step::FailWrite(node, false) => format!("FAULT: a write of {} fails", name(node)),
            Step::Ack(node) => format!("{} hears how its write went", name(node)),
            Step::Tick(node) => format!("a deadline of {} passes", name(node)),
            Step::Delay(node) => format!("FAULT: a deadline of {} passes early", name(node)),
            Step::Restart(node) => format!("{} starts again", name(node)),
            Step::Crash(node) => format!("FAULT: {} crashes", name(node)),
            Step::LoseGateway(node) => format!("FAULT: the gateway of {} dies", name(node)),
            Step::Fence(node) => format!("FAULT: {} is switched off for good", name(node)),
            Step::Lie { to, from, session: s } => {
                format!("FAULT: {} sends {} final data of {}", name(from), name(to), session(s))
            }
            Step::Resolve(node, s) => {
                format!("operator: {} goes on at {}", session(s), name(node))
            }
            Step::Errand => {
                format!("operator: {}", brief(&self.setup.errands.get(self.next_errand)))
            }
            Step::Import(file) => format!("operator imports file {file}"),
            Step::Relist(node) => format!("FAULT: {} lost events of its gateway", name(node)),
            Step::Cancel(batch) => format!("operator cancels batch {batch}"),
            Step::Rekey(node, s) => format!("{} is rekeyed at {}", session(s), name(node)),
            Step::End(node, s) => format!("{} ends at {}", session(s), name(node)),
            Step::Traffic(node, s) => format!("traffic of {} through {}", session(s), name(node)),
            Step::Burst(node, s) => {
                format!("a burst of packets of {} from {}", session(s), name(node))
            }
        }
    }

    /// Where every session stands, for the end of a trace.
    pub fn picture(&self) -> Vec<String> {
        self.nodes
            .iter()
            .flat_map(|node| {
                node.gateway.sessions.iter().map(move |(session, held)| {
                    let state = match &held.state {
                        SessionState::Active => "active".to_owned(),
                        SessionState::Paused { target } => format!("paused for {target}"),
                        SessionState::Staged { source, .. } => format!("staged from {source}"),
                    };
                    format!(
                        "{}: {} {state}, epoch {}, generation {}, last number {}",
                        node.name,
                        label(*session),
                        held.epoch,
                        held.generation,
                        held.sa.sequence
                    )
                })
            })
            .collect()
    }
}
