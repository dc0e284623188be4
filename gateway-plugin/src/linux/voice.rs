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

use protocol_spec::{
    id::SessionId,
    status::{Refusal, Status},
};

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

/// How the end user is told where its session is. An end user that has not heard
/// it is served by the source's relay meanwhile.
const PACE: Pace = Pace {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(2),
    total: Duration::from_secs(20),
};
/// How long an end user may repeat its last request: longer than any daemon does.
const REPEATS: Duration = Duration::from_secs(200);
/// How soon a conversation sees that it is over.
const LOOK_UP: Duration = Duration::from_millis(250);
/// Conversations at a time.
const MOST: usize = 4096;
/// Octets of a thread's stack.
const STACK: usize = 256 * 1024;

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

/// Why the gateway does not say what it should.
#[derive(Debug, thiserror::Error)]
enum Mute {
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

    /// Refuses to give a session away whose end user still has an open request of
    /// ours: its Message ID would be used for two messages.
    pub(crate) fn refuse_open(&self, session: SessionId) -> Result<(), Refusal> {
        if lock(&self.talks).get(&session).is_some_and(|talks| talks.announces) {
            let detail = "the end user has not answered yet where its session is: try later";
            return Err(Refusal::new(Status::Busy, detail));
        }
        Ok(())
    }

    /// Ends what is said for a session.
    pub(crate) fn silence(&self, session: SessionId, spis: Option<(u64, u64)>) {
        lock(&self.talks).remove(&session);
        spis.into_iter().for_each(|spis| self.tap.forget(spis));
    }

    /// Tells the end user that its session is at this gateway's address, under a
    /// Message ID that nobody else uses. Returns at once; the end is in the log.
    pub(crate) fn announce(&self, session: SessionId, speaker: Speaker, message_id: u32) {
        let begun = self.begin(session, &speaker.association, |talks| talks.announces = true);
        let talks = Arc::clone(&self.talks);
        let told = begun.and_then(|sightings| {
            spawn(move || {
                match tell(&speaker, message_id, &sightings) {
                    Ok(Outcome::Answered) => {
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
            })
        });
        if let Err(error) = told {
            tracing::warn!(%session, %error, "the end user is not told this gateway's address");
            finish(&self.talks, session, |talks| talks.announces = false);
        }
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
    message_id: u32,
    sightings: &Receiver<Sighting>,
) -> Result<Outcome, Mute> {
    let clock = Clock::start();
    let iv = random::iv()?;
    let cookie = Some(random::cookie()?);
    let now = clock.now();
    let mut request =
        Request::announce_address(association, message_id, &[], cookie, &iv, PACE, now)?;
    let port = Port::open(*local, *remote)?;
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
