//! Values of attributes and how they are written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use protocol_spec::{context::Identification, key::KeyMaterial};
use zeroize::Zeroizing;

use super::message::{HaError, MAX_OCTETS};

/// Linux's numbers of the address families, which charon puts on the wire.
const FAMILY_4: u8 = 2;
const FAMILY_6: u8 = 10;
/// Traffic selector types (RFC 7296 section 3.13.1).
const RANGE_4: u8 = 7;
const RANGE_6: u8 = 8;

/// The two SPIs of an IKE SA: of the original initiator, of the responder.
pub type IkeSpis = (u64, u64);

/// Names an IKE SA to charon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IkeId {
    /// IKE version: 1 or 2. charon looks at it when it seeks the SA.
    pub version: u8,
    /// SPI of the original initiator.
    pub spi_initiator: u64,
    /// SPI of the original responder.
    pub spi_responder: u64,
    /// Whether the gateway is the original initiator. An IKE_ADD makes the SA so;
    /// charon looks at it when it seeks the SA.
    pub initiator: bool,
}

impl IkeId {
    /// Both SPIs.
    pub fn spis(&self) -> IkeSpis {
        (self.spi_initiator, self.spi_responder)
    }
}

/// SPI of a Child SA, as the kernel and RFC 4303 have it.
///
/// charon keeps it in network order and swaps it once more on its way out: on a
/// little-endian machine the octets of the message come reversed, on a big-endian
/// one they do not. Both are the native order of the machine on which charon runs,
/// which is ours too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(pub u32);

/// A range of addresses and ports of a Child SA (RFC 7296 section 3.13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// First and last port. `(65535, 0)` is OPAQUE.
    pub ports: (u16, u16),
    /// Whether the range stands for an address that was not known when the
    /// selector was made; charon keeps the word.
    pub dynamic: bool,
    /// First address.
    pub first: IpAddr,
    /// Last address, of the same family.
    pub last: IpAddr,
}

/// A value with one form on the wire.
pub(super) trait Value: Sized {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError>;
    fn write(&self, writer: &mut Writer) -> Result<(), HaError>;
}

/// Takes values off a datagram.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets, total: octets.len() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Octets taken so far.
    pub(super) fn at(&self) -> usize {
        self.total - self.rest.len()
    }

    pub(super) fn octet(&mut self) -> Result<u8, HaError> {
        self.array::<1>().map(|[octet]| octet)
    }

    fn take(&mut self, octets: usize) -> Result<&'a [u8], HaError> {
        let (taken, rest) =
            self.rest.split_at_checked(octets).ok_or(HaError::Truncated { at: self.total })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HaError> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or(HaError::Truncated { at: self.total })?;
        self.rest = rest;
        Ok(*taken)
    }

    fn chunk(&mut self) -> Result<&'a [u8], HaError> {
        let octets = u16::read(self)?;
        self.take(octets.into())
    }

    fn address(&mut self, six: bool) -> Result<IpAddr, HaError> {
        if six {
            Ok(Ipv6Addr::from(self.array::<16>()?).into())
        } else {
            Ok(Ipv4Addr::from(self.array::<4>()?).into())
        }
    }

    /// Checks something about the octet read last.
    fn ensure(&self, holds: bool, what: &'static str) -> Result<(), HaError> {
        if holds { Ok(()) } else { Err(HaError::BadValue { what, at: self.at() - 1 }) }
    }
}

/// Puts values into a datagram. Its room is taken at once: a buffer that grows
/// would leave copies of secrets behind.
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// Enough for every message that charon takes by default (`ha.buflen`).
    const ROOM: usize = 2048;

    pub(super) fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(Self::ROOM)))
    }

    pub(super) fn put(&mut self, octets: &[u8]) -> Result<(), HaError> {
        let total = self.0.len() + octets.len();
        if total > MAX_OCTETS {
            return Err(HaError::TooLong { octets: total });
        }
        if total > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(MAX_OCTETS));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(octets);
        Ok(())
    }

    pub(super) fn into_octets(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    fn chunk(&mut self, octets: &[u8]) -> Result<(), HaError> {
        let length =
            u16::try_from(octets.len()).map_err(|_| HaError::TooLong { octets: octets.len() })?;
        length.write(self)?;
        self.put(octets)
    }

    fn address(&mut self, address: IpAddr) -> Result<(), HaError> {
        match address {
            IpAddr::V4(address) => self.put(&address.octets()),
            IpAddr::V6(address) => self.put(&address.octets()),
        }
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Value for $integer {
            fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
                reader.array().map(Self::from_be_bytes)
            }
            fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
                writer.put(&self.to_be_bytes())
            }
        }
    )*};
}
integers!(u8, u16, u32, u64);

