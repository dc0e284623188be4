//! The driver: one task owns the engine, brings it what happens and has done
//! what it wants.
//!
//! It never waits for what it starts: transport, gateway and journal work on
//! their own and answer through bounded channels. While much is waiting there it
//! takes nothing new from peers and operators, and the flow control of QUIC
//! passes that on; contexts for a target that is slow are not even asked for.

mod ask;
mod room;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use protocol_spec::{
    id::{BatchId, Identity, RequestId, SessionId},
    status::{Refusal, Status},
};
use serde_json::json;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

pub(super) use self::ask::Ask;
use self::room::Parked;
use super::{
    api::{self, Line},
    clock::Clock,
    config::Config,
    hands::{Hands, Heard},
    journal::{Scribe, Written},
    report::{self, Tally},
    seal::seal,
};
use crate::{
    engine::{Command, Engine, Event, GatewayCommand, GatewayReply, Input, Output, Reply},
    quic::{Inbound, Transport, seldom::Seldom},
};

/// How often clients hear how far their batch is.
const PROGRESS: Duration = Duration::from_millis(200);
/// How long a daemon that ends waits for answers to what it has committed.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Places in a client's queue of lines that progress leaves free for the end.
const SPARE_LINES: usize = 4;
/// Peers that misbehaved and are remembered, so that what is said of each is bounded.
const OFFENDERS: usize = 1024;

/// Where the lines of an answer go.
pub(super) type Lines = mpsc::Sender<Line>;

/// Somebody who waits for the reply to a command.
struct Waiting {
    lines: Lines,
    kind: Kind,
}

enum Kind {
    Plain,
    /// How many sessions were asked about.
    Preflight(usize),
}

/// A batch that somebody started here.
struct Watched {
    lines: Lines,
    tally: Tally,
}

/// What the driver hears from.
pub(super) struct Ears {
    pub(super) inbound: mpsc::Receiver<Inbound>,
    pub(super) heard: mpsc::Receiver<Heard>,
    pub(super) written: mpsc::Receiver<Written>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) stop: CancellationToken,
}

/// One daemon at work.
pub(super) struct Driver {
    pub(super) config: Arc<Config>,
    pub(super) clock: Clock,
    pub(super) engine: Engine,
    pub(super) transport: Transport,
    pub(super) hands: Hands,
    pub(super) scribe: Scribe,
    pub(super) events: broadcast::Sender<Arc<api::Event>>,
    pub(super) desk: Desk,
}

/// Who waits for what.
#[derive(Default)]
pub(super) struct Desk {
    waiting: HashMap<RequestId, Waiting>,
    watched: HashMap<BatchId, Watched>,
    gateway: String,
    ending: bool,
    /// When the engine wants to be woken.
    deadline: Option<Duration>,
    /// Tickets that the journal had no room for.
    untaken: VecDeque<u64>,
    /// Sessions whose targets take no contexts now.
    parked: Parked,
    /// Bounds what is said of each peer that misbehaves.
    offenders: HashMap<Identity, Seldom>,
}

impl Desk {
    fn misbehaved(&mut self, peer: &Identity, reason: &Refusal) {
        if self.offenders.len() >= OFFENDERS && !self.offenders.contains_key(peer) {
            self.offenders.clear();
        }
        if let Some(unsaid) = self.offenders.entry(peer.clone()).or_default().say() {
            tracing::warn!(%peer, %reason, unsaid, "peer misbehaved");
        }
    }
}

impl Driver {
    /// Runs until told to stop, then until what was committed is answered, within
    /// a bound.
    pub(super) async fn run(mut self, mut ears: Ears) {
        self.desk.gateway = "not asked yet".into();
        let mut progress = tokio::time::interval(PROGRESS);
        self.drain();
        let mut last = None;
        let drained = self.transport.drained();
        loop {
            let busy = self.is_busy();
            let wake = self.desk.deadline;
            let wake = wake.map(|at| tokio::time::Instant::from_std(self.clock.instant(at)));
            tokio::select! {
                () = ears.stop.cancelled(), if last.is_none() => {
                    self.desk.ending = true;
                    self.cancel_all();
                    last = Some(self.clock.moment().monotonic + LAST_ANSWERS);
                }
                Some(written) = ears.written.recv() => self.journaled(written),
                Some(heard) = ears.heard.recv() => self.heard(heard),
                Some(inbound) = ears.inbound.recv(), if !busy => self.inbound(inbound),
                Some(ask) = ears.asks.recv(), if !busy => self.ask(ask),
                () = drained.notified(), if !self.desk.parked.is_empty() => self.unpark(),
                _ = progress.tick() => self.tell_progress(),
                () = sleep_until(wake), if wake.is_some() => self.handle(Input::Tick),
            }
            if let Some(last) = last
                && (self.settled() || self.clock.moment().monotonic >= last)
            {
                break;
            }
        }
        let reason = Refusal::new(Status::ShuttingDown, "the daemon was told to end");
        self.transport.stop(reason).await;
        // Gateway and journal may be waiting for somebody to hear them.
        drop(ears);
        let Self { hands, scribe, .. } = self;
        let ended = tokio::task::spawn_blocking(move || drop((hands, scribe)));
        // One that panicked has said so already.
        let _ = ended.await;
    }

