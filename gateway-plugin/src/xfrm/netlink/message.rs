//! Netlink messages as octets: a builder for what is sent, and readers that
//! trust no length for what is received.

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST};
use zeroize::Zeroizing;

/// Octets of a message header.
pub const HEADER_LEN: usize = 16;
/// Room of a new message: an SA with its keys fits.
const ROOM: usize = 640;
/// Bits of an attribute's type that are flags (nested, network byte order).
const ATTRIBUTE_FLAGS: u16 = 0xc000;
const NESTED: u16 = 0x8000;

/// One request. Its buffer is wiped when dropped, also when it has to grow:
/// it may hold keys. It cannot be printed.
pub struct Message {
    octets: Zeroizing<Vec<u8>>,
    oversized: bool,
}

impl Message {
    /// A request of a type (`nlmsg_type`) with flags beside `NLM_F_REQUEST`,
    /// which is always set.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut message =
            Self { octets: Zeroizing::new(Vec::with_capacity(ROOM)), oversized: false };
        message.octets.extend_from_slice(&[0; 4]);
        message.octets.extend_from_slice(&kind.to_ne_bytes());
        message.octets.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        message.octets.extend_from_slice(&[0; 8]);
        message
    }

    /// Adds octets as they are: the fixed part of a body.
    pub fn octets(&mut self, octets: &[u8]) -> &mut Self {
        self.reserve(octets.len() + 4);
        self.octets.extend_from_slice(octets);
        self.align();
        self
    }

    /// Adds the fixed part of a body.
    pub fn body(&mut self, part: &impl Emitable) -> &mut Self {
        self.emit(part);
        self.align();
        self
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.attribute_of(kind, &[value])
    }

    /// Adds an attribute whose value is made of several parts.
    pub fn attribute_of(&mut self, kind: u16, parts: &[&[u8]]) -> &mut Self {
        let value: usize = parts.iter().map(|part| part.len()).sum();
        self.header(kind, value);
        for part in parts {
            self.octets.extend_from_slice(part);
        }
        self.align();
        self
    }

    /// Adds an attribute that holds a structure.
    pub fn structure(&mut self, kind: u16, value: &impl Emitable) -> &mut Self {
        self.header(kind, value.buffer_len());
        self.emit(value);
        self.align();
        self
    }

    /// Adds an attribute that holds a number in this host's byte order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute that holds the attributes added in `fill`.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.octets.len();
        self.header(kind | NESTED, 0);
        fill(self);
        match u16::try_from(self.octets.len() - start) {
            Ok(len) => self.octets[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.oversized = true,
        }
        self
    }

    /// Length so far, header included.
    pub fn len(&self) -> usize {
        self.octets.len()
    }

    /// Whether there is nothing behind the header.
    pub fn is_empty(&self) -> bool {
        self.len() <= HEADER_LEN
    }

    /// Whether a part was too long for its length field; such a message is not
    /// sent.
    pub(super) fn is_oversized(&self) -> bool {
        self.oversized || u32::try_from(self.len()).is_err()
    }

    /// Whether the kernel was asked to answer with a result.
    pub fn wants_ack(&self) -> bool {
        u16::from_ne_bytes([self.octets[6], self.octets[7]]) & NLM_F_ACK != 0
    }

    /// The message's octets with this sequence number, ready to send.
    pub(super) fn finish(&self, sequence: u32, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&self.octets);
        let len = (self.octets.len() as u32).to_ne_bytes();
        into[start..start + 4].copy_from_slice(&len);
        into[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    /// The message's octets with this sequence number, for those who send them
    /// themselves.
    pub fn to_octets(&self, sequence: u32) -> Zeroizing<Vec<u8>> {
        let mut octets = Zeroizing::new(Vec::with_capacity(self.len()));
        self.finish(sequence, &mut octets);
        octets
    }

    fn header(&mut self, kind: u16, value: usize) {
        self.reserve(value + 8);
        let len = u16::try_from(value + 4).unwrap_or_else(|_| {
            self.oversized = true;
            u16::MAX
        });
        self.octets.extend_from_slice(&len.to_ne_bytes());
        self.octets.extend_from_slice(&kind.to_ne_bytes());
    }

    fn emit(&mut self, part: &impl Emitable) {
        let start = self.octets.len();
        self.reserve(part.buffer_len() + 4);
        self.octets.resize(start + part.buffer_len(), 0);
        part.emit(&mut self.octets[start..]);
    }

    fn align(&mut self) {
        let len = self.octets.len().next_multiple_of(4);
        self.octets.resize(len, 0);
    }

    /// Makes room. A vector that grows by itself leaves an unwiped copy behind.
    fn reserve(&mut self, more: usize) {
        let len = self.octets.len() + more;
        if len > self.octets.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(len.next_power_of_two()));
            larger.extend_from_slice(&self.octets);
            self.octets = larger;
        }
    }
}

/// One message that came from the kernel.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// Sequence number of the request that it answers; 0 in events.
    pub sequence: u32,
    /// What stands behind the header.
    pub payload: &'a [u8],
}

/// The messages of one datagram.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(super) fn of(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Received<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some(header) = rest.first_chunk::<HEADER_LEN>() else {
            return Some(Err(Malformed("a message shorter than its header")));
        };
        let len = word(header, 0) as usize;
        let Some(payload) = rest.get(HEADER_LEN..len) else {
            return Some(Err(Malformed("a message with a wrong length")));
        };
        self.rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: word(header, 8),
            payload,
        }))
    }
}

/// The attributes in some octets: each type without its flag bits, and value.
#[derive(Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads attributes behind `skip` octets of fixed body.
    ///
    /// # Errors
    /// [`Malformed`] where there are not so many octets.
    pub fn after(payload: &'a [u8], skip: usize) -> Result<Self, Malformed> {
        let rest = payload.get(skip..).ok_or(Malformed("a body that is too short"))?;
        Ok(Self { rest })
    }

    /// Reads the attributes of a nested one.
    pub fn of(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some(header) = rest.first_chunk::<4>() else {
            return Some(Err(Malformed("an attribute shorter than its header")));
        };
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(value) = rest.get(4..len) else {
            return Some(Err(Malformed("an attribute with a wrong length")));
        };
        self.rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((u16::from_ne_bytes([header[2], header[3]]) & !ATTRIBUTE_FLAGS, value)))
    }
}

/// Octets from the kernel that are not what they should be; says what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel sent {0}")]
pub struct Malformed(pub &'static str);

pub(super) fn word(octets: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}
