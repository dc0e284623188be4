//! A daemon that installs Child SAs itself, as charon does: with reqids and
//! windows of its own and numbers from 0.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use protocol_spec::{
    context::{Context, IkeSa, SideEffects},
    id::{Generation, SessionId},
    profile::{Capabilities, Feature, Profile},
    status::{Refusal, Status},
    transfer::{GrantedRange, IkeFinals},
};

use super::{
    super::{
        context,
        daemon::{Described, DescribedChild, IkeDaemon, Known, Remembered, Spis},
        kernel_only::FEATURES,
        session::no_session,
    },
    bench::{self, new_id},
    ground::{Shared, lock},
};
use crate::{
    plugin::Fault,
    xfrm::{Counters, KernelSa},
};

/// Its SPIs in charon's own table.
type IkeSpis = (u64, u64);

/// What charon has of an IKE SA: it outlives our process.
#[derive(Clone)]
pub(crate) struct IkeSession {
    pub(crate) number: u32,
    pub(crate) local: IpAddr,
    /// Inbound and outbound SPI.
    pub(crate) children: Vec<(u32, u32)>,
    pub(crate) reqid: u32,
    /// Next Message IDs, ours and the end user's.
    pub(crate) next: (u32, u32),
    /// Not spoken for.
    pub(crate) passive: bool,
}

/// Our side of it, which does not outlive the process.
pub(crate) struct ModelCharon {
    ground: Shared,
    told: BTreeMap<IkeSpis, (Known, Vec<(u32, u32)>)>,
    remembered: Vec<Remembered>,
    next_reqid: u32,
}

const WINDOW: u32 = 32;

impl ModelCharon {
    pub(crate) fn new(ground: Shared) -> Self {
        Self { ground, told: BTreeMap::new(), remembered: Vec::new(), next_reqid: 1000 }
    }

    fn runs(&self) -> Result<(), Refusal> {
        match lock(&self.ground).absent {
            true => Err(Refusal::new(Status::GatewayFault, "charon does not run")),
            false => Ok(()),
        }
    }

    fn spis_of(&self, session: SessionId) -> Option<IkeSpis> {
        self.told.iter().find(|(_, (known, _))| known.session == session).map(|(spis, _)| *spis)
    }

    fn session(&self, session: SessionId) -> Result<(IkeSpis, IkeSession), Refusal> {
        let spis = self.spis_of(session).ok_or_else(|| no_session(session))?;
        let found = lock(&self.ground).ike.get(&spis).cloned();
        found.map(|ike| (spis, ike)).ok_or_else(|| no_session(session))
    }

    fn name(&mut self, spis: IkeSpis, children: &[(u32, u32)]) -> Known {
        let at = self.remembered.iter().position(|before| before.spis.ike == Some(spis));
        let Some(at) = at else { return Known { session: new_id(), generation: Generation(1) } };
        let Remembered { mut known, spis, .. } = self.remembered.swap_remove(at);
        if spis.inbound != children.iter().map(|child| child.0).collect::<Vec<_>>() {
            known.generation = known.generation.next();
        }
        known
    }
}

