//! The network between the daemons: what is on its way, and what each side was
//! told about its connections.
//!
//! Messages travel as frames. Those of one stream arrive in order; streams
//! overtake each other at will. A broken connection still delivers what was
//! under way until its receiver is told of the break; then the rest is lost.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use protocol_spec::{
    id::BatchId,
    message::{Lane, Message},
};

/// A message on its way.
pub type Frame = Rc<[u8]>;

/// What keeps messages in order: a lane and a batch. Whatever belongs to no
/// batch shares one stream of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    lane: Lane,
    batch: Option<BatchId>,
}

impl StreamId {
    /// The stream that carries a message.
    pub fn of(lane: Lane, message: &Message) -> Self {
        let batch = match message {
            Message::Pctd(body) => Some(body.batch),
            Message::Ctd(body) => Some(body.batch),
            Message::Ctdr(body) => Some(body.batch),
            Message::Ctc(body) => Some(body.batch),
            _ => None,
        };
        Self { lane, batch }
    }
}

/// One direction of a connection.
#[derive(Clone, Debug, Default, Hash)]
pub struct Path {
    /// Whether the *sender* of this direction was told that the peer is there.
    pub told: bool,
    /// What is on its way.
    pub streams: BTreeMap<StreamId, VecDeque<Frame>>,
    /// Every different message that was ever sent, for replays; empty where
    /// the world replays nothing.
    pub past: Vec<Frame>,
}

/// The connection of two gateways.
#[derive(Clone, Debug, Hash)]
pub struct Link {
    /// The lower and the higher of the two.
    pub ends: [usize; 2],
    /// Whether packets pass.
    pub up: bool,
    /// From the lower to the higher, and back.
    pub paths: [Path; 2],
}

/// Most different messages kept for replays in each direction.
const PAST: usize = 24;

impl Link {
    /// A connection that does not exist yet.
    pub fn new(low: usize, high: usize) -> Self {
        Self { ends: [low, high], up: false, paths: [Path::default(), Path::default()] }
    }

    /// Which of the two ends a node is.
    pub fn side(&self, node: usize) -> usize {
        usize::from(self.ends[0] != node)
    }

    /// The other end.
    pub fn peer(&self, node: usize) -> usize {
        self.ends[1 - self.side(node)]
    }

    /// Whether the node is one of the ends.
    pub fn joins(&self, node: usize) -> bool {
        self.ends.contains(&node)
    }

    /// The direction in which the node sends.
    pub fn outgoing(&mut self, node: usize) -> &mut Path {
        &mut self.paths[self.side(node)]
    }

    /// Whether the node was told that its peer is there.
    pub fn told(&self, node: usize) -> bool {
        self.paths[self.side(node)].told
    }

    /// What is on its way to the node.
    pub fn incoming(&self, node: usize) -> &Path {
        &self.paths[1 - self.side(node)]
    }

    /// Puts a message on its way, unless the connection is known to be gone.
    pub fn send(&mut self, node: usize, stream: StreamId, frame: &Frame, remember: bool) {
        let up = self.up;
        let path = self.outgoing(node);
        if remember && path.past.len() < PAST && !path.past.contains(frame) {
            path.past.push(Rc::clone(frame));
        }
        if up && path.told {
            path.streams.entry(stream).or_default().push_back(Rc::clone(frame));
        }
    }

    /// Takes the first message of one of the streams to a node.
    pub fn receive(&mut self, node: usize, stream: usize) -> Option<Frame> {
        let path = &mut self.paths[1 - self.side(node)];
        let id = *path.streams.keys().nth(stream)?;
        let queue = path.streams.get_mut(&id)?;
        let frame = queue.pop_front();
        if queue.is_empty() {
            path.streams.remove(&id);
        }
        frame
    }

    /// The node hears that its peer is gone (or dies itself): what was on its
    /// way to it is lost.
    pub fn forget(&mut self, node: usize) {
        self.outgoing(node).told = false;
        self.paths[1 - self.side(node)].streams.clear();
    }
}
