//! The kernel's packet queue (nfnetlink_queue), read by a thread of its own. When
//! this process is gone the kernel drops what waits and what comes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::libc;
use protocol_spec::id::SessionId;

use super::{
    Config, SteeringError,
    hold::{HeldCount, Holds, Verdict},
    message::{Builder, Message, Messages, NLM_F_ACK},
    netlink::Netlink,
    nft::{NETFILTER, envelope},
    packet::see,
    set::{Element, Purpose},
};

const QUEUE: u16 = 3;
const PACKET: u16 = QUEUE << 8;
const VERDICT: u16 = QUEUE << 8 | 1;
const CONFIGURE: u16 = QUEUE << 8 | 2;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LENGTH: u16 = 3;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const PAYLOAD: u16 = 10;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Packets that the kernel keeps for us over all sessions.
const LENGTH: u32 = 65536;
/// How soon the thread sees that it shall end.
const TICK: Duration = Duration::from_millis(100);

/// The queue, its thread, and what waits in it.
pub(super) struct Queue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Lets the inner packets of one session go on that wait now, from any thread. What
/// waits at another time does not concern it.
pub struct InnerGate {
    shared: Arc<Shared>,
    session: SessionId,
    turn: Option<u64>,
}

impl InnerGate {
    /// Opens it. [`Steering::let_go_inner`](super::Steering::let_go_inner) is still
    /// needed, and later packets take the way through the queue until then.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel does not take verdicts.
    pub fn open(&self) -> Result<(), SteeringError> {
        self.shared.with(|holds| {
            if holds.turn(self.session) != self.turn {
                return Ok(());
            }
            let verdicts = holds.let_go(self.session, &[Purpose::HoldInner]);
            self.shared.tell(&verdicts)
        })
    }
}

struct Shared {
    netlink: Netlink,
    number: u16,
    ike_ports: (u16, u16),
    holds: Mutex<Holds>,
    ends: AtomicBool,
}

impl Queue {
    /// Takes the queue. It is the lock by which one process steers at a time.
    pub(super) fn open(config: &Config) -> Result<Self, SteeringError> {
        let mut netlink = Netlink::open(NETFILTER, &[])?;
        let busy = |error| SteeringError::kernel(format!("packet queue {}", config.queue), error);
        netlink.quiet_overruns().map_err(busy)?;
        let mut parameters = vec![0, 0, 0xff, 0xff];
        parameters.push(COPY_PACKET);
        for (kind, value) in [
            (CONFIG_COMMAND, vec![BIND, 0, 0, 0]),
            (CONFIG_PARAMETERS, parameters),
            (CONFIG_LENGTH, LENGTH.to_be_bytes().to_vec()),
        ] {
            let sequence = netlink.next_sequence();
            let mut builder = Builder::default();
            builder.message(CONFIGURE, NLM_F_ACK, sequence, &envelope(0, config.queue));
            builder.put(kind, &value);
            netlink.order(&builder.into_octets(), sequence).map_err(busy)?;
        }
        netlink.set_patience(TICK)?;
        let shared = Arc::new(Shared {
            netlink,
            number: config.queue,
            ike_ports: config.ike_ports,
            holds: Mutex::new(Holds::new(config.limits)),
            ends: AtomicBool::new(false),
        });
        let reader = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("cxtp-hold".to_owned())
            .spawn(move || reader.read())
            .map_err(|error| SteeringError::kernel("thread of the packet queue", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Begins to hold by these elements.
    pub(super) fn hold<'a>(
        &self,
        session: SessionId,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.shared.with(|holds| holds.hold(session, elements));
    }

    /// Lets some kinds of packets go on. Those that waited are on their way when
    /// this returns, before any that come later through the queue.
    pub(super) fn let_go(
        &self,
        session: SessionId,
        purposes: &[Purpose],
    ) -> Result<(), SteeringError> {
        // Verdicts are sent under the lock, or the thread could pass a later
        // packet before the first ones.
        self.shared.with(|holds| {
            let verdicts = holds.let_go(session, purposes);
            self.shared.tell(&verdicts)
        })
    }

    /// By which the session's inner packets that wait now can be let go.
    pub(super) fn inner_gate(&self, session: SessionId) -> InnerGate {
        let turn = self.shared.with(|holds| holds.turn(session));
        InnerGate { shared: Arc::clone(&self.shared), session, turn }
    }

    /// Ends a hold; each packet that waited is shown to `each` and dropped.
    pub(super) fn discard(&self, session: SessionId, mut each: impl FnMut(&[u8])) {
        let waiting = self.shared.with(|holds| holds.discard(session));
        let verdicts: Vec<_> = waiting.iter().map(|waiting| Verdict::Drop(waiting.id)).collect();
        for waiting in waiting {
            each(&waiting.packet);
        }
        // The kernel drops them anyway when this process ends.
        if let Err(error) = self.shared.tell(&verdicts) {
            tracing::warn!(%session, %error, "discarded packets stay in the kernel's queue");
        }
    }

    pub(super) fn count(&self, session: SessionId) -> HeldCount {
        self.shared.with(|holds| holds.count(session))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It holds no lock that we wait for, and looks up within a tick.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Holds) -> T) -> T {
        act(&mut self.holds.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read(&self) {
        while !self.ends.load(Ordering::Acquire) {
            match self.netlink.receive() {
                Ok(Some(octets)) => {
                    for message in Messages(&octets).filter(|message| message.kind == PACKET) {
                        self.packet(&message);
                    }
                }
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    tracing::warn!("packets were dropped: more than the queue could take");
                }
                Err(error) => {
                    tracing::error!(%error, "the packet queue cannot be read; held packets are lost");
                    return;
                }
            }
        }
    }

    fn packet(&self, message: &Message<'_>) {
        let attributes = message.attributes(4);
        let Some(id) = attributes.be32(PACKET_HEADER) else { return };
        let packet = attributes.find(PAYLOAD).unwrap_or_default();
        let seen = see(packet, self.ike_ports);
        let told = self.with(|holds| {
            let verdicts = holds.take(id, seen, packet);
            self.tell(&verdicts)
        });
        if let Err(error) = told {
            tracing::warn!(%error, "a held packet is lost");
        }
    }

    fn tell(&self, verdicts: &[Verdict]) -> Result<(), SteeringError> {
        /// Verdicts in one system call.
        const RUN: usize = 4096;
        for run in verdicts.chunks(RUN) {
            let mut builder = Builder::default();
            for verdict in run {
                let (verdict, id) = match verdict {
                    Verdict::Accept(id) => (ACCEPT, id),
                    Verdict::Drop(id) => (DROP, id),
                };
                let mut header = verdict.to_be_bytes().to_vec();
                header.extend_from_slice(&id.to_be_bytes());
                builder.message(VERDICT, 0, 0, &envelope(0, self.number));
                builder.put(VERDICT_HEADER, &header);
            }
            self.netlink
                .send(&builder.into_octets())
                .map_err(|error| SteeringError::kernel("verdict on held packets", error))?;
        }
        Ok(())
    }
}
