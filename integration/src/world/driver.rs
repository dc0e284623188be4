//! The driver of the world: it feeds the engines and does what they want, as
//! `cxtp::service` does, but one small step at a time.

use cxtp::engine::{Event, GatewayCommand, GatewayReply, Input, Output, Reply, StageOrder};
use protocol_spec::{
    codec,
    id::{BatchId, Generation, Identity, Name, RequestId, Role, SessionEpoch, SessionId},
    message::Message,
    status::{Refusal, Status},
    transfer::{Finals, Outcome, SaRef, SessionStatus},
};

use super::{
    World,
    gateway_model::{GatewayModel, Installation},
    image::Image,
    invariants::{Facts, Invariant, Violation, label},
    network::StreamId,
};

/// An outbound number for each of some SAs.
type Numbers = Vec<(SaRef, u64)>;

/// What a gateway was told to do.
#[expect(missing_docs, reason = "the variants are those of GatewayCommand")]
#[derive(Clone, Debug, Hash)]
pub enum Order {
    List,
    Snapshot(Vec<SessionId>),
    Admit(RequestId, Vec<SessionId>),
    Stage(Vec<Installation>),
    Pause(Vec<(SessionId, Name, Option<Generation>)>),
    Resume(Vec<(SessionId, SessionEpoch, Numbers)>),
    Activate(Vec<(SessionId, SessionEpoch, Finals)>),
    Release(Vec<(SessionId, SessionEpoch, Name)>),
    Discard(Vec<(SessionId, SessionEpoch)>),
    Extend(Vec<(SessionId, SessionEpoch, Numbers)>),
}

/// What a gateway did. Contexts are made when the answer is delivered, since
/// they cannot be copied.
#[expect(missing_docs, reason = "the variants are those of GatewayReply")]
#[derive(Clone, Debug, Hash)]
pub enum Answer {
    Listed(Vec<SessionStatus>),
    Lost,
    Snapshots(Vec<(SessionId, Result<Image, Refusal>)>),
    Admitted(RequestId, Vec<(SessionId, Result<(), Refusal>)>),
    Staged(Vec<(SessionId, SessionEpoch, Result<Generation, Refusal>)>),
    Paused(Vec<(SessionId, Result<Finals, Refusal>)>),
    Resumed(Vec<(SessionId, Result<(), Refusal>)>),
    Activated(Vec<(SessionId, SessionEpoch, Result<(), Refusal>)>),
    Released(Vec<(SessionId, Result<(), Refusal>)>),
    Discarded(Vec<(SessionId, SessionEpoch, Result<(), Refusal>)>),
}

/// Most outputs of one input: beyond it the engine is running in a circle.
const MOST_OUTPUTS: usize = 100_000;

impl World {
    /// Hands an input to a daemon and takes what it wants.
    pub fn feed(&mut self, node: usize, input: Input) {
        let now = self.moment();
        if let Some(engine) = self.nodes[node].edit().engine.as_mut() {
            engine.handle(input, now);
            self.drain(node);
        }
    }

    /// Takes what a daemon wants.
    pub(super) fn drain(&mut self, node: usize) {
        let part = self.nodes[node].edit();
        let Some(engine) = part.engine.as_mut() else { return };
        let mut outputs = Vec::new();
        let deadline = loop {
            match engine.poll_output() {
                Output::Wait(deadline) => break deadline,
                output => outputs.push(output),
            }
            if outputs.len() > MOST_OUTPUTS {
                self.break_engine(node, "gives outputs without end");
                return;
            }
        };
        part.deadline = deadline;
        for output in outputs {
            self.obey(node, output);
        }
    }

    fn break_engine(&mut self, node: usize, what: &str) {
        let detail = format!("the engine of {} {what}", self.nodes[node].name);
        self.broken.get_or_insert(Violation { invariant: Invariant::Engine, detail });
    }

    fn obey(&mut self, node: usize, output: Output) {
        let name = self.nodes[node].name.clone();
        match output {
            Output::Wait(_) => {}
            Output::Send { to, lane, message } => self.post(node, &to, lane, &message),
            Output::Gateway(GatewayCommand::Extend(orders)) => {
                // The trait answers it with nothing that the engine hears.
                self.say(|| format!("    {name} orders Extend"));
                self.nodes[node].edit().orders.push_back(Order::Extend(orders));
            }
            Output::Gateway(command) => match order_of(command) {
                Some(order) => {
                    self.say(|| format!("    {name} orders {}", brief(&order)));
                    self.nodes[node].edit().orders.push_back(order);
                }
                None => self.break_engine(node, "orders what is not a session"),
            },
            Output::Journal { ticket, records } => {
                self.say(|| format!("    {name} writes {}", brief(&records)));
                self.nodes[node].edit().journal.unsynced.push_back((ticket, records));
            }
            Output::Event(event) => {
                self.say(|| format!("    {name} tells {}", brief(&event)));
                self.note(node, event);
            }
            Output::Reply { reply: Reply::Exported(export), .. } => {
                self.say(|| format!("    {name} hands out {}", label(export.context.session)));
                match codec::encode(&*export) {
                    Ok(octets) => self.files.push(octets.as_slice().into()),
                    Err(_) => self.break_engine(node, "hands out what is too large"),
                }
            }
            Output::Reply { reply, .. } => self.say(|| format!("    {name} replies {reply:?}")),
        }
    }

