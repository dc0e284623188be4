//! The trait, its orders and its events.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
};

use bincode::{Decode, Encode};
use protocol_spec::{
    context::Context,
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    profile::{Capabilities, Profile},
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, SaRef, SessionStatus},
};
use thiserror::Error;

/// One result for each session of an order, in any order of sessions.
pub type PerSession<T> = Vec<(SessionId, Result<T, Refusal>)>;

/// A security gateway whose sessions can be moved.
///
/// # Writing a body
///
/// The daemon calls from one thread, one call at a time. Every call takes a
/// batch and answers once for each session of it, in any order; one session that
/// fails does not touch the others. A call returns within the body's own
/// deadline, which should be a second or less, or fails with [`Fault`].
///
/// The life of a session that moves, seen from the two gateways:
///
/// ```text
/// source:  Active --pause--> Paused --release--> (gone, stragglers relayed)
///            ^                 |
///            +-----resume------+
/// target:  (unknown) --stage--> Staged --activate--> Active
///               ^                  |
///               +-----discard------+
/// ```
///
/// The state belongs to the gateway, not to the daemon: a daemon that is killed
/// and started again finds every session by [`GatewayPlugin::list`] as it left it,
/// and what holds a paused session back holds while no daemon runs.
///
/// **Every act is safe to repeat.** Done again under the same epoch it changes
/// nothing and answers as the first time. What an act does in each state:
///
/// | act | Active | Paused | Staged | unknown |
/// | --- | --- | --- | --- | --- |
/// | `snapshot` | context | context | refused | `NoSession` |
/// | `stage` | `TransferRunning` | `TransferRunning` | same epoch: as before; higher: replaced | Staged |
/// | `pause` | Paused | the same finals | refused | `NoSession` |
/// | `resume` | as before | Active | refused | `NoSession` |
/// | `activate` | same epoch: as before | refused | Active | `NoSession` |
/// | `release` | refused | gone | refused | succeeds |
/// | `discard` | refused | refused | gone | succeeds |
/// | `extend` | ends go up | ends go up | ends go up | `NoSession` |
///
/// An act that names a lower epoch than the gateway knows of the session is
/// refused with [`StaleEpoch`](protocol_spec::status::Status::StaleEpoch), before
/// anything else is looked at; so is a `stage` under the epoch of a session that
/// was released here. *Refused* without a name is
/// [`NoTransfer`](protocol_spec::status::Status::NoTransfer) or what fits better:
/// it changes nothing, and its text says what would cure it. A refusal never
/// holds a key.
///
/// **What a body must never do**, whatever happens to it: send one sequence number
/// of an SA twice, send a number outside the granted range, send anything under
/// the SAs of a session that is not Active, or let an inner packet leave the outer
/// side in clear.
///
/// [`crate::conformance`] checks all this against any body;
/// `embedded` is a whole body to read beside it, and `examples/` holds a small one.
pub trait GatewayPlugin: Send {
    /// What the gateway can carry.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn capabilities(&mut self) -> Result<Capabilities, Fault>;

    /// Begins to send [`GatewayEvent`]s into the sink, from now on. Called once
    /// after each (re)connection, before [`GatewayPlugin::list`], so that no
    /// change falls between the two.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn subscribe(&mut self, sink: EventSink) -> Result<(), Fault>;

    /// Every session that the gateway holds, whatever its state.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault>;

    /// GET: writes sessions down without touching their traffic. Works in every
    /// state but `Staged`.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault>;

    /// Says whether these sessions could be staged now: features, transforms,
    /// room, collisions of SPIs and inner addresses, configuration. Changes
    /// nothing. [`GatewayPlugin::stage`] asks itself the same again.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault>;

    /// PUT: admits, then installs sessions so that no packet can use them yet.
    /// Outbound counters are set to the granted base (the first packet carries
    /// it) before any policy can see the SA, and are never set again. Packets for
    /// the session that arrive while staged are held, within a bound, and neither
    /// encrypted nor decrypted. A refusal leaves nothing behind, and an older
    /// staging of the session as it was.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked; then nothing may be assumed and
    /// the daemon discards.
    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault>;

    /// Stops sessions: waits, bounded, until no IKE exchange is open (else
    /// `Busy`), lets nothing more out under their SAs and IKE SPIs, sends inner
    /// traffic to the target instead of dropping it, forwards outer packets
    /// unopened to the target, and reads the last counters. What stops them
    /// outlives the daemon. Of a session that is paused already the same finals
    /// are returned. A body that does not know how to reach the target refuses
    /// with `NoPeer` and touches nothing.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault>;

    /// Takes back a pause: the session goes on here as if nothing had happened,
    /// with outbound numbers above those in the order.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault>;

    /// Puts a staged session to use: sets the inbound windows, takes the guard
    /// away, steers its traffic here, sends what was held. Finals of another
    /// generation are refused with `GenerationChanged`, and finals with a number
    /// inside the granted range with `NoSequenceRoom`; the session stays staged.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault>;

    /// Ends a paused session silently after a move: the end user gets no Delete,
    /// its keys are forgotten; stragglers are still relayed to the target.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault>;

    /// Removes a staged session and gives back what was reserved for it; packets
    /// that were held for it go back to the source. Succeeds for one that is not
    /// there; refuses one that is active.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault>;

    /// Moves the end of granted ranges up; never down. What waits because a range
    /// was used up goes on.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault>;
}

