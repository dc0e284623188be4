//! What the control API asks of the driver.

use std::collections::{BTreeMap, BTreeSet};

use protocol_spec::{
    id::{BatchId, Identity, Name, RequestId, Role, SessionId},
    status::{Refusal, Status},
    transfer::TransferMode,
};
use serde_json::json;
use tokio::sync::oneshot;

use super::{Driver, Kind, Lines, Tally, Waiting, Watched, done, fail, random};
use crate::{
    engine::{Command, Input, Standing},
    service::{api, report},
};

/// What the control API wants of the driver.
pub(in crate::service) enum Ask {
    /// The daemon's status.
    Status(oneshot::Sender<api::Status>),
    /// A page of sessions behind one.
    Page(Option<SessionId>, usize, oneshot::Sender<Vec<api::Session>>),
    /// One session, with what the gateway knows of it.
    Show(SessionId, Lines),
    /// A batch; `None` for all active sessions.
    Transfer(Option<Vec<SessionId>>, Name, TransferMode, Lines),
    /// Would they be taken; `None` for all active sessions.
    Preflight(Option<Vec<SessionId>>, Name, Lines),
    /// A command whose reply is the answer.
    Plain(RequestId, Command, Lines),
    /// A pull, which is a batch as well.
    Pull(RequestId, Command, Lines),
    /// Stop a batch.
    Cancel(BatchId, Lines),
    /// A session for a file, sealed.
    Export(SessionId, Name, Lines),
}

impl Driver {
    fn active(&self) -> Vec<SessionId> {
        self.engine
            .sessions()
            .filter(|view| view.standing == Standing::Active)
            .map(|view| view.session)
            .collect()
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => {
                // Whoever asked may be gone, here and below.
                let _ = answer.send(self.status());
            }
            Ask::Page(after, length, answer) => {
                let page = self.engine.sessions_after(after).take(length);
                let _ = answer.send(page.map(|view| report::session(&view)).collect());
            }
            Ask::Show(session, lines) => self.show(session, lines),
            Ask::Transfer(sessions, target, mode, lines) => {
                if self.refuses_new(&target, &lines) {
                    return;
                }
                let batch = BatchId(random());
                let sessions = sessions.unwrap_or_else(|| self.active());
                tracing::info!(%batch, %target, sessions = sessions.len(), "transfer asked for");
                // First, so that it can be cancelled while it runs.
                let begun = json!({"batch": batch.to_string(), "sessions": sessions.len()});
                let begun = report::plain_event("batch-begun", begun);
                let _ = lines.try_send(api::Line::Event(begun));
                self.desk.watched.insert(batch, Watched { lines, tally: Tally::default() });
                let command = Command::Transfer { batch, sessions, target, mode };
                self.handle(Input::Command(command));
            }
            Ask::Preflight(sessions, target, lines) => {
                if self.refuses_new(&target, &lines) {
                    return;
                }
                let sessions = sessions.unwrap_or_else(|| self.active());
                let request = RequestId(random());
                let kind = Kind::Preflight(sessions.len());
                self.desk.waiting.insert(request, Waiting { lines, kind });
                self.handle(Input::Command(Command::Preflight { request, sessions, target }));
            }
            Ask::Plain(request, command, lines) => {
                self.desk.waiting.insert(request, Waiting { lines, kind: Kind::Plain });
                self.handle(Input::Command(command));
            }
            Ask::Pull(request, command, lines) => {
                let watched = Watched { lines, tally: Tally::default() };
                self.desk.watched.insert(BatchId(request.0), watched);
                self.handle(Input::Command(command));
            }
            Ask::Cancel(batch, lines) => {
                if self.engine.batches().any(|running| running == batch) {
                    self.handle(Input::Command(Command::Cancel { batch }));
                    done(&lines, &json!({}));
                } else {
                    let why = "no such batch runs here; it may have ended".to_owned();
                    fail(&lines, &Refusal::new(Status::NoTransfer, why));
                }
            }
            Ask::Export(session, target, lines) => {
                if self.refuses_new(&target, &lines) {
                    return;
                }
                if self.config.peers.get(&target).is_none_or(|peer| peer.seal_key.is_none()) {
                    let why =
                        format!("set `peers.{target}.seal_key` to the public key of {target}");
                    return fail(&lines, &Refusal::new(Status::NoPeer, why));
                }
                let request = RequestId(random());
                self.desk.waiting.insert(request, Waiting { lines, kind: Kind::Plain });
                self.handle(Input::Command(Command::Export { request, session, target }));
            }
        }
    }

    /// Refuses what must not begin any more, or never can.
    fn refuses_new(&self, target: &Name, lines: &Lines) -> bool {
        let refusal = if self.desk.ending {
            Refusal::new(Status::ShuttingDown, "the daemon is ending")
        } else if target == self.config.name() {
            Refusal::new(Status::NoPeer, format!("{target} is this gateway; name another one"))
        } else if !self.config.peers.contains_key(target) {
            let known: Vec<_> = self.config.peers.keys().map(Name::as_str).collect();
            let detail = format!("{target} is not configured; known are: {}", known.join(", "));
            Refusal::new(Status::NoPeer, detail)
        } else {
            return false;
        };
        fail(lines, &refusal);
        true
    }

    fn show(&mut self, session: SessionId, lines: Lines) {
        let Some(view) = self.engine.session(session) else {
            let why = "no such session is known here; `cxtpctl sessions` lists them";
            return fail(&lines, &Refusal::new(Status::NoSession, why));
        };
        let look = self.hands.look(session);
        tokio::spawn(async move {
            let profile = look.await.unwrap_or_else(|_| {
                Err(Refusal::new(Status::RateLimited, "the gateway is busy; ask again"))
            });
            done(&lines, &report::details(&view, profile));
        });
    }

    fn status(&self) -> api::Status {
        api::Status {
            name: self.config.name().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            gateway_epoch: self.engine.gateway_epoch().0,
            gateway: self.desk.gateway.clone(),
            sessions: report::counts(self.engine.counts()),
            batches: self.engine.batches().count(),
            peers: self.peers(),
        }
    }

    fn peers(&self) -> BTreeMap<String, String> {
        let engine: BTreeSet<&Identity> =
            self.engine.peers().filter(|(_, up)| *up).map(|(peer, _)| peer).collect();
        self.transport
            .gateways()
            .into_iter()
            .map(|(name, state)| {
                // Up means that the engine knows as well.
                let peer = Identity { role: Role::Gateway, name };
                let known = state != "up" || engine.contains(&peer);
                let state = if known { state } else { "connecting".to_owned() };
                (peer.name.to_string(), state)
            })
            .collect()
    }
}
