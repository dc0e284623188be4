//! What a gateway says itself on a moved session's IKE SA, beside the daemon: its
//! address, and once more the last answer of the source. Each conversation has a
//! thread of its own that ends by itself.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::Builder,
    time::Duration,
};

use protocol_spec::id::SessionId;

use super::daemon::LastResponses;
use crate::{
    holder::clock::Clock,
    ike::{
        Association, IkeError,
        answer::{Answer, LastResponse, Path, Responder},
        exchange::{Outcome, Pace, Request},
        port::{Port, PortError},
        random,
        tap::{Sighting, Tap},
    },
};

/// How the end user is told where its session is.
const PACE: Pace = Pace {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(2),
    total: Duration::from_secs(20),
};
/// How long an announcement may last. An end user that has not heard it is served by
/// the source's relay, which must not end before.
pub(crate) const ANNOUNCES: Duration = PACE.total.saturating_add(PACE.longest);
/// How long its packets wait for an end user that changes its SAs at an announcement:
/// after that the first one counts as lost.
pub(crate) const FOLLOWS: Duration = PACE.first;
/// How long an end user may repeat its last request: longer than any daemon does.
const REPEATS: Duration = Duration::from_secs(200);
/// How soon a conversation sees that it is over.
const LOOK_UP: Duration = Duration::from_millis(250);
/// Conversations at a time.
const MOST: usize = 4096;
/// Octets of a thread's stack.
const STACK: usize = 256 * 1024;

/// Where an announcement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is sent now.
    Begins,
    /// The end user has followed.
    Followed,
    /// It was answered, or will not be.
    Ended,
}

/// Speaks for the sessions of a gateway.
#[derive(Debug)]
pub(crate) struct Voice {
    tap: Arc<Tap>,
    talks: Arc<Mutex<HashMap<SessionId, Talks>>>,
}

/// What is going on for one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Talks {
    announces: bool,
    repeats: bool,
}

/// An end of an IKE SA, and where its two ends are.
#[derive(Debug)]
pub(crate) struct Speaker {
    pub(crate) association: Association,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// What tells an end user where its session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// Nobody else uses it.
    pub(crate) message_id: u32,
    /// Once it may have been sent: it is repeated as it is, by the next process too.
    pub(crate) sealed: Option<Sealed>,
}

/// An encrypted message and the COOKIE2 in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) cookie: [u8; 16],
    pub(crate) datagram: Vec<u8>,
}

impl Announcement {
    /// Seals it, if it is not.
    pub(crate) fn seal(&mut self, association: &Association) -> Result<(), Mute> {
        if self.sealed.is_none() {
            let (iv, cookie) = (random::iv()?, random::cookie()?);
            let (id, begun) = (self.message_id, Duration::ZERO);
            let request =
                Request::announce_address(association, id, &[], Some(cookie), &iv, PACE, begun)?;
            self.sealed = Some(Sealed { cookie, datagram: request.datagram().to_vec() });
        }
        Ok(())
    }
}

/// Why the gateway does not say what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Mute {
    #[error(transparent)]
    Ike(#[from] IkeError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{MOST} conversations are open already")]
    TooMany,
}

