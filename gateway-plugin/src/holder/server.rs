//! The gateway as a process of its own: its socket. Only the same user and root
//! may speak to it.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::AsFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use bincode::{Decode, Encode};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use protocol_spec::{id::SessionId, profile::Profile};

use super::{
    LOOK_UP,
    call::{self, Answer, Call, Frame, Hello, VERSION},
};
use crate::plugin::{EventSink, EventSource, Fault, GatewayEvent, GatewayPlugin};

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 32;
/// Events that wait for a subscriber, at most.
const EVENTS: usize = 1 << 14;

/// A gateway that can be served: each connection has a handle of its own, and
/// the gateway sees to it that they do not disturb each other.
pub trait ServedGateway: GatewayPlugin + Clone + 'static {
    /// Which life of the gateway this is; another value says that all sessions of
    /// the one before are gone.
    fn life(&self) -> [u8; 16];

    /// Whether its sessions outlive this process, as those of a kernel do.
    fn outlives_process(&self) -> bool;

    /// A call that is not one of the trait's.
    #[doc(hidden)]
    fn own_call(&mut self, call: OwnCall<'_>) -> Result<OwnAnswer, Fault> {
        Err(Fault::Unreachable(format!("call {} is not known", call.0.call.0)))
    }
}

/// A call of a body's own.
pub struct OwnCall<'a>(pub(crate) &'a Frame);

/// Its answer.
pub struct OwnAnswer(pub(crate) Answer);

/// A gateway behind its socket. Ends when dropped; the gateway itself does not.
pub struct GatewayServer {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl GatewayServer {
    /// Begins to serve `gateway` at `path`. What is left there of a dead gateway
    /// is replaced.
    ///
    /// # Errors
    /// If a gateway lives there already, or what the operating system says.
    pub fn start(gateway: impl ServedGateway, path: &Path) -> io::Result<Self> {
        let told = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
        };
        if UnixStream::connect(path).is_ok() {
            return Err(told(ErrorKind::AddrInUse.into()));
        }
        // Made elsewhere and moved here, so that nobody connects before the
        // permissions are set.
        let mut making = path.as_os_str().to_owned();
        making.push(format!(".{}", std::process::id()));
        let making = PathBuf::from(making);
        if let Err(error) = fs::remove_file(&making)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(told(error));
        }
        let listener = UnixListener::bind(&making).map_err(told)?;
        fs::set_permissions(&making, fs::Permissions::from_mode(0o600)).map_err(told)?;
        fs::rename(&making, path).map_err(told)?;
        listener.set_nonblocking(true)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = {
            let stopping = Arc::clone(&stopping);
            let accept = move || accept_all(&listener, &gateway, &stopping);
            Builder::new().name("acceptor".to_owned()).spawn(accept)?
        };
        Ok(Self { path: path.to_owned(), stopping, acceptor: Some(acceptor) })
    }
}

impl Drop for GatewayServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the socket was gone already");
        }
    }
}

fn accept_all<G: ServedGateway>(listener: &UnixListener, gateway: &G, stopping: &Arc<AtomicBool>) {
    let open = Arc::new(AtomicUsize::new(0));
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !stopping.load(Ordering::Acquire) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, LOOK_UP.as_millis() as u16).unwrap_or(0) == 0 {
            continue;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !call::timed_out(&error) {
                    tracing::warn!(%error, "cannot accept a connection");
                    std::thread::park_timeout(LOOK_UP);
                }
                continue;
            }
        };
        threads.retain(|thread| !thread.is_finished());
        if let Err(why) = may_speak(&stream) {
            tracing::warn!(why, "a connection was refused");
            continue;
        }
        if open.load(Ordering::Acquire) >= MAX_CONNECTIONS {
            tracing::warn!("a connection was refused: there are {MAX_CONNECTIONS} already");
            continue;
        }
        let (gateway, stopping, open) = (gateway.clone(), Arc::clone(stopping), Arc::clone(&open));
        open.fetch_add(1, Ordering::AcqRel);
        let counter = Arc::clone(&open);
        let serve = move || {
            let mut connection = Connection { stream, gateway, stopping };
            if let Err(error) = connection.serve()
                && error.kind() != ErrorKind::UnexpectedEof
            {
                tracing::warn!(%error, "a connection ended");
            }
            open.fetch_sub(1, Ordering::AcqRel);
        };
        match Builder::new().name("connection".to_owned()).spawn(serve) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                counter.fetch_sub(1, Ordering::AcqRel);
                tracing::warn!(%error, "cannot serve a connection");
            }
        }
    }
    for thread in threads {
        drop(thread.join());
    }
}

