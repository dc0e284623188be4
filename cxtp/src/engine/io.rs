//! All that the engine can hear, and all that it can want.

use std::time::Duration;

use protocol_spec::{
    context::Context,
    id::{BatchId, GatewayEpoch, Generation, Identity, Name, RequestId, SessionEpoch, SessionId},
    message::{Lane, Message},
    profile::{Capabilities, Profile},
    status::Refusal,
    token::Order,
    transfer::{Finals, GrantedRange, Outcome, SaRef, SessionStatus, TransferMode},
};

use super::journal::Record;

/// The time of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Since a start that the driver chose; never runs backwards.
    pub monotonic: Duration,
    /// Seconds since 1970-01-01 UTC, for expiries of tokens and orders only.
    pub unix: u64,
}

/// What the engine can hear.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// Both connections with a peer are there, and its hello.
    PeerUp {
        /// Who, as its certificate says.
        peer: Identity,
        /// Which life of it.
        epoch: GatewayEpoch,
        /// What its gateway can carry; absent from controllers and clients.
        capabilities: Option<Capabilities>,
    },
    /// A connection with a peer is gone: what was sent may be lost.
    PeerDown {
        /// Who.
        peer: Identity,
    },
    /// A peer said something. Heartbeats, hellos and byes end in the transport.
    Message {
        /// Who, as its certificate says.
        from: Identity,
        /// What.
        message: Message,
    },
    /// The gateway did what it was told, or tells something.
    Gateway(GatewayReply),
    /// Records are on disk.
    Journaled {
        /// The ticket of [`Output::Journal`].
        ticket: u64,
    },
    /// Records could not be written.
    JournalFailed {
        /// The ticket of [`Output::Journal`].
        ticket: u64,
        /// Why, for a person.
        detail: String,
    },
    /// An operator or a job wants something.
    Command(Command),
}

/// What the gateway answers and tells. Results are per session.
#[derive(Debug)]
pub enum GatewayReply {
    /// All sessions that it holds, after a start or a lost event. Sessions that
    /// the engine knows and that are not here are gone.
    Listed(Vec<SessionStatus>),
    /// A session came up.
    Up(SessionStatus),
    /// A session's SPIs, keys, selectors or addresses changed.
    Changed(SessionId, Generation),
    /// A session ended.
    Down(SessionId),
    /// A session is gone without having ended, and why.
    Missing(SessionId, Refusal),
    /// What is staged of it can never be activated, and why.
    Unusable(SessionId, Refusal),
    /// A packet for an SPI that the gateway does not know.
    UnknownSpi(u32),
    /// The gateway is gone and all its sessions with it.
    Lost(String),
    /// Contexts.
    Snapshots(Vec<(SessionId, Result<Context, Refusal>)>),
    /// Answers to `Admit`, with the number of the question.
    Admitted(RequestId, Vec<(SessionId, Result<(), Refusal>)>),
    /// What was staged.
    Staged(Vec<(SessionId, SessionEpoch, Result<Generation, Refusal>)>),
    /// What was paused.
    Paused(Vec<(SessionId, Result<Finals, Refusal>)>),
    /// What was resumed.
    Resumed(Vec<(SessionId, Result<(), Refusal>)>),
    /// What was activated.
    Activated(Vec<(SessionId, SessionEpoch, Result<(), Refusal>)>),
    /// What was released.
    Released(Vec<(SessionId, Result<(), Refusal>)>),
    /// What was discarded.
    Discarded(Vec<(SessionId, SessionEpoch, Result<(), Refusal>)>),
}

/// What an operator, a job or the control API wants. Identifiers are random and
/// come from the driver.
#[derive(Debug)]
pub enum Command {
    /// Move sessions to another gateway. `Reactive` has the target pull them.
    Transfer {
        /// Names the batch.
        batch: BatchId,
        /// Which sessions.
        sessions: Vec<SessionId>,
        /// Where to.
        target: Name,
        /// How.
        mode: TransferMode,
    },
    /// Pull sessions from another gateway, with a controller's order.
    Pull {
        /// Names the request and the batch.
        request: RequestId,
        /// The signed order, which names sessions and source.
        order: Order,
    },
    /// Stop a batch: what is not committed goes on here.
    Cancel {
        /// Which.
        batch: BatchId,
    },
    /// Would the target take these sessions?
    Preflight {
        /// Names the question.
        request: RequestId,
        /// Which sessions.
        sessions: Vec<SessionId>,
        /// Which target.
        target: Name,
    },
    /// End the doubt about a session by the operator's word.
    Resolve {
        /// Names the request.
        request: RequestId,
        /// Which session.
        session: SessionId,
        /// How.
        resolution: Resolution,
    },
    /// GET into a file: pause, commit to `target`, hand the session out.
    Export {
        /// Names the request and the batch.
        request: RequestId,
        /// Which session.
        session: SessionId,
        /// For whom.
        target: Name,
    },
    /// PUT from a file that was sealed to this gateway.
    Import {
        /// Names the request.
        request: RequestId,
        /// What the file held.
        export: Box<Exported>,
    },
}

