//! The thread that works the gateway: one call at a time, each with a batch,
//! those first that a stopped session waits for.

mod orders;
mod perform;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::Builder,
    time::Duration,
};

use gateway_plugin::{EventSink, Fault, GatewayEvent, GatewayPlugin, plugin::EventSource};
use protocol_spec::{
    id::SessionId,
    profile::{Capabilities, Profile},
    status::{Refusal, Status},
};
use tokio::sync::oneshot;

use self::orders::{Next, Orders};
use super::{
    thread::Thread,
    work::{Taken, Work},
};
use crate::engine::{GatewayCommand, GatewayReply};

/// Events of the gateway that wait for the daemon; beyond them it lists again.
const EVENTS: usize = 8192;
/// A gateway that has nothing to do is asked whether it is there.
const PROBE: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts to reach the gateway.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often the threads look whether they should end.
const LOOK_UP: Duration = Duration::from_millis(500);

/// How long the end waits for the gateway's answer to the calls that are ordered.
const LAST_CALL: Duration = Duration::from_secs(3);

/// Sessions that may wait to be looked at.
const LOOKS: usize = 64;
/// Sessions in orders that wait, beyond which nothing new should begin.
const BUSY: usize = 16_384;

/// What the gateway's thread says to the driver.
#[derive(Debug)]
pub enum Heard {
    /// An answer or an event for the engine.
    Reply(GatewayReply),
    /// The gateway answers: what it can carry.
    Up(Capabilities),
    /// It does not answer, or is gone; it is asked again.
    Down(String),
}

type Say = Arc<dyn Fn(Heard) + Send + Sync>;

/// Where the answer to a look at one session goes.
type LookReply = oneshot::Sender<Result<Profile, Refusal>>;

/// The gateway's thread.
pub struct Hands {
    work: Arc<Work<Orders>>,
    waiting: Arc<AtomicUsize>,
    thread: Thread,
}

impl Hands {
    /// Starts the thread. One call is about `at_once` sessions at most; `say` must not
    /// block for long.
    ///
    /// # Errors
    /// What the system says of a new thread.
    pub fn start(
        plugin: Box<dyn GatewayPlugin>,
        at_once: usize,
        say: impl Fn(Heard) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let work = Arc::new(Work::new(Orders::new(at_once)));
        let waiting = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            plugin,
            say: Arc::new(say),
            work: Arc::clone(&work),
            waiting: Arc::clone(&waiting),
            up: false,
        };
        let thread = Thread::start("gateway", move || worker.run())?;
        Ok(Self { work, waiting, thread })
    }

    /// Has something done.
    pub fn order(&self, command: GatewayCommand) {
        self.waiting.fetch_add(orders::sessions_in(&command), Ordering::Relaxed);
        self.work.add(|orders| orders.push(command));
    }

    /// What a session is, as the gateway sees it. No answer comes if too many
    /// ask at a time.
    pub fn look(&self, session: SessionId) -> oneshot::Receiver<Result<Profile, Refusal>> {
        let (answer, receiver) = oneshot::channel();
        self.work.add(|orders| orders.look(session, answer));
        receiver
    }

    /// Whether so much waits for the gateway that nothing new should begin.
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > BUSY
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.work.close();
        self.thread.end(
            LAST_CALL,
            "the gateway does not answer a call; what it did is listed at the next start",
        );
    }
}

/// The thread itself.
struct Worker {
    plugin: Box<dyn GatewayPlugin>,
    say: Say,
    work: Arc<Work<Orders>>,
    waiting: Arc<AtomicUsize>,
    up: bool,
}

impl Worker {
    fn run(mut self) {
        let mut pause = RETRY.0;
        loop {
            let go_on = if self.up { self.turn() } else { self.connect(&mut pause) };
            if !go_on {
                return;
            }
        }
    }

    /// One order, or a look whether the gateway is there. `false` at the end.
    fn turn(&mut self) -> bool {
        match self.work.take(PROBE, Orders::next) {
            Taken::Closed => return false,
            Taken::Idle => {
                if let Err(fault) = self.plugin.capabilities() {
                    self.failed(fault, None);
                }
            }
            Taken::Some(Next::Look(session, reply)) => {
                let taken = self.plugin.snapshot(&[session]);
                let (answer, fault) = perform::profile(session, taken);
                // Whoever asked may have gone.
                let _ = reply.send(answer);
                if let Some(fault) = fault {
                    self.failed(fault, None);
                }
            }
            Taken::Some(Next::Command(mut command)) => {
                let sessions = orders::sessions_in(&command);
                let done = perform::perform(self.plugin.as_mut(), &mut command);
                self.waiting.fetch_sub(sessions, Ordering::Relaxed);
                match done {
                    Ok(replies) => {
                        replies.into_iter().for_each(|reply| self.say(Heard::Reply(reply)));
                    }
                    Err(fault) => self.failed(fault, Some(command)),
                }
            }
        }
        true
    }

