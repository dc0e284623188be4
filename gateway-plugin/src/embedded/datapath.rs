//! Packets: three threads that receive (outer, inner, relay) and a courier that
//! greets and announces.
//!
//! Every buffer leaves [`RELAY`] octets free in front of the packet, so that a
//! packet is relayed, sealed or opened where it stands:
//!
//! ```text
//! relay socket   | relay header 24      | packet ...
//! outer socket   | (free)               | ESP header 16 | inner packet ...
//! inner socket   | (free) | ESP header 16 -> 24         | inner packet ...
//! ```

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Receiver,
    },
    thread::{Builder, JoinHandle},
};

use protocol_spec::id::{Name, SessionId};

mod errands;

pub(crate) use errands::Errand;

use super::{
    config::Sabotage,
    counters::count,
    esp::{self, HEADER, TAILROOM},
    gateway::{Gateway, LOOK_UP, Socket},
    network::Network,
    packet::Flow,
    session::{Dropped, Guts, Held, Phase},
    table::lock,
    wire::{Kind, MAX_HOPS, RELAY, RelayHeader},
};
use crate::plugin::GatewayEvent;

/// Largest UDP payload.
const DATAGRAM: usize = 65_507;
/// Where an ESP packet begins so that its payload begins where an inner packet does.
const ESP_AT: usize = RELAY - HEADER;
/// Where a packet comes from that has no sender but a network.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// How a packet came here.
#[derive(Clone, Copy)]
enum Via {
    Direct,
    Relayed { neighbour: SocketAddr, hops: u8 },
}

impl Via {
    fn hops(self) -> u8 {
        match self {
            Self::Direct => 0,
            Self::Relayed { hops, .. } => hops,
        }
    }
}

pub(crate) fn start(
    gateway: &Arc<Gateway>,
    errands: Receiver<Errand>,
    threads: &mut Vec<JoinHandle<()>>,
) -> std::io::Result<()> {
    let mut spawn = |name: &str, body: Box<dyn FnOnce(&Gateway) + Send>| {
        let gateway = Arc::clone(gateway);
        let thread = Builder::new().name(name.to_owned()).spawn(move || body(&gateway))?;
        threads.push(thread);
        Ok::<_, std::io::Error>(())
    };
    spawn("outer", Box::new(|gateway| gateway.receive(&gateway.sockets.outer, Gateway::outer)))?;
    spawn(
        "inner",
        Box::new(|gateway| match &gateway.network {
            Some(network) => gateway.receive_inner(network.as_ref()),
            None => gateway.receive(&gateway.sockets.inner, Gateway::inner),
        }),
    )?;
    spawn("relay", Box::new(|gateway| gateway.receive(&gateway.sockets.relay, Gateway::relayed)))?;
    spawn("courier", Box::new(move |gateway| gateway.run_errands(&errands)))
}

