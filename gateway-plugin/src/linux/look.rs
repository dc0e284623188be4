//! How a session is looked at: what the daemon tells of it, and what is its own in the
//! kernel's tables.

use std::collections::BTreeSet;

use protocol_spec::{
    context::Context,
    id::SessionId,
    status::{Refusal, Status},
};

use super::{
    context,
    daemon::Described,
    gateway::Inner,
    pair::Pair,
    session::{Paths, Phase},
};
use crate::xfrm::{KernelPolicy, KernelSa};

/// The kernel's tables.
pub(super) type Whole = (Vec<KernelSa>, Vec<KernelPolicy>);

impl Inner {
    /// The contexts of sessions as they are now.
    pub(super) fn snapshot(
        &mut self,
        ids: &[SessionId],
    ) -> Vec<(SessionId, Result<Context, Refusal>)> {
        let mut seen = None;
        let mut write_down = |id| self.write_down(id, &mut seen).map(|(context, _)| context);
        ids.iter().map(|id| (*id, write_down(*id))).collect()
    }

    /// The kernel's tables, and the sessions as they are now.
    pub(super) fn whole_tables(&mut self) -> Result<Whole, Refusal> {
        let sas = self.tables.sas()?;
        let policies = self.tables.policies()?;
        self.hear_all(&sas)
            .map_err(|fault| Refusal::new(Status::GatewayFault, fault.to_string()))?;
        Ok((sas, policies))
    }

    /// A session as it is now. Of a daemon that tells all changes by itself only what is
    /// the session's own is read; of any other the whole tables, once for a batch.
    fn write_down(
        &mut self,
        id: SessionId,
        seen: &mut Option<Whole>,
    ) -> Result<(Context, Vec<Pair>), Refusal> {
        if seen.is_none() && !self.daemon.has_told_all() {
            *seen = Some(self.whole_tables()?);
        }
        let session = self.known(id)?;
        if matches!(session.phase, Phase::Staged { .. } | Phase::Staging { .. }) {
            return Err(session.unfit("its source has the context"));
        }
        let described = self.daemon.describe(id)?;
        self.heard_of(described.known);
        let generation = self.known(id)?.generation;
        let own;
        let (sas, policies) = match seen {
            Some(tables) => &*tables,
            None => {
                own = self.tables_of(&described)?;
                &own
            }
        };
        let is_quiet = described.is_quiet;
        let pairs = context::pairs(&described.children, sas);
        let joined = pairs.and_then(|pairs| {
            Ok((context::join(id, described, generation, sas, policies)?, pairs))
        });
        // Half of what an exchange changes is there before it has ended.
        joined.map_err(|refusal| match is_quiet {
            true => refusal,
            false => Refusal::new(
                Status::Busy,
                format!("an IKE exchange is open: try later ({})", refusal.detail),
            ),
        })
    }

    /// What of the kernel's tables is a session's.
    fn tables_of(&mut self, described: &Described) -> Result<Whole, Refusal> {
        let both = described.children.iter().flat_map(|child| [child.inbound, child.outbound]);
        let sas = self.tables.with_spis(&both.collect::<Vec<_>>())?;
        let policies = self.tables.leading_into(&sas)?;
        Ok((sas, policies))
    }

    /// A session's SAs and packets as they are now, and whether no IKE exchange of it is
    /// open; what was seen of the tables is read again where it does not fit any more.
    pub(super) fn look(
        &mut self,
        id: SessionId,
        seen: &mut Option<Whole>,
    ) -> Result<(Paths, bool), Refusal> {
        if let Some(found) = self.unchanged(id)? {
            return Ok(found);
        }
        let before = seen.is_some();
        let paths = match self.look_in(id, seen) {
            Err(_) if before => {
                *seen = None;
                self.look_in(id, seen)
            }
            done => done,
        };
        Ok((paths?, false))
    }

    /// The same as it was steered, if the daemon, which tells changes by itself, says
    /// that it is still so.
    fn unchanged(&mut self, id: SessionId) -> Result<Option<(Paths, bool)>, Refusal> {
        let session = self.known(id)?;
        let (generation, paths) = (session.generation, session.paths.clone());
        let Some(paths) = paths.filter(|_| self.daemon.installs_children()) else {
            return Ok(None);
        };
        let Described { known, ike, children, is_quiet } = self.daemon.describe(id)?;
        let there = ike.map(|ike| (ike.local, ike.remote));
        let told: BTreeSet<_> = children.iter().map(|c| (c.inbound, c.outbound)).collect();
        let same = known.generation == generation
            && there == Some((paths.flow.local, paths.flow.remote))
            && told == paths.flow.children.iter().copied().collect();
        Ok(same.then_some((paths, is_quiet)))
    }

    /// The same, always from the tables.
    pub(super) fn look_in(
        &mut self,
        id: SessionId,
        seen: &mut Option<Whole>,
    ) -> Result<Paths, Refusal> {
        let (context, pairs) = self.write_down(id, seen)?;
        Ok(Paths { pairs, flow: context::flow(&context)? })
    }
}
