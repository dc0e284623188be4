//! Staged sessions whose IKE daemon has ended.

use std::collections::BTreeSet;

use protocol_spec::{
    id::{Name, SessionId},
    status::{Refusal, Status},
};

use super::{gateway::Inner, session::Phase};
use crate::{plugin::GatewayEvent, xfrm::SaId};

/// Why a staged session is dropped.
const UNSTAGED: &str = "the IKE daemon was killed or started anew after the session was staged";

impl Inner {
    /// Drops staged sessions that the daemon has not: nobody could go on with them, and
    /// their sources still can.
    pub(super) fn unstage(&mut self, there: &BTreeSet<SessionId>) {
        let staged = self.sessions.values().filter_map(|session| match &session.phase {
            Phase::Staged { source, .. } if !there.contains(&session.id) => {
                Some((session.id, source.clone()))
            }
            _ => None,
        });
        for (session, source) in staged.collect::<Vec<_>>() {
            let gone = self.drop_staged(session, &source);
            if let Err(refusal) = gone {
                tracing::warn!(%session, %refusal, "it cannot be activated, and is still staged");
                continue;
            }
            let reason = Refusal::new(Status::SessionEnded, UNSTAGED);
            tracing::warn!(%session, %reason, "a staged session is gone");
            self.tell(&GatewayEvent::Lost { session, reason });
        }
    }

    /// The daemon does not need to be waited for: it is not there, or has forgotten it.
    fn drop_staged(&mut self, id: SessionId, source: &Name) -> Result<(), Refusal> {
        let pairs = self.paths(id)?.pairs;
        let names: Vec<SaId> =
            pairs.iter().flat_map(|pair| [pair.inbound, pair.outbound]).collect();
        self.daemon.forget(id)?;
        self.remove_tables(&names)?;
        self.steer.discard(id, source)?;
        self.unheld.remove(&id);
        self.take_out(id);
        Ok(())
    }
}
