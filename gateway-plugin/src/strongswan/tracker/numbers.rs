//! What a gateway sets and asks beside what charon tells.

use std::net::IpAddr;

use protocol_spec::id::SessionId;

use super::Tracker;

impl Tracker {
    /// The next Message IDs of a session that is about to be activated here.
    pub fn set_message_ids(&mut self, session: SessionId, next_send: u32, next_receive: u32) {
        if let Some(session) = self.sessions.get_mut(&session) {
            (session.ike.next_send, session.ike.next_receive) = (next_send, next_receive);
        }
    }

    /// The outer addresses of all sessions' end users.
    pub fn clients(&self) -> impl Iterator<Item = IpAddr> {
        let remotes = self.sessions.values().filter_map(|session| session.ike.facts.remote);
        remotes.map(|remote| remote.ip())
    }
}
