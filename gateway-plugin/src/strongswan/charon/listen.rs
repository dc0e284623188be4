//! The two threads that hear charon: HA messages, and vici's events.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use protocol_spec::id::SessionId;

use super::lock;
use crate::{
    linux::{DaemonEvent, Known},
    plugin::GatewayEvent,
    strongswan::{
        ha::{HaSocket, Segments},
        tracker::{Notice, Tracker},
        vici::{Event, Subscription},
    },
};

/// How often the threads look whether they shall end.
const LOOK_UP: Duration = Duration::from_millis(200);

/// Ends its threads when dropped.
pub(super) struct Listeners {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Listeners {
    pub(super) fn start(
        socket: HaSocket,
        subscription: Subscription,
        tracker: Arc<Mutex<Tracker>>,
        events: SyncSender<DaemonEvent>,
        new_id: fn() -> SessionId,
    ) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let messages = {
            let (stopping, out) = (Arc::clone(&stopping), Out::new(events.clone()));
            move || hear(&socket, &tracker, out, new_id, &stopping)
        };
        let notes = {
            let (stopping, out) = (Arc::clone(&stopping), Out::new(events));
            move || heed(&subscription, out, &stopping)
        };
        let threads = vec![
            Builder::new().name("charon-ha".to_owned()).spawn(messages)?,
            Builder::new().name("charon-vici".to_owned()).spawn(notes)?,
        ];
        Ok(Self { stopping, threads })
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr.
            drop(thread.join());
        }
    }
}

/// The way out of events, which never blocks: what does not fit is made up for by
/// a question for all sessions.
struct Out {
    events: SyncSender<DaemonEvent>,
    missed: bool,
}

impl Out {
    fn new(events: SyncSender<DaemonEvent>) -> Self {
        Self { events, missed: false }
    }

    fn put(&mut self, event: DaemonEvent) {
        let event = if self.missed { DaemonEvent::Gap } else { event };
        self.missed = matches!(self.events.try_send(event), Err(TrySendError::Full(_)));
    }

    /// Says again what could not be said.
    fn catch_up(&mut self) {
        if self.missed {
            self.put(DaemonEvent::Gap);
        }
    }
}

/// HA messages, one by one.
fn hear(
    socket: &HaSocket,
    tracker: &Mutex<Tracker>,
    mut out: Out,
    new_id: fn() -> SessionId,
    stopping: &AtomicBool,
) {
    let mut lost = socket.lost();
    while !stopping.load(Ordering::Acquire) {
        match socket.receive(LOOK_UP) {
            Ok(None) => {
                let now = socket.lost();
                if std::mem::replace(&mut lost, now) != now {
                    out.put(DaemonEvent::Gap);
                }
                out.catch_up();
            }
            Ok(Some(Ok((_, message)))) => {
                let notices = lock(tracker).handle(message, new_id());
                notices.iter().filter_map(told).for_each(|event| out.put(event));
            }
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "charon said something on the HA socket that is not known");
                out.put(DaemonEvent::Gap);
            }
            Err(error) => {
                tracing::error!(%error, "the HA socket is broken");
                std::thread::park_timeout(LOOK_UP);
            }
        }
    }
}

/// vici's events: only that something changed of which no HA message tells.
fn heed(subscription: &Subscription, mut out: Out, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Acquire) {
        match subscription.next(LOOK_UP) {
            None => out.catch_up(),
            Some(Event::Gap { reason }) => {
                tracing::info!(reason, "charon's events were interrupted");
                out.put(DaemonEvent::Gap);
            }
            // A charon that listens again may be another than before.
            Some(
                Event::Listening { .. }
                | Event::IkeMoved { .. }
                | Event::IkeDown(_)
                | Event::ChildDown(..),
            ) => out.put(DaemonEvent::Gap),
            Some(_) => {}
        }
    }
}

fn told(notice: &Notice) -> Option<DaemonEvent> {
    match notice {
        Notice::Event(GatewayEvent::Up(status)) => {
            let (session, generation) = (status.session, status.generation);
            Some(DaemonEvent::Up(Known { session, generation }))
        }
        Notice::Event(GatewayEvent::Changed { session, generation }) => {
            let (session, generation) = (*session, *generation);
            Some(DaemonEvent::Changed(Known { session, generation }))
        }
        Notice::Event(GatewayEvent::Down { session }) => Some(DaemonEvent::Down(*session)),
        Notice::Event(_) => None,
        Notice::Gap { .. } => Some(DaemonEvent::Gap),
        Notice::Refused { ike, why } => {
            tracing::warn!(?ike, why, "an IKE SA is not followed and cannot be moved");
            None
        }
    }
}

/// The segments of clients of which something was missed.
pub(super) fn missed(notices: &[Notice], segments: Segments) -> BTreeSet<u16> {
    let clients = notices.iter().filter_map(|notice| match notice {
        Notice::Gap { client, .. } => client.as_ref(),
        _ => None,
    });
    clients.map(|client| segments.of(client.ip())).collect()
}
