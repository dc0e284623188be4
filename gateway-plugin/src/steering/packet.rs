//! Which session a packet belongs to, from its headers.

use std::net::IpAddr;

const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AH: u8 = 51;
const DESTINATION: u8 = 60;
/// An IPv6 packet with more extension headers than this is nobody's.
const EXTENSIONS: usize = 8;

/// What steering sees of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) kind: Kind,
}

/// What it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ESP or AH, alone or in UDP, with its SPI.
    Protected([u8; 4]),
    /// IKE, with the initiator's SPI.
    Ike([u8; 8]),
    /// Anything else.
    Other,
}

/// Reads the headers of an IP packet; `None` for what is not one. `ike_ports` are
/// the ports without and with the non-ESP marker.
pub(super) fn see(packet: &[u8], ike_ports: (u16, u16)) -> Option<Seen> {
    let (source, destination, protocol, payload) = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let kind = payload.and_then(|payload| carried(protocol, payload, ike_ports));
    Some(Seen { source, destination, kind: kind.unwrap_or(Kind::Other) })
}

type Parts<'a> = (IpAddr, IpAddr, u8, Option<&'a [u8]>);

fn ipv4(packet: &[u8]) -> Option<Parts<'_>> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 15) * 4;
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let payload = packet.get(length.max(20)..).filter(|_| !later_fragment);
    let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<4>()?));
    Some((address(12)?, address(16)?, header[9], payload))
}

fn ipv6(packet: &[u8]) -> Option<Parts<'_>> {
    let header = packet.first_chunk::<40>()?;
    let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<16>()?));
    let (source, destination) = (address(8)?, address(24)?);
    let (mut next, mut rest) = (header[6], packet.get(40..)?);
    for _ in 0..EXTENSIONS {
        let length = match (next, rest) {
            (HOP_BY_HOP | ROUTING | DESTINATION, [_, length, ..]) => (usize::from(*length) + 1) * 8,
            (FRAGMENT, [_, _, high, low, ..]) => {
                if u16::from_be_bytes([*high, *low]) & 0xfff8 != 0 {
                    return Some((source, destination, next, None));
                }
                8
            }
            _ => return Some((source, destination, next, Some(rest))),
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
    Some((source, destination, next, None))
}

fn carried(protocol: u8, payload: &[u8], ike_ports: (u16, u16)) -> Option<Kind> {
    match protocol {
        ESP => Some(Kind::Protected(*payload.first_chunk()?)),
        AH => Some(Kind::Protected(*payload.get(4..)?.first_chunk()?)),
        UDP => {
            let [_, _, high, low, ..] = *payload.first_chunk::<8>()?;
            let port = u16::from_be_bytes([high, low]);
            let data = payload.get(8..)?;
            if port == ike_ports.0 {
                return Some(Kind::Ike(*data.first_chunk()?));
            }
            match *data.first_chunk::<4>()? {
                _ if port != ike_ports.1 => None,
                [0, 0, 0, 0] => Some(Kind::Ike(*data.get(4..)?.first_chunk()?)),
                spi => Some(Kind::Protected(spi)),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