/// A session handed out by [`Command::Export`].
#[derive(Debug, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Exported {
    /// The transfer.
    pub batch: BatchId,
    /// Who gave it.
    pub source: Name,
    /// Who may take it.
    pub target: Name,
    /// The ownership that the target will have.
    pub epoch: SessionEpoch,
    /// The numbers granted.
    pub grants: Vec<GrantedRange>,
    /// Its last counters.
    pub finals: Finals,
    /// The session.
    pub context: Context,
}

/// How an operator ends a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// The target does not have it and never will (it was fenced): go on here,
    /// above everything that it was granted. Risks two owners if that is wrong.
    ResumeHere,
    /// The target has it: release here. Risks that nobody has it if that is wrong.
    ReleaseHere,
}

/// What the engine wants.
#[derive(Debug)]
pub enum Output {
    /// Nothing more until the deadline, if there is one, or the next input.
    Wait(Option<Duration>),
    /// Say this to a peer. Messages of one batch go on one stream, in order;
    /// what cannot be delivered is followed by `PeerDown`.
    Send {
        /// To whom.
        to: Identity,
        /// On which connection.
        lane: Lane,
        /// What.
        message: Message,
    },
    /// Tell the gateway.
    Gateway(GatewayCommand),
    /// Write these down, synced, and answer with the ticket.
    Journal {
        /// Comes back in [`Input::Journaled`].
        ticket: u64,
        /// The records.
        records: Vec<Record>,
    },
    /// Tell whoever watches.
    Event(Event),
    /// Answer a command.
    Reply {
        /// The request that is answered.
        request: RequestId,
        /// The answer.
        reply: Reply,
    },
}

/// One outbound sequence number for each SA.
pub type SaNumbers = Vec<(SaRef, u64)>;

/// Acts of the gateway; see the plugin trait for what each means.
#[derive(Debug)]
pub enum GatewayCommand {
    /// List all sessions.
    List,
    /// Write sessions down.
    Snapshot(Vec<SessionId>),
    /// Ask whether they could be staged.
    Admit(RequestId, Vec<Profile>),
    /// Admit and install.
    Stage(Vec<StageOrder>),
    /// Stop, with traffic going to the target.
    Pause(Vec<(SessionId, Name, Option<Generation>)>),
    /// Go on, with outbound numbers from those given.
    Resume(Vec<(SessionId, SessionEpoch, SaNumbers)>),
    /// Put to use.
    Activate(Vec<(SessionId, SessionEpoch, Finals)>),
    /// End silently.
    Release(Vec<(SessionId, SessionEpoch, Name)>),
    /// Remove what was staged.
    Discard(Vec<(SessionId, SessionEpoch)>),
    /// Move the end of granted ranges.
    Extend(Vec<(SessionId, SessionEpoch, SaNumbers)>),
}

/// One session to install.
#[derive(Debug)]
pub struct StageOrder {
    /// The ownership that it will have.
    pub epoch: SessionEpoch,
    /// Where it comes from.
    pub source: Name,
    /// The transfer.
    pub batch: BatchId,
    /// The numbers granted.
    pub grants: Vec<GrantedRange>,
    /// The session.
    pub context: Context,
}

/// What happened, for `watch`, logs and metrics. Holds no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session came up or was found.
    SessionUp(SessionStatus),
    /// A session ended.
    SessionDown(SessionId),
    /// A transfer of a session began at its source.
    TransferBegun {
        /// The batch.
        batch: BatchId,
        /// Which session.
        session: SessionId,
        /// Where to.
        target: Name,
        /// How.
        mode: TransferMode,
    },
    /// The source has committed: only the target may use the session now.
    Committed {
        /// Which session.
        session: SessionId,
        /// The ownership given away.
        epoch: SessionEpoch,
    },
    /// A transfer ended, as its source sees it.
    TransferEnded {
        /// The batch.
        batch: BatchId,
        /// Which session.
        session: SessionId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A session was taken over from a peer and is active here.
    Taken {
        /// Which session.
        session: SessionId,
        /// The ownership.
        epoch: SessionEpoch,
        /// From whom.
        source: Name,
    },
    /// A batch has ended for all its sessions.
    BatchEnded(BatchSummary),
    /// A session is committed and its target does not answer.
    InDoubt {
        /// Which session.
        session: SessionId,
        /// Who should have it.
        target: Name,
    },
    /// A session is gone.
    Lost {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: Refusal,
    },
    /// A packet for an unknown SPI came.
    UnknownSpi(u32),
    /// A peer did what the protocol does not allow, or asked for what it may not.
    PeerMisbehaved {
        /// Who.
        peer: Identity,
        /// What.
        reason: Refusal,
    },
}

/// The result of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BatchSummary {
    /// Which batch.
    pub batch: BatchId,
    /// Sessions that the target owns.
    pub moved: usize,
    /// Sessions that the target refused.
    pub refused: usize,
    /// Sessions whose transfer was stopped.
    pub aborted: usize,
    /// Sessions in doubt.
    pub in_doubt: usize,
    /// Sessions that no gateway has.
    pub lost: usize,
}

/// Answers to commands.
#[derive(Debug)]
pub enum Reply {
    /// It was begun, or done.
    Accepted,
    /// It was not.
    Refused(Refusal),
    /// The answer to a preflight: sessions that would not be taken, and why.
    Preflight(Vec<(SessionId, Refusal)>),
    /// The session that was asked for. Must be sealed before it touches a disk.
    Exported(Box<Exported>),
}
