//! Peers: which life of them is known, what they may do, and how much of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use protocol_spec::{
    id::{BatchId, GatewayEpoch, Identity, Role, SessionEpoch, SessionId},
    message::{CtdrEntry, Grant, TargetState as Said},
    profile::Capabilities,
    status::{Refusal, Status},
    transfer::SaRef,
};

use super::{
    Event,
    machine::{Core, Engine},
    session::Place,
    source::SourceEvent,
};

/// No epoch from a peer is taken that reaches this: the next ones must stay
/// countable.
pub(super) const EPOCH_LIMIT: SessionEpoch = SessionEpoch(1 << 48);
/// Most controllers and clients that are remembered at one time.
const MAX_STRANGERS: usize = 1024;

/// What is remembered of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) epoch: GatewayEpoch,
    pub(super) up: bool,
    pub(super) capabilities: Option<Capabilities>,
    /// CTAR and CT-Req.
    pub(super) requests: Bucket,
    /// Sessions that it pulls.
    pub(super) pulls: Bucket,
    /// Transfers unknown here that it makes us write *aborted* about.
    pub(super) strange: Bucket,
    /// Sessions on their way in from it.
    pub(super) staged: usize,
    /// Its batches with sessions on their way in.
    pub(super) inbound: BTreeMap<BatchId, usize>,
    /// Its preflights that the gateway is answering.
    pub(super) questions: usize,
    /// Sessions committed to it about which it is asked.
    pub(super) doubts: BTreeSet<SessionId>,
    /// Sessions taken from it for which it has not granted all numbers yet,
    /// which it does once it has forgotten them.
    pub(super) unconfirmed: BTreeMap<SessionId, (SessionEpoch, BatchId, Vec<SaRef>)>,
}

impl Peer {
    pub(super) fn arrived(&mut self, batch: BatchId) {
        self.staged += 1;
        *self.inbound.entry(batch).or_default() += 1;
    }

    pub(super) fn left(&mut self, batch: BatchId) {
        self.staged = self.staged.saturating_sub(1);
        if let Some(count) = self.inbound.get_mut(&batch) {
            *count -= 1;
            if *count == 0 {
                self.inbound.remove(&batch);
            }
        }
    }
}

/// So many in a period, of which as many may come at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Bucket {
    /// When all that was taken will have been given back.
    empty_at: Duration,
}

impl Bucket {
    /// Takes `count` if there are so many left of `limit` in `period`.
    pub(super) fn take(
        &mut self,
        count: usize,
        limit: usize,
        period: Duration,
        now: Duration,
    ) -> bool {
        let (Ok(count), Ok(limit)) = (u32::try_from(count), u32::try_from(limit)) else {
            return false;
        };
        if limit == 0 || count > limit {
            return false;
        }
        let empty_at = self.empty_at.max(now) + period * count / limit;
        if empty_at > now + period {
            return false;
        }
        self.empty_at = empty_at;
        true
    }
}

impl Engine {
    pub(super) fn peer_up(
        &mut self,
        identity: Identity,
        epoch: GatewayEpoch,
        capabilities: Option<Capabilities>,
    ) {
        let core = &mut self.core;
        if identity.role == Role::Gateway {
            if !core.config.peers.contains_key(&identity.name) {
                core.misbehaved(&identity, Status::NoPeer, "no such peer is configured");
                return;
            }
        } else if !core.peers.contains_key(&identity)
            && core.peers.keys().filter(|peer| peer.role != Role::Gateway).count() >= MAX_STRANGERS
        {
            core.misbehaved(&identity, Status::RateLimited, "too many controllers and clients");
            return;
        }
        let peer = core.peers.entry(identity.clone()).or_default();
        if epoch < peer.epoch {
            peer.up = false;
            let detail = "it is an older life of a gateway that came up again since";
            core.misbehaved(&identity, Status::StaleEpoch, detail);
            return;
        }
        peer.epoch = epoch;
        peer.up = true;
        peer.capabilities = capabilities;
        let doubts: Vec<SessionId> = peer.doubts.iter().copied().collect();
        for (session, (epoch, batch, _)) in peer.unconfirmed.clone() {
            let entry = CtdrEntry { session, epoch, state: Said::Active };
            core.outbox.ctdr(&identity.name, batch, entry);
        }
        let retry = core.config.request_retry;
        for id in doubts {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if let Place::Leaving(departure) = &mut session.place {
                departure.retry = retry;
                let _ = self.core.source(id, session, SourceEvent::PeerUp);
            }
        }
    }

    pub(super) fn peer_down(&mut self, identity: &Identity) {
        let Some(peer) = self.core.peers.get_mut(identity) else { return };
        peer.up = false;
        if identity.role != Role::Gateway {
            self.core.peers.remove(identity);
            return;
        }
        let name = &identity.name;
        let batches: Vec<BatchId> = self
            .core
            .batches
            .iter()
            .filter(|(_, batch)| batch.target == *name)
            .map(|(id, _)| *id)
            .collect();
        let detail = format!("the connection with `{name}` was lost");
        let reason = Refusal::new(Status::ConnectionLost, detail);
        for batch in batches {
            self.stop_batch(batch, SourceEvent::PeerDown, &reason);
        }
    }
}

impl Core {
    /// All further numbers of sessions that were taken over.
    pub(super) fn granted(&mut self, from: &Identity, grant: Grant) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        for (session, epoch, ends) in grant.entries {
            //= spec CXTP-6.6-3
            let Some((known, _, sas)) = peer.unconfirmed.get(&session) else { continue };
            if *known != epoch {
                continue;
            }
            // An empty list means every SA that was granted.
            let all = ends.is_empty() || ends.iter().all(|(_, end)| *end == u64::MAX);
            let ends =
                if ends.is_empty() { sas.iter().map(|sa| (*sa, u64::MAX)).collect() } else { ends };
            if all {
                peer.unconfirmed.remove(&session);
            }
            self.outbox.extend.push((session, epoch, ends));
        }
    }

    pub(super) fn unknown_spi(&mut self, spi: u32) {
        let rate = self.config.request_rate as usize;
        if self.unknown_spis.take(1, rate, Duration::from_secs(1), self.now.monotonic) {
            self.outbox.event(Event::UnknownSpi(spi));
        }
    }
}
