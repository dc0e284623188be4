//! A shared address on its way from one gateway to another (mode `Address`).
//!
//! A gateway that holds sessions of an address which another gateway still has
//! stands by: the address is on its loopback interface, so that what is relayed to
//! it is taken and what it sends is from that address, but it says nothing of it on
//! the network. Once a session is in use here and nobody there answers for the address
//! any more, it takes it.

use std::{io::Read as _, net::IpAddr, os::fd::AsRawFd as _, time::Duration};

use nix::{ifaddrs::getifaddrs, sys::socket::bind};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::{
    Mode, Steering, SteeringError,
    announce::question,
    link::{FrameSocket, Link},
    ruleset,
};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);
/// Questions that nobody answers until the address is taken.
const SILENCE: u8 = 3;
/// Frames that are read at a time.
const MOST: usize = 256;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// Neighbor advertisements only: next header ICMPv6, type 136.
const ADVERTISEMENTS: [SockFilter; 6] = [
    SockFilter::new(0x30, 0, 0, 20),
    SockFilter::new(0x15, 0, 3, 58),
    SockFilter::new(0x30, 0, 0, 54),
    SockFilter::new(0x15, 0, 1, 136),
    SockFilter::new(0x06, 0, 0, 0xffff),
    SockFilter::new(0x06, 0, 0, 0),
];

/// Listens for whoever answers for an address.
pub(super) struct Standby {
    pub(super) address: IpAddr,
    link: Link,
    asks: FrameSocket,
    hears: Socket,
    asked_at: Option<Duration>,
    silent: u8,
}

impl Standby {
    fn open(address: IpAddr, link: Link) -> Result<Self, SteeringError> {
        let told = |error| SteeringError::kernel("packet socket", error);
        let kind = if address.is_ipv4() { ETH_P_ARP } else { ETH_P_IPV6 };
        let protocol = Protocol::from(i32::from(kind.to_be()));
        let hears = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).map_err(told)?;
        if address.is_ipv6() {
            hears.attach_filter(&ADVERTISEMENTS).map_err(told)?;
        }
        hears.set_nonblocking(true).map_err(told)?;
        bind(hears.as_raw_fd(), link.place()).map_err(|error| told(error.into()))?;
        let asks = FrameSocket::open()?;
        Ok(Self { address, link, asks, hears, asked_at: None, silent: 0 })
    }

    /// Asks from time to time; says whether nobody has answered for long enough.
    fn is_free(&mut self, now: Duration) -> Result<bool, SteeringError> {
        if self.asked_at.is_some_and(|at| now.saturating_sub(at) < PAUSE) {
            return Ok(false);
        }
        let answered = self.answered();
        if answered || self.asked_at.is_none() {
            self.silent = 0;
        } else {
            self.silent += 1;
        }
        if self.silent >= SILENCE {
            return Ok(true);
        }
        self.asks.send(&self.link, &question(self.link.mac, self.address))?;
        self.asked_at = Some(now);
        Ok(false)
    }

    /// What was heard so far counts for nothing.
    fn begin_anew(&mut self) {
        self.answered();
        self.asked_at = None;
    }

    /// Whether somebody else spoke for the address since the last call.
    fn answered(&mut self) -> bool {
        let mut frame = [0; 128];
        let mut answered = false;
        for _ in 0..MOST {
            match (&self.hears).read(&mut frame) {
                Ok(length) => {
                    answered |= speaks_for(frame.get(..length).unwrap_or_default(), self.address)
                        .is_some_and(|mac| mac != self.link.mac);
                }
                Err(_) => break,
            }
        }
        answered
    }
}

/// The MAC address that a frame gives for an address.
fn speaks_for(frame: &[u8], address: IpAddr) -> Option<[u8; 6]> {
    let (mac, found) = match address {
        IpAddr::V4(address) => (frame.get(22..28)?, frame.get(28..32)? == address.octets()),
        IpAddr::V6(address) => (frame.get(6..12)?, frame.get(62..78)? == address.octets()),
    };
    mac.try_into().ok().filter(|_| found)
}

