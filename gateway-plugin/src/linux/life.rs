//! What a gateway does by itself: it hears its daemon, keeps its record, looks at
//! the end of granted ranges, and finishes what was left undone.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use protocol_spec::{
    id::SessionId,
    status::{Refusal, Status},
};

use super::{
    daemon::{DaemonEvent, Known, Remembered},
    gateway::{Inner, lock},
    session::{Phase, Session},
    voice::ANNOUNCES,
};
use crate::{
    holder::LOOK_UP,
    plugin::{Fault, GatewayEvent},
    xfrm::{KernelSa, SaId},
};

/// Packets per second of the fastest SA, for how soon its numbers are looked at.
const FASTEST: u64 = 1 << 24;
/// How often the steering is looked after.
const MAINTENANCE: Duration = Duration::from_secs(5);
/// After which they are looked at in any case.
const SLOWEST_LOOK: Duration = Duration::from_secs(10);
/// Why a session is lost that did not end.
pub(super) const FORGOTTEN: &str = "the IKE daemon was started anew and no longer knows it: its \
                                    end user connects again once it notices";
/// Events that are heard before anything is done about them.
const AT_ONCE: usize = 256;
/// How much longer the tables are left alone than it took to read them.
const REST: u32 = 4;
/// How often a session that is not whole is looked at again.
pub(super) const MOST_TRIES: u8 = 100;

/// Takes what the daemon tells until the gateway ends, and tends the sessions.
pub(super) fn follow(inner: &Mutex<Inner>, events: &Receiver<DaemonEvent>, stopping: &AtomicBool) {
    let mut tended = Duration::ZERO;
    let mut rested = Duration::ZERO;
    let mut missed = false;
    while !stopping.load(Ordering::Acquire) {
        let event = events.recv_timeout(LOOK_UP);
        if event == Err(RecvTimeoutError::Disconnected) {
            std::thread::park_timeout(LOOK_UP);
        }
        let mut inner = lock(inner);
        for event in event.into_iter().chain(events.try_iter().take(AT_ONCE)) {
            match event {
                DaemonEvent::Gap => missed = true,
                event => inner.heard(event),
            }
        }
        // To read all tables takes time that the acts need, too.
        let begun = inner.clock.now();
        if begun >= rested && (missed || !inner.unsteered.is_empty()) {
            if std::mem::take(&mut missed) {
                inner.heard(DaemonEvent::Gap);
            }
            inner.welcome();
            let now = inner.clock.now();
            rested = now + (now - begun) * REST;
        }
        let now = inner.clock.now();
        // A daemon that tells without end must not keep us from it.
        if now.saturating_sub(tended) >= LOOK_UP {
            tended = now;
            inner.tend(now);
        }
    }
}

impl Inner {
    /// Takes up what an earlier process left.
    pub(super) fn recall(&mut self, sessions: Vec<Session>) {
        let held = sessions.iter().filter(|session| session.status().is_some());
        let remembered: Vec<Remembered> = held
            .map(|session| Remembered {
                known: Known { session: session.id, generation: session.generation },
                spis: session.spis.clone(),
                remote: session.paths.as_ref().map(|paths| paths.flow.remote),
            })
            .collect();
        self.daemon.remember(&remembered);
        let until = self.clock.now() + self.place.drain.max(ANNOUNCES);
        for mut session in sessions {
            if let Phase::Released { until: over } = &mut session.phase {
                *over = until;
            }
            self.sessions.insert(session.id, session);
        }
        if let Err(fault) = self.learn() {
            tracing::warn!(%fault, "the sessions are not known yet");
        }
        self.unmended = self.sessions.keys().copied().collect();
        self.mend_all();
        self.hold_again();
        self.welcome();
        self.keep_if_possible();
    }

    fn mend_all(&mut self) {
        for id in std::mem::take(&mut self.unmended) {
            if let Err(refusal) = self.mend(id) {
                tracing::warn!(session = %id, %refusal, "it is not as an earlier process left it");
                self.unmended.insert(id);
            }
        }
    }

