//! Sessions that no IKE daemon owns: the kernel's SAs between two outer addresses,
//! with no word about rekeying. Set up by hand or by a program of the operator's.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::mpsc::{SyncSender, TrySendError},
    thread::Builder,
    time::Duration,
};

use protocol_spec::{
    context::{Context, Endpoints},
    id::{Generation, SessionId},
    profile::{Capabilities, Feature, Profile},
    status::{Refusal, Status},
    transfer::IkeFinals,
};

use super::{
    daemon::{DaemonEvent, Described, DescribedChild, IkeDaemon, Known, Remembered, Spis},
    session::no_session,
};
use crate::{
    plugin::Fault,
    xfrm::{Follower, KernelSa},
};

/// How often the follower looks whether anybody listens.
const LOOK_UP: Duration = Duration::from_millis(500);

/// What the kernel can carry of every session, daemon or not.
pub(crate) const FEATURES: &[Feature] = &[
    Feature::Esp,
    Feature::TunnelMode,
    Feature::Esn,
    Feature::LargeWindow,
    Feature::UdpEncapsulation,
    Feature::Mark,
    Feature::IfId,
    Feature::CountedLifetime,
    Feature::OuterIpv4,
    Feature::OuterIpv6,
    Feature::InnerIpv4,
    Feature::InnerIpv6,
    Feature::PortSelectors,
];

/// The two ends of a session, ours first.
type Ends = (IpAddr, IpAddr);

struct Found {
    known: Known,
    /// Inbound and outbound SPI of each pair, as they were created.
    pairs: Vec<(u32, u32)>,
}

/// Nobody.
pub(crate) struct KernelOnly {
    capabilities: Capabilities,
    local: Vec<IpAddr>,
    found: BTreeMap<Ends, Found>,
    /// Sessions of an earlier process that were not found again yet.
    remembered: Vec<Remembered>,
    new_id: fn() -> SessionId,
}

impl KernelOnly {
    /// `local` are the gateway's addresses, which tell inbound SAs from outbound
    /// ones.
    pub(crate) fn new(
        capabilities: Capabilities,
        local: Vec<IpAddr>,
        new_id: fn() -> SessionId,
    ) -> Self {
        Self { capabilities, local, found: BTreeMap::new(), remembered: Vec::new(), new_id }
    }

    /// What these SAs were called by an earlier process.
    fn named_before(&mut self, ends: Ends, pairs: &[(u32, u32)]) -> Option<Known> {
        let inbound: Vec<u32> = pairs.iter().map(|(inbound, _)| *inbound).collect();
        let ends = Endpoints { local: ends.0, remote: ends.1 };
        let at = self.remembered.iter().position(|before| {
            before.spis.ends == Some(ends)
                || before.spis.inbound.iter().any(|spi| inbound.contains(spi))
        })?;
        let Remembered { mut known, mut spis, .. } = self.remembered.swap_remove(at);
        spis.inbound.sort_unstable();
        if spis.inbound != inbound {
            known.generation = known.generation.next();
        }
        Some(known)
    }

    fn named(&self, session: SessionId) -> Option<&Found> {
        self.found.values().find(|found| found.known.session == session)
    }
}

/// Tells that something changed whenever the kernel says so.
///
/// # Errors
/// What the kernel says of the socket or the thread.
pub(crate) fn follow(
    mut follower: Follower,
    events: SyncSender<DaemonEvent>,
) -> std::io::Result<()> {
    let listen = move || {
        loop {
            match follower.next(LOOK_UP) {
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "the kernel's events are interrupted");
                    std::thread::park_timeout(LOOK_UP);
                }
                Ok(Some(_)) => match events.try_send(DaemonEvent::Gap) {
                    Ok(()) | Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Disconnected(_)) => return,
                },
            }
        }
    };
    Builder::new().name("kernel-events".to_owned()).spawn(listen).map(drop)
}

