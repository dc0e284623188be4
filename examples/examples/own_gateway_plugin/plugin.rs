//! The plugin: what the daemon wants, done with the product's own means. This is
//! what you write.

use std::collections::BTreeSet;

use gateway_plugin::{
    Activate, Discard, EventSink, Extend, Fault, GatewayPlugin, Pause, PerSession, Release, Resume,
    Stage,
};
use protocol_spec::{
    codec,
    context::{Context, ENCR_AES_GCM_16},
    id::{Generation, SessionEpoch, SessionId},
    profile::{Capabilities, Feature, FeatureSet, Profile},
    status::{Refusal, Status},
    transfer::{ChildFinals, Finals, IkeFinals, SessionState, SessionStatus},
};

use crate::product::{Product, Tunnel};

impl GatewayPlugin for Product {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        Ok(capabilities())
    }

    fn subscribe(&mut self, sink: EventSink) -> Result<(), Fault> {
        self.events = Some(sink);
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault> {
        Ok(self.tunnels.values().map(Tunnel::status).collect())
    }

    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        each(
            sessions,
            |id| **id,
            |id| {
                let tunnel = self.tunnels.get(id).ok_or_else(|| no_session(*id))?;
                match tunnel.state {
                    SessionState::Staged { .. } => Err(unfit("its source has the context")),
                    SessionState::Active | SessionState::Paused { .. } => copy(&tunnel.context),
                }
            },
        )
    }

    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        each(profiles, |profile| profile.session, |profile| room_for(self, profile))
    }

    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        each(orders, |order| order.context.session, |order| stage(self, order))
    }

    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        each(
            orders,
            |order| order.session,
            |order| {
                let tunnel = self.tunnels.get_mut(&order.session);
                let tunnel = tunnel.ok_or_else(|| no_session(order.session))?;
                if matches!(tunnel.state, SessionState::Staged { .. }) {
                    return Err(unfit("activate it first"));
                }
                // Yours also sends on to the target what still arrives.
                tunnel.state = SessionState::Paused { target: order.target };
                Ok(finals(&tunnel.context))
            },
        )
    }

    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault> {
        each(
            orders,
            |order| order.session,
            |order| {
                let tunnel = known(self, order.session, order.epoch)?;
                if matches!(tunnel.state, SessionState::Staged { .. }) {
                    return Err(unfit("only a paused session is resumed"));
                }
                order.from.iter().for_each(|(sa, number)| tunnel.send_from(*sa, *number));
                (tunnel.epoch, tunnel.state) = (order.epoch, SessionState::Active);
                Ok(())
            },
        )
    }

    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault> {
        each(
            orders,
            |order| order.session,
            |order| {
                let tunnel = known(self, order.session, order.epoch)?;
                match tunnel.state {
                    SessionState::Active if tunnel.epoch == order.epoch => return Ok(()),
                    SessionState::Staged { .. } if tunnel.epoch == order.epoch => (),
                    _ => return Err(unfit("stage it under this epoch first")),
                }
                activate(tunnel, order.finals)
            },
        )
    }

    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault> {
        each(
            orders,
            |order| order.session,
            |order| {
                if !self.tunnels.contains_key(&order.session) {
                    return Ok(());
                }
                if !matches!(
                    known(self, order.session, order.epoch)?.state,
                    SessionState::Paused { .. }
                ) {
                    return Err(unfit("only a paused session is released"));
                }
                // Silently: no Delete for the end user. The keys are wiped when dropped.
                self.tunnels.remove(&order.session);
                self.gone.insert(order.session, order.epoch);
                Ok(())
            },
        )
    }

    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault> {
        each(
            orders,
            |order| order.session,
            |order| {
                if !self.tunnels.contains_key(&order.session) {
                    return Ok(());
                }
                if !matches!(
                    known(self, order.session, order.epoch)?.state,
                    SessionState::Staged { .. }
                ) {
                    return Err(unfit("only a staged session is discarded"));
                }
                self.tunnels.remove(&order.session);
                Ok(())
            },
        )
    }

    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault> {
        each(
            orders,
            |order| order.session,
            |order| {
                let tunnel = known(self, order.session, order.epoch)?;
                for (sa, end) in order.ends {
                    for grant in tunnel.grants.iter_mut().filter(|grant| grant.sa == sa) {
                        tunnel.told &= end <= grant.end;
                        grant.end = grant.end.max(end);
                    }
                }
                Ok(())
            },
        )
    }
}

fn stage(product: &mut Product, order: Stage) -> Result<Generation, Refusal> {
    let id = order.context.session;
    let stale = |known| Refusal::new(Status::StaleEpoch, format!("epoch {known} is known here"));
    if let Some(gone) = product.gone.get(&id).filter(|gone| order.epoch <= **gone) {
        return Err(stale(gone));
    }
    if let Some(tunnel) = product.tunnels.get(&id) {
        match &tunnel.state {
            SessionState::Staged { .. } if order.epoch < tunnel.epoch => {
                return Err(stale(&tunnel.epoch));
            }
            SessionState::Staged { batch, .. } if order.epoch == tunnel.epoch => {
                let same = *batch == order.batch;
                return same
                    .then_some(tunnel.context.generation)
                    .ok_or_else(|| stale(&tunnel.epoch));
            }
            SessionState::Staged { .. } => (),
            SessionState::Active | SessionState::Paused { .. } => {
                return Err(Refusal::new(Status::TransferRunning, "it is in use here"));
            }
        }
    }
    room_for(product, &order.context.profile())?;
    for child in &order.context.children {
        let mut grants = order.grants.iter().filter(|grant| grant.sa == child.sa());
        if !grants.any(|grant| grant.base > child.outbound.sequence && grant.end > grant.base) {
            return Err(Refusal::new(Status::NoSequenceRoom, "no unused numbers are granted"));
        }
    }
    let Stage { epoch, source, batch, grants, context } = order;
    let generation = context.generation;
    let state = SessionState::Staged { source, batch };
    let mut tunnel = Tunnel { context, epoch, state, grants, told: false };
    // The counters stand at the base before anything can send.
    for grant in tunnel.grants.clone() {
        tunnel.send_from(grant.sa, grant.base);
    }
    product.tunnels.insert(id, tunnel);
    Ok(generation)
}