/// Order to install a session without using it.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct Stage {
    /// The ownership that it will have.
    pub epoch: SessionEpoch,
    /// Where it comes from.
    pub source: Name,
    /// The transfer.
    pub batch: BatchId,
    /// Outbound numbers, for each Child SA.
    pub grants: Vec<GrantedRange>,
    /// The session, with its keys.
    pub context: Context,
}

/// Order to stop a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pause {
    /// Which.
    pub session: SessionId,
    /// Where its traffic goes instead.
    pub target: Name,
    /// What of it is staged there. If it is another by now nothing is stopped, for its
    /// packets would find nothing there, and the answer is
    /// [`Status::GenerationChanged`].
    /// `None` stops it as it is.
    pub generation: Option<Generation>,
}

impl Pause {
    /// Refuses to stop a session that is not what was staged.
    ///
    /// # Errors
    /// [`Status::GenerationChanged`].
    pub(crate) fn refuse_other(&self, now: Generation) -> Result<(), Refusal> {
        if self.generation.is_none_or(|staged| staged == now) {
            return Ok(());
        }
        let detail =
            format!("session {} changed since it was staged: stage it again", self.session);
        Err(Refusal::new(Status::GenerationChanged, detail))
    }
}

/// Order to go on with a paused session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Resume {
    /// Which.
    pub session: SessionId,
    /// The ownership under which it goes on.
    pub epoch: SessionEpoch,
    /// For an SA, the first number that may be used, where the target may have
    /// used lower ones. Empty where it cannot have used any.
    pub from: Vec<(SaRef, u64)>,
}

/// Order to put a staged session to use.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Activate {
    /// Which.
    pub session: SessionId,
    /// The ownership that was staged.
    pub epoch: SessionEpoch,
    /// Its last counters at the source.
    pub finals: Finals,
}

/// Order to end a session that has moved away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Release {
    /// Which.
    pub session: SessionId,
    /// The ownership that the target has.
    pub epoch: SessionEpoch,
    /// Who has it.
    pub target: Name,
}

/// Order to remove a staged session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Discard {
    /// Which.
    pub session: SessionId,
    /// The ownership that was staged.
    pub epoch: SessionEpoch,
}

/// Order to move the end of granted ranges.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Extend {
    /// Which.
    pub session: SessionId,
    /// The ownership that holds the grant.
    pub epoch: SessionEpoch,
    /// New ends; `u64::MAX` for all there are.
    pub ends: Vec<(SaRef, u64)>,
}

/// What a gateway tells by itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum GatewayEvent {
    /// A session came up, or was found.
    Up(SessionStatus),
    /// Its SPIs, keys, selectors or addresses changed (rekey, Child SA up or
    /// down, new address): contexts taken before are useless.
    Changed {
        /// Which.
        session: SessionId,
        /// Its new state.
        generation: Generation,
    },
    /// It ended: by the end user, by expiry, by the gateway.
    Down {
        /// Which.
        session: SessionId,
    },
    /// A packet came for an SPI that nobody here knows.
    UnknownSpi {
        /// The SPI.
        spi: u32,
        /// Who sent it.
        from: std::net::SocketAddr,
    },
    /// A granted range is used up; the SA sends nothing until it is extended.
    GrantExhausted {
        /// Which session.
        session: SessionId,
    },
    /// Events were lost; the daemon lists again.
    Overflow,
    /// It is gone without having ended: its end user must begin anew.
    Lost {
        /// Which.
        session: SessionId,
        /// How it came to that.
        reason: Refusal,
    },
    /// What is staged of it is of no use as it is: its source should keep it. An order to
    /// activate it all the same puts it right if that can be done, and is refused with
    /// [`Status::SessionEnded`] if it cannot.
    Unusable {
        /// Which.
        session: SessionId,
        /// Why.
        reason: Refusal,
    },
}

/// Where a body puts its events. Bounded: when the daemon does not keep up,
/// events are dropped and it is told to list again.
#[derive(Clone)]
pub struct EventSink {
    sender: SyncSender<GatewayEvent>,
    overflowed: Arc<AtomicBool>,
}

/// The daemon's end of an [`EventSink`].
pub struct EventSource {
    receiver: Receiver<GatewayEvent>,
    overflowed: Arc<AtomicBool>,
    over: AtomicBool,
}

impl EventSink {
    /// A sink that holds at most `bound` events, and its other end.
    pub fn bounded(bound: usize) -> (Self, EventSource) {
        let (sender, receiver) = sync_channel(bound);
        let overflowed = Arc::new(AtomicBool::new(false));
        let source = EventSource {
            receiver,
            overflowed: Arc::clone(&overflowed),
            over: AtomicBool::new(false),
        };
        (Self { sender, overflowed }, source)
    }

    /// Puts an event in. Returns `false` once nobody listens any more.
    pub fn emit(&self, event: GatewayEvent) -> bool {
        match self.sender.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.overflowed.store(true, Ordering::Release);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl EventSource {
    /// The next event, or `None` after `timeout` without one.
    pub fn next(&self, timeout: std::time::Duration) -> Option<GatewayEvent> {
        if self.overflowed.swap(false, Ordering::AcqRel) {
            return Some(GatewayEvent::Overflow);
        }
        match self.receiver.recv_timeout(timeout) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.over.store(true, Ordering::Release);
                None
            }
        }
    }

    /// Whether the sink is gone, so that no event will ever come.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// The gateway as a whole did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// It is gone, and with it every session that it held: the process ended.
    #[error("the gateway is gone: {0}")]
    Lost(String),
    /// It did not answer in time or answered nonsense; its sessions may be there.
    #[error("the gateway does not answer: {0}")]
    Unreachable(String),
}
