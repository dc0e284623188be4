//! The courier: greets end users, announces sessions, and looks after the host's
//! networks.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::super::{
    counters::count,
    esp::{HEADER, TAILROOM},
    gateway::{Gateway, LOOK_UP},
    session::{Phase, Session},
    table::lock,
    wire::{Announced, MAX_ANNOUNCED, announcement},
};

/// How often the host's networks are looked after.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// What the courier does, so that an act need not wait for it.
pub(crate) enum Errand {
    /// Send a dummy packet to the end user, so that it learns its new gateway.
    Greet(Arc<Session>),
    /// Tell the inner network where the session's addresses are.
    Announce(Arc<Session>),
}

impl Gateway {
    /// Has a dummy packet sent to the end user.
    pub(crate) fn greet(&self, session: &Arc<Session>) {
        if let Err(error) = self.errands.try_send(Errand::Greet(Arc::clone(session))) {
            tracing::debug!(%error, "an end user is not greeted");
        }
    }

    /// Has the inner network told where a session is.
    pub(crate) fn announce(&self, session: &Arc<Session>) {
        if let Err(error) = self.errands.try_send(Errand::Announce(Arc::clone(session))) {
            tracing::debug!(%error, "a session is not announced");
        }
    }

    pub(super) fn run_errands(&self, errands: &Receiver<Errand>) {
        let mut entries = Vec::new();
        let mut maintained = Duration::ZERO;
        while !self.stopped() {
            if let Some(network) = &self.network
                && self.clock.now().saturating_sub(maintained) >= MAINTENANCE
            {
                network.maintain();
                maintained = self.clock.now();
            }
            match errands.recv_timeout(LOOK_UP) {
                Ok(errand) => self.run_errand(errand, &mut entries),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while entries.len() < MAX_ANNOUNCED {
                let Ok(errand) = errands.try_recv() else { break };
                self.run_errand(errand, &mut entries);
            }
            let host = *lock(&self.inner_host);
            for entries in entries.chunks(MAX_ANNOUNCED) {
                if let Some(host) = host {
                    self.send(&self.sockets.inner, &announcement(entries), host);
                }
            }
            entries.clear();
        }
    }

    fn run_errand(&self, errand: Errand, entries: &mut Vec<Announced>) {
        match errand {
            Errand::Greet(session) => {
                let mut datagram = [0; HEADER + TAILROOM];
                let mut guts = lock(&session.guts);
                if !self.in_use(&guts) {
                    return;
                }
                let Some(body) = guts.body.as_mut() else { return };
                let sealed = body.seal_dummy(self.clock.now(), &mut datagram);
                drop(guts);
                match sealed {
                    Ok((remote, total)) => {
                        count(&self.tallies.dummies_sent);
                        self.send_outer(&datagram[..total], remote);
                    }
                    Err(dropped) => self.dropped(session.id, dropped),
                }
            }
            Errand::Announce(session) => {
                let guts = lock(&session.guts);
                let body = guts.body.as_ref().filter(|_| guts.phase == Phase::Active);
                let prefixes = body.map(|body| body.prefixes()).unwrap_or_default();
                entries.extend(
                    prefixes.into_iter().map(|prefix| Announced { epoch: guts.epoch, prefix }),
                );
            }
        }
    }
}
