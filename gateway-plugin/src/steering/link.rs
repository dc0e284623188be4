//! The interfaces of this host.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    ifaddrs::getifaddrs,
    libc,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

use super::{Config, SteeringError};

/// An Ethernet interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    address: LinkAddr,
}

/// The interfaces that steering works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Links {
    /// In the order of the configuration.
    pub(super) outer: Vec<Link>,
    pub(super) inner: Link,
}

impl Links {
    pub(super) fn find(config: &Config) -> Result<Self, SteeringError> {
        let outer = config.outer.iter().map(|name| Link::find(name, "outer"));
        let outer = outer.collect::<Result<_, _>>()?;
        Ok(Self { outer, inner: Link::find(&config.inner, "inner")? })
    }

    /// The outer interface with an index.
    pub(super) fn outer_with(&self, index: u32) -> Option<&Link> {
        self.outer.iter().find(|link| link.index == index)
    }
}

impl Link {
    /// Where a socket is bound that hears this interface alone.
    pub(super) fn place(&self) -> &LinkAddr {
        &self.address
    }

    /// The loopback interface, which has the first index of every host.
    pub(super) fn loopback(&self) -> Self {
        Self { index: 1, ..*self }
    }

    fn find(name: &str, key: &'static str) -> Result<Self, SteeringError> {
        let all = getifaddrs()
            .map_err(|error| SteeringError::kernel("list of interfaces", error.into()))?;
        let missing = || SteeringError::Config {
            key,
            why: format!(
                "there is no Ethernet interface `{name}`; `ip link` shows those there are"
            ),
        };
        all.filter(|interface| interface.interface_name == name)
            .find_map(|interface| {
                let address = *interface.address?.as_link_addr()?;
                if address.hatype() != libc::ARPHRD_ETHER {
                    return None;
                }
                let index = u32::try_from(address.ifindex()).ok()?;
                Some(Self { index, mac: address.addr()?, address })
            })
            .ok_or_else(missing)
    }
}

#[cfg(test)]
impl Link {
    /// The loopback interface with a MAC address, for tests of what is rendered.
    pub(super) fn pretended(mac: [u8; 6]) -> Self {
        let mut all = getifaddrs().unwrap();
        let address = all.find_map(|interface| interface.address?.as_link_addr().copied());
        Self { index: 1, mac, address: address.unwrap() }
    }
}

/// A socket that sends whole Ethernet frames and receives nothing.
pub(super) struct FrameSocket(OwnedFd);

impl FrameSocket {
    pub(super) fn open() -> Result<Self, SteeringError> {
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .map(Self)
            .map_err(|error| SteeringError::kernel("packet socket", error.into()))
    }

    /// Sends a frame; how the network takes it is the network's affair.
    pub(super) fn send(&self, link: &Link, frame: &[u8]) -> Result<(), SteeringError> {
        sendto(self.0.as_raw_fd(), frame, &link.address, MsgFlags::MSG_DONTWAIT)
            .map(drop)
            .map_err(|error| SteeringError::kernel("sending a frame", error.into()))
    }
}
