//! The UDP socket: who is let in, and whom we dial.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use protocol_spec::{
    id::{Identity, Name, Role},
    limits::MAX_BODY,
    message::Lane,
};
use quinn::{
    Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout,
    TransportConfig, VarInt,
};
use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::lookup_host,
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    Shared,
    close::Ended,
    hello::{Greeted, PATIENCE},
    tls::Credentials,
};
use crate::service::config::TransportTimes;

/// Streams that a peer may have open at one time, on each connection.
const STREAMS: u32 = 96;
/// Octets in flight on one stream: a whole frame fits.
const STREAM_WINDOW: u32 = 2 * MAX_BODY as u32;
/// Octets in flight on one connection.
const WINDOW: u32 = 16 << 20;
/// Handshakes at one time.
const HANDSHAKES: usize = 64;
/// Octets of the socket's buffers, where the system allows them.
const SOCKET_BUFFER: usize = 4 << 20;
/// A half of a pair waits so long for the other.
const PAIR_PATIENCE: Duration = Duration::from_secs(10);
/// First and longest pause between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Binds the socket and takes the credentials.
pub(super) fn bind(
    listen: SocketAddr,
    credentials: &Credentials,
    times: &TransportTimes,
) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    // Larger buffers carry bursts; the system may allow less.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&listen.into())?;
    let crypto = credentials.server().map_err(io::Error::other)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport(times)))
        .max_incoming(4 * HANDSHAKES)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(8 << 20);
    let runtime = Arc::new(quinn::TokioRuntime);
    //= spec CXTP-2.7-2
    let mut config = EndpointConfig::new(Arc::new(credentials.reset_key()));
    config.cid_generator(|| Box::new(RandomIds));
    Endpoint::new(config, Some(server), socket.into(), runtime)
}

/// Random connection IDs. Those of an earlier life look like our own, so that packets
/// for them are answered with a reset; the library's generator drops them unanswered.
struct RandomIds;

impl RandomIds {
    const OCTETS: usize = 8;
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut octets = [0; Self::OCTETS];
        // Without randomness the library finds the ID used, and asks again.
        let _ = SystemRandom::new().fill(&mut octets);
        ConnectionId::new(&octets)
    }

    fn cid_len(&self) -> usize {
        Self::OCTETS
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn transport(times: &TransportTimes) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(times.dead_after).ok();
    config
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(u64::from(WINDOW))
        .datagram_receive_buffer_size(Some(64 << 10))
        .datagram_send_buffer_size(64 << 10)
        .max_idle_timeout(idle)
        .keep_alive_interval(Some(times.dead_after / 4));
    config
}

