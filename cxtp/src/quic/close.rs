//! Why a connection or a stream is closed, as the other side is told.

use protocol_spec::{message::BadFrame, status::Refusal};
use quinn::VarInt;

/// Application error codes on QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Code {
    /// On purpose, after a Bye.
    Bye = 0x0,
    /// A frame or its body is not what the protocol says.
    Malformed = 0x1,
    /// A critical message type that the receiver does not know.
    UnknownCritical = 0x2,
    /// A body longer than any may be.
    TooLong = 0x3,
    /// The peer's role or name does not allow what it does.
    NotAuthorized = 0x4,
    /// The hello does not say what the certificate says.
    WrongName = 0x5,
    /// No common version.
    NoVersion = 0x6,
    /// A frame or a hello did not come to its end in time.
    Stalled = 0x7,
    /// The receiver of messages does not take them.
    Overrun = 0x8,
    /// A newer connection of the same peer took its place.
    Replaced = 0x9,
    /// The other connection of the pair is gone.
    PairLost = 0xa,
    /// Too many connections.
    NoRoom = 0xb,
}

/// The end of a connection: a code for the peer and words for both logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// `None` where the connection is gone already.
    pub(super) code: Option<Code>,
    pub(super) reason: String,
}

impl Ended {
    pub(super) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code: Some(code), reason: reason.into() }
    }

    /// The connection was lost or closed by the peer.
    pub(super) fn lost(error: impl std::fmt::Display) -> Self {
        Self { code: None, reason: error.to_string() }
    }

    pub(super) fn bad_frame(error: &BadFrame) -> Self {
        let code = match error {
            BadFrame::TooLong(_) => Code::TooLong,
            BadFrame::UnknownCritical(_) => Code::UnknownCritical,
            _ => Code::Malformed,
        };
        Self::new(code, error.to_string())
    }

    pub(super) fn refused(code: Code, refusal: &Refusal) -> Self {
        Self::new(code, refusal.to_string())
    }

    pub(super) fn close(&self, connection: &quinn::Connection) {
        if let Some(code) = self.code {
            connection.close(VarInt::from_u32(code as u32), self.reason.as_bytes());
        }
    }
}
