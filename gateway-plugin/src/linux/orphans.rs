//! Staged sessions whose IKE daemon has ended: until they are handed over their sources
//! keep them, and afterwards the daemon that is started anew gets them.

use std::collections::BTreeSet;

use protocol_spec::{
    context::Context,
    id::SessionId,
    status::{Refusal, Status},
    transfer::GrantedRange,
};

use super::{
    gateway::Inner,
    life::FORGOTTEN,
    pair::{Pair, resized, united},
    session::{Paths, Phase, Session},
};
use crate::{plugin::GatewayEvent, xfrm::SaId};

/// Why a staged session should stay where it is.
const ORPHANED: &str = "the IKE daemon was killed or started anew after the session was staged";

/// What is needed to stage a session again.
pub(super) struct Kept {
    pub(super) context: Context,
    /// Whether all of it is installed: not after a staging anew that failed.
    pub(super) is_whole: bool,
}

/// Whether the daemon says that it does not have a session.
pub(super) fn is_unknown(refusal: &Refusal) -> bool {
    matches!(refusal.status, Status::NoSession | Status::SessionEnded)
}

/// The same of one that can be tried again: it is not gone for that.
pub(super) fn not_yet(refusal: Refusal) -> Refusal {
    let status = if is_unknown(&refusal) { Status::GatewayFault } else { refusal.status };
    Refusal { status, ..refusal }
}

impl Inner {
    /// Tells of staged sessions that the daemon has not: their sources still can go on
    /// with them. They stay until they are discarded, or staged again because they were
    /// handed over already.
    pub(super) fn find_orphans(&mut self, there: &BTreeSet<SessionId>) {
        let staged = |phase: &Phase| matches!(phase, Phase::Staged { .. });
        let orphans = self
            .sessions
            .values()
            .filter(|session| staged(&session.phase) && !there.contains(&session.id));
        self.orphans = orphans.map(|session| session.id).collect();
        for session in self.orphans.clone() {
            let reason = Refusal::new(Status::SessionEnded, ORPHANED);
            tracing::warn!(%session, %reason, "a staged session is of no use as it is");
            self.tell(&GatewayEvent::Unusable { session, reason });
        }
    }

    /// Puts a staged session that its daemon no longer has into the one that runs now. A
    /// refusal may be for the moment: the daemon may not run yet, or lack its settings.
    pub(super) fn stage_again(&mut self, id: SessionId) -> Result<(), Refusal> {
        self.orphans.insert(id);
        let Some(Kept { mut context, .. }) = self.kept.remove(&id) else {
            return Err(self.lose(id));
        };
        let staged = self.put_again(&mut context);
        self.kept.insert(id, Kept { context, is_whole: staged.is_ok() });
        staged.map_err(|refusal| {
            tracing::warn!(session = %id, %refusal, "it is not staged again yet");
            not_yet(refusal)
        })?;
        self.orphans.remove(&id);
        tracing::info!(session = %id, "staged again: the IKE daemon was started anew");
        Ok(())
    }

    fn put_again(&mut self, context: &mut Context) -> Result<(), Refusal> {
        let id = context.session;
        self.daemon.admit(&context.profile())?;
        let Paths { pairs, .. } = self.paths(id)?;
        let Phase::Staged { source, batch, mut grants } = self.known(id)?.phase.clone() else {
            return Err(self.known(id)?.unfit("only a staged session is staged again"));
        };
        self.make_sure_held(id)?;
        self.spend(context, &mut grants, &pairs)?;
        // Who finds half of it after our end takes it away.
        let half = Phase::Staging { source: source.clone(), batch };
        self.change(id, |session| session.phase = half);
        let names: Vec<SaId> =
            pairs.iter().flat_map(|pair| [pair.inbound, pair.outbound]).collect();
        let put = self
            .keep()
            .and_then(|()| self.take_away(id, &names))
            .and_then(|()| self.put(context, &grants, &source));
        let whole = Phase::Staged { source, batch, grants };
        match put {
            Ok(paths) => {
                self.change(id, |session| {
                    session.phase = whole;
                    session.paths = Some(paths);
                });
                self.keep()
            }
            Err(refusal) => {
                self.change(id, |session| session.phase = whole);
                if let Err(worse) = self.take_away(id, &names) {
                    tracing::warn!(session = %id, refusal = %worse, "half of it is left");
                }
                Err(refusal)
            }
        }
    }

    /// Removes what a daemon that was killed left, and half of what another one has.
    fn take_away(&mut self, id: SessionId, names: &[SaId]) -> Result<(), Refusal> {
        self.daemon.forget(id)?;
        self.remove_tables(names)
    }

    /// Notes what the SAs of a staged session have used, so that nothing of it is used
    /// again: packets may have passed before its activation failed.
    fn spend(
        &mut self,
        context: &mut Context,
        grants: &mut [GrantedRange],
        pairs: &[Pair],
    ) -> Result<(), Refusal> {
        for (pair, child) in pairs.iter().zip(&mut context.children) {
            if let Some(sa) = self.tables.sa(&pair.inbound)? {
                let window = resized(&child.inbound.window, pair.window);
                child.inbound.window = united(&window, &resized(&sa.counters.window, pair.window));
            }
            if let Some(sa) = self.tables.sa(&pair.outbound)?
                && let Some(grant) = grants.iter_mut().find(|grant| grant.sa == pair.sa)
            {
                grant.base = grant.base.max(sa.counters.sequence.saturating_add(1));
            }
        }
        Ok(())
    }

    /// The daemon was killed after the staging, and nobody has the context any more.
    fn lose(&mut self, id: SessionId) -> Refusal {
        let gone = self.remove(id).and_then(|()| self.steer.ended(id));
        if let Err(refusal) = gone {
            tracing::error!(session = %id, %refusal, "something is left of a session that is lost");
        }
        self.unheld.remove(&id);
        self.change(id, Session::leave);
        self.keep_if_possible();
        Refusal::new(Status::SessionEnded, FORGOTTEN)
    }
}
