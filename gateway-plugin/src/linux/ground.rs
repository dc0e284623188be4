//! What the acts need of the kernel: its tables and its steering. Traits, so that
//! the acts are tried against a model too.

use std::time::Duration;

use protocol_spec::{
    context::{Prefix, Selector},
    id::{Name, SessionId},
    status::Refusal,
};

use super::context::{leads_into, leads_to};
use crate::xfrm::{Counters, KernelPolicy, KernelSa, SaId};

/// The kernel's SAD and SPD.
pub(crate) trait Tables: Send {
    /// Every SA.
    fn sas(&mut self) -> Result<Vec<KernelSa>, Refusal>;
    /// One SA, if it is there.
    fn sa(&mut self, id: &SaId) -> Result<Option<KernelSa>, Refusal>;
    /// Every policy.
    fn policies(&mut self) -> Result<Vec<KernelPolicy>, Refusal>;
    /// The names of the SAs with this SPI.
    fn named(&mut self, spi: u32) -> Result<Vec<SaId>, Refusal> {
        Ok(self.sas()?.iter().map(|sa| sa.id).filter(|id| id.spi == spi).collect())
    }
    /// The SAs with one of these SPIs.
    fn with_spis(&mut self, spis: &[u32]) -> Result<Vec<KernelSa>, Refusal> {
        Ok(self.sas()?.into_iter().filter(|sa| spis.contains(&sa.id.spi)).collect())
    }
    /// The policies whose packets go into these SAs or come out of them.
    fn leading_into(&mut self, sas: &[KernelSa]) -> Result<Vec<KernelPolicy>, Refusal> {
        let mut policies = self.policies()?;
        policies.retain(|policy| sas.iter().any(|sa| leads_into(policy, sa)));
        Ok(policies)
    }
    /// Whether a policy sends packets to exactly these destinations into an SA.
    fn lead_to(&mut self, destination: &Selector) -> Result<bool, Refusal> {
        Ok(self.policies()?.iter().any(|policy| leads_to(policy, destination)))
    }
    /// Waits until something of it may have changed, at most for `patience`.
    fn wait(&mut self, patience: Duration) -> Result<(), Refusal> {
        std::thread::park_timeout(patience.min(Duration::from_millis(1)));
        Ok(())
    }
    /// Numbers of some SAs, in the order of the names.
    fn counters(&mut self, sas: &[SaId]) -> Result<Vec<Counters>, Refusal>;
    /// Sets numbers. Never of an SA that may be sending.
    fn set_counters(&mut self, counters: &[(SaId, Counters)]) -> Result<(), Refusal>;
    /// Installs SAs, then policies; nothing of them is left after a refusal.
    fn install(&mut self, sas: &[KernelSa], policies: &[KernelPolicy]) -> Result<(), Refusal>;
    /// Removes policies, then SAs. What is not there is removed already.
    fn remove(&mut self, sas: &[SaId], policies: &[KernelPolicy]) -> Result<(), Refusal>;
}

/// Which packets belong to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Inner addresses behind the end user.
    pub(crate) inner: Vec<Prefix>,
    /// Inbound and outbound SPI of each Child SA.
    pub(crate) children: Vec<(u32, u32)>,
    /// SPIs of the IKE SA, initiator's first.
    pub(crate) ike: Option<(u64, u64)>,
    /// The gateway's address and port, and the end user's.
    pub(crate) local: std::net::SocketAddr,
    pub(crate) remote: std::net::SocketAddr,
    /// Whether ESP comes in UDP.
    pub(crate) in_udp: bool,
}

impl Flow {
    /// Whether both are of one end user, as far as outer packets tell.
    pub(crate) fn is_of_client(&self, other: &Self) -> bool {
        let one_port = !self.in_udp && !other.in_udp || self.remote.port() == other.remote.port();
        self.remote.ip() == other.remote.ip() && one_port
    }
}

/// Lets packets go on that wait.
pub(crate) type LetGo = Box<dyn Fn() + Send + Sync>;