impl IkeDaemon for KernelOnly {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        Ok(self.capabilities.clone())
    }

    fn remember(&mut self, sessions: &[Remembered]) {
        self.remembered = sessions.to_vec();
    }

    fn spis(&mut self, session: SessionId) -> Result<Spis, Refusal> {
        let named = self.found.iter().find(|(_, found)| found.known.session == session);
        let ((local, remote), found) = named.ok_or_else(|| no_session(session))?;
        Ok(Spis {
            ike: None,
            inbound: found.pairs.iter().map(|(inbound, _)| *inbound).collect(),
            ends: Some(Endpoints { local: *local, remote: *remote }),
        })
    }

    fn sessions(&mut self, kernel: &[KernelSa]) -> Result<Vec<Known>, Fault> {
        let mut now: BTreeMap<Ends, Vec<(u32, u32)>> = BTreeMap::new();
        for inbound in kernel.iter().filter(|sa| self.local.contains(&sa.id.destination)) {
            let ends = (inbound.id.destination, inbound.source);
            let outbound = kernel.iter().find(|sa| {
                (sa.source, sa.id.destination) == ends
                    && sa.reqid == inbound.reqid
                    && sa.id.protocol == inbound.id.protocol
            });
            if let Some(outbound) = outbound {
                now.entry(ends).or_default().push((inbound.id.spi, outbound.id.spi));
            }
        }
        self.found.retain(|ends, _| now.contains_key(ends));
        for (ends, mut pairs) in now {
            pairs.sort_unstable();
            match self.found.get_mut(&ends) {
                Some(found) if found.pairs == pairs => {}
                Some(found) => {
                    found.pairs = pairs;
                    found.known.generation = Generation(found.known.generation.0 + 1);
                }
                None => {
                    let known = self.named_before(ends, &pairs).unwrap_or_else(|| Known {
                        session: (self.new_id)(),
                        generation: Generation(1),
                    });
                    self.found.insert(ends, Found { known, pairs });
                }
            }
        }
        Ok(self.found.values().map(|found| found.known).collect())
    }

    fn describe(&mut self, session: SessionId) -> Result<Described, Refusal> {
        let found = self.named(session).ok_or_else(|| no_session(session))?;
        let children = found.pairs.iter().map(|(inbound, outbound)| DescribedChild {
            configuration: String::new(),
            inbound: *inbound,
            outbound: *outbound,
            seed: None,
            rekey_in: None,
        });
        let known = found.known;
        Ok(Described { known, ike: None, children: children.collect(), is_quiet: true })
    }

    fn admit(&mut self, _: &Profile) -> Result<(), Refusal> {
        Ok(())
    }

    fn stage(&mut self, context: &Context, _: Option<IpAddr>) -> Result<(), Refusal> {
        let ends = context.children.first().and_then(|child| child.endpoints).ok_or_else(|| {
            let detail = "the SAs do not say their outer addresses";
            Refusal::new(Status::BadContext, detail)
        })?;
        let ends = (ends.local, ends.remote);
        if self.found.get(&ends).is_some_and(|found| found.known.session != context.session) {
            let detail = format!("there are SAs between {} and {} here already", ends.0, ends.1);
            return Err(Refusal::new(Status::AddressCollision, detail));
        }
        let known = Known { session: context.session, generation: context.generation };
        let mut pairs: Vec<_> =
            context.children.iter().map(|c| (c.inbound.spi, c.outbound.spi)).collect();
        pairs.sort_unstable();
        self.found.insert(ends, Found { known, pairs });
        Ok(())
    }

    fn installs_children(&self) -> bool {
        false
    }

    fn wait_quiet(&mut self, _: SessionId, _: Duration) -> Result<(), Refusal> {
        Ok(())
    }

    fn finals(&mut self, _: SessionId) -> Result<Option<IkeFinals>, Refusal> {
        Ok(None)
    }

    fn activate(&mut self, _: SessionId, _: Option<&IkeFinals>) -> Result<(), Refusal> {
        Ok(())
    }

    fn forget(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.found.retain(|_, found| found.known.session != session);
        Ok(())
    }
}