    /// Whether so much waits for the gateway or the disk that nothing new should
    /// begin.
    fn is_busy(&self) -> bool {
        self.hands.is_busy() || self.scribe.is_busy()
    }

    /// Asks for contexts, but not for more than their targets take.
    fn snapshot(&mut self, sessions: Vec<SessionId>) {
        let transport = &self.transport;
        let ready = self.desk.parked.want(sessions, |target| transport.backlog(target));
        self.order_snapshots(ready);
    }

    /// Asks for those that there is room for by now.
    fn unpark(&mut self) {
        let transport = &self.transport;
        let ready = self.desk.parked.next(|target| transport.backlog(target));
        self.order_snapshots(ready);
    }

    fn order_snapshots(&self, sessions: Vec<SessionId>) {
        if !sessions.is_empty() {
            self.hands.order(GatewayCommand::Snapshot(sessions));
        }
    }

    /// Brings the engine one thing and has done all that it then wants, before it
    /// hears the next.
    fn handle(&mut self, input: Input) {
        self.engine.handle(input, self.clock.moment());
        self.drain();
        // What the journal did not take is the next thing to hear, one at a time.
        while let Some(ticket) = self.desk.untaken.pop_front() {
            let detail = "too many writes wait for the disk".to_owned();
            self.engine.handle(Input::JournalFailed { ticket, detail }, self.clock.moment());
            self.drain();
        }
    }

    /// Whether nothing waits for an answer of a peer or of the gateway.
    fn settled(&self) -> bool {
        self.engine.batches().next().is_none()
    }

    fn cancel_all(&mut self) {
        let batches: BTreeSet<_> = self.engine.batches().collect();
        for batch in batches {
            self.handle(Input::Command(Command::Cancel { batch }));
        }
    }

