//! charon's events, heard on a connection of their own.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    clock::Deadline,
    codec::Packet,
    connection::Connection,
    error::{AnswerError, ViciError},
    sa::{ChildSaInfo, IkeSaInfo, endpoint},
    section::Section,
};

/// The events that are subscribed to.
const NAMES: [&str; 5] = ["ike-updown", "ike-rekey", "ike-update", "child-updown", "child-rekey"];
/// How long a (re)connection with its registrations may take.
const SETUP: Duration = Duration::from_secs(2);
/// Pause before the first and the later attempts to connect again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What charon tells by itself. The IKE SA of an event has no `children`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// From now on events are heard; what happened before is not known: list the
    /// SAs.
    Listening {
        /// Events that this charon does not have.
        missing: Vec<&'static str>,
    },
    /// Events were or may have been lost: list the SAs. After a lost connection
    /// `Listening` follows.
    Gap {
        /// How.
        reason: String,
    },
    /// An IKE SA was established.
    IkeUp(IkeSaInfo),
    /// An IKE SA ended, other than by rekeying.
    IkeDown(IkeSaInfo),
    /// An IKE SA was replaced by rekeying; its Child SAs moved to the new one.
    IkeRekeyed {
        /// What it was.
        old: IkeSaInfo,
        /// What it is.
        new: IkeSaInfo,
    },
    /// An address or port of an IKE SA is about to change (MOBIKE, NAT).
    IkeMoved {
        /// The IKE SA, still with the addresses that it had.
        ike: IkeSaInfo,
        /// Our new address and port.
        local: SocketAddr,
        /// The peer's new address and port.
        remote: SocketAddr,
    },
    /// A Child SA was installed.
    ChildUp(IkeSaInfo, ChildSaInfo),
    /// A Child SA ended, other than by rekeying.
    ChildDown(IkeSaInfo, ChildSaInfo),
    /// A Child SA was replaced by rekeying.
    ChildRekeyed {
        /// Its IKE SA.
        ike: IkeSaInfo,
        /// What it was.
        old: ChildSaInfo,
        /// What it is.
        new: ChildSaInfo,
    },
}

impl Event {
    /// Reads the event of this name; `None` for a name that is not subscribed to.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub fn read(event: &str, message: &Section) -> Result<Option<Self>, AnswerError> {
        let (name, section) = message.only_section()?;
        let ike = || IkeSaInfo::read_alone(name, section);
        let child = || -> Result<(&str, &Section), AnswerError> {
            section.section("child-sas")?.only_section()
        };
        let up = message.flag("up")?;
        Ok(Some(match event {
            "ike-updown" if up => Self::IkeUp(ike()?),
            "ike-updown" => Self::IkeDown(ike()?),
            "ike-rekey" => Self::IkeRekeyed {
                old: IkeSaInfo::read_alone(name, section.section("old")?)?,
                new: IkeSaInfo::read_alone(name, section.section("new")?)?,
            },
            "ike-update" => Self::IkeMoved {
                ike: ike()?,
                local: endpoint(message, "local-host", "local-port")?,
                remote: endpoint(message, "remote-host", "remote-port")?,
            },
            "child-updown" => {
                let (label, child) = child()?;
                let child = ChildSaInfo::read(label, child)?;
                if up { Self::ChildUp(ike()?, child) } else { Self::ChildDown(ike()?, child) }
            }
            "child-rekey" => {
                let (label, pair) = child()?;
                Self::ChildRekeyed {
                    ike: ike()?,
                    old: ChildSaInfo::read(label, pair.section("old")?)?,
                    new: ChildSaInfo::read(label, pair.section("new")?)?,
                }
            }
            _ => return Ok(None),
        }))
    }
}

/// A thread that hears charon's events and keeps them, within a bound, until
/// [`Subscription::next`] takes them. It connects again for as long as the
/// subscription is held; dropping the subscription ends it at once.
#[derive(Debug)]
pub struct Subscription {
    receiver: Receiver<Event>,
    overflowed: Arc<AtomicBool>,
    /// Closed to make the thread end.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Subscription {
    /// Begins to listen at this socket, whether or not charon runs already, and
    /// keeps at most `bound` events.
    ///
    /// # Errors
    /// The system has no thread or socket pair left.
    pub fn start(path: impl Into<PathBuf>, bound: usize) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(bound);
        let overflowed = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = UnixStream::pair()?;
        let listener =
            Listener { path: path.into(), sender, overflowed: Arc::clone(&overflowed), stopped };
        let thread =
            std::thread::Builder::new().name("vici-events".to_owned()).spawn(|| listener.run())?;
        Ok(Self { receiver, overflowed, stop: Some(stop), thread: Some(thread) })
    }

    /// The next event, or `None` after `timeout` without one. If more events came
    /// than fitted, what was kept is dropped and a single [`Event::Gap`] given.
    pub fn next(&self, timeout: Duration) -> Option<Event> {
        if self.overflowed.swap(false, Ordering::AcqRel) {
            // A list of the SAs is newer than all of these.
            while self.receiver.try_recv().is_ok() {}
            let reason = "more events came than were taken in time".to_owned();
            return Some(Event::Gap { reason });
        }
        self.receiver.recv_timeout(timeout).ok()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }
}

