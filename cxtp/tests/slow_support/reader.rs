//! A target made by hand that reads its streams only when the test lets it. It
//! takes whatever it is offered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use protocol_spec::{
    id::{SessionEpoch, SessionId},
    message::{Ctdr, CtdrEntry, Message, QueryAnswer, TargetState},
    status::{Refusal, Status},
};
use quinn::{Connection, RecvStream, SendStream};
use tokio::{sync::watch, task::JoinSet};

use super::gateway::Flight;
use crate::common::{Link, Stream, heard};

/// What it took.
#[derive(Default)]
pub(crate) struct Taken {
    sessions: Mutex<HashMap<SessionId, (SessionEpoch, TargetState)>>,
}

impl Taken {
    /// What it says of a session that it is asked about.
    fn state(&self, session: SessionId, epoch: SessionEpoch) -> CtdrEntry {
        let sessions = self.sessions.lock().unwrap();
        let nothing =
            || TargetState::Aborted(Refusal::new(Status::NoTransfer, "never heard of it"));
        let state = sessions.get(&session).filter(|(known, _)| *known == epoch);
        let state = state.map_or_else(nothing, |(_, state)| state.clone());
        CtdrEntry { session, epoch, state }
    }

    fn set(&self, session: SessionId, epoch: SessionEpoch, state: TargetState) -> CtdrEntry {
        let mut sessions = self.sessions.lock().unwrap();
        sessions.insert(session, (epoch, state.clone()));
        CtdrEntry { session, epoch, state }
    }

    /// Every session that is in use here.
    pub(crate) fn active(&self) -> Vec<SessionId> {
        self.those(|state| *state == TargetState::Active)
    }

    /// Every session that is staged here.
    pub(crate) fn staged(&self) -> Vec<SessionId> {
        self.those(|state| matches!(state, TargetState::Staged { .. }))
    }

    /// Every session that was taken back.
    pub(crate) fn taken_back(&self) -> Vec<SessionId> {
        self.those(|state| matches!(state, TargetState::Aborted(_)))
    }

    fn those(&self, test: impl Fn(&TargetState) -> bool) -> Vec<SessionId> {
        let sessions = self.sessions.lock().unwrap();
        sessions.iter().filter(|(_, (_, state))| test(state)).map(|(id, _)| *id).collect()
    }
}

/// The target, at work.
pub(crate) struct Reader {
    pub(crate) taken: Arc<Taken>,
    may_read: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Reader {
    pub(crate) fn start(link: Link, flight: &Arc<Flight>) -> Self {
        let taken = Arc::new(Taken::default());
        let (may_read, reads) = watch::channel(true);
        let mut tasks = JoinSet::new();
        let Link { control, bulk } = link;
        let hear = Hear { taken: Arc::clone(&taken), flight: Arc::clone(flight), reads };
        let Stream { send, receive } = control.shared;
        // The lane for control is read all the time.
        let (always, read) = watch::channel(true);
        let talker = Hear { reads: read, ..hear.clone() };
        tasks.spawn(async move {
            let _lives = (control.connection, always);
            talker.stream(send, receive).await;
        });
        tasks.spawn(hear.connection(bulk.connection, bulk.shared));
        Self { taken, may_read, _tasks: tasks }
    }

    /// Stops reading at the next frame, or goes on.
    pub(crate) fn may_read(&self, may: bool) {
        self.may_read.send_replace(may);
    }
}

#[derive(Clone)]
struct Hear {
    taken: Arc<Taken>,
    flight: Arc<Flight>,
    reads: watch::Receiver<bool>,
}

impl Hear {
    async fn connection(self, connection: Connection, shared: Stream) {
        let mut streams = JoinSet::new();
        streams.spawn(self.clone().stream(shared.send, shared.receive));
        while let Ok((send, receive)) = connection.accept_bi().await {
            streams.spawn(self.clone().stream(send, receive));
        }
    }

    async fn stream(mut self, mut send: SendStream, mut receive: RecvStream) {
        while self.reads.wait_for(|may| *may).await.is_ok()
            && let Some(message) = heard(&mut receive).await
        {
            let Some(answer) = self.answer(message) else { continue };
            if send.write_all(&answer.to_frame().unwrap()).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, message: Message) -> Option<Message> {
        let set = |session, epoch, state| self.taken.set(session, epoch, state);
        let ctdr = |batch, entries: Vec<_>| Some(Message::Ctdr(Ctdr { batch, entries }));
        match message {
            Message::Pctd(m) => {
                self.flight.ended(m.entries.len());
                let staged = m.entries.iter().map(|entry| {
                    let generation = entry.context.generation;
                    set(entry.context.session, entry.epoch, TargetState::Staged { generation })
                });
                ctdr(m.batch, staged.collect())
            }
            Message::Ctd(m) => {
                let active = m.entries.iter().map(|e| set(e.session, e.epoch, TargetState::Active));
                ctdr(m.batch, active.collect())
            }
            Message::Ctc(m) => {
                let aborted = TargetState::Aborted(m.reason);
                let entries = m.entries.iter().map(|(id, epoch)| set(*id, *epoch, aborted.clone()));
                ctdr(m.batch, entries.collect())
            }
            Message::Query(m) => {
                let entries =
                    m.transfers.iter().map(|(id, epoch, _)| self.taken.state(*id, *epoch));
                let entries = entries.collect();
                Some(Message::QueryAnswer(QueryAnswer { request: m.request, entries }))
            }
            _ => None,
        }
    }
}