    fn journaled(&mut self, (ticket, result): Written) {
        match result {
            Ok(()) => self.handle(Input::Journaled { ticket }),
            Err(detail) => {
                tracing::error!(%detail, "the journal could not be written; is the disk full?");
                self.handle(Input::JournalFailed { ticket, detail });
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Reply(GatewayReply::Snapshots(all)) => {
                let sessions: Vec<_> = all.iter().map(|(session, _)| *session).collect();
                self.handle(Input::Gateway(GatewayReply::Snapshots(all)));
                // Those that go on wait to be sent by now.
                self.desk.parked.came(sessions);
                self.unpark();
            }
            Heard::Reply(reply) => self.handle(Input::Gateway(reply)),
            Heard::Up(capabilities) => {
                if self.desk.gateway != "up" {
                    tracing::info!("the gateway answers");
                }
                self.desk.gateway = "up".into();
                self.transport.open(capabilities);
            }
            Heard::Down(why) => {
                if self.desk.gateway != why {
                    tracing::warn!(%why, "the gateway cannot be used; it is asked again");
                    self.desk.gateway = why;
                }
            }
        }
    }

    fn inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::PeerUp { peer, epoch, capabilities } => {
                tracing::info!(%peer, life = epoch.0, "peer is up");
                self.publish(|| report::plain_event("peer-up", json!({"peer": peer.to_string()})));
                self.handle(Input::PeerUp { peer, epoch, capabilities });
            }
            Inbound::PeerDown { peer, reason } => {
                tracing::warn!(%peer, %reason, "peer is down");
                let fields = json!({"peer": peer.to_string(), "reason": reason});
                self.publish(|| report::plain_event("peer-down", fields));
                let target = peer.name.clone();
                self.handle(Input::PeerDown { peer });
                self.desk.parked.closed(&target);
            }
            // The peer's room is given back only after its message was handled.
            Inbound::Message { from, message, room } => {
                self.handle(Input::Message { from, message });
                drop(room);
            }
        }
    }

    /// Has done what the engine wants, and notes when it wants to be woken.
    fn drain(&mut self) {
        loop {
            match self.engine.poll_output() {
                Output::Wait(deadline) => {
                    self.desk.deadline = deadline;
                    return;
                }
                Output::Send { to, lane, message } => self.transport.send(&to, lane, message),
                Output::Gateway(GatewayCommand::Snapshot(sessions)) => self.snapshot(sessions),
                Output::Gateway(command) => self.hands.order(command),
                Output::Journal { ticket, records } => {
                    let unix = self.clock.moment().unix;
                    if !self.scribe.write(ticket, records, unix) {
                        self.desk.untaken.push_back(ticket);
                    }
                }
                Output::Event(event) => self.event(&event),
                Output::Reply { request, reply } => self.reply(request, reply),
            }
        }
    }

    fn event(&mut self, event: &Event) {
        self.publish(|| report::event(event));
        match event {
            Event::TransferEnded { batch, session, outcome } => {
                tracing::debug!(%batch, %session, ?outcome, "transfer ended");
                self.desk.parked.ended(*session);
                if let Some(watched) = self.desk.watched.get_mut(batch) {
                    watched.tally.ended(session.to_string(), outcome);
                }
            }
            Event::BatchEnded(end) => {
                tracing::info!(
                    batch = %end.batch, moved = end.moved, refused = end.refused, aborted = end.aborted,
                    in_doubt = end.in_doubt, lost = end.lost, "batch ended"
                );
                self.transport.finish(end.batch);
                if let Some(watched) = self.desk.watched.remove(&end.batch) {
                    done(&watched.lines, &watched.tally.summary(end));
                }
            }
            Event::InDoubt { session, target } => {
                tracing::warn!(%session, %target, "in doubt: committed, and the target does not answer");
            }
            Event::Lost { session, reason } => tracing::error!(%session, %reason, "session lost"),
            Event::PeerMisbehaved { peer, reason } => self.desk.misbehaved(peer, reason),
            Event::Taken { session, epoch, source } => {
                tracing::debug!(%session, %epoch, %source, "taken");
            }
            Event::Committed { session, epoch } => tracing::debug!(%session, %epoch, "committed"),
            Event::TransferBegun { batch, session, target, .. } => {
                self.desk.parked.begun(*session, target.clone());
                tracing::debug!(%batch, %session, %target, "transfer begun");
            }
            Event::SessionUp(status) => tracing::debug!(session = %status.session, "session up"),
            Event::SessionDown(session) => tracing::debug!(%session, "session down"),
            Event::UnknownSpi(spi) => tracing::debug!(spi, "packet for an unknown SPI"),
        }
    }

    /// Tells whoever watches; costs nothing when nobody does.
    fn publish(&self, event: impl FnOnce() -> api::Event) {
        if self.events.receiver_count() > 0 {
            // Nobody may be left by now.
            let _ = self.events.send(Arc::new(event()));
        }
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        // A pull that was refused has no end of a batch.
        if let Reply::Refused(why) = &reply
            && let Some(watched) = self.desk.watched.remove(&BatchId(request.0))
        {
            fail(&watched.lines, why);
        }
        let Some(waiting) = self.desk.waiting.remove(&request) else { return };
        match reply {
            Reply::Accepted => done(&waiting.lines, &json!({})),
            Reply::Refused(why) => fail(&waiting.lines, &why),
            Reply::Preflight(refusals) => {
                let Kind::Preflight(sessions) = waiting.kind else { return };
                let failure = |(session, why): &(SessionId, Refusal)| api::Failure {
                    session: session.to_string(),
                    outcome: "refused".into(),
                    reason: report::refused(why),
                };
                let refused: Vec<_> = refusals.iter().map(failure).collect();
                let accepted = sessions.saturating_sub(refused.len());
                done(&waiting.lines, &api::PreflightReport { sessions, accepted, refused });
            }
            Reply::Exported(exported) => {
                let key = self.config.peers.get(&exported.target).and_then(|p| p.seal_key.as_ref());
                let Some(key) = key else { return };
                match seal(&exported, key) {
                    Ok(sealed) => done(&waiting.lines, &sealed),
                    Err(error) => fail(
                        &waiting.lines,
                        &Refusal::new(
                            Status::GatewayFault,
                            format!("it cannot be sealed: {error}"),
                        ),
                    ),
                }
            }
        }
    }

    fn tell_progress(&mut self) {
        for (batch, watched) in &self.desk.watched {
            if let Some(progress) = self.engine.progress(*batch)
                && watched.lines.capacity() > SPARE_LINES
            {
                // The client may be gone; the batch goes on.
                let _ = watched.lines.try_send(Line::Progress(report::progress(progress)));
            }
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Sixteen random octets, for an identifier.
pub(super) fn random() -> [u8; 16] {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut octets = [0; 16];
    // The system's source does not fail once it is seeded; a fixed identifier
    // would be refused as used, which is safe.
    let _ = SystemRandom::new().fill(&mut octets);
    octets
}

/// The last line of an answer. The client may be gone.
pub(super) fn done(lines: &Lines, value: &impl serde::Serialize) {
    let line = match serde_json::to_value(value) {
        Ok(value) => Line::Done(value),
        Err(error) => Line::Error(api::Refused {
            status: Status::GatewayFault.name().to_owned(),
            detail: format!("the answer cannot be written: {error}"),
        }),
    };
    let _ = lines.try_send(line);
}

/// The last line of an answer that is a refusal.
pub(super) fn fail(lines: &Lines, why: &Refusal) {
    let _ = lines.try_send(Line::Error(report::refused(why)));
}
