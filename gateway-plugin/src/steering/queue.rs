//! The kernel's packet queue (nfnetlink_queue), read by a thread of its own. When
//! this process is gone the kernel drops what waits and what comes.

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use nix::libc;
use protocol_spec::id::SessionId;

use super::{
    Config, SteeringError,
    hold::{HeldCount, Holds, Verdict},
    message::{Builder, Messages, NLM_F_ACK},
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
/// How long packets that wait anyway gather before they are looked at: the processor
/// has other things to do while a session stands still.
const GATHER: Duration = Duration::from_millis(1);
/// Packets that are taken at a time.
const MOST: usize = 1024;
/// Octets of the largest packet, with what the kernel says of it.
const DATAGRAM: usize = 72 << 10;

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
        self.shared.with(|inside| {
            if inside.holds.turn(self.session) != self.turn {
                return Ok(());
            }
            self.shared.let_go(inside, self.session, &[Purpose::HoldInner])
        })
    }
}

struct Shared {
    netlink: Netlink,
    number: u16,
    ike_ports: (u16, u16),
    holds: Mutex<Inside>,
    reader: OnceLock<Thread>,
    ends: AtomicBool,
}

/// What is known of packets, and the place where the next one is read: only one thread
/// at a time takes packets, so that they keep their order.
struct Inside {
    holds: Holds,
    buffer: Vec<u8>,
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
        let shared = Arc::new(Shared {
            netlink,
            number: config.queue,
            ike_ports: config.ike_ports,
            holds: Mutex::new(Inside {
                holds: Holds::new(config.limits),
                buffer: Vec::with_capacity(DATAGRAM),
            }),
            reader: OnceLock::new(),
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
        self.shared.with(|inside| inside.holds.hold(session, elements));
    }

    /// Lets some kinds of packets go on. Those that waited are on their way when
    /// this returns, before any that come later through the queue.
    pub(super) fn let_go(
        &self,
        session: SessionId,
        purposes: &[Purpose],
    ) -> Result<(), SteeringError> {
        self.shared.with(|inside| self.shared.let_go(inside, session, purposes))
    }

    /// By which the session's inner packets that wait now can be let go.
    pub(super) fn inner_gate(&self, session: SessionId) -> InnerGate {
        let turn = self.shared.with(|inside| inside.holds.turn(session));
        InnerGate { shared: Arc::clone(&self.shared), session, turn }
    }

    /// Ends a hold; each packet that waited is shown to `each` and dropped.
    pub(super) fn discard(&self, session: SessionId, mut each: impl FnMut(&[u8])) {
        let waiting = self.shared.with(|inside| {
            // Its thread says what is wrong with the queue.
            let _ = self.shared.take(inside);
            inside.holds.discard(session)
        });
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
        self.shared.with(|inside| inside.holds.count(session))
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
    fn with<T>(&self, act: impl FnOnce(&mut Inside) -> T) -> T {
        act(&mut self.holds.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read(&self) {
        let _ = self.reader.set(thread::current());
        while !self.ends.load(Ordering::Acquire) {
            let taken = match self.netlink.wait(TICK) {
                Ok(true) => self.with(|inside| self.take(inside)),
                other => other.map(|_| true),
            };
            match taken {
                Ok(true) => {}
                // Whoever lets them go takes what came meanwhile, and wakes us.
                Ok(false) => thread::park_timeout(GATHER),
                Err(error) => {
                    tracing::error!(%error, "the packet queue cannot be read; held packets are lost");
                    return;
                }
            }
        }
    }

    /// Takes the packets that are there. Verdicts are sent under the lock, or another
    /// thread could pass a later packet before the first ones. Whether there were any.
    fn take(&self, inside: &mut Inside) -> io::Result<bool> {
        let Inside { holds, buffer } = inside;
        let mut verdicts = Vec::new();
        let mut broken = None;
        for _ in 0..MOST {
            match self.netlink.take(buffer) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    tracing::warn!("packets were dropped: more than the queue could take");
                    continue;
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
            for message in Messages(buffer).filter(|message| message.kind == PACKET) {
                let attributes = message.attributes(4);
                let Some(id) = attributes.be32(PACKET_HEADER) else { continue };
                let packet = attributes.find(PAYLOAD).unwrap_or_default();
                verdicts.extend(holds.take(id, see(packet, self.ike_ports), packet));
            }
        }
        if let Err(error) = self.tell(&verdicts) {
            tracing::warn!(%error, "a held packet is lost");
        }
        broken.map_or(Ok(!verdicts.is_empty()), Err)
    }

    /// Lets packets go on that wait, those too that nobody has looked at yet.
    fn let_go(
        &self,
        inside: &mut Inside,
        session: SessionId,
        purposes: &[Purpose],
    ) -> Result<(), SteeringError> {
        // Its thread says what is wrong with the queue.
        let _ = self.take(inside);
        let told = self.tell(&inside.holds.let_go(session, purposes));
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
        told
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
