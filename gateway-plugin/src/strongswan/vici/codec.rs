//! Packets and how they stand in the stream: a length of four octets, big
//! endian, then a packet type and what belongs to it. Reads and writes octets;
//! no socket, no clock.

use zeroize::Zeroizing;

use super::{
    error::{Malformed, Unwritable},
    section::{Octets, Section, write_name},
};

/// Most octets in a packet, as in charon.
pub const MAX_PACKET: usize = 512 * 1024;

const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const UNKNOWN_COMMAND: u8 = 2;
const REGISTER: u8 = 3;
const UNREGISTER: u8 = 4;
const CONFIRM: u8 = 5;
const UNKNOWN_EVENT: u8 = 6;
const EVENT: u8 = 7;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// `CMD_REQUEST`: a command with its arguments.
    Request {
        /// The command.
        name: String,
        /// Its arguments.
        message: Section,
    },
    /// `CMD_RESPONSE`: the answer to the command that is open.
    Response(Section),
    /// `CMD_UNKNOWN`: there is no such command.
    UnknownCommand,
    /// `EVENT_REGISTER`: from now on these events, please.
    Register(String),
    /// `EVENT_UNREGISTER`: no more of these events.
    Unregister(String),
    /// `EVENT_CONFIRM`: it is registered, or no more.
    Confirm,
    /// `EVENT_UNKNOWN`: there is no such event.
    UnknownEvent,
    /// `EVENT`.
    Event {
        /// Which.
        name: String,
        /// What happened.
        message: Section,
    },
}

impl Packet {
    /// What it is called in an error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Request { .. } => "CMD_REQUEST",
            Self::Response(_) => "CMD_RESPONSE",
            Self::UnknownCommand => "CMD_UNKNOWN",
            Self::Register(_) => "EVENT_REGISTER",
            Self::Unregister(_) => "EVENT_UNREGISTER",
            Self::Confirm => "EVENT_CONFIRM",
            Self::UnknownEvent => "EVENT_UNKNOWN",
            Self::Event { .. } => "EVENT",
        }
    }

    /// The packet with its length before it, ready for the stream. It may hold a
    /// secret, so it is zeroized.
    ///
    /// # Errors
    /// Something in it exceeds what the format can express or charon takes.
    pub fn write(&self) -> Result<Zeroizing<Vec<u8>>, Unwritable> {
        // Room for a usual request, so that no copy of a secret stays behind
        // when the buffer grows.
        let mut out = Zeroizing::new(Vec::with_capacity(64 * 1024));
        out.extend_from_slice(&[0; 4]);
        match self {
            Self::Request { name, message } => {
                out.push(REQUEST);
                write_name(&mut out, name)?;
                message.write(&mut out)?;
            }
            Self::Response(message) => {
                out.push(RESPONSE);
                message.write(&mut out)?;
            }
            Self::UnknownCommand => out.push(UNKNOWN_COMMAND),
            Self::Register(name) => {
                out.push(REGISTER);
                write_name(&mut out, name)?;
            }
            Self::Unregister(name) => {
                out.push(UNREGISTER);
                write_name(&mut out, name)?;
            }
            Self::Confirm => out.push(CONFIRM),
            Self::UnknownEvent => out.push(UNKNOWN_EVENT),
            Self::Event { name, message } => {
                out.push(EVENT);
                write_name(&mut out, name)?;
                message.write(&mut out)?;
            }
        }
        let length = out.len() - 4;
        if length > MAX_PACKET {
            return Err(Unwritable::Packet(length));
        }
        let header = u32::try_from(length).map_err(|_| Unwritable::Packet(length))?;
        for (place, octet) in out.iter_mut().zip(header.to_be_bytes()) {
            *place = octet;
        }
        Ok(out)
    }

    /// Reads a packet without the length before it.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with it.
    pub fn read(octets: &[u8]) -> Result<Self, Malformed> {
        if octets.len() > MAX_PACKET {
            return Err(Malformed::Oversized(octets.len()));
        }
        let mut rest = Octets(octets);
        let packet = match rest.next().ok_or(Malformed::Truncated)? {
            REQUEST => {
                let name = rest.name()?;
                return Ok(Self::Request { name, message: Section::read(rest.0)? });
            }
            RESPONSE => return Section::read(rest.0).map(Self::Response),
            EVENT => {
                let name = rest.name()?;
                return Ok(Self::Event { name, message: Section::read(rest.0)? });
            }
            UNKNOWN_COMMAND => Self::UnknownCommand,
            REGISTER => Self::Register(rest.name()?),
            UNREGISTER => Self::Unregister(rest.name()?),
            CONFIRM => Self::Confirm,
            UNKNOWN_EVENT => Self::UnknownEvent,
            kind => return Err(Malformed::PacketType(kind)),
        };
        if rest.0.is_empty() { Ok(packet) } else { Err(Malformed::Trailing) }
    }
}

/// Cuts a stream into packets, however it arrives. Holds at most one packet and
/// what was pushed behind it.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Octets at the front that were given out already.
    used: usize,
}

impl Frames {
    /// Nothing received yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what arrived. Call [`Frames::next`] until it gives `None` before
    /// pushing more.
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(octets);
    }

    /// The next packet that is complete, or `None` if more must arrive.
    ///
    /// # Errors
    /// The stream is not vici, or the peer errs: the connection is of no use any
    /// more. A length that is too large is seen before its octets are awaited.
    #[expect(clippy::should_implement_trait, reason = "more octets make it go on after a `None`")]
    pub fn next(&mut self) -> Result<Option<Packet>, Malformed> {
        let waiting = self.buffer.get(self.used..).unwrap_or_default();
        let Some((header, rest)) = waiting.split_first_chunk() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > MAX_PACKET {
            return Err(Malformed::Oversized(length));
        }
        let Some(octets) = rest.get(..length) else { return Ok(None) };
        let packet = Packet::read(octets)?;
        self.used += header.len() + length;
        Ok(Some(packet))
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.used == self.buffer.len()
    }
}

#[cfg(test)]
mod tests;
