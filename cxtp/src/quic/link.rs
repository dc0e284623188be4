//! A link: the two connections with one gateway, or the one with a controller or
//! client. It is up only as a whole.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use protocol_spec::{
    id::{GatewayEpoch, Identity},
    message::{Lane, Message},
    profile::Capabilities,
};
use quinn::Connection;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Inbound,
    beat::{Pulse, beat},
    close::{Code, Ended},
    frames::Room,
    hello::Greeted,
    lane::{Backlog, Outbound, QUEUE, Reader, Writer},
    seldom::Seldom,
};

/// Octets of messages of one peer that are read and not handled yet.
const ROOM: usize = 16 << 20;
/// Streams that wait to be read.
const OPENED: usize = 16;

/// What every link of a transport shares.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) epoch: GatewayEpoch,
    pub(super) inbound: mpsc::Sender<Inbound>,
    pub(super) drained: Arc<Notify>,
    pub(super) heartbeat: Duration,
    pub(super) stall: Duration,
}

/// The handle of a link that runs.
pub(super) struct Link {
    pub(super) peer: Identity,
    pub(super) epoch: GatewayEpoch,
    capabilities: Option<Capabilities>,
    control: LaneHandle,
    bulk: Option<LaneHandle>,
    pub(super) pulse: watch::Receiver<Pulse>,
    ended: OnceLock<Ended>,
    ending: CancellationToken,
    /// Set once the driver was told that the peer is down.
    pub(super) done: CancellationToken,
}

struct LaneHandle {
    connection: Connection,
    queue: mpsc::Sender<Outbound>,
    backlog: Arc<Backlog>,
}

impl Link {
    /// Says something, without waiting. A peer whose queue is full is dropped.
    pub(super) fn say(&self, lane: Lane, message: Message) {
        let handle = self.lane(lane);
        handle.backlog.add(&message);
        match handle.queue.try_send(Outbound::Say(message)) {
            // Closed: the driver is told of the loss by and by.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.end(Ended::new(Code::Overrun, "the peer lets its messages pile up"));
            }
        }
    }

    /// Nothing more will be said about a batch.
    pub(super) fn finish(&self, batch: protocol_spec::id::BatchId) {
        // Where the queue is full the stream stays open until the link ends.
        let _ = self.lane(Lane::Bulk).queue.try_send(Outbound::Finish(batch, None));
    }

    /// Contexts that wait to be sent.
    pub(super) fn backlog(&self) -> usize {
        self.lane(Lane::Bulk).backlog.contexts()
    }

    /// Begins to close the link.
    pub(super) fn end(&self, ended: Ended) {
        let _ = self.ended.set(ended);
        self.ending.cancel();
    }

    fn lane(&self, lane: Lane) -> &LaneHandle {
        match (lane, &self.bulk) {
            (Lane::Bulk, Some(bulk)) => bulk,
            _ => &self.control,
        }
    }

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        [Some(&self.control), self.bulk.as_ref()].into_iter().flatten().map(|lane| &lane.connection)
    }
}

/// A link that is about to run.
pub(super) struct Starting {
    pub(super) link: Arc<Link>,
    lanes: Vec<(Writer, Reader, quinn::RecvStream, mpsc::Receiver<quinn::RecvStream>)>,
    pulse: watch::Sender<Pulse>,
    surroundings: Surroundings,
    /// The link whose place this one takes.
    previous: Option<CancellationToken>,
}

impl Starting {
    pub(super) fn new(
        control: Greeted,
        bulk: Option<Greeted>,
        previous: Option<CancellationToken>,
        surroundings: Surroundings,
    ) -> Self {
        let (pulse, heard) = watch::channel(Pulse::default());
        let peer = control.peer.clone();
        let epoch = control.hello.epoch;
        let capabilities = control.hello.capabilities.clone();
        let mut lanes = Vec::with_capacity(2);
        let room = Room::new(ROOM);
        let lost = Arc::new(Seldom::default());
        let mut lane = |greeted: Greeted| {
            let (queue, receiver) = mpsc::channel(QUEUE);
            let (opened, to_read) = mpsc::channel(OPENED);
            let backlog = Arc::new(Backlog::new(Arc::clone(&surroundings.drained)));
            let writer = Writer {
                connection: greeted.connection.clone(),
                queue: receiver,
                shared: greeted.send,
                opened,
                backlog: Arc::clone(&backlog),
                stall: surroundings.stall,
            };
            let reader = Reader {
                from: greeted.peer,
                room: room.clone(),
                stall: surroundings.stall,
                inbound: surroundings.inbound.clone(),
                writer: queue.clone(),
                lost: Arc::clone(&lost),
            };
            lanes.push((writer, reader, greeted.receive, to_read));
            LaneHandle { connection: greeted.connection, queue, backlog }
        };
        let control = lane(control);
        let bulk = bulk.map(lane);
        let link = Arc::new(Link {
            peer,
            epoch,
            capabilities,
            control,
            bulk,
            pulse: heard,
            ended: OnceLock::new(),
            ending: CancellationToken::new(),
            done: CancellationToken::new(),
        });
        Self { link, lanes, pulse, surroundings, previous }
    }

    /// Tells the driver, runs the link to its end, tells the driver again.
    pub(super) async fn run(self) -> (Arc<Link>, Ended) {
        let Self { link, lanes, pulse, surroundings, previous } = self;
        // The driver hears of one life of a link after the other.
        if let Some(previous) = previous {
            previous.cancelled().await;
        }
        let up = Inbound::PeerUp {
            peer: link.peer.clone(),
            epoch: link.epoch,
            capabilities: link.capabilities.clone(),
        };
        let _ = surroundings.inbound.send(up).await;
        let mut tasks = JoinSet::new();
        let control = link.control.connection.clone();
        tasks.spawn(beat(control, surroundings.epoch, link.epoch, surroundings.heartbeat, pulse));
        for (writer, reader, shared, opened) in lanes {
            tasks.spawn(reader.run(writer.connection.clone(), shared, opened));
            tasks.spawn(writer.run());
        }
        let ended = tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Ok(ended)) => ended,
                Some(Err(error)) => Ended::lost(error),
                None => Ended::lost("nothing runs"),
            },
            () = link.ending.cancelled() => {
                link.ended.get().cloned().unwrap_or_else(|| Ended::new(Code::Bye, "closed"))
            }
        };
        let rest = match ended.code {
            Some(_) => ended.clone(),
            //= spec CXTP-2.4-1
            None => Ended::new(Code::PairLost, "the other connection of the pair is gone"),
        };
        link.connections().for_each(|connection| rest.close(connection));
        tasks.shutdown().await;
        let down = Inbound::PeerDown { peer: link.peer.clone(), reason: ended.reason.clone() };
        let _ = surroundings.inbound.send(down).await;
        link.done.cancel();
        (link, ended)
    }
}
