//! The standby's side of a claim: when may it act?

use std::{collections::VecDeque, time::Duration};

use super::claim::{Answer, Ask, Claim, ClaimMode, Timing, Version, sabotaged};

/// What a standby wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchWish {
    /// Ask the arbiter; [`Watch::answered`] wants the number back.
    Ask(u64, Ask),
    /// The owner is suspected: a good time to prepare what acting needs.
    Suspect,
    /// The owner can send no more: activate. Nothing else comes any more.
    Act,
}

/// The standby's side of one claim; times are the standby's own.
#[derive(Clone, Debug)]
pub struct Watch {
    timing: Timing,
    stage: Stage,
    pending: Option<Pending>,
    asked: u64,
    /// When a beat of the owner was heard last.
    heard: Duration,
    /// When one was acknowledged last; the start for what an earlier life said.
    acknowledged: Duration,
    /// The claim as first seen of this version, and when.
    seen: Option<(Version, Option<Claim>, Duration)>,
    /// When the arbiter was asked last.
    tried: Duration,
    wishes: VecDeque<WatchWish>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is not known whether an earlier life has taken the claim.
    Joining,
    /// The owner's beats are heard and acknowledged.
    Following,
    /// They are not heard; if they come again, all is as before.
    Suspecting,
    /// The claim is being taken, or may be: nothing is acknowledged.
    Taking,
    /// It is taken; from this time on the owner cannot send.
    Taken(Duration),
    /// Acted.
    Acting,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    number: u64,
    ask: Ask,
    sent: Duration,
}

impl Watch {
    /// A life of a standby begins.
    pub fn new(timing: Timing, now: Duration) -> Self {
        let mut watch = Self {
            timing,
            stage: Stage::Joining,
            pending: None,
            asked: 0,
            heard: now,
            acknowledged: now,
            seen: None,
            tried: now,
            wishes: VecDeque::new(),
        };
        watch.ask(Ask::Read, now);
        watch
    }

    /// A beat of the owner was heard. Whether it may be acknowledged: who
    /// acknowledges promises not to act before the lease has passed.
    pub fn heard(&mut self, now: Duration) -> bool {
        self.heard = now;
        if self.stage == Stage::Suspecting {
            self.stage = Stage::Following;
        }
        let may = self.stage == Stage::Following
            || (self.stage == Stage::Taking && sabotaged!(self.timing, AcknowledgeWhileTaking));
        if may && self.stage == Stage::Following {
            self.acknowledged = now;
        }
        self.tick(now);
        may
    }

    /// What the arbiter said to a question; an old one's answer is nothing.
    pub fn answered(&mut self, number: u64, answer: Answer, now: Duration) {
        if let Some(pending) = self.pending.take_if(|pending| pending.number == number) {
            self.hear(pending, answer, now);
        }
        self.tick(now);
    }

    /// What is wanted; call until `None`.
    pub fn poll(&mut self) -> Option<WatchWish> {
        self.wishes.pop_front()
    }

