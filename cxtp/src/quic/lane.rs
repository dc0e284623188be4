//! One connection of a link at work: what we say goes through one bounded queue,
//! what the peer says is read stream by stream.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use protocol_spec::{
    id::{BatchId, Identity, Role},
    message::{Ctd, Ctdr, Kind, Message, Pctd},
};
use quinn::{Connection, RecvStream, SendStream, StreamId, VarInt};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::{
    Inbound,
    close::{Code, Ended},
    frames::{Room, StreamError, read_message, write_frame},
    seldom::Seldom,
};

/// Messages that wait for one connection of one peer. A peer that lets more
/// gather is dropped.
pub(super) const QUEUE: usize = 4096;

/// What the writer of a lane is told.
pub(super) enum Outbound {
    /// Say this, on the stream of its batch if it has one.
    Say(Message),
    /// Answers to this batch go on this stream, by which it came.
    Adopt(BatchId, SendStream),
    /// Nothing more will be said about this batch on its stream, or on this
    /// stream only.
    Finish(BatchId, Option<StreamId>),
}

/// Contexts that wait to be sent; the driver takes no new ones from its gateway
/// while a peer has many.
#[derive(Default)]
pub(super) struct Backlog {
    contexts: AtomicUsize,
    drained: Arc<Notify>,
}

impl Backlog {
    pub(super) fn new(drained: Arc<Notify>) -> Self {
        Self { contexts: AtomicUsize::new(0), drained }
    }

    pub(super) fn contexts(&self) -> usize {
        self.contexts.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, message: &Message) {
        self.contexts.fetch_add(contexts_in(message), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, contexts: usize) {
        if contexts > 0 {
            self.contexts.fetch_sub(contexts, Ordering::Relaxed);
            self.drained.notify_one();
        }
    }
}

pub(super) fn contexts_in(message: &Message) -> usize {
    if let Message::Pctd(pctd) = message { pctd.entries.len() } else { 0 }
}

/// The batch of a message that goes on the stream of its batch.
fn batch_of(message: &Message) -> Option<BatchId> {
    match message {
        Message::Pctd(m) => Some(m.batch),
        Message::Ctd(m) => Some(m.batch),
        Message::Ctc(m) => Some(m.batch),
        Message::Ctdr(m) => Some(m.batch),
        _ => None,
    }
}

/// What we say on one connection.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) queue: mpsc::Receiver<Outbound>,
    /// The first stream of the connection, for all that has none of its own.
    pub(super) shared: SendStream,
    /// Streams that we open are read by the lane's [`Reader`].
    pub(super) opened: mpsc::Sender<RecvStream>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) stall: Duration,
}

impl Writer {
    /// Writes what is queued until the queue closes or the connection fails.
    pub(super) async fn run(mut self) -> Ended {
        // The stream of each batch; `None` where it goes on the shared one.
        let mut batches: HashMap<BatchId, Option<SendStream>> = HashMap::new();
        while let Some(outbound) = self.queue.recv().await {
            let done = match outbound {
                Outbound::Say(message) => self.say(&mut batches, message).await,
                Outbound::Adopt(batch, stream) => {
                    finish(batches.insert(batch, Some(stream)).flatten());
                    Ok(())
                }
                Outbound::Finish(batch, only) => {
                    let stream = batches.get(&batch).and_then(Option::as_ref).map(SendStream::id);
                    if only.is_none() || only == stream {
                        finish(batches.remove(&batch).flatten());
                    }
                    Ok(())
                }
            };
            if let Err(ended) = done {
                return ended;
            }
        }
        Ended::new(Code::Bye, "closed")
    }

