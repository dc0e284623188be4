//! The registry of refusals and errors. A number never changes its meaning.

use std::fmt;

use bincode::{
    BorrowDecode, Decode, Encode,
    de::{BorrowDecoder, Decoder},
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use crate::limits::MAX_DETAIL;

/// Why a gateway does not do what it was asked for, with text for a person:
/// what is wrong, where, and what would cure it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode)]
pub struct Refusal {
    /// The registered reason.
    pub status: Status,
    /// What exactly, and what would cure it. At most 256 octets; never holds a
    /// key.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its explanation.
    pub fn new(status: Status, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        //= spec CXTP-8.2-2
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        Self { status, detail }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.name(), self.detail)
    }
}

impl std::error::Error for Refusal {}

macro_rules! registry {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// A registered status. Numbers below 0x100 concern the session, those
        /// from 0x100 the peer, those from 0x200 the state of the transfer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Status {
            $($(#[$doc])* $name,)*
            /// A number from a newer registry.
            Unknown(u16),
        }

        impl Status {
            /// Every registered status, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire.
            pub fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* Self::Unknown(code) => code }
            }

            /// The status with this number.
            pub fn from_code(code: u16) -> Self {
                match code { $($code => Self::$name,)* code => Self::Unknown(code) }
            }

            /// The word used in logs, the CLI and JSON.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Unknown(_) => "unknown-status" }
            }
        }
    };
}

registry! {
    /// The target knows no such configuration name.
    NoConfiguration = 0x01, "no-configuration";
    /// An algorithm or a key length that the target does not have.
    NoTransform = 0x02, "no-transform";
    /// A feature of the context that the target cannot carry.
    NoFeature = 0x03, "no-feature";
    /// The target is full.
    NoRoom = 0x04, "no-room";
    /// An inbound SPI or IKE SPI is in use at the target.
    SpiCollision = 0x05, "spi-collision";
    /// An inner address is in use at the target or lies in the range that it hands out.
    AddressCollision = 0x06, "address-collision";
    /// A reqid is in use at the target and cannot be changed.
    ReqidCollision = 0x07, "reqid-collision";
    /// Hooks or accounting would be lost.
    SideEffects = 0x08, "side-effects";
    /// No sequence numbers are left to grant: rekey instead of moving.
    NoSequenceRoom = 0x09, "no-sequence-room";
    /// The end user's address cannot be moved (no MOBIKE, or behind a NAT).
    NoSteering = 0x0a, "no-steering";
    /// An IKE exchange stayed open.
    Busy = 0x0b, "busy";
    /// No such session here.
    NoSession = 0x0c, "no-session";
    /// The session ended while it was moved.
    SessionEnded = 0x0d, "session-ended";
    /// The gateway itself failed at the act.
    GatewayFault = 0x0e, "gateway-fault";
    /// The gateway process or host that held the session is gone.
    GatewayLost = 0x0f, "gateway-lost";
    /// A context or its counters that contradict themselves or exceed a bound.
    BadContext = 0x10, "bad-context";

    /// The peer may not ask for this.
    NotAuthorized = 0x100, "not-authorized";
    /// An authorization token or order that does not verify.
    BadAuthorization = 0x101, "bad-authorization";
    /// An order or token that was used before, or is too old.
    Expired = 0x102, "expired";
    /// Too many requests, batches or sessions at a time.
    RateLimited = 0x103, "rate-limited";
    /// No common version.
    NoVersion = 0x104, "no-version";
    /// No such peer is configured or reachable.
    NoPeer = 0x105, "no-peer";
    /// The peer is shutting down.
    ShuttingDown = 0x106, "shutting-down";

    /// An epoch that is not above the known one.
    StaleEpoch = 0x200, "stale-epoch";
    /// The session changed since its context was taken.
    GenerationChanged = 0x201, "generation-changed";
    /// The transfer is not known here.
    NoTransfer = 0x202, "no-transfer";
    /// Somebody asked to stop it.
    Cancelled = 0x203, "cancelled";
    /// A deadline passed.
    TimedOut = 0x204, "timed-out";
    /// The connection was lost before the commit.
    ConnectionLost = 0x205, "connection-lost";
    /// The journal could not be written.
    JournalFault = 0x206, "journal-fault";
    /// Another transfer of the session is running.
    TransferRunning = 0x207, "transfer-running";
    /// The session is in doubt and must be resolved first.
    InDoubt = 0x208, "in-doubt";
}

impl Encode for Status {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.code().encode(encoder)
    }
}

impl<C> Decode<C> for Status {
    //= spec CXTP-8.2-1
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        u16::decode(decoder).map(Self::from_code)
    }
}

impl<C> Decode<C> for Refusal {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let status = Status::decode(decoder)?;
        let detail = String::decode(decoder)?;
        if detail.len() > MAX_DETAIL {
            return Err(DecodeError::Other("the explanation of a refusal is too long"));
        }
        Ok(Self { status, detail })
    }
}

macro_rules! borrow_as_owned {
    ($($name:ty),*) => {$(
        impl<'de, C> BorrowDecode<'de, C> for $name {
            fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
                decoder: &mut D,
            ) -> Result<Self, DecodeError> {
                Decode::decode(decoder)
            }
        }
    )*};
}

borrow_as_owned!(Status, Refusal);