    /// When [`Watch::tick`] has something to do at the latest.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let suspicion = matches!(self.stage, Stage::Following).then(|| self.suspects_at());
        let act = if let Stage::Taken(at) = self.stage { Some(at) } else { None };
        let silence = self.pending.map(|pending| pending.sent + self.timing.patience);
        let again = Some(self.tried + self.timing.renewal);
        let seen = self.seen.map(|(_, _, at)| at + self.timing.stretched());
        let steps = [suspicion, act, silence, again, seen];
        let next = steps.into_iter().flatten().filter(|at| *at > now).min();
        next.filter(|_| self.stage != Stage::Acting)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        if let Some(pending) = self.pending.take_if(|p| now >= p.sent + self.timing.patience) {
            self.hear(pending, Answer::Silent, now);
        }
        if self.stage == Stage::Following && now >= self.suspects_at() {
            self.stage = Stage::Suspecting;
            self.wishes.push_back(WatchWish::Suspect);
            if sabotaged!(self.timing, ActWithoutClaim) {
                self.stage = Stage::Taken(self.leave(now));
            } else if self.pending.is_none() {
                self.ask(Ask::Read, now);
            }
        }
        if let Stage::Taken(at) = self.stage
            && now >= at
        {
            self.stage = Stage::Acting;
            self.wishes.push_back(WatchWish::Act);
        }
        if self.pending.is_none() {
            self.decide(now);
        }
    }

    fn suspects_at(&self) -> Duration {
        self.heard + self.timing.suspicion
    }

    /// From when on the owner cannot send, by what was acknowledged and, in mode
    /// *arbiter*, by when the last renewal was seen first.
    fn leave(&self, now: Duration) -> Duration {
        if sabotaged!(self.timing, ActAtOnce) {
            return now;
        }
        let renewal = self.seen.filter(|(_, claim, _)| is_renewed(*claim)).map(|(_, _, at)| at);
        self.acknowledged.max(renewal.unwrap_or_default()) + self.timing.stretched()
    }

    /// The next question to the arbiter, if it is time for one.
    fn decide(&mut self, now: Duration) {
        let due = now >= self.tried + self.timing.renewal;
        match (self.stage, self.seen) {
            (Stage::Joining, _) if due => self.ask(Ask::Read, now),
            (Stage::Suspecting | Stage::Taking, Some((version, Some(claim), at))) => {
                // The owner renews: only when it has stopped is it gone.
                let silent = now >= at + self.timing.stretched();
                let mode = claim.mode;
                let gone = mode == ClaimMode::Standby || (is_renewed(Some(claim)) && silent);
                if gone {
                    self.stage = Stage::Taking;
                    let claim = Claim { life: claim.life, mode: ClaimMode::Taken };
                    self.ask(Ask::Set { expected: version, claim }, now);
                } else if due {
                    self.ask(Ask::Read, now);
                }
            }
            (Stage::Suspecting | Stage::Taking, _) if due => self.ask(Ask::Read, now),
            _ => {}
        }
    }

    fn ask(&mut self, ask: Ask, now: Duration) {
        self.asked += 1;
        self.tried = now;
        self.pending = Some(Pending { number: self.asked, ask, sent: now });
        self.wishes.push_back(WatchWish::Ask(self.asked, ask));
    }

    fn hear(&mut self, pending: Pending, answer: Answer, now: Duration) {
        match (pending.ask, answer) {
            (Ask::Set { .. }, Answer::Written(_)) => self.stage = Stage::Taken(self.leave(now)),
            (_, Answer::Stands(version, claim)) => self.stands(version, claim, now),
            // It may have been written, or be so later: until that is known nothing
            // is acknowledged.
            (Ask::Set { .. }, Answer::Silent) => {}
            (Ask::Read, Answer::Silent | Answer::Written(_)) => {}
        }
    }
}

impl Watch {
    /// How the claim stands.
    fn stands(&mut self, version: Version, claim: Option<Claim>, now: Duration) {
        if claim.is_some_and(|claim| claim.mode == ClaimMode::Taken) {
            match self.stage {
                Stage::Taken(_) | Stage::Acting => {}
                // By us: the answer was lost.
                Stage::Taking => self.stage = Stage::Taken(self.leave(now)),
                // By an earlier life: all that it promised is over in a lease.
                _ => self.stage = Stage::Taken(now + self.timing.stretched()),
            }
            return;
        }
        let news = self.seen.is_none_or(|(known, _, _)| known != version);
        if news {
            self.seen = Some((version, claim, now));
        }
        match self.stage {
            Stage::Joining => (self.stage, self.heard) = (Stage::Following, now),
            // What we asked for can no longer be written: it wants an older version.
            Stage::Taking if news => self.stage = Stage::Suspecting,
            _ => {}
        }
    }
}

fn is_renewed(claim: Option<Claim>) -> bool {
    matches!(claim, Some(Claim { mode: ClaimMode::Arbiter { .. }, .. }))
}
