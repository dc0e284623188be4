//! What an outsider can read of a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const UDP: u8 = 17;
const ESP: u8 = 50;
const AH: u8 = 51;
const IKE_PORT: u16 = 500;
const NAT_T_PORT: u16 = 4500;
/// Encrypted and Authenticated Fragment (RFC 7383).
const FRAGMENT: u8 = 53;

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) what: What<'a>,
}

/// What is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What<'a> {
    /// SPI and sequence number, of ESP or AH.
    Esp([u8; 8]),
    /// An IKE message.
    Ike(Ike<'a>),
    /// Anything else, by its protocol.
    Other(u8),
}

/// The header of an IKE message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ike<'a> {
    pub(super) initiator_spi: u64,
    pub(super) responder_spi: u64,
    pub(super) exchange: u8,
    pub(super) response: bool,
    pub(super) message_id: u32,
    /// Number of the fragment, or 0.
    pub(super) fragment: u16,
    /// The message, as far as it was captured.
    pub(super) octets: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet in an Ethernet frame; `None` for what is no IP.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_first_chunk::<14>()?;
        match [ethernet[12], ethernet[13]] {
            [0x08, 0x00] => Self::v4(packet),
            [0x86, 0xdd] => Self::v6(packet),
            _ => None,
        }
    }

    fn v4(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        let length = usize::from(header[0] & 0x0f) * 4;
        let first = u16::from_be_bytes([header[6] & 0x1f, header[7]]) == 0;
        let address = |at: usize| {
            Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
        };
        let content = packet.get(length..)?;
        let what = if first { What::parse(header[9], content) } else { What::Other(header[9]) };
        Some(Self { source: address(12), destination: address(16), what })
    }

    fn v6(packet: &'a [u8]) -> Option<Self> {
        let (header, content) = packet.split_first_chunk::<40>()?;
        let (source, destination) =
            (header[8..24].first_chunk::<16>()?, header[24..40].first_chunk::<16>()?);
        let what = What::parse(header[6], content);
        let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination));
        Some(Self { source: source.into(), destination: destination.into(), what })
    }
}

impl<'a> What<'a> {
    fn parse(protocol: u8, content: &'a [u8]) -> Self {
        let found = match protocol {
            ESP => content.first_chunk().map(|header| Self::Esp(*header)),
            AH => content.get(4..).and_then(|rest| rest.first_chunk()).map(|h| Self::Esp(*h)),
            UDP => Self::udp(content),
            _ => None,
        };
        found.unwrap_or(Self::Other(protocol))
    }

    fn udp(content: &'a [u8]) -> Option<Self> {
        let (header, data) = content.split_first_chunk::<8>()?;
        let ports = [[header[0], header[1]], [header[2], header[3]]].map(u16::from_be_bytes);
        if ports.contains(&NAT_T_PORT) {
            // RFC 3948: four zero octets stand before IKE, where ESP has its SPI.
            return match data {
                [0, 0, 0, 0, ike @ ..] => Ike::parse(ike).map(Self::Ike),
                // A keepalive.
                [0xff] => None,
                _ => data.first_chunk().map(|header| Self::Esp(*header)),
            };
        }
        ports.contains(&IKE_PORT).then(|| Ike::parse(data).map(Self::Ike)).flatten()
    }
}

impl<'a> Ike<'a> {
    fn parse(octets: &'a [u8]) -> Option<Self> {
        let header = octets.first_chunk::<28>()?;
        let spi = |at: usize| header[at..at + 8].first_chunk().map(|spi| u64::from_be_bytes(*spi));
        let number = header[20..24].first_chunk().map(|id| u32::from_be_bytes(*id))?;
        let fragment = match octets.get(32..34) {
            Some([high, low]) if header[16] == FRAGMENT => u16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        Some(Self {
            initiator_spi: spi(0)?,
            responder_spi: spi(8)?,
            exchange: header[18],
            response: header[19] & 0x20 != 0,
            message_id: number,
            fragment,
            octets,
        })
    }
}
