//! A gateway in another process, as the daemon sees it.

use std::{
    io::{self, ErrorKind},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::Builder,
    time::Duration,
};

use bincode::{Decode, Encode};
use nix::{
    errno::Errno,
    sys::{
        signal::kill,
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::{Pid, geteuid},
};
use protocol_spec::{
    context::Context,
    id::{Generation, SessionId},
    profile::{Capabilities, Profile},
    transfer::{Finals, SessionStatus},
};

use super::{
    LOOK_UP,
    call::{self, Call, Hello, VERSION},
    clock::Clock,
};
use crate::plugin::{
    Activate, Discard, EventSink, Extend, Fault, GatewayEvent, GatewayPlugin, Pause, PerSession,
    Release, Resume, Stage,
};

/// For the answer to one call, and for each session in it: an IKE daemon has its own
/// deadlines for what is asked of it. A gateway that has ended is noticed at once.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
const SESSION_TIMEOUT: Duration = Duration::from_secs(1);
/// For each session that an IKE daemon has to take or to speak for, which it does in its
/// turn.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(4);
/// For any answer, and for the beginning of a list, which may be of a million sessions.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a gateway that does not listen is waited for.
const RECONNECT_TIMEOUT: Duration = Duration::from_millis(600);
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// A gateway in another process.
///
/// A connection that breaks is made again without anybody noticing: every act is
/// safe to repeat. Where sessions end with their process and the one behind the
/// socket is another one than before, or none, the next call says
/// [`Fault::Lost`], once for each lost process; then the new one is taken for what
/// it is, a gateway without sessions.
pub struct RemoteGateway {
    path: PathBuf,
    connection: Option<UnixStream>,
    /// Which life of the gateway was spoken to last, and in which process.
    known: Option<Known>,
    /// Tells the thread that reads events to end.
    watching: Option<Arc<AtomicBool>>,
}

impl RemoteGateway {
    /// A gateway that is looked for at the first call.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), connection: None, known: None, watching: None }
    }

    /// A gateway that must be there now.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] if it is not.
    pub fn connect(path: impl Into<PathBuf>) -> Result<Self, Fault> {
        let mut gateway = Self::new(path);
        gateway.capabilities()?;
        Ok(gateway)
    }

    /// Orders that change nothing when they are repeated.
    pub(crate) fn repeat<Q: Encode, R: Encode + Decode<()>>(
        &mut self,
        call: Call,
        orders: &[Q],
    ) -> Result<Vec<R>, Fault> {
        self.in_chunks(call, orders, true)
    }

    /// One question without orders.
    pub(crate) fn ask<R: Encode + Decode<()>>(&mut self, call: Call) -> Result<Vec<R>, Fault> {
        self.exchange(call, &encode::<()>(&[])?.0, 0, true)
    }

    pub(crate) fn in_chunks<Q: Encode, R: Encode + Decode<()>>(
        &mut self,
        call: Call,
        mut orders: &[Q],
        again: bool,
    ) -> Result<Vec<R>, Fault> {
        let mut results = Vec::with_capacity(orders.len());
        while !orders.is_empty() {
            let (octets, count) = encode(orders)?;
            results.extend(self.exchange(call, &octets, count, again)?);
            orders = &orders[count..];
        }
        Ok(results)
    }

    /// One call and its answer. If the connection breaks, once more on a new one.
    fn exchange<R: Encode + Decode<()>>(
        &mut self,
        call: Call,
        orders: &[u8],
        count: usize,
        again: bool,
    ) -> Result<Vec<R>, Fault> {
        let patience = match call {
            Call::LIST => LONGEST_TIMEOUT,
            Call::STAGE | Call::ACTIVATE => CALL_TIMEOUT + DAEMON_TIMEOUT * count as u32,
            _ => CALL_TIMEOUT + SESSION_TIMEOUT * count as u32,
        };
        let patience = LONGEST_TIMEOUT.min(patience);
        let first = self.exchange_once(call, orders, patience)?;
        let error = match first {
            Ok(results) => return Ok(results),
            Err(error) if !again || call::timed_out(&error) => error,
            Err(_) => match self.exchange_once(call, orders, patience)? {
                Ok(results) => return Ok(results),
                Err(error) => error,
            },
        };
        // An answer that comes later would be taken for that of the next call.
        Err(Fault::Unreachable(format!("{call:?}: {error}")))
    }

    /// The outer error is the gateway's or its absence, the inner one the
    /// connection's.
    fn exchange_once<R: Encode + Decode<()>>(
        &mut self,
        call: Call,
        orders: &[u8],
        patience: Duration,
    ) -> Result<io::Result<Vec<R>>, Fault> {
        let mut stream = match self.connection.take() {
            Some(stream) => stream,
            None => self.reconnect()?,
        };
        let answer = converse(&mut stream, call, orders, patience);
        if let Ok(answer) = answer {
            self.connection = Some(stream);
            return answer.map(Ok).map_err(Fault::Lost);
        }
        Ok(answer.map(|_: Result<Vec<R>, String>| Vec::new()))
    }

    fn reconnect(&mut self) -> Result<UnixStream, Fault> {
        let opened = open(&self.path, self.known.map(|known| known.process));
        let (stream, hello, process) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let why = format!("{}: {error}", self.path.display());
                let absent =
                    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
                // Sessions that outlive their process are there still.
                return Err(match self.known.take_if(|known| absent && !known.outlives) {
                    Some(_) => Fault::Lost(why),
                    None => Fault::Unreachable(why),
                });
            }
        };
        let Hello { life, outlives, .. } = hello;
        let before = self.known.replace(Known { life, outlives, process });
        if before.is_some_and(|before| before.life != life) {
            self.connection = Some(stream);
            return Err(Fault::Lost("another gateway process has taken its place".to_owned()));
        }
        Ok(stream)
    }
}

