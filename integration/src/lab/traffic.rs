//! Numbered UDP both ways between end users and the inner server, at a chosen rate in
//! all, and what became of each packet.

mod count;
pub mod tcp;

use std::{
    collections::BTreeMap,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            ControlMessageOwned, MsgFlags, recvmsg, setsockopt,
            sockopt::{RcvBufForce, ReceiveTimestampns},
        },
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
    unistd::gettid,
};
use serde::Serialize;

use self::count::Count;
use super::net::Namespace;
use crate::{
    clock::{Deadline, now},
    process::wait_for,
};

/// Octets of a packet's data.
const SIZE: usize = 100;
/// Below the ports of all flows.
const PORT: u16 = 7000;
/// Octets that may wait at a socket while the receiver does not run: what is dropped
/// there would look lost.
const QUEUE: usize = 8 << 20;
/// How long the last packets may be on their way.
const LINGER: Duration = Duration::from_secs(2);
/// Between two looks at what has come: a thread that wakes for each packet takes the
/// processor from what it measures, and the kernel says when a packet came.
const PAUSE: Duration = Duration::from_millis(10);
/// The guest has one processor. Outside of a lab traffic comes from machines of its own:
/// so nothing here that is not the kernel keeps it from being sent.
const REAL_TIME_PRIORITY: &str = "10";

/// An end user's flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The end user's node.
    pub node: String,
    /// Its virtual address.
    pub user: IpAddr,
    /// The server's node.
    pub host: String,
    /// The server's address.
    pub server: IpAddr,
    /// The number of the end user: each has a port of its own.
    pub number: u16,
}

/// What became of the packets, over all flows and both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Sent and never seen.
    pub lost: u64,
    /// Of the lost, those that the end user's own node did not take to send.
    pub refused: u64,
    /// Seen more than once.
    pub duplicated: u64,
    /// Seen after one that was sent later.
    pub reordered: u64,
    /// The longest time between two packets of a flow, one way, in milliseconds.
    pub gap_ms: f64,
    /// The longest such time less what the sender itself was silent in it.
    pub held_ms: f64,
    /// The longest that the sender itself fell behind, in milliseconds: such a machine
    /// was busy with other things.
    pub sender_late_ms: f64,
    /// Sent, as a share of rate times time.
    pub sent_share: f64,
}

/// Running traffic.
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

struct Shared {
    /// Two for each flow: to the server and to the user.
    counts: Vec<Mutex<Count>>,
    sent: Vec<AtomicU64>,
    /// By end users' nodes, by the number of the error.
    refused: Mutex<BTreeMap<i32, u64>>,
    stop_sending: AtomicBool,
    stop: AtomicBool,
    /// In microseconds.
    late: AtomicU64,
    rounds_due: AtomicU64,
    rounds: AtomicU64,
}

impl Traffic {
    /// Begins to send `rate` packets per second each way, over all flows.
    ///
    /// # Errors
    /// If a socket cannot be made.
    pub fn start(flows: &[Flow], rate: u32) -> Result<Self> {
        if flows.is_empty() || rate == 0 {
            bail!("traffic needs a flow and a rate");
        }
        let mut pairs = Vec::new();
        for flow in flows {
            pairs.push(sockets(flow, PORT + flow.number)?);
        }
        let ways = flows.len() * 2;
        let interval = Duration::from_secs(1) / rate;
        let pace = interval.saturating_mul(u32::try_from(flows.len()).unwrap_or(u32::MAX));
        let shared = Arc::new(Shared {
            counts: (0..ways).map(|_| Mutex::new(Count::new(pace))).collect(),
            sent: (0..ways).map(|_| AtomicU64::new(0)).collect(),
            refused: Mutex::default(),
            stop_sending: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            late: AtomicU64::new(0),
            rounds_due: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
        });
        let pairs = Arc::new(pairs);
        let (sends, receives) = (Arc::clone(&shared), Arc::clone(&shared));
        let (out, back) = (Arc::clone(&pairs), pairs);
        let name = |name: &str| std::thread::Builder::new().name(name.into());
        let threads = vec![
            name("sender").spawn(move || {
                run_in_real_time()?;
                send(&out, interval, &sends);
                Ok(())
            })?,
            name("receiver").spawn(move || receive(&back, &receives))?,
        ];
        Ok(Self { shared, threads })
    }

