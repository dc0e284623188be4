//! Staged sessions whose IKE daemon has ended.

use std::collections::BTreeSet;

use protocol_spec::{
    id::SessionId,
    status::{Refusal, Status},
};

use super::{gateway::Inner, session::Phase};
use crate::plugin::GatewayEvent;

/// Why a staged session cannot be activated.
const ORPHANED: &str = "the IKE daemon was killed or started anew after the session was staged";

impl Inner {
    /// Tells of staged sessions that the daemon has not: nobody could go on with them,
    /// and their sources still can. They stay until they are discarded, or lost because
    /// they were handed over already.
    pub(super) fn find_orphans(&mut self, there: &BTreeSet<SessionId>) {
        let staged = |phase: &Phase| matches!(phase, Phase::Staged { .. });
        let orphans = self
            .sessions
            .values()
            .filter(|session| staged(&session.phase) && !there.contains(&session.id));
        self.orphans = orphans.map(|session| session.id).collect();
        for session in self.orphans.clone() {
            let reason = Refusal::new(Status::SessionEnded, ORPHANED);
            tracing::warn!(%session, %reason, "a staged session cannot be activated");
            self.tell(&GatewayEvent::Unusable { session, reason });
        }
    }
}