/// Who was spoken to last.
#[derive(Clone, Copy)]
struct Known {
    life: [u8; 16],
    outlives: bool,
    process: i32,
}

impl Drop for RemoteGateway {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.store(false, Ordering::Release);
        }
    }
}

fn encode<Q: Encode>(orders: &[Q]) -> Result<(zeroize::Zeroizing<Vec<u8>>, usize), Fault> {
    call::fit(orders).map_err(|error| Fault::Unreachable(error.to_string()))
}

/// One call on a connection: results, or why the gateway cannot do it.
fn converse<R: Encode + Decode<()>>(
    stream: &mut UnixStream,
    call: Call,
    orders: &[u8],
    patience: Duration,
) -> io::Result<Result<Vec<R>, String>> {
    call::write(stream, call, false, orders)?;
    let mut results = Vec::new();
    loop {
        let frame = call::read(stream, patience)?;
        let frame = frame.ok_or_else(|| io::Error::from(ErrorKind::TimedOut))?;
        if frame.call == Call::FAULT {
            return Ok(Err(frame.items::<String>()?.join(", ")));
        }
        if frame.call != call {
            return Err(io::Error::new(ErrorKind::InvalidData, "an answer to another call"));
        }
        results.extend(frame.items()?);
        if !frame.more {
            return Ok(Ok(results));
        }
    }
}

/// Connects and greets. Waits for a gateway that is not there, but not for one
/// whose process has ended.
fn open(path: &Path, process: Option<i32>) -> io::Result<(UnixStream, Hello, i32)> {
    let clock = Clock::start();
    let mut stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(error) => {
                let ended =
                    process.is_some_and(|id| kill(Pid::from_raw(id), None) == Err(Errno::ESRCH));
                if ended || process.is_none() || clock.now() > RECONNECT_TIMEOUT {
                    return Err(error);
                }
                std::thread::park_timeout(RECONNECT_PAUSE);
            }
        }
    };
    // Keys pass here: only our own user's gateway, or root's.
    let peer = getsockopt(&stream, PeerCredentials)?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "it is another user's gateway"));
    }
    let process = peer.pid();
    let (nothing, _) = call::fit::<()>(&[])?;
    let hello = converse::<Hello>(&mut stream, Call::HELLO, &nothing, CALL_TIMEOUT)?;
    let hello = hello.map_err(io::Error::other)?.into_iter().next();
    match hello {
        Some(hello) if hello.version == VERSION => Ok((stream, hello, process)),
        Some(hello) => Err(io::Error::other(format!(
            "it speaks version {} of this protocol, we {VERSION}",
            hello.version
        ))),
        None => Err(io::Error::other("it does not greet")),
    }
}

