//! charon's HA synchronisation messages: what they say ([`Message`]), the socket
//! that carries them ([`HaSocket`]), which of a charon's sessions belong together
//! ([`Segments`]) and how a session is put into another charon ([`put`]).
//!
//! A message is one UDP datagram of at most 65535 octets: version, kind, then
//! attributes, each a number and a value. Most values say no length of their own,
//! so a number that is not known ends the reading: everything behind it is noise.
//! Integers are big-endian; only the SPIs of Child SAs are not, see [`Spi`].

mod attribute;
mod message;
pub mod put;
mod segment;
mod socket;
mod value;

pub use self::{
    attribute::Attribute,
    message::{Datagram, HaError, Kind, MAX_ATTRIBUTES, MAX_OCTETS, Message, Version},
    segment::{Gate, MAX_SEGMENTS, Segments},
    socket::{DEFAULT_CHARON, DEFAULT_LOCAL, HaSocket, Life, Received, SocketError},
    value::{IkeId, IkeSpis, Spi, TrafficSelector},
};

#[cfg(test)]
mod tests;
