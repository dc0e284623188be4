//! What a gateway sets and asks beside what charon tells.

use std::net::IpAddr;

use protocol_spec::id::SessionId;

use super::Tracker;
use crate::strongswan::ha::IkeSpis;

impl Tracker {
    /// The next Message IDs of a session that is about to be activated here.
    pub fn set_message_ids(&mut self, session: SessionId, next_send: u32, next_receive: u32) {
        if let Some(session) = self.sessions.get_mut(&session) {
            (session.ike.next_send, session.ike.next_receive) = (next_send, next_receive);
        }
    }

    /// The IKE SAs that a session had before, newest first: charon says that one is
    /// replaced and not when its Delete, which it answers, has come.
    pub fn replaced(&self, session: SessionId) -> Vec<IkeSpis> {
        let session = self.sessions.get(&session);
        session.map_or_else(Vec::new, |known| known.replaced.iter().rev().copied().collect())
    }

    /// charon no longer has one of them.
    pub fn replaced_is_gone(&mut self, session: SessionId, old: IkeSpis) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.replaced.retain(|known| *known != old);
        }
    }

    /// The outer addresses of all sessions' end users.
    pub fn clients(&self) -> impl Iterator<Item = IpAddr> {
        let remotes = self.sessions.values().filter_map(|session| session.ike.facts.remote);
        remotes.map(|remote| remote.ip())
    }
}