fn activate(tunnel: &mut Tunnel, finals: Finals) -> Result<(), Refusal> {
    if finals.generation != tunnel.context.generation {
        return Err(Refusal::new(Status::GenerationChanged, "stage it again"));
    }
    for child in &tunnel.context.children {
        let mut last = finals.children.iter().filter(|last| last.sa == child.sa());
        // Since it was staged, `sequence` is one below the base of the grant.
        if !last.any(|last| last.sequence <= child.outbound.sequence) {
            return Err(Refusal::new(Status::NoSequenceRoom, "the source used granted numbers"));
        }
    }
    for last in finals.children {
        for child in tunnel.children_of(last.sa) {
            child.inbound.window = last.window.clone();
            child.lifetime.used = last.used.clone();
        }
    }
    if let (Some(ike), Some(last)) = (&mut tunnel.context.ike, finals.ike) {
        (ike.next_send, ike.next_receive) = (last.next_send, last.next_receive);
    }
    tunnel.state = SessionState::Active;
    Ok(())
}

/// Whether a session could be staged, and if not, what would cure it.
fn room_for(product: &Product, profile: &Profile) -> Result<(), Refusal> {
    let capabilities = capabilities();
    let lacking = profile.features.without(capabilities.features);
    if !lacking.is_empty() {
        return Err(Refusal::new(Status::NoFeature, format!("cannot carry: {lacking}")));
    }
    if profile.side_effects.hooks || profile.side_effects.accounting {
        return Err(Refusal::new(Status::SideEffects, "stop its hooks and accounting first"));
    }
    for child in &profile.children {
        let (transforms, sa) = (&child.transforms, child.usage.sa);
        let transform = (transforms.encryption, transforms.key_bits, transforms.integrity);
        if !capabilities.child_transforms.contains(&transform) {
            return Err(Refusal::new(Status::NoTransform, "it must use AES-GCM-16"));
        }
        let others = product.tunnels.values().filter(|t| t.context.session != profile.session);
        if others.flat_map(|other| &other.context.children).any(|other| other.sa() == sa) {
            let detail = format!("SPI {:#010x} is in use: rekey it", sa.inbound_spi);
            return Err(Refusal::new(Status::SpiCollision, detail));
        }
    }
    Ok(())
}

/// What changes no more once a session is paused.
fn finals(context: &Context) -> Finals {
    let ike = context.ike.as_ref().map(|ike| IkeFinals {
        next_send: ike.next_send,
        next_receive: ike.next_receive,
        last_response: None,
    });
    let children = context.children.iter().map(|child| ChildFinals {
        sa: child.sa(),
        sequence: child.outbound.sequence,
        window: child.inbound.window.clone(),
        used: child.lifetime.used.clone(),
    });
    Finals { generation: context.generation, ike, children: children.collect() }
}

fn capabilities() -> Capabilities {
    use Feature::{
        Esp, Ike, InnerIpv4, LargeWindow, Mobike, Nat, OuterIpv4, TunnelMode, UdpEncapsulation,
        VirtualIp,
    };
    Capabilities {
        features: FeatureSet::from_iter([
            Ike,
            Mobike,
            VirtualIp,
            Nat,
            Esp,
            TunnelMode,
            LargeWindow,
            UdpEncapsulation,
            OuterIpv4,
            InnerIpv4,
        ]),
        child_transforms: BTreeSet::from([128, 256].map(|bits| (ENCR_AES_GCM_16, bits, 0))),
        ike_transforms: BTreeSet::new(),
        max_replay_window: 4096,
        max_sessions: 10_000,
    }
}

/// Does an act for each session on its own: one that fails leaves the others.
fn each<O, T>(
    orders: impl IntoIterator<Item = O>,
    session: impl Fn(&O) -> SessionId,
    mut act: impl FnMut(O) -> Result<T, Refusal>,
) -> Result<PerSession<T>, Fault> {
    Ok(orders.into_iter().map(|order| (session(&order), act(order))).collect())
}

/// The session, if `epoch` is not older than what is known of it.
fn known(
    product: &mut Product,
    id: SessionId,
    epoch: SessionEpoch,
) -> Result<&mut Tunnel, Refusal> {
    let tunnel = product.tunnels.get_mut(&id).ok_or_else(|| no_session(id))?;
    if epoch < tunnel.epoch {
        let detail = format!("epoch {epoch} is older than {}", tunnel.epoch);
        return Err(Refusal::new(Status::StaleEpoch, detail));
    }
    Ok(tunnel)
}

fn no_session(id: SessionId) -> Refusal {
    Refusal::new(Status::NoSession, format!("no session {id} here"))
}

fn unfit(cure: &str) -> Refusal {
    Refusal::new(Status::NoTransfer, cure)
}

/// A context holds keys and is never cloned by accident: a copy is made through
/// the codec, whose octets are wiped.
fn copy(context: &Context) -> Result<Context, Refusal> {
    let fault = |_| Refusal::new(Status::GatewayFault, "the context has no encoding");
    codec::decode(&codec::encode(context).map_err(fault)?).map_err(fault)
}