pub(crate) fn one<T>(results: Vec<T>) -> Result<T, Fault> {
    let nothing = || Fault::Unreachable("an answer without a result".to_owned());
    results.into_iter().next().ok_or_else(nothing)
}

impl GatewayPlugin for RemoteGateway {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        self.ask(Call::CAPABILITIES).and_then(one)
    }

    fn subscribe(&mut self, sink: EventSink) -> Result<(), Fault> {
        if let Some(watching) = self.watching.take() {
            watching.store(false, Ordering::Release);
        }
        let known = self.known.map(|known| known.process);
        let unreachable = |error: io::Error| Fault::Unreachable(error.to_string());
        let stream = subscribe(&self.path, known).map_err(unreachable)?;
        let watching = Arc::new(AtomicBool::new(true));
        let watch = {
            let (path, watching) = (self.path.clone(), Arc::clone(&watching));
            move || watch_events(&path, stream, &sink, &watching)
        };
        Builder::new().name("gateway-events".to_owned()).spawn(watch).map_err(unreachable)?;
        self.watching = Some(watching);
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault> {
        self.ask(Call::LIST)
    }

    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        self.repeat(Call::SNAPSHOT, sessions)
    }

    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        self.repeat(Call::ADMIT, profiles)
    }

    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        self.repeat(Call::STAGE, &orders)
    }

    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        self.repeat(Call::PAUSE, &orders)
    }

    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault> {
        self.repeat(Call::RESUME, &orders)
    }

    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault> {
        self.repeat(Call::ACTIVATE, &orders)
    }

    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault> {
        self.repeat(Call::RELEASE, &orders)
    }

    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault> {
        self.repeat(Call::DISCARD, &orders)
    }

    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault> {
        self.repeat(Call::EXTEND, &orders)
    }
}

/// A connection on which the gateway tells events.
fn subscribe(path: &Path, process: Option<i32>) -> io::Result<UnixStream> {
    let (mut stream, _, _) = open(path, process)?;
    let (nothing, _) = call::fit::<()>(&[])?;
    converse::<()>(&mut stream, Call::SUBSCRIBE, &nothing, CALL_TIMEOUT)?
        .map_err(io::Error::other)?;
    Ok(stream)
}

/// Passes events on until nobody wants them. What falls into a broken
/// connection is lost, so the daemon is told to list again: then it also hears
/// that the gateway is gone, if it is.
fn watch_events(path: &Path, stream: UnixStream, sink: &EventSink, watching: &AtomicBool) {
    let mut connection = Some(stream);
    while watching.load(Ordering::Acquire) {
        let Some(stream) = &mut connection else {
            std::thread::park_timeout(LOOK_UP);
            connection = subscribe(path, None).ok();
            if connection.is_some() && !sink.emit(GatewayEvent::Overflow) {
                return;
            }
            continue;
        };
        let events = call::read(stream, LOOK_UP).and_then(|frame| match frame {
            Some(frame) => frame.items::<GatewayEvent>(),
            None => Ok(Vec::new()),
        });
        match events {
            Ok(events) => {
                if !events.into_iter().all(|event| sink.emit(event)) {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the gateway's events are interrupted");
                connection = None;
                if !sink.emit(GatewayEvent::Overflow) {
                    return;
                }
            }
        }
    }
}
