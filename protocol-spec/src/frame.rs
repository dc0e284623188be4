//! The outer frame, written by hand so that any language can skip what it does
//! not know:
//!
//! ```text
//! octet 0     type
//! octet 1     flags: 0x80 critical, the others zero when sent, ignored when received
//! octets 2-3  zero when sent, ignored when received
//! octets 4-7  length of the body in octets, big endian
//! octets 8-   body
//! ```
//!
//! A receiver skips a frame whose type it does not know, unless the critical
//! flag is set: then it closes the connection.

use thiserror::Error;

use crate::limits::MAX_BODY;

/// Octets of a frame before its body.
pub const HEADER: usize = 8;
/// The receiver must know this type or close.
pub const CRITICAL: u8 = 0x80;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Message type; see [`crate::message::Kind`].
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Octets of the body.
    pub length: u32,
}

/// The body is longer than any body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a frame of type {kind:#04x} claims a body of {length} octets; at most {MAX_BODY} are allowed"
)]
pub struct TooLong {
    /// Message type.
    pub kind: u8,
    /// Claimed length.
    pub length: u32,
}

impl Header {
    /// Writes the header.
    pub fn to_octets(self) -> [u8; HEADER] {
        //= spec CXTP-3.1-1
        let [a, b, c, d] = self.length.to_be_bytes();
        [self.kind, self.flags, 0, 0, a, b, c, d]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`TooLong`] before anything is allocated.
    pub fn from_octets(octets: [u8; HEADER]) -> Result<Self, TooLong> {
        let [kind, flags, _, _, a, b, c, d] = octets;
        let length = u32::from_be_bytes([a, b, c, d]);
        //= spec CXTP-3.1-2
        if length as usize > MAX_BODY {
            return Err(TooLong { kind, length });
        }
        Ok(Self { kind, flags, length })
    }

    /// Whether a receiver that does not know the type must close.
    pub fn is_critical(self) -> bool {
        self.flags & CRITICAL != 0
    }
}
