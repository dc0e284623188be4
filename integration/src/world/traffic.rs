//! What end users and the inner network do: packets both ways, IKE requests both
//! ways, rekeys, ends. Only a gateway that uses a session takes part.

use std::hash::{DefaultHasher, Hash, Hasher};

use protocol_spec::id::SessionId;

use super::{
    News, World,
    gateway_model::Sa,
    setup::{number_of, spi},
};

/// More packets than the least headroom of a grant.
pub const BURST: u64 = protocol_spec::limits::MIN_GRANT_HEADROOM + 4096;

impl World {
    /// The gateway sends packets to the end user.
    pub fn send(&mut self, node: usize, session: SessionId, packets: u64) {
        let Some(held) = self.nodes[node].edit().gateway.active_mut(session) else { return };
        let Some(first) = held.sa.next() else { return };
        let last = (first + packets - 1).min(held.sa.end - 1);
        held.sa.sequence = last;
        let stale = self.facts.get(&session).is_none_or(|facts| facts.spi != held.sa.spi);
        if let Some(facts) = self.facts.get_mut(&session).filter(|_| !stale) {
            facts.use_numbers(node, first, last);
            facts.received.mark(last);
        }
    }

    /// The end user sends a packet and the gateway gets it; `back` numbers ago
    /// the end user sent another one that comes only now.
    pub fn receive(&mut self, node: usize, session: SessionId, back: u64) {
        let Some(facts) = self.facts.get_mut(&session) else { return };
        let Some(held) = self.nodes[node].edit().gateway.active_mut(session) else { return };
        facts.sent += 1;
        let number = facts.sent.saturating_sub(back).max(1);
        if held.sa.window.accepts(number) {
            held.sa.window.mark(number);
            facts.delivered.mark(number);
        }
    }

    /// The gateway sends an IKE request and the end user answers it.
    pub fn request(&mut self, node: usize, session: SessionId) {
        let Some(facts) = self.facts.get_mut(&session) else { return };
        let Some(held) = self.nodes[node].edit().gateway.active_mut(session) else { return };
        held.ike.next_send += 1;
        facts.requests += 1;
    }

    /// The end user sends an IKE request and the gateway answers it.
    pub fn respond(&mut self, node: usize, session: SessionId) {
        let Some(facts) = self.facts.get_mut(&session) else { return };
        let Some(held) = self.nodes[node].edit().gateway.active_mut(session) else { return };
        let mut content = DefaultHasher::new();
        (node, facts.answered).hash(&mut content);
        let response = Some(content.finish() >> 1);
        held.ike.next_receive += 1;
        held.ike.last_response = response;
        facts.answered += 1;
        facts.last_response = response;
    }

    /// The end user and the gateway replace the SAs of a session by new ones.
    pub fn rekey(&mut self, node: usize, session: SessionId) {
        if !self.nodes[node].gateway.is_active(session) {
            return;
        }
        self.respond(node, session);
        let part = self.nodes[node].edit();
        let Some(facts) = self.facts.get_mut(&session) else { return };
        let Some(held) = part.gateway.active_mut(session) else { return };
        held.generation = held.generation.next();
        held.sa = Sa {
            spi: spi(number_of(session), held.generation),
            sequence: 0,
            end: u64::MAX,
            window: Default::default(),
        };
        part.news.push_back(News::Changed(session, held.generation));
        facts.generation = held.generation;
        facts.spi = held.sa.spi;
        facts.used.clear();
        facts.sent = 0;
        facts.delivered = Default::default();
        facts.received = Default::default();
    }

    /// The end user ends a session.
    pub fn end(&mut self, node: usize, session: SessionId) {
        let part = self.nodes[node].edit();
        if !part.gateway.is_active(session) {
            return;
        }
        part.gateway.sessions.remove(&session);
        part.news.push_back(News::Down(session));
        if let Some(facts) = self.facts.get_mut(&session) {
            facts.ended = true;
        }
    }
}
