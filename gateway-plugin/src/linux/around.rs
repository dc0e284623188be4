//! The host around an embedded gateway: [`Network`] by the steering that the kernel's
//! own gateway has too, so that both move sessions to each other.
//!
//! ```text
//!   end users -- outer interface -- ESP in UDP, own clients -- outer socket --+
//!                    | steering: own clients, relay, guard                    | embedded
//!   inner network -- inner interface -- route -- device `cxtp-inner` ---------+ gateway
//! ```
//!
//! An inner packet is routed to a device that keeps nothing: it is read off there by a
//! packet socket, and is lost if nobody reads. What an end user sends is routed on as
//! any packet of this host.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{LinkAddr, bind},
};
use protocol_spec::{
    context::{Context, Prefix},
    id::{Name, SessionId},
    status::{Refusal, Status},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    config::Config,
    context,
    steer::{refusal, traffic},
};
use crate::{
    embedded::{Network, RelayKind, make_room},
    steering::{Neighbour, Steering, SteeringError, checksum},
    xfrm::Kernel,
};

/// The device that inner packets are routed to.
const DEVICE: &str = "cxtp-inner";
/// Room for ESP in UDP in 1500 octets outside.
const MTU: &str = "1400";
/// `ETH_P_ALL`: a packet socket sees what leaves a device only so.
const ALL: u16 = 3;
/// Whole IP packets with their headers.
const RAW: i32 = 255;
/// How soon a reader sees that it shall end.
const TICK: Duration = Duration::from_millis(100);
const ROOM: usize = 4 << 20;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// The networks of this host.
pub(crate) struct Around {
    steered: Mutex<Steered>,
    inner: Socket,
    out: [Socket; 2],
}

struct Steered {
    steering: Steering,
    neighbours: BTreeMap<Name, Neighbour>,
    routed: BTreeMap<SessionId, HashSet<Prefix>>,
}

impl Around {
    /// Takes the networks that a file of settings for `cxtp-linux` names.
    ///
    /// # Errors
    /// What is wrong with the file or missing on the host.
    pub(crate) fn open(settings: &Path) -> Result<Self, String> {
        let text = |error: SteeringError| error.to_string();
        let config = Config::load(settings)?;
        let neighbours = config.neighbours();
        let kernel = Kernel::open().map_err(|error| error.to_string())?;
        let mut steering = Steering::open(config.steering, Box::new(kernel)).map_err(text)?;
        // Sessions end with their process: what stands is of one that is gone.
        for (session, _) in steering.list().map_err(text)? {
            steering.forget(session).map_err(text)?;
        }
        let device = |error: io::Error| format!("device {DEVICE}: {error}");
        make_device().map_err(device)?;
        let steered = Steered { steering, neighbours, routed: BTreeMap::new() };
        Ok(Self {
            steered: Mutex::new(steered),
            inner: tap().map_err(device)?,
            out: [raw(Domain::IPV4).map_err(device)?, raw(Domain::IPV6).map_err(device)?],
        })
    }