impl IkeDaemon for ModelCharon {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        let mut capabilities = bench::capabilities();
        for feature in FEATURES.iter().chain(&[
            Feature::Ike,
            Feature::Mobike,
            Feature::Fragmentation,
            Feature::MessageIdSync,
            Feature::VirtualIp,
        ]) {
            capabilities.features.insert(*feature);
        }
        Ok(capabilities)
    }

    fn remember(&mut self, sessions: &[Remembered]) {
        self.remembered = sessions.to_vec();
    }

    fn sessions(&mut self, _: &[KernelSa]) -> Result<Vec<Known>, Fault> {
        let now: Vec<_> = {
            let ground = lock(&self.ground);
            if ground.absent {
                return Err(Fault::Lost("it does not run".to_owned()));
            }
            ground.ike.iter().map(|(spis, ike)| (*spis, ike.children.clone())).collect()
        };
        self.told.retain(|spis, _| now.iter().any(|(there, _)| there == spis));
        for (spis, children) in now {
            match self.told.get_mut(&spis) {
                Some((_, known)) if *known == children => {}
                Some((known, before)) => {
                    known.generation = known.generation.next();
                    *before = children;
                }
                None => {
                    let known = self.name(spis, &children);
                    self.told.insert(spis, (known, children));
                }
            }
        }
        Ok(self.told.values().map(|(known, _)| *known).collect())
    }

    fn spis(&mut self, session: SessionId) -> Result<Spis, Refusal> {
        let (spis, ike) = self.session(session)?;
        let inbound = ike.children.iter().map(|child| child.0).collect();
        Ok(Spis { ike: Some(spis), inbound, ends: None })
    }

    fn describe(&mut self, session: SessionId) -> Result<Described, Refusal> {
        let (spis, session) = self.session(session)?;
        let known = self.told[&spis].0;
        let ike = IkeSa {
            next_send: session.next.0,
            next_receive: session.next.1,
            side_effects: SideEffects::default(),
            ..bench::ike(session.number, session.local)
        };
        let children = session.children.iter().map(|(inbound, outbound)| DescribedChild {
            configuration: "net".to_owned(),
            inbound: *inbound,
            outbound: *outbound,
            seed: None,
            rekey_in: None,
        });
        let children = children.collect();
        let is_quiet = !lock(&self.ground).exchange;
        Ok(Described { known, ike: Some(ike), children, is_quiet })
    }

    fn admit(&mut self, profile: &Profile) -> Result<(), Refusal> {
        self.runs()?;
        let other = profile.ike_spis.filter(|spis| {
            lock(&self.ground).ike.contains_key(spis)
                && self.spis_of(profile.session) != Some(*spis)
        });
        other.map_or(Ok(()), |_| Err(Refusal::new(Status::SpiCollision, "IKE SPIs in use")))
    }

    fn stage(&mut self, context: &Context, local: Option<IpAddr>) -> Result<(), Refusal> {
        self.runs()?;
        let ike = context.ike.as_ref().ok_or_else(|| no_session(context.session))?;
        let spis = (ike.spi_initiator, ike.spi_responder);
        self.next_reqid += 1;
        let reqid = self.next_reqid;
        // From 0, whatever was granted: charon knows nothing of that.
        let grants: Vec<GrantedRange> = context
            .children
            .iter()
            .map(|child| GrantedRange { sa: child.sa(), base: 1, end: u64::MAX })
            .collect();
        let (mut sas, mut policies) = context::tables(context, &grants)?;
        for sa in &mut sas {
            sa.reqid = reqid;
            sa.window_size = WINDOW;
            sa.counters = Counters::new(WINDOW);
        }
        policies.iter_mut().for_each(|policy| policy.templates[0].reqid = reqid);
        let children: Vec<_> =
            context.children.iter().map(|c| (c.inbound.spi, c.outbound.spi)).collect();
        let session = IkeSession {
            number: spis.0 as u32,
            local: local.unwrap_or(ike.local.ip()),
            children: children.clone(),
            reqid,
            next: (ike.next_send, ike.next_receive),
            passive: true,
        };
        let mut ground = lock(&self.ground);
        if ground.ike.contains_key(&spis) {
            return Err(Refusal::new(Status::SpiCollision, "charon has these IKE SPIs"));
        }
        if ground.slow {
            ground.unmade.push((sas, policies));
        } else {
            ground.put(sas, policies)?;
        }
        ground.ike.insert(spis, session);
        let known = Known { session: context.session, generation: context.generation };
        self.told.insert(spis, (known, children));
        Ok(())
    }

    fn staged(&mut self, _: &Context) -> Result<(), Refusal> {
        let mut ground = lock(&self.ground);
        let unmade = std::mem::take(&mut ground.unmade);
        unmade.into_iter().try_for_each(|(sas, policies)| ground.put(sas, policies))
    }

    fn installs_children(&self) -> bool {
        true
    }

    fn wait_quiet(&mut self, session: SessionId, patience: Duration) -> Result<(), Refusal> {
        if lock(&self.ground).slow {
            std::thread::sleep(patience);
        }
        if lock(&self.ground).exchange {
            return Err(Refusal::new(Status::Busy, "an IKE exchange stays open: try later"));
        }
        self.session(session).map(drop)
    }

    fn finals(&mut self, session: SessionId) -> Result<Option<IkeFinals>, Refusal> {
        let (_, ike) = self.session(session)?;
        let (next_send, next_receive) = ike.next;
        Ok(Some(IkeFinals { next_send, next_receive, last_response: Some(vec![0xee; 40]) }))
    }

    fn activate(&mut self, session: SessionId, finals: Option<&IkeFinals>) -> Result<(), Refusal> {
        self.runs()?;
        let (spis, _) = self.session(session)?;
        if let Some(ike) = lock(&self.ground).ike.get_mut(&spis) {
            ike.passive = false;
            if let Some(finals) = finals {
                ike.next = (finals.next_send, finals.next_receive);
            }
        }
        Ok(())
    }

    fn forget(&mut self, session: SessionId) -> Result<(), Refusal> {
        let Some(spis) = self.spis_of(session) else { return Ok(()) };
        self.told.remove(&spis);
        let mut ground = lock(&self.ground);
        let Some(ike) = ground.ike.remove(&spis) else { return Ok(()) };
        let sas: Vec<_> =
            ground.sas.iter().filter(|sa| sa.reqid == ike.reqid).map(|sa| sa.id).collect();
        let policies: Vec<_> = ground
            .policies
            .iter()
            .filter(|policy| policy.templates[0].reqid == ike.reqid)
            .cloned()
            .collect();
        ground.take_out(&sas, &policies);
        Ok(())
    }
}