    fn post(
        &mut self,
        node: usize,
        to: &Identity,
        lane: protocol_spec::message::Lane,
        message: &Message,
    ) {
        let name = self.nodes[node].name.clone();
        let Some(peer) = self.nodes.iter().position(|other| other.name == to.name) else {
            return self.break_engine(node, "writes to nobody");
        };
        let Some(link) = self.link(node, peer) else {
            return self.break_engine(node, "writes to itself");
        };
        let frame = match message.to_frame() {
            Ok(frame) => frame.as_slice().into(),
            Err(error) => return self.break_engine(node, &format!("sends what {error}")),
        };
        self.say(|| format!("    {name} sends {} to {}", told(message), to.name));
        let remember = self.budget.replays();
        self.links[link].edit().send(node, StreamId::of(lane, message), &frame, remember);
    }

    /// Takes note of what an engine tells.
    fn note(&mut self, node: usize, event: Event) {
        match event {
            Event::TransferBegun { session, batch, .. } => self.fact(session, |facts| {
                facts.moving = Some(batch);
                facts.stays_at = None;
            }),
            Event::Taken { session, .. } => self.fact(session, |facts| facts.stays_at = None),
            Event::TransferEnded { session, outcome, batch } => match outcome {
                Outcome::Moved { .. } => self.tally.moved += 1,
                Outcome::Refused(_) => {
                    self.tally.refused += 1;
                    self.stays(node, session, batch);
                }
                Outcome::Aborted(_) => {
                    self.tally.aborted += 1;
                    self.stays(node, session, batch);
                }
                Outcome::InDoubt => self.fact(session, |f| f.reported_in_doubt = true),
                Outcome::Lost(_) => self.fact(session, |f| f.reported_lost = true),
            },
            Event::InDoubt { session, .. } => {
                self.tally.in_doubt += 1;
                self.fact(session, |f| f.reported_in_doubt = true);
            }
            Event::Lost { session, .. } => {
                self.tally.lost += 1;
                self.fact(session, |f| f.reported_lost = true);
            }
            Event::PeerMisbehaved { .. } => self.tally.accused += 1,
            _ => {}
        }
    }

    /// A transfer ended without a move at its source. (One that never began,
    /// since another one was running, says nothing.)
    fn stays(&mut self, node: usize, session: SessionId, batch: BatchId) {
        let holds = self.nodes[node].gateway.snapshot(session).is_ok();
        self.fact(session, |facts| {
            if holds && facts.moving == Some(batch) {
                facts.stays_at = Some(node);
            }
        });
    }

    /// Changes the truth about a session.
    pub(super) fn fact(&mut self, session: SessionId, change: impl FnOnce(&mut Facts)) {
        if let Some(facts) = self.facts.get_mut(&session) {
            change(facts);
        }
    }

    /// A daemon hears that a peer is there.
    pub(super) fn introduce(&mut self, node: usize, peer: usize) {
        let input = Input::PeerUp {
            peer: self.identity(peer),
            epoch: self.nodes[peer].journal.life,
            capabilities: Some(super::setup::capabilities()),
        };
        self.feed(node, input);
    }

    /// What a gateway's certificate says.
    pub(super) fn identity(&self, node: usize) -> Identity {
        Identity { role: Role::Gateway, name: self.nodes[node].name.clone() }
    }
}

