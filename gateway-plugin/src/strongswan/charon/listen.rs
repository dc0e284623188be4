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

use super::{PATIENCE, lock, news::News, spis};
use crate::{
    linux::{DaemonEvent, Known},
    plugin::GatewayEvent,
    strongswan::{
        ha::{HaSocket, Segments},
        tracker::{Notice, Tracker},
        vici::{Event, IkeSaInfo, Subscription},
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
        [socket, heard]: [HaSocket; 2],
        subscription: Subscription,
        (tracker, news): (Arc<Mutex<Tracker>>, Arc<News>),
        events: SyncSender<DaemonEvent>,
        new_id: fn() -> SessionId,
    ) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let messages = {
            let (stopping, out) = (Arc::clone(&stopping), Out::new(events.clone(), &news));
            let tracker = Arc::clone(&tracker);
            move || hear(&socket, &tracker, out, new_id, &stopping)
        };
        let notes = {
            let (stopping, out) = (Arc::clone(&stopping), Out::new(events, &news));
            move || heed(&subscription, (&heard, &tracker), out, &stopping)
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
    news: Arc<News>,
}

impl Out {
    fn new(events: SyncSender<DaemonEvent>, news: &Arc<News>) -> Self {
        Self { events, missed: false, news: Arc::clone(news) }
    }

    /// charon did something that was not heard.
    fn gap(&mut self) {
        self.news.miss();
        self.put(DaemonEvent::Gap);
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
        let taken = socket.wait(LOOK_UP).and_then(|something| {
            if !something {
                return Ok(None);
            }
            // Both under one lock: who finds nothing waiting and has it then knows all.
            let mut tracker = lock(tracker);
            let heard = socket.receive(Duration::ZERO)?;
            Ok(heard.map(|heard| heard.map(|(_, message)| tracker.handle(message, new_id()))))
        });
        match taken {
            Ok(None) => {
                let now = socket.lost();
                if std::mem::replace(&mut lost, now) != now {
                    out.gap();
                }
                out.catch_up();
            }
            Ok(Some(Ok(notices))) => {
                for event in notices.iter().filter_map(told) {
                    match event {
                        DaemonEvent::Up(_) => out.news.up(),
                        // Only what is known is told without a gap.
                        DaemonEvent::Gap => out.news.miss(),
                        _ => {}
                    }
                    out.put(event);
                }
            }
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "charon said something on the HA socket that is not known");
                out.gap();
            }
            Err(error) => {
                tracing::error!(%error, "the HA socket is broken");
                std::thread::park_timeout(LOOK_UP);
            }
        }
    }
}

/// vici's events: numbers of IKE SAs, and what no HA message told.
fn heed(
    subscription: &Subscription,
    (heard, tracker): (&HaSocket, &Mutex<Tracker>),
    mut out: Out,
    stopping: &AtomicBool,
) {
    // What is over for vici should be so for us, once all is heard that charon said.
    let still = |ike: &IkeSaInfo, child: Option<u32>| {
        let caught_up = heard.catch_up(PATIENCE);
        let tracker = lock(tracker);
        caught_up.is_err()
            || child.map_or_else(
                || tracker.find(spis(ike)).is_some(),
                |inbound| tracker.has_child(spis(ike), inbound),
            )
    };
    while !stopping.load(Ordering::Acquire) {
        match subscription.next(LOOK_UP) {
            None => out.catch_up(),
            Some(Event::Gap { reason }) => {
                tracing::info!(reason, "charon's events were interrupted");
                out.gap();
            }
            Some(Event::Listening { .. }) => out.gap(),
            Some(Event::IkeUp(ike)) => out.news.told(spis(&ike), ike.unique_id),
            Some(Event::IkeRekeyed { old, new }) => {
                let named = |ike: &IkeSaInfo| (spis(ike), ike.unique_id);
                out.news.rekeyed(named(&old), named(&new));
            }
            // Of one that is not up yet HA messages tell where it is.
            Some(Event::IkeMoved { ike, .. }) if lock(tracker).find(spis(&ike)).is_some() => {
                out.gap();
            }
            Some(Event::IkeDown(ike)) => {
                out.news.down(spis(&ike));
                if still(&ike, None) {
                    out.gap();
                }
            }
            Some(Event::ChildDown(ike, child)) if still(&ike, child.spi_in) => out.gap(),
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