    /// The longest gap since the last call, in milliseconds. What follows is counted
    /// anew.
    pub fn take_gap(&self) -> f64 {
        let counts = self.shared.counts.iter();
        let gaps = counts.map(|count| lock(count).take_gap());
        millis(gaps.max().unwrap_or_default())
    }

    /// The longest gap since the last call of [`Traffic::take_gap`], less what the sender
    /// itself was silent in it, in milliseconds.
    pub fn held(&self) -> f64 {
        let held = self.shared.counts.iter().map(|count| lock(count).held());
        millis(held.max().unwrap_or_default())
    }

    /// The longest that a packet of each flow was on its way since the last call, either
    /// way. What follows is counted anew.
    pub fn take_delays(&self) -> Vec<Duration> {
        let ways = self.shared.counts.chunks(2);
        let longest = |ways: &[Mutex<Count>]| ways.iter().map(|way| lock(way).take_delay()).max();
        ways.filter_map(longest).collect()
    }

    /// Waits until each flow has got so many more packets each way.
    ///
    /// # Errors
    /// If they do not come.
    pub fn wait_for_packets(&self, packets: u64, patience: Duration) -> Result<()> {
        let seen = || self.shared.counts.iter().map(|count| lock(count).seen());
        let wanted: Vec<_> = seen().map(|seen| seen + packets).collect();
        wait_for(&format!("{packets} packets of each flow"), patience, || {
            Ok(seen().zip(&wanted).all(|(seen, wanted)| seen >= *wanted).then_some(()))
        })
    }

    /// Lets it run for some time.
    pub fn run_for(&self, span: Duration) {
        // The time is the condition.
        std::thread::sleep(span);
    }

    /// How many packets the end users' own nodes did not take to send so far, by what
    /// they said of them.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        let name =
            |(error, count): (&i32, &u64)| (format!("{:?}", Errno::from_raw(*error)), *count);
        self.shared.refusals().iter().map(name).collect()
    }

    /// Stops sending, waits for the last packets and counts.
    ///
    /// # Errors
    /// If a thread failed.
    pub fn stop(mut self) -> Result<Tally> {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        let receiver = self.threads.pop().context("no receiver")?;
        join(self.threads.pop().context("no sender")?)?;
        let linger = Deadline::after(LINGER);
        let all_here = || {
            let ways = self.shared.counts.iter().zip(&self.shared.sent);
            ways.into_iter().all(|(count, sent)| lock(count).seen() >= sent.load(Ordering::Relaxed))
        };
        while !all_here() && !linger.passed() {
            std::thread::sleep(crate::process::LOOK);
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        join(receiver)?;
        let mut tally = Tally::default();
        for (count, sent) in self.shared.counts.iter().zip(&self.shared.sent) {
            let sent = sent.load(Ordering::Relaxed);
            let mut count = lock(count);
            tally.sent += sent;
            tally.lost += sent.saturating_sub(count.seen());
            tally.duplicated += count.duplicated();
            tally.reordered += count.reordered();
            tally.held_ms = tally.held_ms.max(millis(count.held()));
            tally.gap_ms = tally.gap_ms.max(millis(count.take_gap()));
        }
        tally.refused = self.shared.refusals().values().sum();
        let late = Duration::from_micros(self.shared.late.load(Ordering::Relaxed));
        tally.sender_late_ms = millis(late);
        let due = self.shared.rounds_due.load(Ordering::Relaxed);
        let rounds = self.shared.rounds.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a share of some thousand rounds")]
        let share = rounds as f64 / due.max(1) as f64;
        tally.sent_share = share;
        Ok(tally)
    }
}

impl Shared {
    fn refusals(&self) -> MutexGuard<'_, BTreeMap<i32, u64>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This thread runs before all that are no such threads.
fn run_in_real_time() -> Result<()> {
    let thread = gettid().to_string();
    let set = Command::new("chrt").args(["--fifo", "--pid", REAL_TIME_PRIORITY, &thread]).status();
    let set = set.context("chrt, of util-linux")?;
    if !set.success() {
        bail!("chrt: {set}");
    }
    Ok(())
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a thread of the traffic panicked"))?
}

fn lock(count: &Mutex<Count>) -> MutexGuard<'_, Count> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds, to a hundredth.
pub fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e5).round() / 100.0
}

