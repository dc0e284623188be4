//! The IKE header and the chain of payloads (RFC 7296 sections 3.1 and 3.2).
//! Reading is strict: lengths must add up, and nothing is read that is not there.

use super::IkeError;

/// Octets of the IKE header.
pub const HEADER: usize = 28;
/// Octets of the generic payload header.
pub const PAYLOAD_HEADER: usize = 4;
/// Largest IKE message that is read or written: what UDP holds.
pub const MAX_MESSAGE: usize = 65_507;
/// Most payloads that are read in one chain.
const MAX_PAYLOADS: usize = 64;

/// Exchange type INFORMATIONAL.
pub const INFORMATIONAL: u8 = 37;

/// Payload types that are looked into.
pub mod payload {
    /// No next payload.
    pub const NONE: u8 = 0;
    /// Notify (N).
    pub const NOTIFY: u8 = 41;
    /// Delete (D).
    pub const DELETE: u8 = 42;
    /// Encrypted and Authenticated (SK).
    pub const ENCRYPTED: u8 = 46;
    /// Encrypted and Authenticated Fragment (SKF, RFC 7383).
    pub const FRAGMENT: u8 = 53;
}

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_RESPONSE: u8 = 0x20;
/// Major version 2, minor version 0.
const VERSION: u8 = 0x20;

/// The IKE header without its length, which follows from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// SPI of the original initiator.
    pub spi_initiator: u64,
    /// SPI of the original responder; 0 in the first message.
    pub spi_responder: u64,
    /// Type of the first payload.
    pub next: u8,
    /// Exchange type.
    pub exchange: u8,
    /// Sent by the original initiator of the IKE SA.
    pub from_initiator: bool,
    /// A response.
    pub response: bool,
    /// Message ID.
    pub message_id: u32,
}

impl Header {
    /// Reads the header of a whole datagram (without non-ESP marker).
    ///
    /// # Errors
    /// [`IkeError::Malformed`] if it is too short or its length field is not the
    /// datagram's length; [`IkeError::UnsupportedVersion`] for another major version.
    pub fn parse(datagram: &[u8]) -> Result<Self, IkeError> {
        let Some((
            &[
                i0,
                i1,
                i2,
                i3,
                i4,
                i5,
                i6,
                i7,
                r0,
                r1,
                r2,
                r3,
                r4,
                r5,
                r6,
                r7,
                next,
                version,
                exchange,
                flags,
                m0,
                m1,
                m2,
                m3,
                l0,
                l1,
                l2,
                l3,
            ],
            _,
        )) = datagram.split_first_chunk::<HEADER>()
        else {
            return Err(IkeError::Malformed("shorter than an IKE header"));
        };
        if version >> 4 != VERSION >> 4 {
            return Err(IkeError::UnsupportedVersion(version >> 4));
        }
        if usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])) != Ok(datagram.len()) {
            return Err(IkeError::Malformed("the length field is not the datagram's length"));
        }
        Ok(Self {
            spi_initiator: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            spi_responder: u64::from_be_bytes([r0, r1, r2, r3, r4, r5, r6, r7]),
            next,
            exchange,
            from_initiator: flags & FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            message_id: u32::from_be_bytes([m0, m1, m2, m3]),
        })
    }

    /// The length that the header at the beginning of some octets says; never 0.
    ///
    /// # Errors
    /// [`IkeError::Malformed`] if there is no whole header, or its length is less.
    pub fn length(octets: &[u8]) -> Result<usize, IkeError> {
        let field = octets.first_chunk::<HEADER>().and_then(|header| header.last_chunk());
        let length = field.and_then(|field| usize::try_from(u32::from_be_bytes(*field)).ok());
        length
            .filter(|length| *length >= HEADER)
            .ok_or(IkeError::Malformed("shorter than an IKE header"))
    }

    /// The header of a message of so many octets, the header included.
    ///
    /// # Errors
    /// [`IkeError::TooLong`] beyond [`MAX_MESSAGE`].
    pub fn write(&self, length: usize) -> Result<[u8; HEADER], IkeError> {
        let length = u32::try_from(length).map_err(|_| IkeError::TooLong)?;
        if length as usize > MAX_MESSAGE {
            return Err(IkeError::TooLong);
        }
        let flags = if self.from_initiator { FLAG_INITIATOR } else { 0 }
            | if self.response { FLAG_RESPONSE } else { 0 };
        let mut octets = [0; HEADER];
        octets[..8].copy_from_slice(&self.spi_initiator.to_be_bytes());
        octets[8..16].copy_from_slice(&self.spi_responder.to_be_bytes());
        octets[16..20].copy_from_slice(&[self.next, VERSION, self.exchange, flags]);
        octets[20..24].copy_from_slice(&self.message_id.to_be_bytes());
        octets[24..].copy_from_slice(&length.to_be_bytes());
        Ok(octets)
    }
}

