//! What gateways, controllers and clients say to each other. Names and roles are
//! RFC 4067's; the bodies are ours.
//!
//! Every message that speaks of sessions carries many of them, up to
//! [`crate::limits::MAX_ENTRIES`]; each is accepted or refused on its own.

mod wire;

use bincode::{Decode, Encode};
use zeroize::Zeroizing;

pub use self::wire::BadFrame;
use crate::{
    codec::{self, Malformed},
    context::Context,
    frame::{CRITICAL, HEADER},
    id::{BatchId, GatewayEpoch, Generation, Name, RequestId, SessionEpoch, SessionId},
    profile::{Capabilities, Profile},
    status::Refusal,
    token::{Order, Token},
    transfer::{Finals, GrantedRange, SaRef, TransferMode},
};

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;
/// ALPN protocol of [`VERSION`].
pub const ALPN: &[u8] = b"cxtp/1";

/// The version that two peers speak: the highest that both ranges (lowest,
/// highest) hold, or `None` where there is none.
//= spec CXTP-9.1-1
pub fn negotiate(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let sound = |(lowest, highest): (u16, u16)| lowest <= highest;
    let highest = ours.1.min(theirs.1);
    (sound(ours) && sound(theirs) && highest >= ours.0.max(theirs.0)).then_some(highest)
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident($body:ty) = $kind:literal, $critical:literal;)*) => {
        /// The type octet of a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $kind,)* }

        impl Kind {
            /// Every registered type, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The type with this number.
            pub fn from_octet(octet: u8) -> Option<Self> {
                match octet { $($kind => Some(Self::$name),)* _ => None }
            }

            /// The word used in logs.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            fn flags(self) -> u8 {
                match self { $(Self::$name => if $critical { CRITICAL } else { 0 },)* }
            }
        }

        /// A message.
        #[derive(Debug, PartialEq)]
        pub enum Message { $($(#[$doc])* $name($body),)* }

        impl Message {
            /// Its type.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$name(_) => Kind::$name,)* }
            }

            // Structures and enums are encoded as they are declared: the order of
            // fields and variants is the wire's.
            //= spec CXTP-3.3-1
            //= spec CXTP-3.3-2
            fn encode_after_header(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
                match self { $(Self::$name(body) => codec::encode_after(HEADER, body),)* }
            }

            fn decode_body(kind: Kind, body: &[u8]) -> Result<Self, Malformed> {
                match kind { $(Kind::$name => codec::decode(body).map(Self::$name),)* }
            }
        }
    };
}

//= spec CXTP-4.1-1
messages! {
    /// Context Transfer Activate Request: a client or controller asks a gateway
    /// to have sessions moved.
    Ctar(Ctar) = 0x01, true;
    /// Its answer, also the answer to a CT-Req that is refused.
    Ctaa(Ctaa) = 0x02, true;
    /// Context Transfer Data, final: the transfer is committed; what changed
    /// since the context was sent.
    Ctd(Ctd) = 0x03, true;
    /// Predictive Context Transfer Data: contexts to be staged.
    Pctd(Pctd) = 0x04, true;
    /// Context Transfer Data Reply: what the target did with each session.
    Ctdr(Ctdr) = 0x05, true;
    /// Context Transfer Cancel; always answered by a CTDR with the state reached.
    Ctc(Ctc) = 0x06, true;
    /// Context Transfer Request: the target asks for sessions.
    CtReq(CtReq) = 0x07, true;

    /// First message on a connection, each way.
    Hello(Hello) = 0x20, true;
    /// A sign of life, in a datagram.
    Heartbeat(Heartbeat) = 0x21, false;
    /// Asks how transfers stand.
    Query(Query) = 0x22, true;
    /// Its answer.
    QueryAnswer(QueryAnswer) = 0x23, true;
    /// Asks whether a target would take sessions; changes nothing.
    Preflight(Preflight) = 0x24, true;
    /// Its answer.
    PreflightAnswer(PreflightAnswer) = 0x25, true;
    /// Grants further sequence numbers.
    Grant(Grant) = 0x26, true;
    /// The sender closes the connection on purpose.
    Bye(Bye) = 0x27, false;

    /// What an owner tells a standby of its sessions.
    ReplicaDelta(ReplicaDelta) = 0x40, false;
    /// That the standby has it.
    ReplicaAck(ReplicaAck) = 0x41, false;
}

/// Asks for sessions to be moved from `source` to `target`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ctar {
    /// Names the request; a repetition has the same.
    pub request: RequestId,
    /// Where the sessions are.
    pub source: Name,
    /// Where they shall go.
    pub target: Name,
    /// How. Reactive: sent to the target, which pulls. Predictive: sent to the
    /// source, which pushes.
    pub mode: TransferMode,
    /// Which sessions.
    pub sessions: Vec<SessionId>,
    /// Why the sessions may be moved.
    pub authority: Authority,
}

/// Why a session may be pulled. A peer's word alone is never enough.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Authority {
    /// The end user asked for it.
    Token(Token),
    /// A controller ordered it, signed.
    Order(Order),
    /// An operator or controller ordered it at the source itself, which knows
    /// the order by this number.
    Known(RequestId),
    /// The asker is the standby of these sessions.
    Standby,
}

/// What became of a CTAR or CT-Req: empty `refused` if all was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ctaa {
    /// The request that is answered.
    pub request: RequestId,
    /// Sessions that will not be moved, and why.
    pub refused: Vec<(SessionId, Refusal)>,
}

/// Asks the source for sessions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CtReq {
    /// Names the request; the batch of the answer has the same octets.
    pub request: RequestId,
    /// Which sessions.
    pub sessions: Vec<SessionId>,
    /// Why they may be pulled.
    pub authority: Authority,
}

