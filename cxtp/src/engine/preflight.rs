//! Would a target take these sessions? Changes nothing, on either side.

use std::{collections::BTreeSet, time::Duration};

use protocol_spec::{
    context::Context,
    id::{BatchId, Identity, Name, RequestId, SessionId},
    message::{self, Lane, Message, PreflightAnswer},
    profile::Profile,
    status::{Refusal, Status},
};

use super::{
    GatewayCommand, Reply,
    batch::available,
    deadlines::Timer,
    machine::{Core, Engine},
    outbox::gateway,
    session::Place,
};

/// Profiles in one message.
const PROFILES: usize = 256;
/// Questions of one peer that the gateway answers at one time.
const QUESTIONS: usize = 64;

/// A preflight that an operator here asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Preflight {
    target: Name,
    waiting: Vec<SessionId>,
    /// Being read by the gateway.
    reading: BTreeSet<SessionId>,
    profiles: Vec<Profile>,
    /// Messages that the target has not answered.
    unanswered: usize,
    refused: Vec<(SessionId, Refusal)>,
    at: Duration,
}

/// A peer's preflight that the gateway is answering.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    peer: Identity,
    request: RequestId,
    refused: Vec<(SessionId, Refusal)>,
}

impl Engine {
    pub(super) fn preflight(&mut self, request: RequestId, sessions: Vec<SessionId>, target: Name) {
        let core = &mut self.core;
        let mut may = core.may_begin(BatchId(request.0), &target);
        if core.preflights.len() >= core.config.max_batches {
            may = Err(Refusal::new(Status::RateLimited, "too many preflights: wait for one"));
        }
        if let Err(refusal) = may {
            core.outbox.reply(request, Reply::Refused(refusal));
            return;
        }
        let mut refused = Vec::new();
        let mut waiting = Vec::new();
        for id in sessions {
            let none = Refusal::new(Status::NoSession, "no such session here");
            match self.sessions.get(&id).map_or(Err(none), |s| available(&s.place)) {
                Ok(()) => waiting.push(id),
                Err(why) => refused.push((id, why)),
            }
        }
        let at = core.now.monotonic + core.config.retry_max;
        core.deadlines.add(at, Timer::Preflight(request));
        let preflight = Preflight {
            target,
            waiting,
            reading: BTreeSet::new(),
            profiles: Vec::new(),
            unanswered: 0,
            refused,
            at,
        };
        core.preflights.insert(request, preflight);
        core.preflight_on(request);
    }

    pub(super) fn preflight_deadline(&mut self, request: RequestId) {
        if self.core.preflights.remove(&request).is_some() {
            let why = Refusal::new(Status::TimedOut, "the target did not answer in time");
            self.core.outbox.reply(request, Reply::Refused(why));
        }
    }

    /// A peer asks whether its sessions would be taken here.
    pub(super) fn preflight_asked(&mut self, from: &Identity, asked: message::Preflight) {
        let message::Preflight { request, profiles } = asked;
        let core = &self.core;
        let policy = core.config.peers.get(&from.name);
        let busy = core.peers.get(from).is_none_or(|peer| peer.questions >= QUESTIONS);
        let refusal = if !policy.is_some_and(|policy| policy.may_push) {
            Some(Refusal::new(Status::NotAuthorized, "it may not send sessions here"))
        } else if busy || !core.listed {
            Some(Refusal::new(Status::RateLimited, "too many preflights at a time"))
        } else {
            None
        };
        let judge = |profile: &Profile| match (&refusal, self.sessions.get(&profile.session)) {
            (Some(refusal), _) => Some(refusal.clone()),
            (None, Some(session)) if !matches!(session.place, Place::Gone(_)) => {
                Some(Refusal::new(Status::TransferRunning, "it is here already"))
            }
            _ => None,
        };
        let mut refused = Vec::new();
        let mut open = Vec::new();
        for profile in profiles {
            match judge(&profile) {
                Some(why) => refused.push((profile.session, why)),
                None => open.push(profile),
            }
        }
        let core = &mut self.core;
        if open.is_empty() {
            let answer = Message::PreflightAnswer(PreflightAnswer { request, refused });
            core.outbox.send(from.clone(), Lane::Control, answer);
            return;
        }
        let last = core.questions.last_key_value().map(|(key, _)| u128::from_be_bytes(key.0));
        let number = RequestId(last.map_or(0, |last| last.wrapping_add(1)).to_be_bytes());
        if let Some(peer) = core.peers.get_mut(from) {
            peer.questions += 1;
        }
        core.questions.insert(number, Question { peer: from.clone(), request, refused });
        //= spec CXTP-4.11-1
        core.outbox.command(GatewayCommand::Admit(number, open));
    }
}