impl Shared {
    /// Lets peers in until the transport ends.
    pub(super) async fn accept(self: Arc<Self>) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                () = self.cancel.cancelled() => return,
            };
            let Some(incoming) = incoming else { return };
            let address = incoming.remote_address();
            let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
                if let Some(unsaid) = self.refusals.say() {
                    tracing::warn!(%address, unsaid, "refused a connection: too many handshakes at a time");
                }
                incoming.refuse();
                continue;
            };
            // Under load an address must first prove that it is one.
            if handshakes.available_permits() < HANDSHAKES / 2 && incoming.may_retry() {
                let _ = incoming.retry();
                continue;
            }
            let shared = Arc::clone(&self);
            self.tracker.spawn(async move {
                let greeted = async {
                    let connecting = incoming.accept().map_err(Ended::lost)?;
                    let connection = in_time(connecting).await?;
                    let greeted = shared.door.answered(connection.clone()).await;
                    greeted.inspect_err(|ended| ended.close(&connection))
                };
                let greeted = greeted.await;
                drop(permit);
                if let Err(ended) = greeted.and_then(|greeted| shared.join(greeted))
                    && let Some(unsaid) = shared.refusals.say()
                {
                    tracing::warn!(%address, reason = ended.reason, unsaid, "refused a connection");
                }
            });
        }
    }

    /// Keeps a link with a gateway until the transport ends.
    pub(super) async fn dial(self: Arc<Self>, name: Name, address: String) {
        let peer = Identity { role: Role::Gateway, name };
        let mut pause = RETRY.0;
        let mut last = String::new();
        while !self.cancel.is_cancelled() {
            let link = tokio::select! {
                link = self.connect(&peer, &address) => link,
                () = self.cancel.cancelled() => return,
            };
            match link {
                Ok(()) => {
                    pause = RETRY.0;
                    last.clear();
                    // The link may have come and gone, or one of its halves.
                    match self.connections.link(&peer) {
                        Some(link) => tokio::select! {
                            () = link.done.cancelled() => {}
                            () = self.cancel.cancelled() => return,
                        },
                        None => sleep(jitter(pause)).await,
                    }
                }
                Err(ended) => {
                    // Said once, not at each attempt.
                    if ended.reason != last {
                        let reason = &ended.reason;
                        tracing::warn!(%peer, address, reason, "cannot connect, trying on");
                        last.clone_from(reason);
                    }
                    let reason = format!("cannot connect to {address}: {}", ended.reason);
                    self.connections.note(&peer, reason);
                    tokio::select! {
                        () = sleep(jitter(pause)) => {}
                        () = self.cancel.cancelled() => return,
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    async fn connect(self: &Arc<Self>, peer: &Identity, address: &str) -> Result<(), Ended> {
        let crypto = self.credentials.client(peer.clone()).map_err(Ended::lost)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(&self.times)));
        let ipv4_only = self.endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
        let resolved = in_time(lookup_host(address)).await?;
        let address = resolved
            .into_iter()
            .find(|address| address.is_ipv4() || !ipv4_only)
            .ok_or_else(|| Ended::lost("the name has no address that this socket can reach"))?;
        // Control first: what waits for its other half waits with a control
        // connection, on both sides.
        for lane in [Lane::Control, Lane::Bulk] {
            // Whom we reach is told by the URI in its certificate alone; the
            // server name is the same for all and is not sent.
            let connecting = self
                .endpoint
                .connect_with(config.clone(), address, "cxtp.invalid")
                .map_err(Ended::lost)?;
            let connection = in_time(connecting).await?;
            let greeted = self.door.dialled(connection.clone(), lane).await;
            let greeted = greeted.inspect_err(|ended| ended.close(&connection))?;
            self.join(greeted)?;
        }
        Ok(())
    }

    /// Takes in a connection, and starts the link that it completes.
    fn join(self: &Arc<Self>, greeted: Greeted) -> Result<(), Ended> {
        let (peer, lane) = (greeted.peer.clone(), greeted.hello.lane);
        let connection: Connection = greeted.connection.clone();
        match self.connections.join(greeted, &self.surroundings)? {
            None => {
                let shared = Arc::clone(self);
                self.tracker.spawn(async move {
                    tokio::select! {
                        _ = connection.closed() => {}
                        () = sleep(PAIR_PATIENCE) => {}
                        () = shared.cancel.cancelled() => {}
                    }
                    shared.connections.abandon(&peer, lane, connection.stable_id());
                });
            }
            Some(starting) => {
                let shared = Arc::clone(self);
                let address = connection.remote_address();
                tracing::info!(%peer, %address, epoch = %starting.link.epoch, "peer up");
                self.tracker.spawn(async move {
                    let (link, ended) = starting.run().await;
                    shared.connections.forget(&link, &ended.reason);
                    let closed_by_us = ended.code.is_some();
                    tracing::warn!(%peer, %address, closed_by_us, reason = ended.reason, "peer down");
                });
            }
        }
        Ok(())
    }
}

async fn in_time<T, E: std::fmt::Display>(
    what: impl Future<Output = Result<T, E>>,
) -> Result<T, Ended> {
    match timeout(PATIENCE, what).await {
        Ok(done) => done.map_err(Ended::lost),
        Err(_) => Err(Ended::lost("no answer")),
    }
}

/// Between half and one and a half of a pause, so that peers that were lost
/// together do not come back together.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pause is as it is.
    let _ = SystemRandom::new().fill(&mut random);
    let [random] = random;
    pause / 2 + pause * u32::from(random) / 255
}

/// The code for closing a whole endpoint.
pub(super) fn bye() -> VarInt {
    VarInt::from_u32(super::close::Code::Bye as u32)
}