    async fn say(
        &mut self,
        batches: &mut HashMap<BatchId, Option<SendStream>>,
        message: Message,
    ) -> Result<(), Ended> {
        let contexts = contexts_in(&message);
        let stream = match batch_of(&message) {
            None => None,
            //= spec CXTP-2.5-1
            Some(batch) => match batches.entry(batch) {
                Entry::Occupied(stream) => stream.into_mut().as_mut(),
                Entry::Vacant(vacant) if matches!(message, Message::Pctd(_)) => {
                    vacant.insert(self.open().await?).as_mut()
                }
                // Only we begin batches of our own. What we answer to one whose
                // stream is gone goes on the shared stream: a peer could else
                // make us open, and remember, as many as it likes.
                Entry::Vacant(_) => None,
            },
        };
        write_message(stream.unwrap_or(&mut self.shared), message, self.stall).await?;
        self.backlog.remove(contexts);
        Ok(())
    }

    /// A stream for a new batch, or `None` where the peer allows no further one
    /// now: then the batch goes on the shared stream and stays there, so that
    /// its messages stay in order. To wait for a stream here could be to wait
    /// for what stands behind in the queue.
    async fn open(&self) -> Result<Option<SendStream>, Ended> {
        let opened = tokio::select! {
            biased;
            opened = self.connection.open_bi() => opened,
            () = ready(()) => return Ok(None),
        };
        let (send, receive) = opened.map_err(Ended::lost)?;
        self.opened.send(receive).await.map_err(|_| Ended::new(Code::Bye, "closed"))?;
        Ok(Some(send))
    }
}

fn finish(stream: Option<SendStream>) {
    if let Some(mut stream) = stream {
        // Fails only where the stream is gone already.
        let _ = stream.finish();
    }
}

/// Writes a message, in halves where its frame would be too long.
async fn write_message(
    stream: &mut SendStream,
    message: Message,
    stall: Duration,
) -> Result<(), Ended> {
    let mut parts = vec![message];
    while let Some(message) = parts.pop() {
        match message.to_frame() {
            Ok(frame) => write_frame(stream, &frame, stall).await.map_err(|error| match error {
                StreamError::Stalled => Ended::new(Code::Overrun, "the peer takes no data"),
                error => Ended::lost(error),
            })?,
            Err(error) => {
                let what = message.kind().name();
                let (first, second) = halves(message).ok_or_else(|| {
                    Ended::new(Code::Bye, format!("{what} cannot be sent: {error}"))
                })?;
                parts.extend([second, first]);
            }
        }
    }
    Ok(())
}

/// Two messages that say together what one said.
fn halves(message: Message) -> Option<(Message, Message)> {
    fn split<T>(entries: &mut Vec<T>) -> Option<Vec<T>> {
        (entries.len() > 1).then(|| entries.split_off(entries.len() / 2))
    }
    match message {
        Message::Pctd(mut m) => {
            let entries = split(&mut m.entries)?;
            let second = Pctd { batch: m.batch, mode: m.mode, entries };
            Some((Message::Pctd(m), Message::Pctd(second)))
        }
        Message::Ctd(mut m) => {
            let entries = split(&mut m.entries)?;
            let second = Ctd { batch: m.batch, entries };
            Some((Message::Ctd(m), Message::Ctd(second)))
        }
        Message::Ctdr(mut m) => {
            let entries = split(&mut m.entries)?;
            let second = Ctdr { batch: m.batch, entries };
            Some((Message::Ctdr(m), Message::Ctdr(second)))
        }
        _ => None,
    }
}

/// What the peer says on one connection.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) from: Identity,
    pub(super) room: Room,
    pub(super) stall: Duration,
    pub(super) inbound: mpsc::Sender<Inbound>,
    /// The lane's own [`Writer`].
    pub(super) writer: mpsc::Sender<Outbound>,
    /// Bounds what is said about lost streams.
    pub(super) lost: Arc<Seldom>,
}

impl Reader {
    /// Reads every stream of the connection until it fails or the peer breaks
    /// the protocol.
    pub(super) async fn run(
        self,
        connection: Connection,
        shared: RecvStream,
        mut opened: mpsc::Receiver<RecvStream>,
    ) -> Ended {
        let mut streams = JoinSet::new();
        streams.spawn(self.clone().read(shared, None, None));
        loop {
            tokio::select! {
                accepted = connection.accept_bi() => match accepted {
                    Ok((send, receive)) => {
                        streams.spawn(self.clone().read(receive, Some(send), Some(self.stall)));
                    }
                    Err(error) => return Ended::lost(error),
                },
                Some(receive) = opened.recv() => {
                    streams.spawn(self.clone().read(receive, None, None));
                }
                Some(read) = streams.join_next() => match read {
                    Ok(Ok(())) => {}
                    Ok(Err(ended)) => return ended,
                    Err(error) => return Ended::lost(error),
                },
            }
        }
    }

