//! Gratuitous ARP (RFC 826, RFC 5227 section 3) and unsolicited neighbour
//! advertisements (RFC 4861 section 7.2.6): telling a network that an address is
//! here now.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use super::{
    SteeringError,
    link::{FrameSocket, Link},
};

/// How often an address is announced: a frame may be lost.
const TIMES: u32 = 4;
/// Between two announcements of an address.
const PAUSE: Duration = Duration::from_millis(150);
/// Announcements that may wait for their repetition.
const BOUND: usize = 4096;

/// Sends announcements now and repeats them from a thread of its own, which ends
/// with it.
pub(super) struct Announcer {
    socket: FrameSocket,
    orders: SyncSender<Order>,
}

enum Order {
    /// Send this frame again, and again.
    Repeat(IpAddr, Link, Vec<u8>),
    /// The address is another's: say no more of it.
    Stop(IpAddr),
}

/// A frame that will be sent again.
struct Repetition {
    due: Instant,
    left: u32,
    address: IpAddr,
    link: Link,
    frame: Vec<u8>,
}

impl Announcer {
    pub(super) fn start() -> Result<Self, SteeringError> {
        let (sender, orders) = sync_channel(BOUND);
        let repeating = FrameSocket::open()?;
        thread::Builder::new()
            .name("cxtp-announce".to_owned())
            .spawn(move || repeat_all(&repeating, &orders))
            .map_err(|error| SteeringError::kernel("thread of announcements", error))?;
        Ok(Self { socket: FrameSocket::open()?, orders: sender })
    }

    /// Says on `link` that `address` is at `mac`.
    pub(super) fn announce(
        &self,
        link: &Link,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), SteeringError> {
        for frame in frames(link.mac, address, mac) {
            self.socket.send(link, &frame)?;
            // Full: enough announcements are under way; the first one was sent.
            let _ = self.orders.try_send(Order::Repeat(address, *link, frame));
        }
        Ok(())
    }

    /// Says no more of an address: a repetition after its new owner's announcement
    /// would take it back.
    pub(super) fn withdraw(&self, address: IpAddr) {
        // The thread takes orders at once; it is gone only when we are.
        let _ = self.orders.send(Order::Stop(address));
    }
}

/// Repeats each frame `TIMES - 1` times.
fn repeat_all(socket: &FrameSocket, orders: &Receiver<Order>) {
    let mut waiting: Vec<Repetition> = Vec::new();
    loop {
        let now = now();
        let mut next = Duration::from_secs(3600);
        waiting.retain_mut(|repetition| {
            if repetition.due <= now {
                // The interface may be gone; there is nobody to tell then.
                let _ = socket.send(&repetition.link, &repetition.frame);
                repetition.left -= 1;
                repetition.due = now + PAUSE;
            }
            next = next.min(repetition.due.saturating_duration_since(now));
            repetition.left > 0
        });
        match orders.recv_timeout(next) {
            Ok(Order::Repeat(address, link, frame)) => {
                let due = now + PAUSE;
                waiting.push(Repetition { due, left: TIMES - 1, address, link, frame });
            }
            Ok(Order::Stop(address)) => waiting.retain(|waits| waits.address != address),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock by which announcements are repeated")]
fn now() -> Instant {
    Instant::now()
}

/// The frames that announce an address. ARP is sent as request and as reply:
/// there are hosts that learn from only one of them.
pub(super) fn frames(own: [u8; 6], address: IpAddr, mac: [u8; 6]) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => vec![arp(own, address, mac, 1), arp(own, address, mac, 2)],
        IpAddr::V6(address) => vec![advertisement(own, address, mac)],
    }
}

/// The frame that asks who has an address and of which nobody learns anything: an
/// ARP probe (RFC 5227 section 2.1.1), or the question of duplicate address detection
/// (RFC 4862 section 5.4.2).
pub(super) fn question(own: [u8; 6], address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            let mut frame = arp(own, address, own, 1);
            frame[28..32].fill(0);
            frame
        }
        IpAddr::V6(address) => solicitation(own, address),
    }
}

fn arp(own: [u8; 6], address: Ipv4Addr, mac: [u8; 6], operation: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&own);
    frame.extend_from_slice(&[0x08, 0x06]);
    frame.extend_from_slice(&[0, 1, 0x08, 0x00, 6, 4, 0, operation]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(if operation == 1 { &[0; 6] } else { &[0xff; 6] });
    frame.extend_from_slice(&address.octets());
    frame
}

/// Override flag set, to all nodes, with the target's link-layer address.
fn advertisement(own: [u8; 6], address: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    const OVERRIDE: u8 = 0x20;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[2, 1]);
    message.extend_from_slice(&mac);
    let mut pseudo = Vec::from(address.octets());
    pseudo.extend_from_slice(&ALL_NODES.octets());
    pseudo.extend_from_slice(&[0, 0, 0, 32, 0, 0, 0, ICMPV6]);
    pseudo.extend_from_slice(&message);
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend_from_slice(&own);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    frame.extend_from_slice(&message);
    frame
}

/// From the unspecified address to the solicited-node group of `address`.
fn solicitation(own: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    const ICMPV6: u8 = 58;
    let [.., a, b, c] = address.octets();
    let mut group = [0; 16];
    group[..2].copy_from_slice(&[0xff, 2]);
    group[11..].copy_from_slice(&[1, 0xff, a, b, c]);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    let pseudo = [&[0; 16], &group[..], &[0, 0, 0, 24, 0, 0, 0, ICMPV6], &message].concat();
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
    frame.extend_from_slice(&own);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, ICMPV6, 255]);
    frame.extend_from_slice(&[0; 16]);
    frame.extend_from_slice(&group);
    frame.extend_from_slice(&message);
    frame
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(octets: &[u8]) -> u16 {
    !sum(octets)
}

/// The one's complement sum of 16-bit words.
pub(super) fn sum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
