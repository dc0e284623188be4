//! The owner's side of a claim: until when may it send?

use std::{collections::VecDeque, time::Duration};

use protocol_spec::id::GatewayEpoch;

use super::claim::{Answer, Ask, Claim, ClaimMode, Timing, Version, sabotaged};

/// Beats whose acknowledgement may still come. Later ones make it old anyway.
const MAX_BEATS: usize = 64;

/// What an owner wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Ask the arbiter; [`Tenure::answered`] wants the number back.
    Ask(u64, Ask),
    /// Let nothing leave from this time on, by the owner's clock; in the order in
    /// which these come.
    Limit {
        /// From when on.
        until: Duration,
        /// Tell [`Tenure::limited`] this number once it holds.
        confirm: Option<u64>,
    },
    /// The standby has them: forget these sessions. Nothing else comes any more.
    Displaced,
}

/// The owner's side of one claim. The times that it takes and gives are the
/// owner's own, [`Duration`]s since a start that its driver chose; they must go on
/// while the machine sleeps (`CLOCK_BOOTTIME`).
#[derive(Clone, Debug)]
pub struct Tenure {
    timing: Timing,
    life: GatewayEpoch,
    /// The claim as it was last seen; `None` if something may have changed it.
    known: Option<(Version, Option<Claim>)>,
    pending: Option<Pending>,
    asked: u64,
    /// Beats sent and not acknowledged, with their times.
    beats: VecDeque<(u64, Duration)>,
    /// When the newest acknowledged beat was sent, and since when none was missed.
    acknowledged: Option<(Duration, Duration)>,
    /// When the newest renewal that is still in force was sent.
    renewed: Option<Duration>,
    returning: Option<Return>,
    /// What the kernel was told last.
    limit: Option<Duration>,
    displaced: bool,
    wishes: VecDeque<Wish>,
}

/// On the way back to mode *standby*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Return {
    /// The kernel is to give back what a renewal gave.
    Begun,
    /// It was told so, with this number.
    Told(u64),
    /// It has.
    Confirmed,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    number: u64,
    ask: Ask,
    sent: Duration,
}

impl Tenure {
    /// A life of an owner begins. It may send nothing yet, though what an earlier
    /// life was allowed still holds in its kernel.
    pub fn new(timing: Timing, life: GatewayEpoch, now: Duration) -> Self {
        let mut tenure = Self {
            timing,
            life,
            known: None,
            pending: None,
            asked: 0,
            beats: VecDeque::new(),
            acknowledged: None,
            renewed: None,
            returning: None,
            limit: None,
            displaced: false,
            wishes: VecDeque::new(),
        };
        tenure.tick(now);
        tenure
    }

    /// A beat of this number is about to be sent to the standby.
    pub fn beat(&mut self, number: u64, now: Duration) {
        if self.beats.len() == MAX_BEATS {
            self.beats.pop_front();
        }
        self.beats.push_back((number, now));
        self.tick(now);
    }

    /// The standby has acknowledged this beat.
    pub fn acknowledged(&mut self, number: u64, now: Duration) {
        while let Some((beat, sent)) = self.beats.front().copied() {
            if beat > number {
                break;
            }
            self.beats.pop_front();
            if beat < number {
                continue;
            }
            let sent = if sabotaged!(self.timing, CountFromAnswer) { now } else { sent };
            let newest = self.acknowledged.map_or(sent, |(newest, _)| newest.max(sent));
            let kept_up = |since: &(Duration, Duration)| newest < since.0 + self.timing.renewal;
            let since = self.acknowledged.filter(kept_up).map_or(sent, |(_, since)| since);
            self.acknowledged = Some((newest, since));
        }
        self.tick(now);
    }

    /// What the arbiter said to a question; an old one's answer is nothing.
    pub fn answered(&mut self, number: u64, answer: Answer, now: Duration) {
        if let Some(pending) = self.pending.take_if(|pending| pending.number == number) {
            self.heard(pending, answer);
        }
        self.tick(now);
    }

    /// The limit with this number holds.
    pub fn limited(&mut self, number: u64, now: Duration) {
        if self.returning == Some(Return::Told(number)) {
            self.returning = Some(Return::Confirmed);
        }
        self.tick(now);
    }

    /// Until when the sessions may be used; `None` for not at all.
    pub fn until(&self) -> Option<Duration> {
        let acknowledged = self.acknowledged.map(|(sent, _)| sent);
        let granted = acknowledged.max(self.renewed)?;
        (!self.displaced).then(|| granted + self.timing.lease)
    }

