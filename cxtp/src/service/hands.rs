//! The thread that uses the gateway's plugin: does what the engine wants of the
//! gateway, one call at a time, what bounds a gap before what does not.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use gateway_plugin::{
    Activate, Discard, EventSink, Extend, Fault, GatewayEvent, GatewayPlugin, Pause, PerSession,
    Release, Resume, Stage,
};
use protocol_spec::{
    id::SessionId,
    profile::{Capabilities, Profile},
    status::{Refusal, Status},
};

use tokio::sync::oneshot;

use crate::engine::{GatewayCommand, GatewayReply};

/// Events that may wait for the engine before the gateway is listed again.
const EVENTS: usize = 4096;
/// How long a gateway that does not answer is left alone, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Sessions that may wait to be looked at.
const LOOKS: usize = 64;
/// How often the event thread looks whether it shall end.
const LOOK_UP: Duration = Duration::from_millis(200);

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

/// The gateway's thread.
pub struct Hands {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queues: Mutex<Queues>,
    more: Condvar,
}

/// What is to be done. Bounded by the engine's windows: it never wants more of a
/// session before the last act has been answered.
#[derive(Default)]
struct Queues {
    urgent: VecDeque<GatewayCommand>,
    calm: VecDeque<GatewayCommand>,
    looks: VecDeque<Look>,
    ended: bool,
}

/// Somebody wants to see a session; bounded by [`LOOKS`].
struct Look {
    session: SessionId,
    answer: oneshot::Sender<Result<Profile, Refusal>>,
}

impl Hands {
    /// Starts the thread. `say` must not block for long.
    ///
    /// # Errors
    /// What the system says of a new thread.
    pub fn start(
        plugin: Box<dyn GatewayPlugin>,
        say: impl Fn(Heard) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { queues: Mutex::default(), more: Condvar::new() });
        let worker = Worker { plugin, say: Arc::new(say), shared: Arc::clone(&shared) };
        let thread =
            std::thread::Builder::new().name("gateway".into()).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has something done.
    pub fn order(&self, command: GatewayCommand) {
        let mut queues = self.shared.lock();
        if is_urgent(&command) {
            queues.urgent.push_back(command);
        } else {
            queues.calm.push_back(command);
        }
        drop(queues);
        self.shared.more.notify_one();
    }

