//! How a session leaves: its packets go to another gateway, and nothing leaves in its
//! name here.

use protocol_spec::id::SessionId;

use super::{
    InnerReach, Neighbour, Steering, SteeringError, Traffic, is_block, is_client, is_relay,
    set::Purpose,
};

impl Steering {
    /// Of [`Steering::divert`], what concerns IKE alone: the end user's requests go to
    /// the target, and everything else goes on here.
    ///
    /// # Errors
    /// As [`Steering::divert`].
    pub fn divert_ike(
        &mut self,
        session: SessionId,
        traffic: &Traffic,
        target: &Neighbour,
    ) -> Result<(), SteeringError> {
        self.known(session, traffic)?;
        let reach = self.reach(traffic, target)?;
        self.set(session, |purpose| purpose == Purpose::RelayIke, traffic.relay_ike(&reach))
    }

    /// Sends the session's inner packets in clear to the target over the inner
    /// network, and its outer packets unopened to the target. Both on their own:
    /// nothing is dropped. Done again for another target, the new one replaces
    /// the old.
    ///
    /// # Errors
    /// [`SteeringError`] if the target is not reachable; then nothing changed.
    pub fn divert(
        &mut self,
        session: SessionId,
        traffic: &Traffic,
        target: &Neighbour,
    ) -> Result<(), SteeringError> {
        self.known(session, traffic)?;
        let reach = self.reach(traffic, target)?;
        self.fall_silent(&traffic.inner);
        let mut elements = traffic.relay_data(&reach);
        elements.extend(traffic.relay_ike(&reach));
        self.set(session, is_relay, elements)?;
        let inner = self.links.inner.index;
        for (done, prefix) in traffic.inner.iter().enumerate() {
            let diverted = target
                .inner_for(prefix.address)
                .and_then(|gateway| self.routes.divert(*prefix, gateway, inner));
            if let Err(error) = diverted {
                for prefix in &traffic.inner[..done] {
                    self.routes.undivert(*prefix)?;
                }
                self.remove(session, is_relay)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Finds the way to a neighbour before it is needed, so that
    /// [`Steering::divert`] need not wait for it.
    ///
    /// # Errors
    /// [`SteeringError`] if the neighbour does not answer on the outer side.
    pub fn prepare(&mut self, neighbour: &Neighbour) -> Result<(), SteeringError> {
        self.routes.reach(&neighbour.name, neighbour.outer, &self.links).map(drop)
    }

    /// Drops what would leave under the session's outbound SAs and IKE SPIs.
    ///
    /// # Errors
    /// [`SteeringError`] if its traffic was never named to this process.
    pub fn block(&mut self, session: SessionId) -> Result<(), SteeringError> {
        let traffic = self.named(session)?;
        let mut elements = traffic.block_data();
        elements.extend(traffic.block_ike());
        self.set(session, is_block, elements)
    }

    /// Of [`Steering::block`], what concerns IKE alone.
    ///
    /// # Errors
    /// As [`Steering::block`].
    pub fn block_ike(&mut self, session: SessionId) -> Result<(), SteeringError> {
        let elements = self.named(session)?.block_ike();
        self.set(session, |purpose| purpose == Purpose::BlockIke, elements)
    }

    /// Takes back [`Steering::divert`] and [`Steering::block`]: the session goes on
    /// here.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn restore(&mut self, session: SessionId) -> Result<(), SteeringError> {
        self.remove(session, |purpose| is_block(purpose) || is_relay(purpose))?;
        self.undivert(session)
    }

    /// The session is another gateway's now: its client's packets for a shared
    /// address are left to that. Guard, relay and diversion stand until
    /// [`Steering::forget`].
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn released(&mut self, session: SessionId) -> Result<(), SteeringError> {
        let Some(traffic) = self.traffic.get(&session).cloned() else {
            return self.remove(session, |purpose| purpose == Purpose::Own);
        };
        self.elsewhere(session, &traffic)?;
        if self.config.inner_reach == InnerReach::Proxy {
            self.give_up_inner(&traffic.inner)?;
        }
        self.hook.session("released", session, &traffic)
    }

    /// Tells of a session that lives at another gateway (mode `Shared`): its
    /// client's packets are not taken, whatever the hash says.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn elsewhere(
        &mut self,
        session: SessionId,
        traffic: &Traffic,
    ) -> Result<(), SteeringError> {
        let wanted = match self.config.shared_mac() {
            Some(_) => traffic.client(Purpose::Other),
            None => Vec::new(),
        };
        self.set(session, is_client, wanted)
    }

    /// The drain after [`Steering::released`] is over: outer packets are no longer
    /// relayed. The guard stays until [`Steering::forget`], and where inner
    /// addresses are routed here whoever owns them ([`InnerReach::Routed`]) the
    /// diversion does too: without both, inner packets that still arrive would
    /// leave outside in clear, for the policies are gone.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn drained(&mut self, session: SessionId) -> Result<(), SteeringError> {
        self.remove(session, |purpose| is_block(purpose) || is_relay(purpose))?;
        match self.config.inner_reach {
            InnerReach::Routed => Ok(()),
            InnerReach::Proxy => self.undivert(session),
        }
    }
}
