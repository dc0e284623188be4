//! Notify payloads (RFC 7296 section 3.10) of MOBIKE (RFC 4555), Message ID
//! synchronisation (RFC 6311) and NAT detection (RFC 7296 section 2.23).

use std::net::{IpAddr, SocketAddr};

use ring::digest;

use super::{
    IkeError,
    message::{Payload, payload},
};

/// Notify Message Types.
pub mod kind {
    /// Types below this are errors.
    pub const FIRST_STATUS: u16 = 16_384;
    /// The address pair was refused (RFC 4555).
    pub const UNACCEPTABLE_ADDRESSES: u16 = 40;
    /// A NAT where none may be (RFC 4555).
    pub const UNEXPECTED_NAT_DETECTED: u16 = 41;
    /// Hash of source address and port.
    pub const NAT_DETECTION_SOURCE_IP: u16 = 16_388;
    /// Hash of destination address and port.
    pub const NAT_DETECTION_DESTINATION_IP: u16 = 16_389;
    /// RFC 4555.
    pub const MOBIKE_SUPPORTED: u16 = 16_396;
    /// One more IPv4 address of the sender.
    pub const ADDITIONAL_IP4_ADDRESS: u16 = 16_397;
    /// One more IPv6 address of the sender.
    pub const ADDITIONAL_IP6_ADDRESS: u16 = 16_398;
    /// The sender has the address in the IP header alone.
    pub const NO_ADDITIONAL_ADDRESSES: u16 = 16_399;
    /// Use the addresses of this message's IP header from now on.
    pub const UPDATE_SA_ADDRESSES: u16 = 16_400;
    /// To be returned unchanged.
    pub const COOKIE2: u16 = 16_401;
    /// Addresses and ports as the sender sees them.
    pub const NO_NATS_ALLOWED: u16 = 16_402;
    /// RFC 6311.
    pub const MESSAGE_ID_SYNC_SUPPORTED: u16 = 16_420;
    /// RFC 6311.
    pub const REPLAY_COUNTER_SYNC_SUPPORTED: u16 = 16_421;
    /// RFC 6311.
    pub const MESSAGE_ID_SYNC: u16 = 16_422;
    /// RFC 6311.
    pub const REPLAY_COUNTER_SYNC: u16 = 16_423;
}

/// A notify payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Notify Message Type.
    pub kind: u16,
    /// Protocol ID, 0 where no SPI is given.
    pub protocol: u8,
    /// SPI of the SA that is meant; empty for the IKE SA.
    pub spi: Vec<u8>,
    /// Notification data.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notification about the IKE SA.
    pub fn new(kind: u16, data: Vec<u8>) -> Self {
        Self { kind, protocol: 0, spi: Vec::new(), data }
    }

    /// Reads a payload of type N.
    ///
    /// # Errors
    /// [`IkeError::Malformed`] if it is another payload, or shorter than it says.
    pub fn parse(found: &Payload) -> Result<Self, IkeError> {
        let short = IkeError::Malformed("a notify payload is too short");
        if found.kind != payload::NOTIFY {
            return Err(IkeError::Malformed("not a notify payload"));
        }
        let (&[protocol, spi, high, low], rest) =
            found.body.split_first_chunk::<4>().ok_or(short)?;
        let (spi, data) = rest.split_at_checked(usize::from(spi)).ok_or(short)?;
        Ok(Self {
            kind: u16::from_be_bytes([high, low]),
            protocol,
            spi: spi.to_vec(),
            data: data.to_vec(),
        })
    }

    /// The payload. An SPI longer than 255 octets is cut: there is none.
    pub fn payload(&self) -> Payload {
        let spi = &self.spi[..self.spi.len().min(usize::from(u8::MAX))];
        let [high, low] = self.kind.to_be_bytes();
        let mut body = vec![self.protocol, spi.len() as u8, high, low];
        body.extend_from_slice(spi);
        body.extend_from_slice(&self.data);
        Payload::new(payload::NOTIFY, body)
    }

    /// Whether it says that something failed.
    pub fn is_error(&self) -> bool {
        self.kind < kind::FIRST_STATUS
    }
}