/// Whether an interface has an address.
fn has(interface: &str, address: IpAddr) -> Result<bool, SteeringError> {
    let all =
        getifaddrs().map_err(|error| SteeringError::kernel("list of addresses", error.into()))?;
    let mut here = all.filter(|of| of.interface_name == interface);
    Ok(here.any(|of| {
        let Some(found) = of.address else { return false };
        let v4 = found.as_sockaddr_in().map(|found| IpAddr::from(found.ip()));
        let v6 = found.as_sockaddr_in6().map(|found| IpAddr::from(found.ip()));
        v4.or(v6) == Some(address)
    }))
}

impl Steering {
    /// Whether this gateway has a shared address on an outer interface (mode
    /// `Address`).
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel cannot be asked.
    pub fn has_address(&self, address: IpAddr) -> Result<bool, SteeringError> {
        for interface in &self.config.outer {
            if has(interface, address)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Readies this gateway for sessions of a shared address that another gateway has
    /// (mode `Address`; in other modes, and of an address that is here, nothing is
    /// to be done).
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn stand_by(&mut self, address: IpAddr) -> Result<(), SteeringError> {
        let apart = self.config.mode != Mode::Address || !self.config.is_shared(address);
        if apart || self.standbys.iter().any(|s| s.address == address) {
            return Ok(());
        }
        if self.has_address(address)? {
            return Ok(());
        }
        let Some(link) = self.links.outer.first().copied() else { return Ok(()) };
        self.standbys.push(Standby::open(address, link)?);
        let done = ruleset::load(&self.config, &self.links, &self.quiet())
            .and_then(|()| self.routes.add_address(address, &link.loopback()));
        if done.is_err() {
            self.standbys.retain(|standby| standby.address != address);
        }
        done
    }

    /// Stands by where an earlier process did.
    pub(super) fn stand_by_again(&mut self) -> Result<(), SteeringError> {
        for address in self.config.shared.clone() {
            if self.config.mode == Mode::Address && has("lo", address)? {
                self.stand_by(address)?;
            }
        }
        Ok(())
    }

    /// Takes the addresses for which this gateway stands by, of those that are `in_use`
    /// by sessions here, if nobody answers for them any more. To be called a few times
    /// a second, with the time by any clock that only goes forward; asks the network at
    /// most four times a second.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn take_free(
        &mut self,
        now: Duration,
        in_use: impl Fn(IpAddr) -> bool,
    ) -> Result<(), SteeringError> {
        let mut free = Vec::new();
        for standby in &mut self.standbys {
            if !in_use(standby.address) {
                standby.begin_anew();
            } else if standby.is_free(now)? {
                free.push((standby.address, standby.link.loopback()));
            }
        }
        for (address, loopback) in free {
            self.take(address)?;
            self.standbys.retain(|standby| standby.address != address);
            self.routes.remove_address(address, &loopback)?;
            ruleset::load(&self.config, &self.links, &self.quiet())?;
        }
        Ok(())
    }

    /// Shared addresses of which nothing is said on the network.
    pub(super) fn quiet(&self) -> Vec<IpAddr> {
        self.standbys.iter().map(|standby| standby.address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::announce::frames;

    #[test]
    fn who_speaks_for_an_address() {
        let theirs = [2, 0, 0, 0, 0, 9];
        for address in ["192.0.2.10", "2001:db8::10"] {
            let address: IpAddr = address.parse().unwrap();
            let frame = frames(theirs, address, theirs).remove(0);
            assert_eq!(speaks_for(&frame, address), Some(theirs));
            assert_eq!(speaks_for(&frame[..20], address), None);
        }
        // The question of another gateway says nothing of where the address is.
        let address: IpAddr = "192.0.2.10".parse().unwrap();
        assert_eq!(speaks_for(&question(theirs, address), address), None);
    }
}