/// The user's socket and the server's.
fn sockets(flow: &Flow, port: u16) -> Result<[UdpSocket; 2]> {
    let (user, server) = (SocketAddr::new(flow.user, port), SocketAddr::new(flow.server, port));
    let open = |node: &str, here: SocketAddr, there: SocketAddr| {
        Namespace::of(node).enter(|| {
            let socket = UdpSocket::bind(here).with_context(|| format!("{node}: {here}"))?;
            socket.connect(there).with_context(|| format!("{node}: {here} to {there}"))?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, ReceiveTimestampns, &true)?;
            setsockopt(&socket, RcvBufForce, &QUEUE)?;
            Ok(socket)
        })
    };
    Ok([open(&flow.node, user, server)?, open(&flow.host, server, user)?])
}

/// The time by which the kernel stamps what comes.
fn wall() -> Duration {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from)
}

/// Sends one packet each way in each interval, to one flow after the other.
fn send(pairs: &[[UdpSocket; 2]], interval: Duration, shared: &Shared) {
    let begun = now();
    let mut packet = [0; SIZE];
    let mut round: u32 = 0;
    while !shared.stop_sending.load(Ordering::Relaxed) {
        let due = interval * round;
        let passed = begun.elapsed();
        if due > passed {
            std::thread::sleep(due - passed);
        } else {
            let late = u64::try_from((passed - due).as_micros()).unwrap_or(u64::MAX);
            shared.late.fetch_max(late, Ordering::Relaxed);
        }
        let flow = usize::try_from(round).unwrap_or_default() % pairs.len();
        for (way, socket) in pairs[flow].iter().enumerate() {
            let sent = &shared.sent[flow * 2 + way];
            let number = sent.fetch_add(1, Ordering::Relaxed);
            packet[..8].copy_from_slice(&number.to_be_bytes());
            let at = u64::try_from(wall().as_nanos()).unwrap_or_default();
            packet[8..16].copy_from_slice(&at.to_be_bytes());
            // What the node refuses to send counts as lost.
            if let Err(error) = socket.send(&packet)
                && way == 0
            {
                *shared.refusals().entry(error.raw_os_error().unwrap_or_default()).or_default() +=
                    1;
            }
        }
        round += 1;
    }
    shared.rounds.store(round.into(), Ordering::Relaxed);
    let due = begun.elapsed().as_nanos() / interval.as_nanos().max(1);
    shared.rounds_due.store(u64::try_from(due).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Receives on all sockets until it shall stop.
fn receive(pairs: &[[UdpSocket; 2]], shared: &Shared) -> Result<()> {
    let sockets: Vec<_> = pairs.iter().flatten().collect();
    let mut ready: Vec<_> =
        sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    loop {
        let stop = shared.stop.load(Ordering::Relaxed);
        match poll(&mut ready, PollTimeout::ZERO) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        for (at, socket) in sockets.iter().enumerate() {
            if ready[at].any() == Some(true) {
                // What comes to the user's socket went the other way.
                drain(socket, &mut lock(&shared.counts[at ^ 1]))?;
            }
        }
        if stop {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

fn drain(socket: &UdpSocket, count: &mut Count) -> Result<()> {
    let mut buffer = [0; SIZE];
    let mut ancillary = cmsg_space!(TimeSpec);
    loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut ancillary), flags);
        let message = match message {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(()),
            // What an ICMP error told: the packet that it is about is counted as lost.
            Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EINTR) => {
                continue;
            }
            Err(error) => return Err(error).context("receiving traffic"),
        };
        let at = message.cmsgs()?.find_map(|item| match item {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        let at = at.context("a packet without a time")?;
        let word = |at: usize| buffer[at..].first_chunk().map(|word| u64::from_be_bytes(*word));
        let number = word(0).context("a packet without a number")?;
        let sent = word(8).context("a packet that does not say when it was sent")?;
        count.packet(number, Duration::from_nanos(sent), at);
    }
}
