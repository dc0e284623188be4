//! What an embedded gateway needs of the host that it runs on, where end users,
//! inner network and neighbours are real ones and no UDP sockets that speak its own
//! words.

use std::{io, net::SocketAddr};

use protocol_spec::{
    context::Context,
    id::{Name, SessionId},
    status::Refusal,
};

use super::wire::Kind;

/// The networks around an embedded gateway. Its outer socket stays what it is: ESP in
/// UDP (RFC 3948) needs no more. All others are reached through here. Each act is safe
/// to repeat.
pub(crate) trait Network: Send + Sync {
    /// Whether a gateway is known to which packets can be sent.
    fn reaches(&self, gateway: &Name) -> bool;
    /// A session is coming: packets for its end user that arrive on the inner network
    /// are to be had here, and none of them leaves outside in clear.
    fn expect(&self, id: SessionId, context: &Context) -> Result<(), Refusal>;
    /// It lives here: the inner network and end users find it here.
    fn arrived(&self, id: SessionId, context: &Context) -> Result<(), Refusal>;
    /// Its packets go to another gateway: outer ones unopened, inner ones in clear on
    /// the inner network.
    fn divert(&self, id: SessionId, context: &Context, target: &Name) -> Result<(), Refusal>;
    /// Undoes that.
    fn restore(&self, id: SessionId) -> Result<(), Refusal>;
    /// It is the other gateway's; what comes late still goes there.
    fn released(&self, id: SessionId) -> Result<(), Refusal>;
    /// Nothing of it is left.
    fn forget(&self, id: SessionId) -> Result<(), Refusal>;
    /// Puts back what somebody else removed. Called from time to time.
    fn maintain(&self);
    /// Waits a moment for an inner packet.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Sends a packet of an end user on the inner network.
    fn send(&self, packet: &[u8]) -> io::Result<()>;
    /// Sends a packet to the gateway that its session went to, or came from:
    /// it was on its way here when the others were diverted. What came from outside
    /// is a datagram from `source` to `local`.
    fn pass_on(
        &self,
        id: SessionId,
        to: &Name,
        packet: &[u8],
        kind: Kind,
        ends: (SocketAddr, SocketAddr),
    );
}