/// The addresses beside the one in the IP header; they replace any list before
/// (RFC 4555 section 3.6).
pub fn additional_addresses(addresses: &[IpAddr]) -> Vec<Notify> {
    if addresses.is_empty() {
        return vec![Notify::new(kind::NO_ADDITIONAL_ADDRESSES, Vec::new())];
    }
    addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => {
                Notify::new(kind::ADDITIONAL_IP4_ADDRESS, address.octets().to_vec())
            }
            IpAddr::V6(address) => {
                Notify::new(kind::ADDITIONAL_IP6_ADDRESS, address.octets().to_vec())
            }
        })
        .collect()
}

/// The address in an ADDITIONAL_IP4_ADDRESS or ADDITIONAL_IP6_ADDRESS.
pub fn additional_address(notify: &Notify) -> Option<IpAddr> {
    match notify.kind {
        kind::ADDITIONAL_IP4_ADDRESS => {
            <[u8; 4]>::try_from(notify.data.as_slice()).ok().map(IpAddr::from)
        }
        kind::ADDITIONAL_IP6_ADDRESS => {
            <[u8; 16]>::try_from(notify.data.as_slice()).ok().map(IpAddr::from)
        }
        _ => None,
    }
}

/// NO_NATS_ALLOWED for a message from `source` to `destination` (RFC 4555
/// section 4.2.6).
pub fn no_nats_allowed(source: SocketAddr, destination: SocketAddr) -> Notify {
    let mut data = [address_octets(source.ip()), address_octets(destination.ip())].concat();
    data.extend_from_slice(&source.port().to_be_bytes());
    data.extend_from_slice(&destination.port().to_be_bytes());
    Notify::new(kind::NO_NATS_ALLOWED, data)
}

/// NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP for a message from
/// `source` to `destination`.
pub fn nat_detection(spis: (u64, u64), source: SocketAddr, destination: SocketAddr) -> [Notify; 2] {
    [
        Notify::new(kind::NAT_DETECTION_SOURCE_IP, nat_hash(spis, source)),
        Notify::new(kind::NAT_DETECTION_DESTINATION_IP, nat_hash(spis, destination)),
    ]
}

/// SHA-1 of SPIs, address and port (RFC 7296 section 2.23).
pub fn nat_hash((initiator, responder): (u64, u64), address: SocketAddr) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&initiator.to_be_bytes());
    context.update(&responder.to_be_bytes());
    context.update(&address_octets(address.ip()));
    context.update(&address.port().to_be_bytes());
    context.finish().as_ref().to_vec()
}

fn address_octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What a MESSAGE_ID_SYNC says (RFC 6311 section 4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageIds {
    /// Chosen by who asks, returned by who answers.
    pub nonce: [u8; 4],
    /// Message ID of the sender's next request: M1 in a request, P2 in a response.
    pub expected_send: u32,
    /// Message ID of the next request that the sender expects: P1 in a request,
    /// M2 in a response.
    pub expected_receive: u32,
}

impl MessageIds {
    /// As a notify.
    pub fn notify(&self) -> Notify {
        let data =
            [self.nonce, self.expected_send.to_be_bytes(), self.expected_receive.to_be_bytes()]
                .concat();
        Notify::new(kind::MESSAGE_ID_SYNC, data)
    }

    /// From a notify of this type with exactly its 12 octets.
    pub fn from_notify(notify: &Notify) -> Option<Self> {
        let data = <[u8; 12]>::try_from(notify.data.as_slice()).ok()?;
        if notify.kind != kind::MESSAGE_ID_SYNC {
            return None;
        }
        let [n0, n1, n2, n3, s0, s1, s2, s3, r0, r1, r2, r3] = data;
        Some(Self {
            nonce: [n0, n1, n2, n3],
            expected_send: u32::from_be_bytes([s0, s1, s2, s3]),
            expected_receive: u32::from_be_bytes([r0, r1, r2, r3]),
        })
    }
}

#[cfg(test)]
mod tests;