impl Core {
    /// Goes on with a preflight: reads, asks, or answers.
    fn preflight_on(&mut self, request: RequestId) {
        let window = self.config.staging_window.max(1);
        let at = self.now.monotonic + self.config.retry_max;
        let Some(preflight) = self.preflights.get_mut(&request) else { return };
        self.deadlines.remove(preflight.at, Timer::Preflight(request));
        preflight.at = at;
        let full = preflight.profiles.len() >= PROFILES;
        if full || (preflight.reading.is_empty() && !preflight.profiles.is_empty()) {
            let profiles = std::mem::take(&mut preflight.profiles);
            preflight.unanswered += 1;
            let message = Message::Preflight(message::Preflight { request, profiles });
            self.outbox.send(gateway(&preflight.target), Lane::Control, message);
        }
        if preflight.reading.is_empty() && preflight.unanswered == 0 {
            let rest = preflight.waiting.len().saturating_sub(window);
            let next = preflight.waiting.split_off(rest);
            if next.is_empty() {
                if let Some(done) = self.preflights.remove(&request) {
                    self.outbox.reply(request, Reply::Preflight(done.refused));
                }
                return;
            }
            preflight.reading = next.iter().copied().collect();
            self.outbox.snapshot.extend(next);
        }
        self.deadlines.add(at, Timer::Preflight(request));
    }

    /// A context was read; preflights take its profile, which holds no key.
    pub(super) fn preflight_snapshot(&mut self, id: SessionId, result: &Result<Context, Refusal>) {
        if self.preflights.is_empty() {
            return;
        }
        let mut touched = Vec::new();
        for (request, preflight) in &mut self.preflights {
            if preflight.reading.remove(&id) {
                match result {
                    Ok(context) => preflight.profiles.push(context.profile()),
                    Err(why) => preflight.refused.push((id, why.clone())),
                }
                touched.push(*request);
            }
        }
        for request in touched {
            self.preflight_on(request);
        }
    }

    pub(super) fn preflight_answered(&mut self, from: &Identity, answer: PreflightAnswer) {
        let Some(preflight) = self.preflights.get_mut(&answer.request) else { return };
        if preflight.target != from.name || preflight.unanswered == 0 {
            return;
        }
        preflight.unanswered -= 1;
        preflight.refused.extend(answer.refused);
        self.preflight_on(answer.request);
    }

    /// The gateway will not answer any more; who asked hears nothing and asks
    /// again.
    pub(super) fn questions_lost(&mut self) {
        self.questions.clear();
        self.peers.values_mut().for_each(|peer| peer.questions = 0);
    }

    /// The gateway has answered a peer's preflight.
    pub(super) fn admitted(
        &mut self,
        number: RequestId,
        all: Vec<(SessionId, Result<(), Refusal>)>,
    ) {
        let Some(question) = self.questions.remove(&number) else { return };
        let Question { peer, request, mut refused } = question;
        refused.extend(all.into_iter().filter_map(|(id, r)| r.err().map(|why| (id, why))));
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.questions = peer.questions.saturating_sub(1);
        }
        let answer = Message::PreflightAnswer(PreflightAnswer { request, refused });
        self.outbox.send(peer, Lane::Control, answer);
    }
}