    /// Makes the kernel what the record says of a session, where an earlier process
    /// may have ended in between.
    fn mend(&mut self, id: SessionId) -> Result<(), Refusal> {
        match self.sessions.get(&id).map(|session| &session.phase) {
            Some(Phase::Staging { .. }) => self.clear(id),
            // It may have been about to let packets pass.
            Some(Phase::Staged { .. }) => {
                self.unheld.insert(id);
                Ok(())
            }
            Some(Phase::Unsettled) => self.settle(id),
            // Nobody can say whether the pause was answered: if it was, somebody relies
            // on it.
            Some(Phase::Paused { target, finals: None }) => {
                let target = target.clone();
                let paths = self.paths(id)?;
                self.steer.divert(id, &paths.flow, &target)?;
                self.steer.block(id, &paths.flow)
            }
            Some(Phase::Active) if self.is_untold(id) => {
                self.untold.insert(id, 0);
                self.steer.let_go_inner(id)
            }
            _ => Ok(()),
        }
    }

    fn is_untold(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|session| session.announcement.is_some())
    }

    /// Asks the daemon for all sessions.
    pub(super) fn learn(&mut self) -> Result<(), Fault> {
        let sas = self.tables.sas().map_err(|error| Fault::Unreachable(error.to_string()))?;
        self.hear_all(&sas)
    }

    /// The same, of a kernel with these SAs.
    pub(super) fn hear_all(&mut self, sas: &[KernelSa]) -> Result<(), Fault> {
        let known = match self.daemon.sessions(sas) {
            // What is in use goes on in the kernel until there is a daemon again.
            Err(Fault::Lost(why)) => {
                self.find_orphans(&BTreeSet::new());
                return Err(Fault::Unreachable(why));
            }
            known => known?,
        };
        let there: BTreeSet<SessionId> = known.iter().map(|known| known.session).collect();
        self.find_orphans(&there);
        let gone: Vec<SessionId> = self
            .sessions
            .values()
            .filter(|session| session.is_in_use() && !there.contains(&session.id))
            .map(|session| session.id)
            .collect();
        gone.into_iter().for_each(|session| self.missed(session, sas));
        known.into_iter().for_each(|known| self.heard_of(known));
        Ok(())
    }

    fn heard(&mut self, event: DaemonEvent) {
        match event {
            DaemonEvent::Up(known) | DaemonEvent::Changed(known) => self.heard_of(known),
            DaemonEvent::Down(session) => self.over(session, GatewayEvent::Down { session }),
            DaemonEvent::Gap => {
                if let Err(fault) = self.learn() {
                    tracing::warn!(%fault, "the sessions could not be asked for again");
                }
            }
        }
    }

    /// The daemon no longer has a session. One that ends takes its SAs out of the
    /// kernel; one that it forgot because it was killed has them there still, and
    /// nobody would ever rekey or remove them.
    fn missed(&mut self, session: SessionId, sas: &[KernelSa]) {
        let paths = self.sessions.get(&session).and_then(|known| known.paths.as_ref());
        let pairs = paths.iter().flat_map(|paths| &paths.pairs);
        let names: Vec<SaId> = pairs.flat_map(|pair| [pair.inbound, pair.outbound]).collect();
        let left = sas.iter().any(|sa| names.contains(&sa.id));
        if !left || self.wait_gone(&names).is_ok() {
            return self.over(session, GatewayEvent::Down { session });
        }
        if let Err(refusal) = self.remove_tables(&names) {
            tracing::error!(%session, %refusal, "SAs of a session that is lost are left");
        }
        let reason = Refusal::new(Status::SessionEnded, FORGOTTEN);
        tracing::warn!(%session, %reason, "a session is lost");
        self.over(session, GatewayEvent::Lost { session, reason });
    }

    fn over(&mut self, session: SessionId, event: GatewayEvent) {
        if self.sessions.get(&session).is_some_and(Session::is_in_use) {
            let spis = self.sessions.get(&session).and_then(|known| known.spis.ike);
            self.voice.iter().for_each(|voice| voice.silence(session, spis));
            let lost = matches!(event, GatewayEvent::Lost { .. });
            let stays = self.sessions.get(&session).is_some_and(|known| known.stays);
            let forgotten = if stays || lost {
                self.change(session, Session::leave);
                self.steer.ended(session)
            } else {
                self.take_out(session);
                self.steer.forget(session)
            };
            if let Err(refusal) = forgotten {
                tracing::warn!(%session, %refusal, "something is left of a session");
            }
            self.tell(&event);
        }
    }

    pub(super) fn heard_of(&mut self, Known { session: id, generation }: Known) {
        match self.sessions.get(&id) {
            None => {
                let spis = self.daemon.spis(id).unwrap_or_default();
                let session = Session::new(id, generation, spis);
                let status = session.status();
                self.insert(session);
                status.into_iter().for_each(|status| self.tell(&GatewayEvent::Up(status)));
                self.unsteered.insert(id, 0);
            }
            Some(session) if session.is_in_use() && session.generation != generation => {
                let spis = self.daemon.spis(id).unwrap_or_default();
                self.change(id, |session| {
                    session.generation = generation;
                    session.ends.retain(|end| spis.inbound.contains(&end.sa.inbound_spi));
                    session.spis = spis;
                    session.paths = None;
                });
                self.tell(&GatewayEvent::Changed { session: id, generation });
                self.unsteered.insert(id, 0);
            }
            Some(_) => {}
        }
    }

    /// Steers the packets of active sessions here that came up or changed. Where whole
    /// tables must be read for it, they are read once for all of them.
    pub(super) fn welcome(&mut self) {
        if self.unsteered.is_empty() {
            return;
        }
        let mut seen = None;
        if !self.daemon.has_told_all() {
            seen = match self.whole_tables() {
                Ok(tables) => Some(tables),
                Err(refusal) => return tracing::warn!(%refusal, "new sessions are not steered yet"),
            };
        }
        for (id, tries) in std::mem::take(&mut self.unsteered) {
            if self.sessions.get(&id).is_none_or(|session| session.phase != Phase::Active) {
                continue;
            }
            let here = self.look_in(id, &mut seen).and_then(|paths| {
                self.succeed(id, &paths.flow)?;
                self.steer.here(id, &paths.flow)?;
                if paths.flow.inner.is_empty() {
                    return Err(Refusal::new(Status::Busy, "no policy leads to it yet"));
                }
                if self.sessions.get(&id).is_some_and(|known| known.paths.as_ref() != Some(&paths))
                {
                    self.change(id, |session| session.paths = Some(paths));
                }
                Ok(())
            });
            if let Err(refusal) = here {
                // Half a session: the rest of it comes soon, or it is told again.
                tracing::debug!(session = %id, %refusal, "not steered yet");
                if tries < MOST_TRIES {
                    self.unsteered.insert(id, tries + 1);
                }
            }
        }
    }

    pub(super) fn tell(&mut self, event: &GatewayEvent) {
        self.sinks.retain(|sink| sink.emit(event.clone()));
    }

    pub(super) fn insert(&mut self, session: Session) {
        self.unkept.insert(session.id);
        self.sessions.insert(session.id, session);
    }

    pub(super) fn change(&mut self, id: SessionId, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&id) {
            change(session);
            self.unkept.insert(id);
        }
    }

    pub(super) fn take_out(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.kept.remove(&id);
        self.unkept.insert(id);
    }

    /// Writes down where sessions stand now.
    pub(super) fn keep(&mut self) -> Result<(), Refusal> {
        if !self.unkept.is_empty() {
            let sessions = &self.sessions;
            self.record.keep(self.unkept.iter().map(|id| (*id, sessions.get(id))))?;
            self.unkept.clear();
        }
        Ok(())
    }

    /// The same where nothing hangs on it; it is tried again.
    pub(super) fn keep_if_possible(&mut self) {
        if let Err(refusal) = self.keep() {
            tracing::warn!(%refusal, "where sessions stand is not written down");
        }
    }

    fn tend(&mut self, now: Duration) {
        self.drain(now);
        let sessions = &self.sessions;
        // Silence of a gateway whose sessions are only staged here may be anything.
        let in_use = |address| {
            let mut here = sessions.values().filter(|session| session.is_in_use());
            here.any(|session| session.paths.as_ref().is_none_or(|p| p.flow.local.ip() == address))
        };
        if let Err(refusal) = self.steer.take_free(now, &in_use) {
            tracing::warn!(%refusal, "a shared address is not taken");
        }
        self.maintain(now);
        self.mend_all();
        self.hold_again();
        self.announce();
        self.let_go_in_time(now);
        let unsettled = |session: &&Session| session.phase == Phase::Unsettled;
        let unsettled: Vec<_> = self.sessions.values().filter(unsettled).map(|s| s.id).collect();
        for id in unsettled {
            if let Err(refusal) = self.settle(id) {
                tracing::warn!(session = %id, %refusal, "it is still diverted");
            }
        }
        let due = |session: &&Session| {
            session.is_in_use() && session.look_at <= now && !session.ends.is_empty()
        };
        let due: Vec<_> = self.sessions.values().filter(due).map(|session| session.id).collect();
        due.into_iter().for_each(|id| self.look_at_ends(id, now));
        self.keep_if_possible();
    }

    /// Looks after the steering, when no session waits for an act.
    fn maintain(&mut self, now: Duration) {
        let moving =
            |session: &Session| session.status().is_some() && session.phase != Phase::Active;
        if now < self.maintain_at || self.sessions.values().any(moving) {
            return;
        }
        self.maintain_at = now + MAINTENANCE;
        if let Err(refusal) = self.steer.maintain() {
            tracing::warn!(%refusal, "the steering is not whole");
        }
    }

    /// Holds staged sessions whose activation ended half-way.
    pub(super) fn hold_again(&mut self) {
        for id in std::mem::take(&mut self.unheld) {
            let Some(session) = self.sessions.get(&id) else { continue };
            if let (Phase::Staged { source, .. }, Some(paths)) = (&session.phase, &session.paths)
                && let Err(refusal) = self.steer.hold(id, &paths.flow, source)
            {
                tracing::error!(session = %id, %refusal, "packets of a staged session may pass");
                self.unheld.insert(id);
            }
        }
    }

    /// Forgets released sessions in their time.
    fn drain(&mut self, now: Duration) {
        let over =
            |session: &&Session| matches!(session.phase, Phase::Released { until } if until <= now);
        let over: Vec<SessionId> = self.sessions.values().filter(over).map(|s| s.id).collect();
        if over.is_empty() || self.steer.is_in_between() {
            return;
        }
        for id in over {
            match self.steer.drained(id) {
                // The tombstone stays: a stage under its epoch is refused.
                Ok(()) => self.change(id, |session| {
                    session.phase = Phase::Released { until: Duration::MAX };
                }),
                Err(refusal) => tracing::warn!(session = %id, %refusal, "still relayed"),
            }
        }
    }

    /// Tells once when granted numbers are used up.
    fn look_at_ends(&mut self, id: SessionId, now: Duration) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut left = u64::MAX;
        let mut reached = false;
        for end in session.ends.iter_mut().filter(|end| !end.told) {
            let pair = session.paths.iter().flat_map(|paths| &paths.pairs);
            let Some(pair) = pair.into_iter().find(|pair| pair.sa == end.sa) else { continue };
            match self.tables.counters(&[pair.outbound]) {
                Ok(counters) => {
                    let used = counters.first().map_or(0, |counters| counters.sequence);
                    let rest = end.end.saturating_sub(used.saturating_add(1));
                    end.told = rest == 0;
                    reached |= end.told;
                    left = left.min(if end.told { u64::MAX } else { rest });
                }
                // Rekeyed or ended: the daemon says so.
                Err(refusal) => tracing::debug!(session = %id, %refusal, "no numbers"),
            }
        }
        let soon = Duration::from_secs_f64(left as f64 / FASTEST as f64 / 2.0);
        session.look_at = now + soon.clamp(LOOK_UP, SLOWEST_LOOK);
        if reached {
            self.tell(&GatewayEvent::GrantExhausted { session: id });
        }
    }
}