    /// What a session is, as the gateway sees it. No answer comes if too many
    /// ask at a time.
    pub fn look(&self, session: SessionId) -> oneshot::Receiver<Result<Profile, Refusal>> {
        let (answer, receiver) = oneshot::channel();
        let mut queues = self.shared.lock();
        if queues.looks.len() < LOOKS {
            queues.looks.push_back(Look { session, answer });
        }
        drop(queues);
        self.shared.more.notify_one();
        receiver
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.more.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; `None` once it is over.
    fn next(&self) -> Option<Task> {
        let mut queues = self.lock();
        loop {
            if queues.ended {
                return None;
            }
            if let Some(command) = queues.urgent.pop_front().or_else(|| queues.calm.pop_front()) {
                return Some(Task::Act(command));
            }
            if let Some(look) = queues.looks.pop_front() {
                return Some(Task::Look(look));
            }
            queues = self.more.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits, but not when it is over.
    fn rest(&self, time: Duration) -> bool {
        let queues = self.lock();
        let waited = self.more.wait_timeout_while(queues, time, |queues| !queues.ended);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

/// What stands between a pause and the first packet at the target.
fn is_urgent(command: &GatewayCommand) -> bool {
    match command {
        GatewayCommand::Pause(_)
        | GatewayCommand::Resume(_)
        | GatewayCommand::Activate(_)
        | GatewayCommand::Release(_)
        | GatewayCommand::Extend(_) => true,
        // A discard must not overtake the staging that it takes back.
        GatewayCommand::Discard(_)
        | GatewayCommand::List
        | GatewayCommand::Snapshot(_)
        | GatewayCommand::Admit(..)
        | GatewayCommand::Stage(_) => false,
    }
}

enum Task {
    Act(GatewayCommand),
    Look(Look),
}

struct Worker {
    plugin: Box<dyn GatewayPlugin>,
    say: Arc<dyn Fn(Heard) + Send + Sync>,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        let mut subscribed = false;
        while let Some(task) = self.shared.next() {
            if !subscribed {
                if !self.connect() {
                    return;
                }
                subscribed = true;
            }
            let fault = match task {
                Task::Act(command) => self.act(command),
                Task::Look(look) => self.look(look),
            };
            if let Some(fault) = fault {
                (self.say)(Heard::Down(fault.to_string()));
                // What was subscribed to may be gone with the old process.
                subscribed = false;
                if let Fault::Lost(detail) = fault {
                    (self.say)(Heard::Reply(GatewayReply::Lost(detail)));
                }
                self.order_list();
            }
        }
    }

    /// After a fault everything is asked for anew.
    fn order_list(&self) {
        let mut queues = self.shared.lock();
        if !queues.calm.iter().any(|command| matches!(command, GatewayCommand::List)) {
            queues.calm.push_front(GatewayCommand::List);
        }
    }

    /// Asks until the gateway answers. `false` once it is over.
    fn connect(&mut self) -> bool {
        let mut wait = FIRST_RETRY;
        loop {
            match self.try_connect() {
                Ok(capabilities) => {
                    (self.say)(Heard::Up(capabilities));
                    return true;
                }
                Err(fault) => {
                    (self.say)(Heard::Down(fault.to_string()));
                    if let Fault::Lost(detail) = fault {
                        (self.say)(Heard::Reply(GatewayReply::Lost(detail)));
                    }
                }
            }
            if !self.shared.rest(wait) {
                return false;
            }
            wait = (wait * 2).min(LAST_RETRY);
        }
    }

    fn try_connect(&mut self) -> Result<Capabilities, Fault> {
        let capabilities = self.plugin.capabilities()?;
        let (sink, source) = EventSink::bounded(EVENTS);
        self.plugin.subscribe(sink)?;
        let (say, shared) = (Arc::clone(&self.say), Arc::clone(&self.shared));
        std::thread::Builder::new()
            .name("gateway-events".into())
            .spawn(move || {
                loop {
                    match source.next(LOOK_UP) {
                        Some(GatewayEvent::Overflow) => {
                            shared.lock().calm.push_back(GatewayCommand::List);
                            shared.more.notify_one();
                        }
                        Some(event) => event_reply(event).into_iter().for_each(|e| say(e)),
                        None if shared.lock().ended || source.is_over() => return,
                        None => {}
                    }
                }
            })
            .map_err(|error| Fault::Unreachable(format!("no thread for its events: {error}")))?;
        Ok(capabilities)
    }

    fn look(&mut self, look: Look) -> Option<Fault> {
        let mut failed = None;
        let result = each(self.plugin.snapshot(&[look.session]), vec![look.session], &mut failed);
        let found = result.into_iter().next().map(|(_, result)| result);
        let missing = || Err(Refusal::new(Status::NoSession, "the gateway does not hold it"));
        // Whoever asked may be gone.
        let _ = look.answer.send(found.unwrap_or_else(missing).map(|context| context.profile()));
        failed
    }

    /// Does one thing and says what came of it; a fault is also an answer for
    /// each session.
    fn act(&mut self, command: GatewayCommand) -> Option<Fault> {
        let mut failed = None;
        let reply = match command {
            GatewayCommand::List => match self.plugin.list() {
                Ok(all) => GatewayReply::Listed(all),
                Err(fault) => return Some(fault),
            },
            GatewayCommand::Snapshot(ids) => {
                let result = self.plugin.snapshot(&ids);
                GatewayReply::Snapshots(each(result, ids, &mut failed))
            }
            GatewayCommand::Admit(question, profiles) => {
                let ids = profiles.iter().map(|profile| profile.session).collect();
                let result = self.plugin.admit(&profiles);
                GatewayReply::Admitted(question, each(result, ids, &mut failed))
            }
            GatewayCommand::Stage(orders) => {
                let epochs: Vec<_> =
                    orders.iter().map(|order| (order.context.session, order.epoch)).collect();
                let orders = orders
                    .into_iter()
                    .map(|order| Stage {
                        epoch: order.epoch,
                        source: order.source,
                        batch: order.batch,
                        grants: order.grants,
                        context: order.context,
                    })
                    .collect();
                let result = self.plugin.stage(orders);
                let ids = epochs.iter().map(|(id, _)| *id).collect();
                let results = each(result, ids, &mut failed);
                if failed.is_some() {
                    // Some may be installed.
                    self.shared.lock().calm.push_front(GatewayCommand::Discard(epochs.clone()));
                }
                GatewayReply::Staged(with_epochs(epochs, results))
            }
            GatewayCommand::Pause(orders) => {
                let ids = orders.iter().map(|(id, _)| *id).collect();
                let orders =
                    orders.into_iter().map(|(session, target)| Pause { session, target }).collect();
                GatewayReply::Paused(each(self.plugin.pause(orders), ids, &mut failed))
            }
            GatewayCommand::Resume(orders) => {
                let ids = orders.iter().map(|(id, ..)| *id).collect();
                let orders = orders
                    .into_iter()
                    .map(|(session, epoch, from)| Resume { session, epoch, from })
                    .collect();
                GatewayReply::Resumed(each(self.plugin.resume(orders), ids, &mut failed))
            }
            GatewayCommand::Activate(orders) => {
                let epochs: Vec<_> = orders.iter().map(|(id, epoch, _)| (*id, *epoch)).collect();
                let orders = orders
                    .into_iter()
                    .map(|(session, epoch, finals)| Activate { session, epoch, finals })
                    .collect();
                let ids = epochs.iter().map(|(id, _)| *id).collect();
                let results = each(self.plugin.activate(orders), ids, &mut failed);
                GatewayReply::Activated(with_epochs(epochs, results))
            }
            GatewayCommand::Release(orders) => {
                let ids = orders.iter().map(|(id, ..)| *id).collect();
                let orders = orders
                    .into_iter()
                    .map(|(session, epoch, target)| Release { session, epoch, target })
                    .collect();
                GatewayReply::Released(each(self.plugin.release(orders), ids, &mut failed))
            }
            GatewayCommand::Discard(orders) => {
                let epochs = orders.clone();
                let orders =
                    orders.into_iter().map(|(session, epoch)| Discard { session, epoch }).collect();
                let ids = epochs.iter().map(|(id, _)| *id).collect();
                let results = each(self.plugin.discard(orders), ids, &mut failed);
                GatewayReply::Discarded(with_epochs(epochs, results))
            }
            GatewayCommand::Extend(orders) => {
                let orders = orders
                    .into_iter()
                    .map(|(session, epoch, ends)| Extend { session, epoch, ends })
                    .collect();
                return match self.plugin.extend(orders) {
                    Ok(results) => {
                        for (session, refused) in
                            results.into_iter().filter_map(|(id, r)| r.err().map(|r| (id, r)))
                        {
                            tracing::warn!(%session, %refused, "a granted range was not extended");
                        }
                        None
                    }
                    Err(fault) => Some(fault),
                };
            }
        };
        (self.say)(Heard::Reply(reply));
        failed
    }
}

/// The results of a call; of one that failed, the failure for each session.
fn each<T>(
    result: Result<PerSession<T>, Fault>,
    ids: Vec<SessionId>,
    failed: &mut Option<Fault>,
) -> PerSession<T> {
    match result {
        Ok(results) => results,
        Err(fault) => {
            let refusal = Refusal::new(Status::GatewayFault, fault.to_string());
            *failed = Some(fault);
            ids.into_iter().map(|id| (id, Err(refusal.clone()))).collect()
        }
    }
}

/// Puts back to each session's result the epoch of its order.
fn with_epochs<E: Copy, T>(
    epochs: Vec<(SessionId, E)>,
    results: PerSession<T>,
) -> Vec<(SessionId, E, Result<T, Refusal>)> {
    let epochs: std::collections::HashMap<_, _> = epochs.into_iter().collect();
    results
        .into_iter()
        .filter_map(|(id, result)| epochs.get(&id).map(|epoch| (id, *epoch, result)))
        .collect()
}

fn event_reply(event: GatewayEvent) -> Option<Heard> {
    Some(Heard::Reply(match event {
        GatewayEvent::Up(status) => GatewayReply::Up(status),
        GatewayEvent::Changed { session, generation } => GatewayReply::Changed(session, generation),
        GatewayEvent::Down { session } => GatewayReply::Down(session),
        GatewayEvent::UnknownSpi { spi, .. } => GatewayReply::UnknownSpi(spi),
        GatewayEvent::GrantExhausted { session } => {
            tracing::error!(%session, "its granted numbers are used up; it sends nothing until they are extended");
            return None;
        }
        GatewayEvent::Overflow => return None,
    }))
}
