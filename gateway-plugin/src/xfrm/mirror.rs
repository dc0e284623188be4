//! What is in the kernel's databases, by what sessions are found in them: a copy that
//! the kernel's own events keep up to date. To find one SA or policy among many
//! thousands nobody has to read all of them.

use std::{collections::HashMap, time::Duration};

use protocol_spec::context::{Direction, Policy, Selector};

use super::{
    error::XfrmError,
    follow::{Follower, Group, KernelEvent},
    kernel::Kernel,
    policy::KernelPolicy,
    sa::SaId,
};

/// The copy. The kernel tells a change before the call that made it returns, so what
/// is asked for after a change shows it.
pub struct Mirror {
    follower: Follower,
    /// Events were lost, or nothing was read yet.
    stale: bool,
    entries: Entries,
}

#[derive(Debug, Default)]
struct Entries {
    /// Names of SAs by their SPI.
    sas: HashMap<u32, Vec<SaId>>,
    /// Policies by the request id of the SAs that they need first.
    policies: HashMap<u32, Vec<KernelPolicy>>,
    /// That request id by a policy's place.
    places: HashMap<KernelPolicy, u32>,
    /// How many policies send packets to these destinations into an SA.
    destinations: HashMap<Selector, usize>,
}

impl Mirror {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`XfrmError`] if the kernel does not let us: CAP_NET_ADMIN is needed.
    pub fn open() -> Result<Self, XfrmError> {
        let follower = Follower::of(&[Group::Sas, Group::Policies, Group::Expiry])?;
        Ok(Self { follower, stale: true, entries: Entries::default() })
    }

    /// The names of the SAs with this SPI.
    ///
    /// # Errors
    /// [`XfrmError`] if the kernel cannot be asked; so for all that follow.
    pub fn sas(&mut self, kernel: &mut Kernel, spi: u32) -> Result<&[SaId], XfrmError> {
        self.catch_up(kernel)?;
        Ok(self.entries.sas.get(&spi).map_or(&[], Vec::as_slice))
    }

    /// The policies whose packets need an SA of this request id first, in the order in
    /// which they came.
    ///
    /// # Errors
    /// See [`Mirror::sas`].
    pub fn policies(
        &mut self,
        kernel: &mut Kernel,
        reqid: u32,
    ) -> Result<&[KernelPolicy], XfrmError> {
        self.catch_up(kernel)?;
        Ok(self.entries.policies.get(&reqid).map_or(&[], Vec::as_slice))
    }

    /// Whether a policy sends packets to exactly these destinations into an SA.
    ///
    /// # Errors
    /// See [`Mirror::sas`].
    pub fn leads_to(
        &mut self,
        kernel: &mut Kernel,
        destination: &Selector,
    ) -> Result<bool, XfrmError> {
        self.catch_up(kernel)?;
        Ok(self.entries.destinations.contains_key(destination))
    }

    /// Waits until something changes, at most for `patience`.
    ///
    /// # Errors
    /// See [`Mirror::sas`].
    pub fn wait(&mut self, patience: Duration) -> Result<(), XfrmError> {
        if let Some(event) = self.follower.next(patience)? {
            self.take(event);
        }
        Ok(())
    }

    fn catch_up(&mut self, kernel: &mut Kernel) -> Result<(), XfrmError> {
        loop {
            match self.follower.next(Duration::ZERO) {
                Ok(Some(event)) => self.take(event),
                Ok(None) => break,
                // What comes after it may still be read.
                Err(error) => {
                    self.stale = true;
                    return Err(error);
                }
            }
        }
        if self.stale {
            // What changes while it is read is told, and done once more.
            let (sas, policies) = (kernel.sas()?, kernel.policies()?);
            self.entries = Entries::default();
            sas.entries.iter().for_each(|sa| self.entries.add_sa(sa.id));
            // The kernel lists the newest first.
            policies.entries.into_iter().rev().for_each(|policy| self.entries.add(policy));
            self.stale = false;
        }
        Ok(())
    }

    fn take(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::SaAdded { id, .. } | KernelEvent::SaChanged { id, .. } => {
                self.entries.add_sa(id);
            }
            KernelEvent::SaRemoved { id } | KernelEvent::SaExpired { id, hard: true, .. } => {
                self.entries.remove_sa(&id);
            }
            KernelEvent::PolicyAdded(policy) | KernelEvent::PolicyChanged(policy) => {
                self.entries.add(policy);
            }
            KernelEvent::PolicyRemoved(policy)
            | KernelEvent::PolicyExpired { policy, hard: true } => self.entries.remove(&policy),
            KernelEvent::SasFlushed | KernelEvent::PoliciesFlushed | KernelEvent::Overflow => {
                self.stale = true;
            }
            KernelEvent::SaExpired { .. }
            | KernelEvent::PolicyExpired { .. }
            | KernelEvent::Counters { .. }
            | KernelEvent::Mapping { .. } => {}
        }
    }
}

impl Entries {
    fn add_sa(&mut self, id: SaId) {
        let names = self.sas.entry(id.spi).or_default();
        if !names.contains(&id) {
            names.push(id);
        }
    }

    fn remove_sa(&mut self, id: &SaId) {
        if let Some(names) = self.sas.get_mut(&id.spi) {
            names.retain(|name| name != id);
            if names.is_empty() {
                self.sas.remove(&id.spi);
            }
        }
    }

    fn add(&mut self, policy: KernelPolicy) {
        self.remove(&policy);
        // What needs no SA leads nowhere.
        let Some(reqid) = policy.templates.first().map(|template| template.reqid) else { return };
        self.count(&policy, true);
        self.places.insert(place(&policy), reqid);
        self.policies.entry(reqid).or_default().push(policy);
    }

    fn remove(&mut self, policy: &KernelPolicy) {
        let Some(reqid) = self.places.remove(&place(policy)) else { return };
        let Some(known) = self.policies.get_mut(&reqid) else { return };
        let Some(at) = known.iter().position(|known| known.is_at_the_place_of(policy)) else {
            return;
        };
        let gone = known.remove(at);
        if known.is_empty() {
            self.policies.remove(&reqid);
        }
        self.count(&gone, false);
    }

    fn count(&mut self, policy: &KernelPolicy, there: bool) {
        if policy.policy.direction != Direction::Out {
            return;
        }
        let destination = &policy.policy.destination;
        let count = self.destinations.get(destination).copied().unwrap_or(0);
        match if there { count + 1 } else { count.saturating_sub(1) } {
            0 => drop(self.destinations.remove(destination)),
            count => drop(self.destinations.insert(destination.clone(), count)),
        }
    }
}

/// A policy without what may change at its place.
fn place(of: &KernelPolicy) -> KernelPolicy {
    let policy = Policy { priority: 0, ..of.policy.clone() };
    let (if_id, mark) = (of.if_id, of.mark);
    KernelPolicy { if_id, mark, ..KernelPolicy::bypass(policy, of.interface) }
}

#[cfg(test)]
mod tests;