/// A payload: its type and what stands behind its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Payload type.
    pub kind: u8,
    /// A receiver that does not know the type must refuse the message.
    pub critical: bool,
    /// The octets behind the payload header.
    pub body: Vec<u8>,
}

impl Payload {
    /// A payload that is not critical, as all of RFC 7296 are.
    pub fn new(kind: u8, body: Vec<u8>) -> Self {
        Self { kind, critical: false, body }
    }
}

/// A payload that is still where it was read.
pub(super) struct Found<'a> {
    pub(super) kind: u8,
    /// Type of the payload behind it; of an SK payload, of the first one inside.
    pub(super) next: u8,
    pub(super) critical: bool,
    pub(super) body: &'a [u8],
    /// What follows it.
    pub(super) rest: &'a [u8],
}

/// Reads one payload of type `kind`.
pub(super) fn next_payload(kind: u8, octets: &[u8]) -> Result<Found<'_>, IkeError> {
    let Some((&[next, flags, high, low], _)) = octets.split_first_chunk::<PAYLOAD_HEADER>() else {
        return Err(IkeError::Malformed("a payload header is missing"));
    };
    let (payload, rest) = octets
        .split_at_checked(usize::from(u16::from_be_bytes([high, low])))
        .ok_or(IkeError::Malformed("a payload is longer than the message"))?;
    let body = payload
        .get(PAYLOAD_HEADER..)
        .ok_or(IkeError::Malformed("a payload is shorter than its header"))?;
    Ok(Found { kind, next, critical: flags & 0x80 != 0, body, rest })
}

/// Reads a whole chain that starts with type `first` and fills `octets`.
///
/// # Errors
/// [`IkeError::Malformed`] if lengths do not add up, for more than 64 payloads,
/// and for an SK or SKF payload, which may only end an unprotected chain.
pub fn read_chain(first: u8, octets: &[u8]) -> Result<Vec<Payload>, IkeError> {
    let (mut kind, mut rest) = (first, octets);
    let mut payloads = Vec::new();
    while kind != payload::NONE {
        if payloads.len() == MAX_PAYLOADS {
            return Err(IkeError::Malformed("more than 64 payloads"));
        }
        if matches!(kind, payload::ENCRYPTED | payload::FRAGMENT) {
            return Err(IkeError::Malformed("an encrypted payload where none may be"));
        }
        let found = next_payload(kind, rest)?;
        payloads.push(Payload { kind, critical: found.critical, body: found.body.to_vec() });
        (kind, rest) = (found.next, found.rest);
    }
    if rest.is_empty() {
        Ok(payloads)
    } else {
        Err(IkeError::Malformed("octets behind the last payload"))
    }
}

/// Appends the chain of these payloads; the type of the first belongs into the
/// header before them.
///
/// # Errors
/// [`IkeError::TooLong`] if a payload does not fit its length field.
pub fn write_chain(payloads: &[Payload], octets: &mut Vec<u8>) -> Result<(), IkeError> {
    let nexts = payloads.iter().skip(1).map(|payload| payload.kind).chain([payload::NONE]);
    for (payload, next) in payloads.iter().zip(nexts) {
        let length = u16::try_from(PAYLOAD_HEADER + payload.body.len())
            .map_err(|_| IkeError::TooLong)?
            .to_be_bytes();
        octets.extend_from_slice(&[next, if payload.critical { 0x80 } else { 0 }]);
        octets.extend_from_slice(&length);
        octets.extend_from_slice(&payload.body);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