/// Keys pass here: only our own user and root.
fn may_speak(stream: &UnixStream) -> Result<(), &'static str> {
    stream.set_nonblocking(false).map_err(|_| "the connection is broken")?;
    let peer = getsockopt(stream, PeerCredentials).map_err(|_| "it does not say who it is")?;
    if peer.uid() == 0 || peer.uid() == geteuid().as_raw() {
        Ok(())
    } else {
        Err("it is another user's")
    }
}

struct Connection<G> {
    stream: UnixStream,
    gateway: G,
    stopping: Arc<AtomicBool>,
}

impl<G: ServedGateway> Connection<G> {
    fn serve(&mut self) -> io::Result<()> {
        while !self.stopping.load(Ordering::Acquire) {
            if let Some(frame) = call::read(&mut self.stream, LOOK_UP)? {
                if frame.call == Call::SUBSCRIBE {
                    return self.tell_events();
                }
                self.answer(&frame)?;
            }
        }
        Ok(())
    }

    /// Does one call.
    fn answer(&mut self, frame: &Frame) -> io::Result<()> {
        let mut g = self.gateway.clone();
        match frame.call {
            Call::HELLO => {
                let (life, outlives) = (g.life(), g.outlives_process());
                self.reply(frame.call, Ok(vec![Hello { version: VERSION, life, outlives }]))
            }
            Call::CAPABILITIES => {
                self.reply(frame.call, g.capabilities().map(|capabilities| vec![capabilities]))
            }
            Call::LIST => self.reply(frame.call, g.list()),
            Call::SNAPSHOT => self.act(frame, |ids: Vec<SessionId>| g.snapshot(&ids)),
            Call::ADMIT => self.act(frame, |profiles: Vec<Profile>| g.admit(&profiles)),
            Call::STAGE => self.act(frame, |orders| g.stage(orders)),
            Call::PAUSE => self.act(frame, |orders| g.pause(orders)),
            Call::RESUME => self.act(frame, |orders| g.resume(orders)),
            Call::ACTIVATE => self.act(frame, |orders| g.activate(orders)),
            Call::RELEASE => self.act(frame, |orders| g.release(orders)),
            Call::DISCARD => self.act(frame, |orders| g.discard(orders)),
            Call::EXTEND => self.act(frame, |orders| g.extend(orders)),
            Call(number) if (Call::FIRST_OWN..Call::EVENT.0).contains(&number) => {
                match g.own_call(OwnCall(frame)) {
                    Ok(OwnAnswer(answer)) => answer.write(&mut self.stream, frame.call),
                    Err(fault) => self.reply::<()>(frame.call, Err(fault)),
                }
            }
            Call(number) => {
                let what = format!("call {number} is not for a gateway to do");
                Err(io::Error::new(ErrorKind::InvalidData, what))
            }
        }
    }

    fn act<Q: Encode + Decode<()>, R: Encode>(
        &mut self,
        frame: &Frame,
        act: impl FnOnce(Vec<Q>) -> Result<Vec<R>, Fault>,
    ) -> io::Result<()> {
        let answer = act(frame.items()?);
        self.reply(frame.call, answer)
    }

    fn reply<R: Encode>(&mut self, call: Call, answer: Result<Vec<R>, Fault>) -> io::Result<()> {
        match answer {
            Ok(results) => Answer::of(&results)?.write(&mut self.stream, call),
            Err(fault) => Answer::of(&[fault.to_string()])?.write(&mut self.stream, Call::FAULT),
        }
    }

    /// From now on this connection only tells events.
    fn tell_events(&mut self) -> io::Result<()> {
        let (sink, source) = EventSink::bounded(EVENTS);
        if let Err(fault) = self.gateway.subscribe(sink) {
            return self.reply::<()>(Call::SUBSCRIBE, Err(fault));
        }
        self.reply(Call::SUBSCRIBE, Ok(vec![()]))?;
        while !self.stopping.load(Ordering::Acquire) {
            let events = gather(&source);
            if !events.is_empty() {
                Answer::of(&events)?.write(&mut self.stream, Call::EVENT)?;
            } else if gone(&self.stream)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The next events, as many as are there.
fn gather(source: &EventSource) -> Vec<GatewayEvent> {
    let mut events = Vec::new();
    let mut patience = LOOK_UP;
    while let Some(event) = source.next(patience) {
        events.push(event);
        patience = std::time::Duration::ZERO;
        if events.len() >= call::MAX_ITEMS {
            break;
        }
    }
    events
}

/// Whether the other end closed. A subscriber says nothing more.
fn gone(stream: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, 0u16)? > 0)
}
