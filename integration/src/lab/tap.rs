//! A tap on every link: one socket in the scenario's own namespace, where one end of
//! each link is, sees every frame once, as its sender put it on the link, in one order
//! and with the kernel's time. Who sent a frame follows from the link, whatever
//! addresses are in it.

use std::{
    fs::File,
    io::{BufWriter, IoSliceMut, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
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
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::observer::Observer;

/// Octets of a frame that are looked at and written down: all headers.
const SNAP: usize = 192;
/// What may wait while the tap's thread does not run.
const QUEUE: usize = 32 << 20;
/// How often the thread looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(50);

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
    observer: Arc<Mutex<Observer>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
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
        socket.set_read_timeout(Some(PATIENCE))?;
        let file = Capture::create(capture)?;
        let observer = Arc::new(Mutex::new(observer));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped) = (Arc::clone(&observer), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("tap".into())
            .spawn(move || listen(&socket, file, &seen, &stopped))?;
        Ok(Self { observer, stop, thread: Some(thread) })
    }

    /// Looks at what was seen so far.
    pub fn with<T>(&self, look: impl FnOnce(&mut Observer) -> T) -> T {
        look(&mut self.observer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends it, once everything that was sent before has been looked at.
    ///
    /// # Errors
    /// If frames were missed: no figure of the observer counts then.
    pub fn stop(mut self) -> Result<Observer> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the tap has ended")?;
        thread.join().map_err(|_| anyhow!("the tap panicked"))??;
        let observer = Arc::into_inner(self.observer).context("the tap is still looked at")?;
        Ok(observer.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

fn listen(
    socket: &Socket,
    mut file: Capture,
    observer: &Mutex<Observer>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut buffer = [0; SNAP];
    let mut ancillary = cmsg_space!(TimeSpec, u32);
    loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let ends = stop.load(Ordering::Relaxed);
        let flags = if ends { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        let message =
            recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut slices, Some(&mut ancillary), flags);
        let message = match message {
            Ok(message) => message,
            // Nothing is left.
            Err(Errno::EAGAIN) if ends => return file.finish(),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => continue,
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
        let mut observer = observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.see(Frame { link, at, octets });
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