/// Contexts to be staged.
#[derive(Debug, PartialEq, Encode, Decode)]
//= spec CXTP-5.1-1
pub struct Pctd {
    /// The batch to which the entries belong.
    pub batch: BatchId,
    /// How the transfer began.
    pub mode: TransferMode,
    /// One for each session.
    pub entries: Vec<PctdEntry>,
}

/// A session to be staged.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct PctdEntry {
    /// The ownership that the target will have.
    pub epoch: SessionEpoch,
    /// The outbound numbers that the target may use, for each Child SA.
    pub grants: Vec<GrantedRange>,
    /// The session.
    pub context: Context,
}

/// Final data: the source will not use these sessions again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ctd {
    /// The batch to which the entries belong.
    pub batch: BatchId,
    /// One for each session.
    pub entries: Vec<CtdEntry>,
}

/// A committed session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CtdEntry {
    /// Which session.
    pub session: SessionId,
    /// The ownership that the target now has.
    pub epoch: SessionEpoch,
    /// Counters and Message IDs as they were when the source stopped.
    pub finals: Finals,
}

/// What the target did with each session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ctdr {
    /// The batch to which the entries belong.
    pub batch: BatchId,
    /// One for each session.
    pub entries: Vec<CtdrEntry>,
}

/// Where a session of a transfer stands at the target.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CtdrEntry {
    /// Which session.
    pub session: SessionId,
    /// The ownership of which the entry speaks.
    pub epoch: SessionEpoch,
    /// Where it stands.
    pub state: TargetState,
}

/// Where a transfer stands at the target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum TargetState {
    /// Admitted and installed, not in use.
    Staged {
        /// Of which state of the session.
        generation: Generation,
    },
    /// Not taken; nothing was kept. `known` is the newest epoch that the target
    /// knows of the session, so that a source which forgot can go above it.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Newest epoch known.
        known: SessionEpoch,
    },
    /// In use: the target owns the session.
    Active,
    /// The target has written down that it will never activate this epoch.
    Aborted(Refusal),
}

/// Cancels transfers. Sent by the source before the commit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ctc {
    /// The batch to which the entries belong.
    pub batch: BatchId,
    /// Sessions and the epochs that are cancelled.
    pub entries: Vec<(SessionId, SessionEpoch)>,
    /// Why.
    pub reason: Refusal,
}

/// Opens a connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Versions that the sender speaks, lowest and highest. Both sides use the
    /// highest common one.
    pub versions: (u16, u16),
    /// What the sender calls itself; must be what its certificate says.
    pub name: Name,
    /// Which life of the sender this is.
    pub epoch: GatewayEpoch,
    /// What this connection is for.
    pub lane: Lane,
    /// What its gateway can carry; absent from controllers and clients.
    pub capabilities: Option<Capabilities>,
}

/// What a connection is for: a batch never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Lane {
    /// Requests, queries, heartbeats.
    Control,
    /// Batches.
    Bulk,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Heartbeat {
    /// Counts the sender's beats.
    pub number: u64,
    /// Which life of the sender this is.
    pub epoch: GatewayEpoch,
    /// The newest beat of the receiver that the sender has seen, with its epoch.
    pub echo: Option<(u64, GatewayEpoch)>,
}

/// Asks how transfers stand, after a silence or a restart.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Query {
    /// Names the question.
    pub request: RequestId,
    /// Sessions, the epochs in question and their batches.
    pub transfers: Vec<(SessionId, SessionEpoch, BatchId)>,
}

/// How transfers stand at the answering target.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct QueryAnswer {
    /// The question.
    pub request: RequestId,
    /// One entry for each transfer that was asked for and has a settled state;
    /// one that is being activated is left out and answered when asked again.
    pub entries: Vec<CtdrEntry>,
}

/// Asks whether a target would take sessions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Preflight {
    /// Names the question.
    pub request: RequestId,
    /// The sessions.
    pub profiles: Vec<Profile>,
}

/// Whether a target would take sessions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PreflightAnswer {
    /// The question.
    pub request: RequestId,
    /// Those that it would not take, and why; the others it would.
    pub refused: Vec<(SessionId, Refusal)>,
}

/// Sequence numbers granted beyond those of the PCTD.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Grant {
    /// Session, the receiver's ownership of it, and the new end of the range of
    /// each SA. `u64::MAX` says that nobody else will ever use the SA.
    pub entries: Vec<(SessionId, SessionEpoch, NewEnds)>,
}

/// The new end of the granted range of each SA.
pub type NewEnds = Vec<(SaRef, u64)>;

/// Closes a connection on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Bye {
    /// Why.
    pub reason: Refusal,
}

/// What an owner tells a standby of its sessions, as they are now.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct ReplicaDelta {
    /// Counts the deltas of a connection, from one: one that is missed is noticed
    /// at the next (RFC 6027 section 3.6).
    pub number: u64,
    /// The standby has now been told of every session that the owner keeps there; what
    /// it holds beside them the owner does not know any more.
    pub complete: bool,
    /// One for each session.
    pub entries: Vec<ReplicaEntry>,
}

/// What a standby shall hold of a session.
#[derive(Debug, PartialEq, Encode, Decode)]
pub struct ReplicaEntry {
    /// Which session.
    pub session: SessionId,
    /// The owner's ownership of it; zero without a context.
    pub epoch: SessionEpoch,
    /// What is to be held, in place of what was. Absent: it ended, went to another
    /// owner or has another standby.
    pub context: Option<Context>,
}

/// Acknowledges deltas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReplicaAck {
    /// The standby holds what every delta of the connection says, up to this one.
    pub number: u64,
}

#[cfg(test)]
mod tests;