    /// What is wanted; call until `None`.
    pub fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// When [`Tenure::tick`] has something to do at the latest.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let steps = [
            self.pending.map(|pending| pending.sent + self.timing.patience),
            self.renewed.map(|sent| sent + self.timing.renewal),
            self.acknowledged.map(|(sent, _)| sent + self.timing.renewal),
        ];
        let next = steps.into_iter().flatten().filter(|at| *at > now).min();
        next.filter(|_| !self.displaced)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        if let Some(pending) = self.pending.take_if(|p| now >= p.sent + self.timing.patience) {
            self.heard(pending, Answer::Silent);
        }
        if self.displaced {
            return;
        }
        if self.pending.is_none() {
            self.decide(now);
        }
        let begun = self.returning == Some(Return::Begun);
        if let Some(until) = self.until().filter(|until| begun || self.limit != Some(*until)) {
            let confirm = begun.then_some(self.asked);
            if let Some(number) = confirm {
                self.returning = Some(Return::Told(number));
            }
            self.limit = Some(until);
            self.wishes.push_back(Wish::Limit { until, confirm });
        }
    }

    /// The next question to the arbiter, if it is time for one.
    fn decide(&mut self, now: Duration) {
        let due = |since: Option<Duration>| since.is_none_or(|at| now >= at + self.timing.renewal);
        let Some((version, claim)) = self.known else {
            return self.ask(Ask::Read, now);
        };
        let claim = claim.filter(|claim| claim.mode != ClaimMode::Void);
        let ours = claim.filter(|claim| claim.life == self.life);
        let Some(ours) = ours else {
            let mode = match claim.map(|claim| claim.mode) {
                // What the old life's last renewal gave may still hold.
                Some(ClaimMode::Arbiter { renewal }) if !sabotaged!(self.timing, BeginAnew) => {
                    ClaimMode::Arbiter { renewal: renewal + 1 }
                }
                _ => ClaimMode::Standby,
            };
            return self.set(version, mode, now);
        };
        let fresh = !due(self.acknowledged.map(|(sent, _)| sent));
        match ours.mode {
            ClaimMode::Standby if fresh => {}
            ClaimMode::Standby => self.set(version, ClaimMode::Arbiter { renewal: 0 }, now),
            ClaimMode::Arbiter { renewal } => {
                let steady = self
                    .acknowledged
                    .is_some_and(|(sent, since)| fresh && sent >= since + self.timing.lease);
                if steady {
                    return self.go_back(version, now);
                }
                self.returning = None;
                if due(self.renewed) {
                    self.set(version, ClaimMode::Arbiter { renewal: renewal + 1 }, now);
                }
            }
            // Only ever of another life.
            ClaimMode::Taken | ClaimMode::Void => {}
        }
    }

    /// Back to the standby's acknowledgements, first in the kernel.
    fn go_back(&mut self, version: Version, now: Duration) {
        match self.returning {
            None if sabotaged!(self.timing, ReturnUnconfirmed) => {
                self.renewed = None;
                self.set(version, ClaimMode::Standby, now);
            }
            None => {
                self.returning = Some(Return::Begun);
                if !sabotaged!(self.timing, KeepRenewal) {
                    self.renewed = None;
                }
            }
            Some(Return::Begun | Return::Told(_)) => {}
            Some(Return::Confirmed) => self.set(version, ClaimMode::Standby, now),
        }
    }

    fn set(&mut self, expected: Version, mode: ClaimMode, now: Duration) {
        let claim = Claim { life: self.life, mode };
        self.ask(Ask::Set { expected, claim }, now);
    }

    fn ask(&mut self, ask: Ask, now: Duration) {
        self.asked += 1;
        self.pending = Some(Pending { number: self.asked, ask, sent: now });
        self.wishes.push_back(Wish::Ask(self.asked, ask));
    }

    fn heard(&mut self, pending: Pending, answer: Answer) {
        match (pending.ask, answer) {
            (Ask::Set { claim, .. }, Answer::Written(version)) => {
                self.known = Some((version, Some(claim)));
                self.returning = None;
                if matches!(claim.mode, ClaimMode::Arbiter { .. }) {
                    self.renewed = Some(pending.sent);
                }
            }
            (_, Answer::Stands(version, claim)) => {
                self.known = Some((version, claim));
                if claim.is_some_and(|claim| claim.mode == ClaimMode::Taken) {
                    self.displaced = true;
                    self.wishes.push_back(Wish::Displaced);
                }
            }
            // A read is never written.
            (_, Answer::Silent) | (Ask::Read, Answer::Written(_)) => self.known = None,
        }
    }
}