    /// Reads one stream to its end. `answers` is its other half where the peer
    /// opened it; `patience` the time within which it must begin.
    async fn read(
        self,
        mut stream: RecvStream,
        mut answers: Option<SendStream>,
        mut patience: Option<Duration>,
    ) -> Result<(), Ended> {
        let mut adopted = None;
        loop {
            let read = read_message(&mut stream, &self.room, patience.take(), self.stall).await;
            let (message, room) = match read {
                Ok(Some(read)) => read,
                Ok(None) => break,
                //= spec CXTP-3.4-5
                Err(StreamError::Bad(error)) => return Err(Ended::bad_frame(&error)),
                Err(error @ StreamError::Cut) => {
                    return Err(Ended::new(Code::Malformed, error.to_string()));
                }
                //= spec CXTP-2.5-3
                Err(StreamError::Stalled) => {
                    let id = stream.id();
                    if let Some(unsaid) = self.lost.say() {
                        tracing::warn!(peer = %self.from, stream = %id, unsaid, "reset a stream that stalled");
                    }
                    let code = VarInt::from_u32(Code::Stalled as u32);
                    let _ = stream.stop(code);
                    if let Some(answers) = &mut answers {
                        let _ = answers.reset(code);
                    }
                    break;
                }
                Err(StreamError::Reset(code)) => {
                    if let Some(unsaid) = self.lost.say() {
                        tracing::warn!(peer = %self.from, code, unsaid, "the peer gave up a stream");
                    }
                    break;
                }
                Err(error @ StreamError::Gone(_)) => return Err(Ended::lost(error)),
            };
            self.allowed(&message)?;
            if let (Some(batch), Some(send)) = (batch_of(&message), answers.take()) {
                adopted = Some((batch, send.id()));
                self.tell_writer(Outbound::Adopt(batch, send)).await?;
            }
            match message {
                //= spec CXTP-2.3-1
                Message::Hello(_) => {
                    return Err(Ended::new(Code::Malformed, "a second hello on a connection"));
                }
                Message::Bye(bye) => {
                    return Err(Ended::new(
                        Code::Bye,
                        format!("the peer says bye: {}", bye.reason),
                    ));
                }
                // Beats are for datagrams; replicas for a version to come.
                Message::Heartbeat(_) | Message::ReplicaDelta(_) | Message::ReplicaAck(_) => {}
                message => {
                    let from = self.from.clone();
                    let message = Inbound::Message { from, message, room };
                    let sent = self.inbound.send(message).await;
                    sent.map_err(|_| Ended::new(Code::Bye, "shutting down"))?;
                }
            }
        }
        if let Some((batch, stream)) = adopted {
            self.tell_writer(Outbound::Finish(batch, Some(stream))).await?;
        }
        Ok(())
    }

    /// Controllers and clients ask; only gateways carry sessions.
    //= spec CXTP-2.5-5
    fn allowed(&self, message: &Message) -> Result<(), Ended> {
        let kind = message.kind();
        match self.from.role {
            Role::Gateway => Ok(()),
            Role::Controller | Role::Client
                if matches!(kind, Kind::Hello | Kind::Ctar | Kind::Heartbeat | Kind::Bye) =>
            {
                Ok(())
            }
            role => {
                let reason = format!("{}, a {role}, may not send {}", self.from, kind.name());
                Err(Ended::new(Code::NotAuthorized, reason))
            }
        }
    }

    async fn tell_writer(&self, outbound: Outbound) -> Result<(), Ended> {
        self.writer.send(outbound).await.map_err(|_| Ended::new(Code::Bye, "closed"))
    }
}