struct Listener {
    path: PathBuf,
    sender: SyncSender<Event>,
    overflowed: Arc<AtomicBool>,
    stopped: UnixStream,
}

/// Nobody wants events any more.
struct Stopped;

impl Listener {
    fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut heard = false;
        loop {
            if let Ok((connection, early, missing)) = self.connect() {
                heard = true;
                pause = FIRST_PAUSE;
                self.emit(Event::Listening { missing });
                match self.listen(connection, early) {
                    Ok(reason) => self.emit(Event::Gap { reason }),
                    Err(Stopped) => return,
                }
            } else if !heard {
                // Said once: whoever waits for events learns that there are none.
                heard = true;
                self.emit(Event::Gap { reason: "charon does not answer yet".to_owned() });
            }
            if self.wait(None, Some(pause)).is_err() {
                return;
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Connects and registers. Events that come before the last registration is
    /// confirmed are handed on.
    #[expect(clippy::type_complexity, reason = "used in one place")]
    fn connect(
        &self,
    ) -> Result<(Connection, VecDeque<(String, Section)>, Vec<&'static str>), ViciError> {
        let deadline = Deadline::after(SETUP);
        let mut connection = Connection::open(&self.path, deadline)?;
        let mut early = VecDeque::new();
        let mut missing = Vec::new();
        for event in NAMES {
            let register = Packet::Register(event.to_owned());
            connection.send(&register, deadline).map_err(|b| b.during(event, deadline))?;
            loop {
                let packet = connection.receive(deadline);
                match packet.map_err(|broken| broken.during(event, deadline))? {
                    Packet::Event { name, message } => early.push_back((name, message)),
                    Packet::Confirm => break,
                    Packet::UnknownEvent => {
                        missing.push(event);
                        break;
                    }
                    other => {
                        let (command, kind) = (event.to_owned(), other.kind());
                        return Err(ViciError::Unexpected { command, kind });
                    }
                }
            }
        }
        Ok((connection, early, missing))
    }

    /// Hands events on until the connection breaks, and says why it did.
    fn listen(
        &self,
        mut connection: Connection,
        mut early: VecDeque<(String, Section)>,
    ) -> Result<String, Stopped> {
        // The deadline of setting up must not end a long silence.
        if let Err(error) = connection.socket().set_read_timeout(None) {
            return Ok(error.to_string());
        }
        loop {
            while let Some((name, message)) = early.pop_front() {
                self.hand_on(&name, &message);
            }
            match connection.next() {
                Ok(Some(Packet::Event { name, message })) => early.push_back((name, message)),
                Ok(Some(other)) => return Ok(format!("an unexpected {}", other.kind())),
                Ok(None) => {
                    self.wait(Some(connection.socket()), None)?;
                    if let Err(broken) = connection.fill() {
                        return Ok(broken.to_string());
                    }
                }
                Err(broken) => return Ok(broken.to_string()),
            }
        }
    }

    fn hand_on(&self, name: &str, message: &Section) {
        match Event::read(name, message) {
            Ok(Some(event)) => self.emit(event),
            Ok(None) => {}
            Err(error) => self.emit(Event::Gap { reason: format!("`{name}`: {error}") }),
        }
    }

    fn emit(&self, event: Event) {
        // Disconnected means that the subscription is being dropped; the wait
        // that follows sees that.
        if let Err(TrySendError::Full(_)) = self.sender.try_send(event) {
            self.overflowed.store(true, Ordering::Release);
        }
    }

    /// Waits until the socket has something to read, or the time is over.
    fn wait(&self, socket: Option<&UnixStream>, time: Option<Duration>) -> Result<(), Stopped> {
        let timeout = match time {
            Some(time) => PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut waiting = vec![PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
        waiting.extend(socket.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Without poll there is no way to wait that can be ended.
            Err(_) => return Err(Stopped),
        }
        match waiting.first().map(PollFd::any) {
            Some(Some(false)) => Ok(()),
            _ => Err(Stopped),
        }
    }
}

#[cfg(test)]
mod tests;
