//! Who is connected. The one place with a concurrent map: what comes out of it
//! are clones and handles, so that no lock of it outlives a call.

use std::{collections::BTreeMap, sync::Arc};

use dashmap::DashMap;
use protocol_spec::{
    id::{Identity, Name, Role},
    message::Lane,
};
use tokio_util::sync::CancellationToken;

use super::{
    close::{Code, Ended},
    hello::Greeted,
    link::{Link, Starting, Surroundings},
};

/// Peers at one time; gateways and controllers are bounded by the configuration.
const MOST_PEERS: usize = 1024;

#[derive(Default)]
pub(super) struct Connections {
    peers: DashMap<Identity, Peer>,
}

/// What there is with one peer.
#[derive(Default)]
struct Peer {
    /// Halves that wait for each other.
    control: Option<Greeted>,
    bulk: Option<Greeted>,
    link: Option<Arc<Link>>,
    /// The end of the last link: the next one is told of after it.
    previous: Option<CancellationToken>,
    /// Why there is no link.
    note: String,
}

impl Peer {
    fn slot(&mut self, lane: Lane) -> &mut Option<Greeted> {
        match lane {
            Lane::Control => &mut self.control,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

impl Connections {
    /// Takes in a new connection. Once all of a link are there it can start.
    pub(super) fn join(
        &self,
        greeted: Greeted,
        surroundings: &Surroundings,
    ) -> Result<Option<Starting>, Ended> {
        let identity = greeted.peer.clone();
        if identity.role != Role::Gateway
            && self.peers.len() >= MOST_PEERS
            && !self.peers.contains_key(&identity)
        {
            return refuse(greeted, Code::NoRoom, "too many peers are connected");
        }
        let mut peer = self.peers.entry(identity.clone()).or_default();
        if let Some(link) = &peer.link {
            if greeted.hello.epoch < link.epoch {
                let reason = "a newer life of this peer is connected: is a second daemon running?";
                return refuse(greeted, Code::Replaced, reason);
            }
            link.end(Ended::new(Code::Replaced, "a newer connection of the same peer"));
            peer.previous = Some(link.done.clone());
            peer.link = None;
        }
        let lane = greeted.hello.lane;
        let epoch = greeted.hello.epoch;
        if let Some(old) = peer.slot(lane).replace(greeted) {
            close(&old, Code::Replaced, "a newer connection of the same peer");
        }
        // Both halves are of the same life, or the older one goes.
        let other = match lane {
            Lane::Control => Lane::Bulk,
            Lane::Bulk => Lane::Control,
        };
        if let Some(old) = peer.slot(other).take_if(|half| half.hello.epoch != epoch) {
            close(&old, Code::Replaced, "a newer life of the same peer");
        }
        let complete =
            peer.control.is_some() && (peer.bulk.is_some() || identity.role != Role::Gateway);
        if !complete {
            return Ok(None);
        }
        let Some(control) = peer.control.take() else { return Ok(None) };
        let bulk = peer.bulk.take();
        let previous = peer.previous.take();
        let starting = Starting::new(control, bulk, previous, surroundings.clone());
        peer.link = Some(Arc::clone(&starting.link));
        Ok(Some(starting))
    }

    /// Drops a half that waited too long for the other.
    pub(super) fn abandon(&self, identity: &Identity, lane: Lane, connection: usize) {
        if let Some(mut peer) = self.peers.get_mut(identity) {
            let half = peer.slot(lane);
            if let Some(half) = half.take_if(|half| half.connection.stable_id() == connection) {
                close(&half, Code::PairLost, "the other connection of the pair did not come");
            }
        }
    }

    /// A link has ended.
    pub(super) fn forget(&self, link: &Arc<Link>, reason: &str) {
        if let Some(mut peer) = self.peers.get_mut(&link.peer)
            && peer.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link))
        {
            peer.link = None;
            reason.clone_into(&mut peer.note);
        }
        // Gateways are few and keep their note; others leave nothing behind.
        self.peers.remove_if(&link.peer, |identity, peer| {
            identity.role != Role::Gateway && peer.link.is_none() && peer.control.is_none()
        });
    }

    /// Why a gateway is not connected.
    pub(super) fn note(&self, identity: &Identity, reason: String) {
        self.peers.entry(identity.clone()).or_default().note = reason;
    }

    /// The link with a peer.
    pub(super) fn link(&self, identity: &Identity) -> Option<Arc<Link>> {
        self.peers.get(identity).and_then(|peer| peer.link.clone())
    }

    /// All links.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.peers.iter().filter_map(|peer| peer.link.clone()).collect()
    }

    /// How it stands with each gateway: `up`, or why not.
    pub(super) fn gateways(&self) -> BTreeMap<Name, String> {
        let state = |peer: &Peer| {
            if peer.link.is_some() { "up".to_owned() } else { peer.note.clone() }
        };
        self.peers
            .iter()
            .filter(|peer| peer.key().role == Role::Gateway)
            .map(|peer| (peer.key().name.clone(), state(peer.value())))
            .collect()
    }
}

fn close(greeted: &Greeted, code: Code, reason: &str) {
    Ended::new(code, reason).close(&greeted.connection);
}

fn refuse<T>(greeted: Greeted, code: Code, reason: &str) -> Result<T, Ended> {
    let ended = Ended::new(code, reason);
    ended.close(&greeted.connection);
    Err(ended)
}