impl Gateway {
    fn stopped(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Receives until the gateway stops. The relay socket's own header lies where
    /// the others have room for one.
    fn receive(&self, socket: &Socket, handle: fn(&Self, &mut [u8], usize, SocketAddr)) {
        let at = if std::ptr::eq(socket, &self.sockets.relay) { 0 } else { RELAY };
        let mut buffer = vec![0; RELAY + DATAGRAM + TAILROOM];
        while !self.stopped() {
            match socket.udp.recv_from(&mut buffer[at..RELAY + DATAGRAM]) {
                Ok((length, from)) => handle(self, &mut buffer, length, canonical(from)),
                Err(error) => wait_after(&error),
            }
        }
    }

    /// The same of what is routed here on the inner network.
    fn receive_inner(&self, network: &dyn Network) {
        let mut buffer = vec![0; RELAY + DATAGRAM + TAILROOM];
        while !self.stopped() {
            match network.receive(&mut buffer[RELAY..RELAY + DATAGRAM]) {
                Ok(length) => self.inner_packet(&mut buffer, length, NOBODY, Via::Direct),
                Err(error) => wait_after(&error),
            }
        }
    }

    /// A datagram on the outer socket (RFC 3948 section 2).
    fn outer(&self, buffer: &mut [u8], length: usize, from: SocketAddr) {
        match &buffer[RELAY..RELAY + length] {
            [0xff] => count(&self.tallies.keepalives),
            [0, 0, 0, 0, ..] => count(&self.tallies.ignored_ike),
            _ => self.outer_packet(buffer, length, from, Via::Direct),
        }
    }

    /// A datagram on the inner socket.
    fn inner(&self, buffer: &mut [u8], length: usize, from: SocketAddr) {
        self.inner_packet(buffer, length, from, Via::Direct);
    }

    /// A datagram on the relay socket.
    fn relayed(&self, buffer: &mut [u8], length: usize, from: SocketAddr) {
        let header = buffer.first_chunk().and_then(RelayHeader::read);
        let (Some(header), Some(length)) = (header, length.checked_sub(RELAY)) else {
            return count(&self.tallies.dropped_malformed);
        };
        if !self.neighbours.listen_at(from) {
            return count(&self.tallies.dropped_strangers);
        }
        let via = Via::Relayed { neighbour: from, hops: header.hops };
        match header.kind {
            Kind::Outer => self.outer_packet(buffer, length, header.source, via),
            Kind::Inner => self.inner_packet(buffer, length, header.source, via),
        }
    }

    fn outer_packet(&self, buffer: &mut [u8], length: usize, from: SocketAddr, via: Via) {
        let Some((spi, _)) = esp::peek(&buffer[RELAY..RELAY + length]) else {
            return count(&self.tallies.dropped_malformed);
        };
        while let Some(session) = self.spis.find(&spi) {
            let mut guts = lock(&session.guts);
            if guts.phase == Phase::Removed {
                // Since it was found: another may stand there now.
                continue;
            }
            if !self.in_use(&guts) {
                return self.divert(session.id, &mut guts, buffer, length, Kind::Outer, from, via);
            }
            let opened = self.open(session.id, &mut guts, &mut buffer[RELAY..RELAY + length], from);
            drop(guts);
            if let Some(inner) = opened {
                self.send_inner(&buffer[RELAY + inner.start..RELAY + inner.end]);
            }
            return;
        }
        count(&self.tallies.unknown_spi);
        match via {
            Via::Direct => self.unknown_spi(spi, from),
            // Its sender thinks that the session is here; it may have it back.
            Via::Relayed { neighbour, hops } => {
                self.relay(buffer, length, Kind::Outer, hops, from, neighbour);
            }
        }
    }

    fn inner_packet(&self, buffer: &mut [u8], length: usize, from: SocketAddr, via: Via) {
        let Some(flow) = Flow::parse(&buffer[RELAY..RELAY + length]) else {
            return count(&self.tallies.dropped_malformed);
        };
        while let Some(session) = self.routes.find(flow.destination) {
            let mut guts = lock(&session.guts);
            if guts.phase == Phase::Removed {
                continue;
            }
            if !self.in_use(&guts) {
                return self.divert(session.id, &mut guts, buffer, length, Kind::Inner, from, via);
            }
            if matches!(via, Via::Relayed { .. }) {
                // The inner network has not heard yet where the session is.
                self.announce(&session);
            }
            match self.seal(session.id, &mut guts, &flow, &mut buffer[ESP_AT..]) {
                Ok((remote, total)) => {
                    drop(guts);
                    self.send_outer(&buffer[ESP_AT..ESP_AT + total], remote);
                }
                Err(Dropped::Exhausted { .. }) => {
                    let packet = &buffer[RELAY..RELAY + length];
                    self.hold(&mut guts, packet, Kind::Inner, from, via.hops());
                }
                Err(_) => {}
            }
            return;
        }
        count(&self.tallies.unknown_inner);
        if let Via::Relayed { neighbour, hops } = via {
            self.relay(buffer, length, Kind::Inner, hops, from, neighbour);
        }
    }

    /// Whether packets pass here.
    fn in_use(&self, guts: &Guts) -> bool {
        //= spec CXTP-6.3-2
        match guts.phase {
            Phase::Active => true,
            Phase::Paused(_) | Phase::Released { .. } => {
                self.config.sabotage == Some(Sabotage::NoPause) && guts.body.is_some()
            }
            _ => false,
        }
    }

    /// A packet of a session that is not in use here: holds it or sends it to
    /// where the session is going.
    #[expect(clippy::too_many_arguments, reason = "a packet, its way and its session")]
    fn divert(
        &self,
        id: SessionId,
        guts: &mut Guts,
        buffer: &mut [u8],
        length: usize,
        kind: Kind,
        from: SocketAddr,
        via: Via,
    ) {
        if let Phase::Paused(target) | Phase::Released { target, .. } = &guts.phase
            && self.pass_on(id, target, &buffer[RELAY..RELAY + length], kind, from)
        {
            return;
        }
        let target = match &guts.phase {
            Phase::Paused(target) | Phase::Released { target, .. } => self.neighbours.find(target),
            _ => None,
        };
        let returned = matches!((&guts.phase, via, target), (Phase::Paused(_),
            Via::Relayed { neighbour, .. }, Some(target)) if neighbour == target);
        match (&guts.phase, target) {
            // The target gave it back: it waits here for the end of the transfer.
            //= spec CXTP-6.3-2
            (Phase::Staged { .. }, _) | (Phase::Paused(_), None) => {
                self.hold(guts, &buffer[RELAY..RELAY + length], kind, from, via.hops());
            }
            (Phase::Paused(_), _) if returned => {
                self.hold(guts, &buffer[RELAY..RELAY + length], kind, from, via.hops());
            }
            (_, Some(target)) => self.relay(buffer, length, kind, via.hops(), from, target),
            (_, None) => count(match kind {
                Kind::Outer => &self.tallies.unknown_spi,
                Kind::Inner => &self.tallies.unknown_inner,
            }),
        }
    }

    fn hold(&self, guts: &mut Guts, packet: &[u8], kind: Kind, source: SocketAddr, hops: u8) {
        let room = guts.held.len() < self.config.held_per_session
            && self.held.load(Ordering::Relaxed) < self.config.held_in_all;
        if !room {
            return count(&self.tallies.dropped_held);
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        count(&self.tallies.held);
        guts.held.push_back(Held { kind, hops, source, packet: packet.into() });
    }

    /// Sends what waited, in its order, under the lock of its session: nothing
    /// overtakes it.
    pub(crate) fn send_held(&self, id: SessionId, guts: &mut Guts) {
        if guts.held.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut guts.held);
        self.held.fetch_sub(waiting.len(), Ordering::Relaxed);
        let mut buffer = vec![0; RELAY + DATAGRAM + TAILROOM];
        for held in waiting {
            let length = held.packet.len();
            buffer[RELAY..RELAY + length].copy_from_slice(&held.packet);
            match held.kind {
                Kind::Outer => {
                    let datagram = &mut buffer[RELAY..RELAY + length];
                    if let Some(inner) = self.open(id, guts, datagram, held.source) {
                        self.send_inner(&buffer[RELAY + inner.start..RELAY + inner.end]);
                    }
                }
                Kind::Inner => {
                    let Some(flow) = Flow::parse(&held.packet) else { continue };
                    match self.seal(id, guts, &flow, &mut buffer[ESP_AT..]) {
                        Ok((remote, total)) => {
                            self.send_outer(&buffer[ESP_AT..ESP_AT + total], remote);
                        }
                        Err(Dropped::Exhausted { .. }) => {
                            self.hold(guts, &held.packet, held.kind, held.source, held.hops);
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    }

    /// Sends what waited to another gateway.
    pub(crate) fn relay_held(&self, id: SessionId, mut waiting: VecDeque<Held>, to: &Name) {
        if waiting.is_empty() {
            return;
        }
        self.held.fetch_sub(waiting.len(), Ordering::Relaxed);
        waiting.retain(|held| !self.pass_on(id, to, &held.packet, held.kind, held.source));
        let Some(to) = self.neighbours.find(to) else { return };
        for held in waiting {
            let mut buffer = vec![0; RELAY];
            buffer.extend(&held.packet);
            self.relay(&mut buffer, held.packet.len(), held.kind, held.hops, held.source, to);
        }
    }

    /// Sends a packet to another gateway over the host's networks; says whether they
    /// are there.
    fn pass_on(
        &self,
        id: SessionId,
        to: &Name,
        packet: &[u8],
        kind: Kind,
        from: SocketAddr,
    ) -> bool {
        let (Some(network), Ok(local)) = (&self.network, self.sockets.outer.udp.local_addr())
        else {
            return false;
        };
        count(match kind {
            Kind::Outer => &self.tallies.relayed_outer,
            Kind::Inner => &self.tallies.relayed_inner,
        });
        network.pass_on(id, to, packet, kind, (from, local));
        true
    }

    /// Opens a packet and counts what came of it.
    fn open(
        &self,
        session: SessionId,
        guts: &mut Guts,
        datagram: &mut [u8],
        from: SocketAddr,
    ) -> Option<Range<usize>> {
        let body = guts.body.as_mut()?;
        match body.open(self.clock.now(), datagram, from) {
            Ok(opened) => {
                if opened.roamed {
                    count(&self.tallies.roamed);
                    let generation = body.generation();
                    self.emit(GatewayEvent::Changed { session, generation });
                }
                count(match opened.inner {
                    Some(_) => &self.tallies.opened,
                    None => &self.tallies.dummies_received,
                });
                opened.inner
            }
            Err(dropped) => {
                self.dropped(session, dropped);
                None
            }
        }
    }

    /// Seals a packet and counts what came of it.
    fn seal(
        &self,
        session: SessionId,
        guts: &mut Guts,
        flow: &Flow,
        datagram: &mut [u8],
    ) -> Result<(SocketAddr, usize), Dropped> {
        let body = guts.body.as_mut().ok_or(Dropped::Policy)?;
        let sealed = body.seal(self.clock.now(), flow, datagram);
        match sealed {
            Ok(_) => count(&self.tallies.sealed),
            Err(dropped) => self.dropped(session, dropped),
        }
        sealed
    }

    fn dropped(&self, session: SessionId, dropped: Dropped) {
        let tallies = &self.tallies;
        let counter: &AtomicU64 = match dropped {
            Dropped::Replayed => &tallies.dropped_replayed,
            Dropped::TooOld => &tallies.dropped_too_old,
            Dropped::Forged => &tallies.dropped_forged,
            Dropped::Malformed => &tallies.dropped_malformed,
            Dropped::Policy => &tallies.dropped_policy,
            Dropped::Expired => &tallies.dropped_expired,
            Dropped::NoRemote => &tallies.dropped_no_remote,
            Dropped::Exhausted { first } => {
                // Held, not dropped; the daemon hears of it once.
                if first {
                    self.emit(GatewayEvent::GrantExhausted { session });
                }
                return;
            }
        };
        count(counter);
    }

    fn send_outer(&self, datagram: &[u8], remote: SocketAddr) {
        self.send(&self.sockets.outer, datagram, remote);
    }

    fn send_inner(&self, packet: &[u8]) {
        if let Some(network) = &self.network {
            if let Err(error) = network.send(packet) {
                count(&self.tallies.send_failed);
                tracing::debug!(%error, "cannot send");
            }
            return;
        }
        if let Some(host) = *lock(&self.inner_host) {
            self.send(&self.sockets.inner, packet, host);
        }
    }

    /// Sends the packet at `buffer[RELAY..]` to another gateway.
    fn relay(
        &self,
        buffer: &mut [u8],
        length: usize,
        kind: Kind,
        hops: u8,
        source: SocketAddr,
        to: SocketAddr,
    ) {
        if hops >= MAX_HOPS {
            return count(&self.tallies.dropped_hops);
        }
        let Some(header) = buffer.first_chunk_mut() else { return };
        RelayHeader { kind, hops: hops + 1, source }.write(header);
        count(match kind {
            Kind::Outer => &self.tallies.relayed_outer,
            Kind::Inner => &self.tallies.relayed_inner,
        });
        self.send(&self.sockets.relay, &buffer[..RELAY + length], to);
    }

    fn send(&self, socket: &Socket, datagram: &[u8], to: SocketAddr) {
        // A dual-stack socket wants IPv4 addresses in their IPv6 form.
        let to = match to.ip() {
            IpAddr::V4(address) if socket.v6 => {
                SocketAddr::new(address.to_ipv6_mapped().into(), to.port())
            }
            _ => to,
        };
        if let Err(error) = socket.udp.send_to(datagram, to) {
            count(&self.tallies.send_failed);
            tracing::debug!(%error, %to, "cannot send");
        }
    }
}

/// Waits unless nothing is wrong.
fn wait_after(error: &std::io::Error) {
    match error.kind() {
        // Nothing came; or an ICMP error about an earlier packet.
        ErrorKind::WouldBlock
        | ErrorKind::TimedOut
        | ErrorKind::Interrupted
        | ErrorKind::ConnectionRefused => {}
        _ => {
            tracing::warn!(%error, "cannot receive");
            std::thread::park_timeout(LOOK_UP);
        }
    }
}

/// Without the IPv6 form of an IPv4 address, so that both forms compare equal.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
