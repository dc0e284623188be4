//! Sending IKE from the gateway's own port while a daemon holds it: UDP headers
//! written by us into a raw socket.
//!
//! Needs CAP_NET_RAW. An IPsec policy that covers the gateway's outer address
//! itself would catch these packets, as it would any program's but the daemon's.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use thiserror::Error;

use super::{
    Association,
    exchange::{Outcome, Output, Request},
    packet,
    tap::Sighting,
};

/// Why nothing could be sent.
#[derive(Debug, Error)]
pub enum PortError {
    /// The socket could not be opened, bound or written to.
    #[error("cannot send IKE from {local} to {remote}: {error}{}", hint(.error))]
    Io {
        /// Our address and port.
        local: SocketAddr,
        /// The end user's.
        remote: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// One address is IPv4, the other IPv6, or the message exceeds a UDP datagram.
    #[error("no UDP datagram goes from {local} to {remote} with {octets} octets of IKE")]
    Unsendable {
        /// Our address and port.
        local: SocketAddr,
        /// The end user's.
        remote: SocketAddr,
        /// Length of the message.
        octets: usize,
    },
    /// The tap has ended, so no answer can be seen.
    #[error("the tap for IKE has ended: nothing that is received can be seen")]
    Deaf,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (CAP_NET_RAW is needed)",
        io::ErrorKind::AddrNotAvailable => " (give this host the address first)",
        _ => "",
    }
}

/// A path from one of the gateway's addresses and ports to an end user.
#[derive(Debug)]
pub struct Port {
    socket: Socket,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Port {
    /// Opens the path. `local` must be an address of this host, on whatever interface.
    ///
    /// # Errors
    /// [`PortError::Io`] without CAP_NET_RAW, address or route, [`PortError::Unsendable`]
    /// for two address families.
    pub fn open(local: SocketAddr, remote: SocketAddr) -> Result<Self, PortError> {
        let (local, remote) = (canonical(local), canonical(remote));
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(PortError::Unsendable { local, remote, octets: 0 });
        }
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(local), Type::RAW, Some(Protocol::UDP))?;
            // It would be given a copy of every UDP packet of this host: take none.
            socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
            socket.bind(&portless(local))?;
            socket.connect(&portless(remote))?;
            Ok(socket)
        };
        let socket = open().map_err(|error| PortError::Io { local, remote, error })?;
        Ok(Self { socket, local, remote })
    }

    /// Sends one IKE message; the non-ESP marker is put before it unless our port
    /// is 500.
    ///
    /// # Errors
    /// [`PortError::Io`] or [`PortError::Unsendable`].
    pub fn send(&self, message: &[u8]) -> Result<(), PortError> {
        let (local, remote) = (self.local, self.remote);
        let datagram = packet::datagram(local, remote, message).ok_or(PortError::Unsendable {
            local,
            remote,
            octets: message.len(),
        })?;
        self.socket.send(&datagram).map(|_| ()).map_err(|error| PortError::Io {
            local,
            remote,
            error,
        })
    }

    /// Drives a request to its end. `sightings` are those of the request's IKE SA;
    /// what is not its answer goes to `others`. Ends at the latest with the
    /// request's own deadline on the clock `now`.
    ///
    /// A message that cannot be sent now (no route for a moment) counts as lost.
    ///
    /// # Errors
    /// [`PortError::Deaf`] if the tap ends, [`PortError::Unsendable`].
    pub fn exchange(
        &self,
        request: &mut Request,
        association: &Association,
        sightings: &Receiver<Sighting>,
        now: impl Fn() -> Duration,
        mut others: impl FnMut(Sighting),
    ) -> Result<Outcome, PortError> {
        loop {
            match request.poll_output(now()) {
                Output::Send(message) => match self.send(&message) {
                    Err(error @ PortError::Io { .. }) => tracing::warn!(%error, "not sent"),
                    other => other?,
                },
                Output::Wait(until) => match sightings.recv_timeout(until.saturating_sub(now())) {
                    Ok(sighting) => {
                        if !request.handle_datagram(association, &sighting.message) {
                            others(sighting);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Err(PortError::Deaf),
                },
                Output::Done(outcome) => return Ok(outcome),
            }
        }
    }
}

/// Opcode BPF_RET of a constant.
const RETURN: u16 = 0x06;

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        // As it stands: a link-local address has its scope beside it.
        IpAddr::V6(_) => address,
    }
}

/// A raw socket knows no ports; IPv6 refuses one.
fn portless(mut address: SocketAddr) -> SockAddr {
    address.set_port(0);
    address.into()
}