    fn steered(&self) -> MutexGuard<'_, Steered> {
        self.steered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network for Around {
    fn reaches(&self, gateway: &Name) -> bool {
        self.steered().neighbours.contains_key(gateway)
    }

    fn expect(&self, id: SessionId, context: &Context) -> Result<(), Refusal> {
        let traffic = traffic(&context::flow(context)?);
        let mut steered = self.steered();
        steered.steering.restore(id).map_err(refusal)?;
        steered.steering.known(id, &traffic).map_err(refusal)?;
        steered.route(id, traffic.inner.into_iter().collect())
    }

    fn arrived(&self, id: SessionId, context: &Context) -> Result<(), Refusal> {
        let traffic = traffic(&context::flow(context)?);
        let mut steered = self.steered();
        steered.steering.known(id, &traffic).map_err(refusal)?;
        steered.steering.arrived(id).map_err(refusal)?;
        steered.route(id, traffic.inner.into_iter().collect())
    }

    fn divert(&self, id: SessionId, context: &Context, target: &Name) -> Result<(), Refusal> {
        let traffic = traffic(&context::flow(context)?);
        let Steered { steering, neighbours, .. } = &mut *self.steered();
        let target = neighbours.get(target).ok_or_else(|| {
            let detail = format!("`{target}` is not among the neighbours of this gateway");
            Refusal::new(Status::NoPeer, detail)
        })?;
        steering.divert(id, &traffic, target).map_err(refusal)
    }

    fn restore(&self, id: SessionId) -> Result<(), Refusal> {
        self.steered().steering.restore(id).map_err(refusal)
    }

    fn released(&self, id: SessionId) -> Result<(), Refusal> {
        self.steered().steering.released(id).map_err(refusal)
    }

    fn forget(&self, id: SessionId) -> Result<(), Refusal> {
        let mut steered = self.steered();
        steered.steering.forget(id).map_err(refusal)?;
        steered.route(id, HashSet::new())
    }

    fn maintain(&self) {
        let Steered { steering, neighbours, .. } = &mut *self.steered();
        match steering.repair() {
            Ok(0) => {}
            Ok(sessions) => {
                tracing::warn!(sessions, "somebody removed rules of ours; they are back");
            }
            Err(error) => tracing::warn!(%error, "the rules cannot be looked after"),
        }
        for neighbour in neighbours.values() {
            if let Err(error) = steering.prepare(neighbour) {
                tracing::debug!(neighbour = %neighbour.name, %error, "no way yet");
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (&self.inner).read(buffer)?;
        if let Some(packet) = buffer.get_mut(..length) {
            finish(packet);
        }
        Ok(length)
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        let no_packet = || io::Error::from(io::ErrorKind::InvalidData);
        let (_, to) = addresses(packet).ok_or_else(no_packet)?;
        let socket = &self.out[usize::from(to.is_ipv6())];
        socket.send_to(packet, &SocketAddr::new(to, 0).into()).map(drop)
    }

    fn pass_on(
        &self,
        id: SessionId,
        to: &Name,
        packet: &[u8],
        kind: RelayKind,
        (source, local): (SocketAddr, SocketAddr),
    ) {
        let wrapped = match kind {
            RelayKind::Inner => packet.to_vec(),
            RelayKind::Outer => datagram(source, local, packet),
        };
        let Steered { steering, neighbours, .. } = &mut *self.steered();
        let Some(neighbour) = neighbours.get(to) else { return };
        if let Err(error) = steering.pass_on(id, neighbour, &wrapped) {
            tracing::debug!(%error, "a packet that came late is lost");
        }
    }
}

impl Steered {
    /// Routes exactly these prefixes of a session to the device.
    fn route(&mut self, id: SessionId, wanted: HashSet<Prefix>) -> Result<(), Refusal> {
        let there = self.routed.remove(&id).unwrap_or_default();
        let change = |word: &str, prefix: &Prefix| {
            let version = if prefix.address.is_ipv4() { "-4" } else { "-6" };
            let to = format!("{}/{}", prefix.address, prefix.bits);
            ip(&[version, "route", word, &to, "dev", DEVICE]).map_err(|error| {
                Refusal::new(Status::GatewayFault, format!("route to {to}: {error}"))
            })
        };
        for prefix in there.difference(&wanted) {
            // The device may have lost it already.
            if let Err(refusal) = change("del", prefix) {
                tracing::debug!(%refusal, "a route was gone");
            }
        }
        for prefix in wanted.difference(&there) {
            change("replace", prefix)?;
        }
        if !wanted.is_empty() {
            self.routed.insert(id, wanted);
        }
        Ok(())
    }
}

fn ip(args: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {}: {said}", args.join(" "))))
}

/// A device that keeps nothing. Segments are cut before they come to it.
fn make_device() -> io::Result<()> {
    if ip(&["link", "show", DEVICE]).is_ok() {
        ip(&["link", "del", DEVICE])?;
    }
    ip(&["link", "add", DEVICE, "mtu", MTU, "type", "dummy"])?;
    ip(&["link", "set", DEVICE, "gso_max_segs", "1", "up"])
}

/// Reads what is routed to the device, without a link's header.
fn tap() -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(ALL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    let place = getifaddrs()?
        .filter(|of| of.interface_name == DEVICE)
        .find_map(|of| of.address?.as_link_addr().copied());
    let place: LinkAddr = place.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    bind(socket.as_raw_fd(), &place)?;
    socket.set_read_timeout(Some(TICK))?;
    make_room(&socket, ROOM);
    Ok(socket)
}

fn raw(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))
}

/// Source and destination of a packet.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
    match packet.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

/// The sum of the pseudo header of UDP and TCP.
fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let mut octets = Vec::with_capacity(40);
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => octets.extend(address.octets()),
            IpAddr::V6(address) => octets.extend(address.octets()),
        }
    }
    octets.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    octets.extend([0, 0, 0, protocol]);
    !checksum(&octets)
}

/// Completes a checksum that its sender left to the device: there the field holds the
/// sum of the pseudo header (what Linux calls partial), which this device has not seen
/// to. Any other packet stays as it is.
fn finish(packet: &mut [u8]) {
    let _ = try_finish(packet);
}

fn try_finish(packet: &mut [u8]) -> Option<()> {
    let (source, destination) = addresses(packet)?;
    let (header, protocol) = match source {
        IpAddr::V4(_) => (usize::from(packet.first()? & 0xf) * 4, *packet.get(9)?),
        IpAddr::V6(_) => (40, *packet.get(6)?),
    };
    let at = match protocol {
        UDP => 6,
        TCP => 16,
        _ => return None,
    };
    let payload = packet.get_mut(header..)?;
    let pseudo = pseudo(source, destination, protocol, payload.len());
    let field = payload.get(at..)?.first_chunk().map(|field| u16::from_be_bytes(*field))?;
    if field != pseudo {
        return None;
    }
    // The field itself is the rest of what is summed up.
    let sum = checksum(payload);
    let sum = if sum == 0 { u16::MAX } else { sum };
    payload.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// What came in a datagram, as the packet that it came in.
fn datagram(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len();
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let mut udp = Vec::with_capacity(length);
    udp.extend(source.port().to_be_bytes());
    udp.extend(destination.port().to_be_bytes());
    udp.extend(short(length));
    let (from, to) = (source.ip(), destination.ip());
    udp.extend(pseudo(from, to, UDP, length).to_be_bytes());
    udp.extend_from_slice(payload);
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend(short(20 + length));
            header.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (from, to) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(short(length));
            header.extend([UDP, 64]);
            for address in [from, to] {
                header.extend(match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                });
            }
            header
        }
    };
    packet.extend(udp);
    finish(&mut packet);
    packet
}

#[cfg(test)]
mod tests;