    /// Reaches the gateway, or waits a while. `false` at the end.
    fn connect(&mut self, pause: &mut Duration) -> bool {
        match self.subscribe() {
            Ok(capabilities) => {
                *pause = RETRY.0;
                self.up = true;
                self.say(Heard::Up(capabilities));
                // Whatever changed meanwhile shows in the list.
                self.work.add(|orders| orders.push(GatewayCommand::List));
                true
            }
            Err(fault) => {
                self.failed(fault, None);
                let refusal = Refusal::new(
                    Status::GatewayFault,
                    "the gateway does not answer: see `cxtpctl status`",
                );
                // Nobody should wait for these while the gateway is away.
                while let Taken::Some(next) = self.work.take(Duration::ZERO, Orders::next_calm) {
                    self.refuse_next(next, &refusal);
                }
                let go_on = self.work.rest(*pause);
                *pause = (*pause * 2).min(RETRY.1);
                go_on
            }
        }
    }

    fn subscribe(&mut self) -> Result<Capabilities, Fault> {
        let capabilities = self.plugin.capabilities()?;
        let (sink, source) = EventSink::bounded(EVENTS);
        self.plugin.subscribe(sink)?;
        let (say, work) = (Arc::clone(&self.say), Arc::clone(&self.work));
        Builder::new()
            .name("gateway-events".to_owned())
            .spawn(move || pass_on(&source, &say, &work))
            .map_err(|error| Fault::Unreachable(format!("no thread for its events: {error}")))?;
        Ok(capabilities)
    }

    /// The gateway failed as a whole, at a command if there is one.
    fn failed(&mut self, fault: Fault, command: Option<GatewayCommand>) {
        self.up = false;
        self.say(Heard::Down(fault.to_string()));
        match fault {
            Fault::Lost(why) => {
                let refusal = Refusal::new(Status::GatewayLost, why.as_str());
                self.say(Heard::Reply(GatewayReply::Lost(why)));
                if let Some(command) = command {
                    self.refuse(command, &refusal);
                }
                while let Taken::Some(next) = self.work.take(Duration::ZERO, Orders::next) {
                    self.refuse_next(next, &refusal);
                }
            }
            Fault::Unreachable(why) => match command {
                // What a stopped session waits for is done again once the
                // gateway is back: it is safe to repeat.
                Some(command) if orders::is_urgent(&command) => {
                    let sessions = orders::sessions_in(&command);
                    self.waiting.fetch_add(sessions, Ordering::Relaxed);
                    self.work.add(|orders| orders.push_again(command));
                }
                Some(command) => {
                    self.refuse(command, &Refusal::new(Status::GatewayFault, why.as_str()));
                }
                None => {}
            },
        }
    }

    fn refuse_next(&mut self, next: Next, refusal: &Refusal) {
        match next {
            Next::Look(_, reply) => {
                let _ = reply.send(Err(refusal.clone()));
            }
            Next::Command(command) => {
                self.waiting.fetch_sub(orders::sessions_in(&command), Ordering::Relaxed);
                self.refuse(command, refusal);
            }
        }
    }

    fn refuse(&mut self, command: GatewayCommand, refusal: &Refusal) {
        if let Some(reply) = perform::refuse(command, refusal) {
            self.say(Heard::Reply(reply));
        }
    }

    fn say(&self, heard: Heard) {
        (self.say)(heard);
    }
}

/// Passes the gateway's events on until it drops its end.
fn pass_on(source: &EventSource, say: &Say, work: &Work<Orders>) {
    while !work.is_closed() {
        let Some(event) = source.next(LOOK_UP) else {
            if source.is_over() {
                return;
            }
            continue;
        };
        say(Heard::Reply(match event {
            GatewayEvent::Up(status) => GatewayReply::Up(status),
            GatewayEvent::Changed { session, generation } => {
                GatewayReply::Changed(session, generation)
            }
            GatewayEvent::Down { session } => GatewayReply::Down(session),
            GatewayEvent::Lost { session, reason } => GatewayReply::Missing(session, reason),
            GatewayEvent::Unusable { session, reason } => GatewayReply::Unusable(session, reason),
            GatewayEvent::UnknownSpi { spi, .. } => GatewayReply::UnknownSpi(spi),
            GatewayEvent::GrantExhausted { session } => {
                tracing::error!(%session, "its granted numbers are used up; it sends nothing until they are extended");
                continue;
            }
            GatewayEvent::Overflow => {
                work.add(|orders| orders.push(GatewayCommand::List));
                continue;
            }
        }));
    }
}

#[cfg(test)]
mod tests;
