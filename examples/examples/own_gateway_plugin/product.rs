//! The product: tunnels with counters, and a datapath reduced to sequence numbers.
//! Yours is a box, a daemon or a kernel; it has all of this already.

use std::collections::HashMap;

use gateway_plugin::{
    EventSink, GatewayEvent,
    embedded::window::{self, Verdict},
};
use protocol_spec::{
    context::{ChildSa, Context},
    id::{SessionEpoch, SessionId},
    transfer::{GrantedRange, SaRef, SessionState, SessionStatus},
};

/// The product.
#[derive(Default)]
pub(crate) struct Product {
    pub(crate) tunnels: HashMap<SessionId, Tunnel>,
    /// Under which ownership tunnels went elsewhere.
    pub(crate) gone: HashMap<SessionId, SessionEpoch>,
    pub(crate) events: Option<EventSink>,
}

/// A tunnel. Its counters and windows are kept in the context.
pub(crate) struct Tunnel {
    pub(crate) context: Context,
    pub(crate) epoch: SessionEpoch,
    pub(crate) state: SessionState,
    /// The outbound numbers that it may use; none where it was set up here.
    pub(crate) grants: Vec<GrantedRange>,
    /// The end of a grant was told.
    pub(crate) told: bool,
}

impl Tunnel {
    pub(crate) fn status(&self) -> SessionStatus {
        SessionStatus {
            session: self.context.session,
            epoch: self.epoch,
            generation: self.context.generation,
            state: self.state.clone(),
        }
    }

    pub(crate) fn children_of(&mut self, sa: SaRef) -> impl Iterator<Item = &mut ChildSa> {
        self.context.children.iter_mut().filter(move |child| child.sa() == sa)
    }

    /// Sends from `number` on, never from below.
    pub(crate) fn send_from(&mut self, sa: SaRef, number: u64) {
        for child in self.children_of(sa) {
            child.outbound.sequence = child.outbound.sequence.max(number.saturating_sub(1));
        }
    }
}

impl Product {
    /// A tunnel came up: the end user has authenticated.
    pub(crate) fn came_up(&mut self, context: Context) {
        let (epoch, state) = (SessionEpoch(0), SessionState::Active);
        let id = context.session;
        let tunnel = Tunnel { context, epoch, state, grants: Vec::new(), told: false };
        self.tell(GatewayEvent::Up(tunnel.status()));
        self.tunnels.insert(id, tunnel);
    }

    /// A tunnel was rekeyed: it has new SPIs and begins to count anew.
    pub(crate) fn rekeyed(&mut self, id: SessionId, children: Vec<ChildSa>) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        tunnel.context.children = children;
        tunnel.context.generation = tunnel.context.generation.next();
        let generation = tunnel.context.generation;
        self.tell(GatewayEvent::Changed { session: id, generation });
    }

    /// Sends a packet to the end user: the number that it got, if it was sent.
    pub(crate) fn send(&mut self, id: SessionId) -> Option<u64> {
        let tunnel = self.tunnels.get_mut(&id).filter(|t| t.state == SessionState::Active)?;
        let child = tunnel.context.children.last_mut()?;
        let sa = child.sa();
        let number = child.outbound.sequence + 1;
        if tunnel.grants.iter().any(|grant| grant.sa == sa && number >= grant.end) {
            if !std::mem::replace(&mut tunnel.told, true) {
                self.tell(GatewayEvent::GrantExhausted { session: id });
            }
            return None;
        }
        child.outbound.sequence = number;
        Some(number)
    }

    /// Takes a packet of the end user; says whether it reached the inner network.
    pub(crate) fn receive(&mut self, id: SessionId, number: u64) -> bool {
        let tunnel = self.tunnels.get_mut(&id).filter(|t| t.state == SessionState::Active);
        let Some(child) = tunnel.and_then(|t| t.context.children.last_mut()) else { return false };
        let fresh = window::check(&child.inbound.window, number) == Verdict::Fresh;
        if fresh {
            window::accept(&mut child.inbound.window, number);
        }
        fresh
    }

    fn tell(&mut self, event: GatewayEvent) {
        // A sink whose listener is gone is dropped.
        self.events.take_if(|sink| !sink.emit(event));
    }
}