/// Carries out an order; the entry with the number `refuse` is refused whatever
/// it is.
pub fn act(gateway: &mut GatewayModel, order: &Order, refuse: Option<usize>) -> Option<Answer> {
    let mut number = 0;
    let mut unless = || {
        number += 1;
        match refuse {
            Some(n) if n + 1 == number => {
                Err(Refusal::new(Status::Busy, "the world refuses this one"))
            }
            _ => Ok(()),
        }
    };
    Some(match order {
        Order::List => Answer::Listed(gateway.list()),
        Order::Snapshot(sessions) => Answer::Snapshots(
            sessions.iter().map(|s| (*s, unless().and_then(|()| gateway.snapshot(*s)))).collect(),
        ),
        Order::Admit(request, sessions) => Answer::Admitted(
            *request,
            sessions.iter().map(|s| (*s, unless().and_then(|()| gateway.admit(*s)))).collect(),
        ),
        Order::Stage(orders) => Answer::Staged(
            orders
                .iter()
                .map(|o| (o.session, o.epoch, unless().and_then(|()| gateway.stage(o))))
                .collect(),
        ),
        Order::Pause(orders) => Answer::Paused(
            orders
                .iter()
                .map(|(s, target, _)| (*s, unless().and_then(|()| gateway.pause(*s, target))))
                .collect(),
        ),
        Order::Resume(orders) => Answer::Resumed(
            orders
                .iter()
                .map(|(s, e, from)| (*s, unless().and_then(|()| gateway.resume(*s, *e, from))))
                .collect(),
        ),
        Order::Activate(orders) => Answer::Activated(
            orders
                .iter()
                .map(|(s, e, f)| (*s, *e, unless().and_then(|()| gateway.activate(*s, *e, f))))
                .collect(),
        ),
        Order::Release(orders) => Answer::Released(
            orders
                .iter()
                .map(|(s, e, _)| (*s, unless().and_then(|()| gateway.release(*s, *e))))
                .collect(),
        ),
        Order::Discard(orders) => Answer::Discarded(
            orders
                .iter()
                .map(|(s, e)| (*s, *e, unless().and_then(|()| gateway.discard(*s, *e))))
                .collect(),
        ),
        Order::Extend(orders) => {
            orders.iter().for_each(|(s, e, ends)| gateway.extend(*s, *e, ends));
            return None;
        }
    })
}

fn order_of(command: GatewayCommand) -> Option<Order> {
    Some(match command {
        GatewayCommand::List => Order::List,
        GatewayCommand::Snapshot(sessions) => Order::Snapshot(sessions),
        GatewayCommand::Admit(request, profiles) => {
            Order::Admit(request, profiles.iter().map(|profile| profile.session).collect())
        }
        GatewayCommand::Stage(orders) => {
            Order::Stage(orders.iter().map(installation).collect::<Option<_>>()?)
        }
        GatewayCommand::Pause(orders) => Order::Pause(orders),
        GatewayCommand::Resume(orders) => Order::Resume(orders),
        GatewayCommand::Activate(orders) => Order::Activate(orders),
        GatewayCommand::Release(orders) => Order::Release(orders),
        GatewayCommand::Discard(orders) => Order::Discard(orders),
        GatewayCommand::Extend(orders) => Order::Extend(orders),
    })
}

fn installation(order: &StageOrder) -> Option<Installation> {
    Some(Installation {
        epoch: order.epoch,
        source: order.source.clone(),
        batch: order.batch,
        grants: order.grants.clone(),
        session: order.context.session,
        image: Image::of(&order.context)?,
    })
}

/// What the engine hears of an answer.
pub fn heard(answer: Answer) -> GatewayReply {
    match answer {
        Answer::Listed(all) => GatewayReply::Listed(all),
        Answer::Lost => GatewayReply::Lost("the gateway process died".to_owned()),
        Answer::Snapshots(results) => GatewayReply::Snapshots(
            results
                .into_iter()
                .map(|(session, result)| (session, result.map(|image| image.context(session))))
                .collect(),
        ),
        Answer::Admitted(request, results) => GatewayReply::Admitted(request, results),
        Answer::Staged(results) => GatewayReply::Staged(results),
        Answer::Paused(results) => GatewayReply::Paused(results),
        Answer::Resumed(results) => GatewayReply::Resumed(results),
        Answer::Activated(results) => GatewayReply::Activated(results),
        Answer::Released(results) => GatewayReply::Released(results),
        Answer::Discarded(results) => GatewayReply::Discarded(results),
    }
}

/// A line of debug output, cut to what a person reads.
pub fn brief(value: &impl std::fmt::Debug) -> String {
    let mut text = format!("{value:?}");
    if let Some((cut, _)) = text.char_indices().nth(240) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// A message in a few words.
pub fn told(message: &Message) -> String {
    let detail: Vec<_> = match message {
        Message::Pctd(body) => body
            .entries
            .iter()
            .map(|entry| format!("{} e{}", label(entry.context.session), entry.epoch))
            .collect(),
        Message::Ctd(body) => body
            .entries
            .iter()
            .map(|entry| format!("{} e{}", label(entry.session), entry.epoch))
            .collect(),
        Message::Ctdr(body) => body
            .entries
            .iter()
            .map(|e| format!("{} e{} {}", label(e.session), e.epoch, brief(&e.state)))
            .collect(),
        Message::QueryAnswer(body) => body
            .entries
            .iter()
            .map(|e| format!("{} e{} {}", label(e.session), e.epoch, brief(&e.state)))
            .collect(),
        Message::Ctc(body) => {
            body.entries.iter().map(|(s, e)| format!("{} e{e}", label(*s))).collect()
        }
        Message::Query(body) => {
            body.transfers.iter().map(|(s, e, _)| format!("{} e{e}", label(*s))).collect()
        }
        _ => Vec::new(),
    };
    format!("{} {}", message.kind().name(), detail.join(", "))
}
