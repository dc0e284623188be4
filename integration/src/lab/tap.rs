//! A tap on every link: one socket in the scenario's own namespace, where one end of
//! each link is, sees every frame once, as its sender put it on the link, in one order
//! and with the kernel's time. Who sent a frame follows from the link, whatever
//! addresses are in it.

use std::{
    fs::File,
    io::{BufWriter, IoSliceMut, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
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
    sys::{
        socket::{
            ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt,
            sockopt::{RcvBufForce, ReceiveTimestampns, RxqOvfl},
        },
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
    unistd::gettid,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::observer::Observer;
use crate::process::wait_for;

/// Octets of a frame that are looked at and written down: all headers.
const SNAP: usize = 192;
/// What may wait while the tap's thread does not run.
const QUEUE: usize = 128 << 20;
/// Between two looks at what has come: a thread that wakes for each frame takes the
/// processor from what it watches, and the kernel says when a frame came.
const PAUSE: Duration = Duration::from_millis(20);
/// How long whoever looks waits until all that was sent before has been seen.
const CATCH_UP: Duration = Duration::from_secs(30);
/// For the same reason; while it is not behind.
const NICENESS: &str = "19";
/// Frames between two looks whether it is behind, and by how much it may be.
const OFTEN: u32 = 4096;
const BEHIND: Duration = Duration::from_secs(2);

const ETH_P_ALL: u16 = 3;

/// Only what was sent onto a link by its node: not what a bridge sends to a node.
const NOT_OUTGOING: [SockFilter; 4] = [
    // The packet's type, as the kernel knows it.
    SockFilter::new(0x28, 0, 0, 0xffff_f004),
    // PACKET_OUTGOING.
    SockFilter::new(0x15, 0, 1, 4),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, 0xffff),
];

/// A frame as the tap saw it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Number of the interface, which is a [`super::net::Link`]'s.
    pub link: usize,
    /// Since 1970, by the guest's clock.
    pub at: Duration,
    /// Ethernet header and what follows, cut off at some point behind all headers.
    pub octets: &'a [u8],
}

/// The tap.
pub struct Tap {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

struct Shared {
    observer: Mutex<Observer>,
    stop: AtomicBool,
    /// All frames before this time have been seen, in nanoseconds since 1970.
    reached: AtomicU64,
}

impl Shared {
    fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, at: Duration) {
        self.reached.fetch_max(nanos(at), Ordering::Release);
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

impl Tap {
    /// Begins to listen, and writes what it hears into a capture file too.
    ///
    /// # Errors
    /// The system's.
    pub fn start(observer: Observer, capture: &Path) -> Result<Self> {
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.attach_filter(&NOT_OUTGOING)?;
        setsockopt(&socket, RcvBufForce, &QUEUE)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        setsockopt(&socket, RxqOvfl, &1)?;
        let file = Capture::create(capture)?;
        let shared = Arc::new(Shared {
            observer: Mutex::new(observer),
            stop: AtomicBool::new(false),
            reached: AtomicU64::new(0),
        });
        let listener = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("tap".into())
            .spawn(move || renice(NICENESS).and_then(|()| listen(&socket, file, &listener)))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Looks at what was seen of all that was sent so far.
    ///
    /// # Errors
    /// If the tap does not get to it.
    pub fn with<T>(&self, look: impl FnOnce(&mut Observer) -> T) -> Result<T> {
        let now = nanos(wall_clock()?);
        wait_for("the tap to see all that was sent", CATCH_UP, || {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                bail!("the tap has ended");
            }
            Ok((self.shared.reached.load(Ordering::Acquire) >= now).then_some(()))
        })?;
        Ok(look(&mut self.shared.observer()))
    }

    /// Ends it, once everything that was sent before has been looked at.
    ///
    /// # Errors
    /// If frames were missed: no figure of the observer counts then.
    pub fn stop(mut self) -> Result<Observer> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the tap has ended")?;
        thread.join().map_err(|_| anyhow!("the tap panicked"))??;
        let shared = Arc::into_inner(self.shared).context("the tap is still looked at")?;
        Ok(shared.observer.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// This thread yields to others so much.
fn renice(niceness: &str) -> Result<()> {
    let thread = gettid().to_string();
    let set = Command::new("renice").args(["-n", niceness, "-p", &thread]).output();
    let set = set.context("renice, of util-linux")?;
    if !set.status.success() {
        bail!("renice: {}", String::from_utf8_lossy(&set.stderr).trim());
    }
    Ok(())
}

fn wall_clock() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_REALTIME)?.into())
}

fn listen(socket: &Socket, mut file: Capture, shared: &Shared) -> Result<()> {
    let mut buffer = [0; SNAP];
    let mut ancillary = cmsg_space!(TimeSpec, u32);
    let mut before = wall_clock()?;
    let mut ends = false;
    let (mut frames, mut hurries) = (0_u32, false);
    loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut slices, Some(&mut ancillary), flags);
        let message = match message {
            Ok(message) => message,
            Err(Errno::EAGAIN) if ends => return file.finish(),
            Err(Errno::EAGAIN) => {
                if std::mem::take(&mut hurries) {
                    renice(NICENESS)?;
                }
                // Nothing is left of what was sent before that time.
                shared.reach(before);
                std::thread::sleep(PAUSE);
                before = wall_clock()?;
                ends = shared.stop.load(Ordering::Relaxed);
                continue;
            }
            Err(Errno::EINTR | Errno::ENETDOWN) => continue,
            Err(error) => return Err(error).context("the tap"),
        };
        let mut at = None;
        for item in message.cmsgs()? {
            match item {
                ControlMessageOwned::ScmTimestampns(time) => at = Some(Duration::from(time)),
                ControlMessageOwned::RxqOvfl(missed) if missed > 0 => {
                    return Err(anyhow!("the tap missed {missed} frames"));
                }
                _ => {}
            }
        }
        let at = at.context("a frame without a time")?;
        let link = message.address.context("a frame of no link")?.ifindex();
        let length = message.bytes;
        let octets = &buffer[..length];
        file.write(at, octets)?;
        shared.observer().see(Frame { link, at, octets });
        shared.reach(at);
        frames = frames.wrapping_add(1);
        if !hurries && frames.is_multiple_of(OFTEN) && wall_clock()?.saturating_sub(at) > BEHIND {
            hurries = true;
            renice("0")?;
        }
    }
}

/// A capture file for whoever looks for a reason.
struct Capture(BufWriter<File>);

impl Capture {
    fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = BufWriter::with_capacity(1 << 16, file);
        let snap = u32::try_from(SNAP)?;
        // Nanoseconds, version 2.4, Ethernet.
        for word in [0xa1b2_3c4d, 0x0004_0002, 0, 0, snap, 1_u32] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self(file))
    }

    fn write(&mut self, at: Duration, octets: &[u8]) -> Result<()> {
        let seconds = u32::try_from(at.as_secs())?;
        let length = u32::try_from(octets.len())?;
        for word in [seconds, at.subsec_nanos(), length, length] {
            self.0.write_all(&word.to_le_bytes())?;
        }
        Ok(self.0.write_all(octets)?)
    }

    fn finish(mut self) -> Result<()> {
        Ok(self.0.flush()?)
    }
}
