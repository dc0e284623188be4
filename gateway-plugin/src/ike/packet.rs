//! IKE in UDP in IP, as far as the two ends need it (RFC 768, RFC 3948).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The port of IKE without marker.
pub(super) const IKE_PORT: u16 = 500;
/// The port that IKE shares with ESP in UDP.
pub(super) const NATT_PORT: u16 = 4500;

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
/// Tells IKE from ESP on port 4500, where an SPI would stand (RFC 3948 section 2.2).
pub(super) const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// An IKE message with its addresses, found in an IP packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Without non-ESP marker.
    pub(super) message: &'a [u8],
}

/// The IKE message in an IP packet, if there is a whole one.
pub(super) fn find(packet: &[u8]) -> Option<Found<'_>> {
    let (source, destination, udp) = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let (&[s0, s1, d0, d1, l0, l1, _, _], _) = udp.split_first_chunk::<UDP_HEADER>()?;
    // Link padding may follow; a fragment is cut short and not read.
    let payload = udp.get(UDP_HEADER..usize::from(u16::from_be_bytes([l0, l1])))?;
    let (from, to) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let message = if [from, to].contains(&IKE_PORT) {
        payload
    } else if [from, to].contains(&NATT_PORT) {
        payload.strip_prefix(&NON_ESP_MARKER)?
    } else {
        return None;
    };
    Some(Found {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
        message,
    })
}

fn ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let (fixed, _) = packet.split_first_chunk::<20>()?;
    let [_, _, t0, t1, _, _, f0, f1, _, UDP, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *fixed else {
        return None;
    };
    if u16::from_be_bytes([f0, f1]) & 0x1fff != 0 {
        return None;
    }
    let payload = packet.get(header.max(20)..usize::from(u16::from_be_bytes([t0, t1])))?;
    Some((Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into(), payload))
}

fn ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let (&[_, _, _, _, p0, p1, UDP, _], rest) = packet.split_first_chunk::<8>()? else {
        return None;
    };
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let payload = rest.get(..usize::from(u16::from_be_bytes([p0, p1])))?;
    Some((Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), payload))
}

/// UDP header and payload with its checksum, the non-ESP marker before the message
/// unless our port is 500. `None` if it is too long, or of two address families.
pub(super) fn datagram(
    source: SocketAddr,
    destination: SocketAddr,
    message: &[u8],
) -> Option<Vec<u8>> {
    let marker: &[u8] = if source.port() == IKE_PORT { &[] } else { &NON_ESP_MARKER };
    let length = u16::try_from(UDP_HEADER + marker.len() + message.len()).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend_from_slice(&source.port().to_be_bytes());
    datagram.extend_from_slice(&destination.port().to_be_bytes());
    datagram.extend_from_slice(&length.to_be_bytes());
    datagram.extend_from_slice(&[0; 2]);
    datagram.extend_from_slice(marker);
    datagram.extend_from_slice(message);
    let mut sum = Checksum(0);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            sum.add(&from.octets());
            sum.add(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            sum.add(&from.octets());
            sum.add(&to.octets());
        }
        _ => return None,
    }
    sum.add(&[0, UDP]);
    sum.add(&length.to_be_bytes());
    sum.add(&datagram);
    datagram[6..8].copy_from_slice(&sum.finish().to_be_bytes());
    Some(datagram)
}

/// The Internet checksum (RFC 1071).
struct Checksum(u64);

impl Checksum {
    fn add(&mut self, octets: &[u8]) {
        for pair in octets.chunks(2) {
            let low = pair.get(1).copied().unwrap_or_default();
            self.0 += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }

    fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // 0 would mean that there is no checksum.
        match !(sum as u16) {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
