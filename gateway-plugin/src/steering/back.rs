//! Sending packets that waited back to the gateway that they came from.

use super::{
    link::{FrameSocket, Link},
    packet::{Kind, see},
};

/// The way to another gateway on both sides; a side that is not known loses what
/// should have gone there.
pub(super) struct WayBack {
    pub(super) socket: FrameSocket,
    pub(super) outer: Option<(Link, [u8; 6])>,
    pub(super) inner: Option<(Link, [u8; 6])>,
    pub(super) ike_ports: (u16, u16),
}

impl WayBack {
    /// Sends a packet: what is protected outside, what is clear inside.
    pub(super) fn send(&self, packet: &[u8]) {
        let Some(seen) = see(packet, self.ike_ports) else { return };
        let way = if seen.kind == Kind::Other { &self.inner } else { &self.outer };
        let Some((link, to)) = way else { return };
        let mut frame = to.to_vec();
        frame.extend_from_slice(&link.mac);
        frame.extend_from_slice(if seen.source.is_ipv4() { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        frame.extend_from_slice(packet);
        if let Err(error) = self.socket.send(link, &frame) {
            tracing::debug!(%error, "a packet that waited could not be sent back");
        }
    }
}