impl Value for Spi {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        reader.array().map(|octets| Self(u32::from_ne_bytes(octets)))
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        writer.put(&self.0.to_ne_bytes())
    }
}

impl Value for Vec<u8> {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        reader.chunk().map(<[u8]>::to_vec)
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        writer.chunk(self)
    }
}

impl Value for Vec<u16> {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        let (pairs, rest) = reader.chunk()?.as_chunks::<2>();
        reader.ensure(rest.is_empty(), "a list of transforms")?;
        Ok(pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        let octets: Vec<u8> = self.iter().flat_map(|number| number.to_be_bytes()).collect();
        writer.chunk(&octets)
    }
}

impl Value for KeyMaterial {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        reader.chunk().map(|octets| Self::new(octets.to_vec()))
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        writer.chunk(self.expose())
    }
}

impl Value for String {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        let end = reader.rest.iter().position(|octet| *octet == 0);
        let end = end.ok_or(HaError::Truncated { at: reader.total })?;
        let text = reader.take(end)?;
        reader.octet()?;
        let text = std::str::from_utf8(text);
        reader.ensure(text.is_ok(), "a name that is not UTF-8")?;
        Ok(text.unwrap_or_default().to_owned())
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        if self.contains('\0') {
            let at = writer.0.len();
            return Err(HaError::BadValue { what: "a name with a zero octet", at });
        }
        writer.put(self.as_bytes())?;
        writer.put(&[0])
    }
}

impl Value for IkeId {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        let version = reader.octet()?;
        reader.ensure(matches!(version, 1 | 2), "an IKE version")?;
        let (spi_initiator, spi_responder) = (u64::read(reader)?, u64::read(reader)?);
        let initiator = reader.octet()?;
        reader.ensure(initiator <= 1, "an initiator flag")?;
        Ok(Self { version, spi_initiator, spi_responder, initiator: initiator == 1 })
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        self.version.write(writer)?;
        self.spi_initiator.write(writer)?;
        self.spi_responder.write(writer)?;
        u8::from(self.initiator).write(writer)
    }
}

impl Value for Identification {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        let kind = reader.octet()?;
        let octets = reader.octet()?;
        Ok(Self { kind, data: reader.take(octets.into())?.to_vec() })
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        // One octet of length, though identities may be longer: charon itself cuts
        // the number off and writes an unreadable message.
        let octets = u8::try_from(self.data.len())
            .map_err(|_| HaError::TooLong { octets: self.data.len() })?;
        writer.put(&[self.kind, octets])?;
        writer.put(&self.data)
    }
}

impl Value for SocketAddr {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        let port = u16::read(reader)?;
        let family = reader.octet()?;
        reader.ensure(matches!(family, FAMILY_4 | FAMILY_6), "an address family")?;
        Ok(Self::new(reader.address(family == FAMILY_6)?, port))
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        self.port().write(writer)?;
        writer.put(&[if self.is_ipv6() { FAMILY_6 } else { FAMILY_4 }])?;
        writer.address(self.ip())
    }
}

impl Value for TrafficSelector {
    fn read(reader: &mut Reader<'_>) -> Result<Self, HaError> {
        let kind = reader.octet()?;
        reader.ensure(matches!(kind, RANGE_4 | RANGE_6), "a traffic selector type")?;
        let protocol = reader.octet()?;
        let ports = (u16::read(reader)?, u16::read(reader)?);
        let dynamic = reader.octet()?;
        reader.ensure(dynamic <= 1, "a dynamic flag")?;
        let six = kind == RANGE_6;
        let (first, last) = (reader.address(six)?, reader.address(six)?);
        Ok(Self { protocol, ports, dynamic: dynamic == 1, first, last })
    }
    fn write(&self, writer: &mut Writer) -> Result<(), HaError> {
        if self.first.is_ipv6() != self.last.is_ipv6() {
            let at = writer.0.len();
            return Err(HaError::BadValue { what: "a range of two address families", at });
        }
        let kind = if self.first.is_ipv6() { RANGE_6 } else { RANGE_4 };
        writer.put(&[kind, self.protocol])?;
        self.ports.0.write(writer)?;
        self.ports.1.write(writer)?;
        writer.put(&[u8::from(self.dynamic)])?;
        writer.address(self.first)?;
        writer.address(self.last)
    }
}
