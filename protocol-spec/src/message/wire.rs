//! Messages in frames.

use thiserror::Error;
use zeroize::Zeroizing;

use super::{Kind, Message};
use crate::{
    codec::Malformed,
    frame::{HEADER, Header, TooLong},
    limits::{MAX_BODY, MAX_ENTRIES},
};

/// Why a frame is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadFrame {
    /// The body would be too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Fewer octets than a header or than the header says, or more.
    #[error("the frame ends before its length or after it")]
    Length,
    /// A critical type that this version does not know.
    #[error("unknown message of critical type {0:#04x}")]
    UnknownCritical(u8),
    /// The body is not what its type demands.
    #[error("the body of {} {reason}", kind.name())]
    Body {
        /// Message type.
        kind: Kind,
        /// What is wrong.
        reason: Malformed,
    },
    /// More entries than a message may have.
    #[error("{} has more than {MAX_ENTRIES} entries", .0.name())]
    TooManyEntries(Kind),
}

impl Message {
    /// Header and body, ready for a stream. Wiped when dropped.
    ///
    /// # Errors
    /// [`Malformed::Oversized`] if the body exceeds [`MAX_BODY`] or
    /// has more than [`MAX_ENTRIES`] entries: the sender splits the batch.
    pub fn to_frame(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let mut frame = self.encode_after_header()?;
        let length = frame.len().saturating_sub(HEADER);
        //= spec CXTP-3.1-3
        if length > MAX_BODY || self.entries() > MAX_ENTRIES {
            return Err(Malformed::Oversized);
        }
        let length = u32::try_from(length).map_err(|_| Malformed::Oversized)?;
        let header = Header { kind: self.kind() as u8, flags: self.kind().flags(), length };
        frame.iter_mut().zip(header.to_octets()).for_each(|(to, octet)| *to = octet);
        Ok(frame)
    }

    /// The message of a frame whose header was read from the stream, or `None`
    /// for a type that may be skipped.
    ///
    /// # Errors
    /// [`BadFrame`]; the connection is closed then.
    pub fn from_parts(header: Header, body: &[u8]) -> Result<Option<Self>, BadFrame> {
        if body.len() != header.length as usize {
            return Err(BadFrame::Length);
        }
        //= spec CXTP-3.1-4
        //= spec CXTP-3.1-5
        let Some(kind) = Kind::from_octet(header.kind) else {
            return if header.is_critical() {
                Err(BadFrame::UnknownCritical(header.kind))
            } else {
                Ok(None)
            };
        };
        let message =
            Self::decode_body(kind, body).map_err(|reason| BadFrame::Body { kind, reason })?;
        //= spec CXTP-3.4-4
        if message.entries() > MAX_ENTRIES {
            return Err(BadFrame::TooManyEntries(kind));
        }
        Ok(Some(message))
    }

    /// The message of a whole frame, as it stands in a datagram or a vector.
    ///
    /// # Errors
    /// [`BadFrame`], as above.
    pub fn from_frame(frame: &[u8]) -> Result<Option<Self>, BadFrame> {
        let (header, body) = frame.split_first_chunk::<HEADER>().ok_or(BadFrame::Length)?;
        Self::from_parts(Header::from_octets(*header)?, body)
    }

    /// How many sessions the message speaks of.
    pub fn entries(&self) -> usize {
        match self {
            Self::Ctar(m) => m.sessions.len(),
            Self::Ctaa(m) => m.refused.len(),
            Self::Ctd(m) => m.entries.len(),
            Self::Pctd(m) => m.entries.len(),
            Self::Ctdr(m) => m.entries.len(),
            Self::Ctc(m) => m.entries.len(),
            Self::CtReq(m) => m.sessions.len(),
            Self::Query(m) => m.transfers.len(),
            Self::QueryAnswer(m) => m.entries.len(),
            Self::Preflight(m) => m.profiles.len(),
            Self::PreflightAnswer(m) => m.refused.len(),
            Self::Grant(m) => m.entries.len(),
            Self::ReplicaDelta(m) => m.entries.len(),
            Self::Hello(_) | Self::Heartbeat(_) | Self::Bye(_) | Self::ReplicaAck(_) => 0,
        }
    }
}