fn lock(talks: &Mutex<HashMap<SessionId, Talks>>) -> MutexGuard<'_, HashMap<SessionId, Talks>> {
    talks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Voice {
    pub(crate) fn new(tap: Arc<Tap>) -> Self {
        Self { tap, talks: Arc::default() }
    }

    /// Ends what is said for a session.
    pub(crate) fn silence(&self, session: SessionId, spis: Option<(u64, u64)>) {
        lock(&self.talks).remove(&session);
        spis.into_iter().for_each(|spis| self.tap.forget(spis));
    }

    /// Tells the end user that its session is at this gateway's address. Returns at
    /// once; how it goes is in the log, and `hears` is told by a thread of its own.
    ///
    /// # Errors
    /// [`Mute`]; then `hears` is told nothing.
    pub(crate) fn announce(
        &self,
        session: SessionId,
        speaker: Speaker,
        announcement: Announcement,
        hears: impl Fn(Told) + Send + 'static,
    ) -> Result<(), Mute> {
        let sightings =
            self.begin(session, &speaker.association, |talks| talks.announces = true)?;
        let talks = Arc::clone(&self.talks);
        let told = spawn(move || {
            match tell(&speaker, announcement, &sightings, || hears(Told::Begins)) {
                Ok(Outcome::Answered) => {
                    hears(Told::Followed);
                    tracing::info!(%session, local = %speaker.local, "the end user has followed");
                }
                Ok(outcome) => tracing::warn!(
                    %session, ?outcome,
                    "the end user was told this gateway's address and did not follow: it is \
                     served as long as the source relays"
                ),
                Err(error) => tracing::warn!(
                    %session, %error,
                    "the end user could not be told this gateway's address"
                ),
            }
            finish(&talks, session, |talks| talks.announces = false);
            hears(Told::Ended);
        });
        told.inspect_err(|_| finish(&self.talks, session, |talks| talks.announces = false))
    }

    /// Answers with the same octets as the source did, if the end user repeats its
    /// last request, until it makes a new one.
    pub(crate) fn repeat(&self, session: SessionId, association: Association, last: LastResponse) {
        // The next owner may need them too.
        self.tap.learn(association.spis(), last.clone());
        let begun = self.begin(session, &association, |talks| talks.repeats = true);
        let talks = Arc::clone(&self.talks);
        let listening = begun.and_then(|sightings| {
            spawn(move || {
                repeat(&association, last, &sightings, || {
                    lock(&talks).get(&session).is_some_and(|talks| talks.repeats)
                });
                finish(&talks, session, |talks| talks.repeats = false);
            })
        });
        if let Err(error) = listening {
            tracing::warn!(%session, %error, "a repeated request is not answered");
            finish(&self.talks, session, |talks| talks.repeats = false);
        }
    }

    fn begin(
        &self,
        session: SessionId,
        association: &Association,
        note: impl FnOnce(&mut Talks),
    ) -> Result<Receiver<Sighting>, Mute> {
        let sightings = self.tap.follow(association.spis())?;
        let mut talks = lock(&self.talks);
        if talks.len() >= MOST && !talks.contains_key(&session) {
            return Err(Mute::TooMany);
        }
        note(talks.entry(session).or_default());
        Ok(sightings)
    }
}

impl LastResponses for Tap {
    fn last(&self, spis: (u64, u64)) -> Option<LastResponse> {
        self.last_response(spis)
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Mute> {
    Builder::new().name("ike-voice".to_owned()).stack_size(STACK).spawn(work)?;
    Ok(())
}

fn finish(
    talks: &Mutex<HashMap<SessionId, Talks>>,
    session: SessionId,
    note: impl FnOnce(&mut Talks),
) {
    let mut talks = lock(talks);
    if let Some(open) = talks.get_mut(&session) {
        note(open);
        if *open == Talks::default() {
            talks.remove(&session);
        }
    }
}

fn tell(
    Speaker { association, local, remote }: &Speaker,
    Announcement { message_id, sealed }: Announcement,
    sightings: &Receiver<Sighting>,
    begins: impl FnOnce(),
) -> Result<Outcome, Mute> {
    let port = Port::open(*local, *remote)?;
    begins();
    let clock = Clock::start();
    let now = clock.now();
    let Sealed { cookie, datagram } = sealed.unwrap_or_default();
    let mut request = Request::announce_again(message_id, Some(cookie), datagram, PACE, now);
    Ok(port.exchange(&mut request, association, sightings, || clock.now(), |_| {})?)
}

/// Answers repetitions of one request while `wanted`.
fn repeat(
    association: &Association,
    last: LastResponse,
    sightings: &Receiver<Sighting>,
    wanted: impl Fn() -> bool,
) {
    let clock = Clock::start();
    let answered = last.message_id;
    let mut responder = Responder::new(answered.saturating_add(1), Some(last));
    while clock.now() < REPEATS && wanted() {
        let sighting = match sightings.recv_timeout(LOOK_UP) {
            Ok(sighting) => sighting,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let header = &sighting.header;
        // The daemon answers only what is authentic: the end user has gone on.
        if sighting.outgoing && header.response && header.message_id > answered {
            return;
        }
        // Any other request is the daemon's.
        if sighting.outgoing || header.response || header.message_id != answered {
            continue;
        }
        let path = Path { source: sighting.source, destination: sighting.destination };
        let done = random::iv()
            .and_then(|iv| responder.handle_datagram(association, &sighting.message, path, &iv));
        match done {
            Ok(Answer::Repeat(datagrams)) => {
                let sent = Port::open(path.destination, path.source)
                    .and_then(|port| datagrams.iter().try_for_each(|datagram| port.send(datagram)));
                match sent {
                    Ok(()) => tracing::info!(message_id = answered, "an answer was repeated"),
                    Err(error) => tracing::warn!(%error, "an answer could not be repeated"),
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a repeated request is not answered"),
        }
    }
}
