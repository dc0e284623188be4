//! What vici says, against what was heard.

use std::net::{IpAddr, SocketAddr};

use protocol_spec::{id::SessionId, limits::MAX_CHILDREN};

use super::{Notice, Tracker, parts::Child};
use crate::{plugin::GatewayEvent, strongswan::ha::IkeSpis};

/// A point in the tracker's own order of things: see [`Tracker::mark`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// State of an IKE SA, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedState {
    /// In use (`ESTABLISHED`, and `REKEYING`).
    Established,
    /// Put there by somebody and not in use. Its addresses may be stand-ins.
    Passive,
    /// Coming or going.
    Other,
}

/// An IKE SA in vici's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedIke {
    /// Its SPIs.
    pub spis: IkeSpis,
    /// Its state.
    pub state: ListedState,
    /// The gateway's address.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Inner addresses of the peer.
    pub virtual_ips: Vec<IpAddr>,
    /// Its Child SAs.
    pub children: Vec<ListedChild>,
}

/// A Child SA in vici's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChild {
    /// SPI on which the gateway receives.
    pub inbound: u32,
    /// SPI on which the gateway sends.
    pub outbound: u32,
    /// Name of its configuration.
    pub name: String,
    /// Whether it is in use (`INSTALLED`, `UPDATING`, `REKEYING`). A child that was
    /// rekeyed stays in the list as `DELETED` for some seconds, for late packets.
    pub installed: bool,
}

impl Tracker {
    /// To be taken before vici is asked for its list: a session that comes up
    /// while the list is made is then not missed in it.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Compares with vici's whole list, which was asked for after `mark` was taken:
    /// corrects addresses (charon tells no change of a peer's address by MOBIKE or
    /// NAT), inner addresses and Child SAs, ends sessions that are not there, and
    /// reports IKE SAs whose secrets were not heard. What changed after `mark` is
    /// left alone: the list may be older. Handle what waits at the HA socket first.
    pub fn reconcile(&mut self, mark: Mark, list: &[ListedIke]) -> Vec<Notice> {
        let mut notices = Vec::new();
        let gone: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                let nodes = || session.successors.iter().chain([&session.ike]);
                session.since <= mark
                    && !list.iter().any(|ike| nodes().any(|node| node.id.spis() == ike.spis))
            })
            .map(|(id, _)| *id)
            .collect();
        for session in gone {
            self.forget(session);
            notices.push(Notice::Event(GatewayEvent::Down { session }));
        }
        for ike in list {
            self.compare(mark, ike, &mut notices);
        }
        notices
    }

    fn compare(&mut self, mark: Mark, ike: &ListedIke, notices: &mut Vec<Notice>) {
        let Some(owner) = self.find(ike.spis) else {
            let begun =
                self.half_open.iter().any(|node| node.id.spis() == ike.spis && node.since > mark);
            if ike.state == ListedState::Established && !begun {
                self.gap(ike.spis, Some(ike.remote), notices);
            }
            return;
        };
        let Some(session) = self.sessions.get_mut(&owner) else { return };
        if session.ike.id.spis() != ike.spis || session.touched > mark {
            return;
        }
        let mut changed = false;
        if ike.state == ListedState::Established {
            let facts = &mut session.ike.facts;
            let before = facts.clone();
            facts.local = Some(ike.local);
            facts.remote = Some(ike.remote);
            facts.virtual_ips.clone_from(&ike.virtual_ips);
            changed = *facts != before;
        }
        let installed = || ike.children.iter().filter(|child| child.installed);
        let before = session.children.len();
        session.children.retain(|child| installed().any(|listed| listed.inbound == child.inbound));
        changed |= session.children.len() != before;
        for listed in installed() {
            let known = session.children.iter().any(|child| child.inbound == listed.inbound);
            if !known && session.children.len() < MAX_CHILDREN {
                session.children.push(Child::listed(listed));
                changed = true;
            }
        }
        if changed {
            self.changed(owner, notices);
        }
    }

    pub(super) fn tick(&mut self) -> Mark {
        self.mark.0 += 1;
        self.mark
    }
}