/// Who gets a session's packets. Each act is safe to repeat.
pub(crate) trait Steer: Send {
    /// The session lives here: its inner packets never leave outside in clear, and
    /// what is for its end user is taken. Said again when it has changed.
    fn here(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal>;
    /// Target: packets of the session wait from now on. Inner packets that come here
    /// first wherever the session is still go on to `source`, until that sends them back.
    fn hold(&mut self, session: SessionId, flow: &Flow, source: &Name) -> Result<(), Refusal>;
    /// Outbound numbers at or above `end` do not leave, by outbound SPI; what was
    /// said of an SPI before is replaced. It holds until the session is discarded
    /// or forgotten.
    fn limit(
        &mut self,
        session: SessionId,
        flow: &Flow,
        ends: &[(u32, u64)],
    ) -> Result<(), Refusal>;
    /// Target: the session's ESP and inner packets pass, those that waited first,
    /// and its packets are taken here from now on.
    fn let_go_data(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal>;
    /// Target: its IKE packets pass, those that waited first.
    fn let_go_ike(&mut self, session: SessionId) -> Result<(), Refusal>;
    /// Inner packets of a session in use wait once more, while its end user changes
    /// its SAs. What comes back lets go, without anybody else, what waits now;
    /// [`Steer::let_go_inner`] is still needed then.
    fn hold_inner(&mut self, _: SessionId, _: &Flow) -> Result<LetGo, Refusal> {
        Ok(Box::new(|| ()))
    }
    /// They pass, those that waited first.
    fn let_go_inner(&mut self, _: SessionId) -> Result<(), Refusal> {
        Ok(())
    }
    /// Target: nothing waits any more, and what waited goes back to the source.
    fn discard(&mut self, session: SessionId, source: &Name) -> Result<(), Refusal>;
    /// Source: its IKE packets go to another gateway, unopened.
    fn divert_ike(&mut self, session: SessionId, flow: &Flow, target: &Name)
    -> Result<(), Refusal>;
    /// Source: nothing leaves under its IKE SA.
    fn block_ike(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal>;
    /// Source: all its packets go to another gateway, inner ones in clear on the inner
    /// network, outer ones unopened.
    fn divert(&mut self, session: SessionId, flow: &Flow, target: &Name) -> Result<(), Refusal>;
    /// Source: nothing leaves under its SAs and its IKE SA.
    fn block(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal>;
    /// Source: as if it had never been diverted or blocked.
    fn restore(&mut self, session: SessionId) -> Result<(), Refusal>;
    /// Source: the session is another gateway's; stragglers still go there.
    fn released(&mut self, session: SessionId) -> Result<(), Refusal>;
    /// Source: no straggler comes any more; the guard stays.
    fn drained(&mut self, session: SessionId) -> Result<(), Refusal>;
    /// A session that came from another gateway has ended, or one is lost: nothing of it
    /// is left but its guard, and that its client is looked for here.
    fn ended(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.forget(session)
    }
    /// The inner addresses or the client of a session that has gone are another
    /// session's, which comes here: nothing but its guard is left of the old one, and
    /// stands for the new.
    fn inherit(&mut self, from: SessionId, to: SessionId) -> Result<(), Refusal>;
    /// Puts back what somebody else removed, and finds the ways to the neighbours
    /// before they are needed. Called from time to time when nothing is moving.
    fn maintain(&mut self) -> Result<(), Refusal>;
    /// The last session left for another gateway: shared addresses that move as a
    /// whole go after it.
    fn emptied(&mut self) -> Result<(), Refusal> {
        Ok(())
    }
    /// Takes such addresses, of those that are `in_use` by sessions here, once nobody
    /// else has them. Called many times a second.
    fn take_free(
        &mut self,
        _: Duration,
        _in_use: &dyn Fn(std::net::IpAddr) -> bool,
    ) -> Result<(), Refusal> {
        Ok(())
    }
    /// Whether packets of sessions that left still come here, however long ago that
    /// was.
    fn is_in_between(&mut self) -> bool {
        false
    }
    /// Nothing of the session is left.
    fn forget(&mut self, session: SessionId) -> Result<(), Refusal>;
    /// Whether a gateway is known to which packets can be sent.
    fn reaches(&self, gateway: &Name) -> bool;
}
