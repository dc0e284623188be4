//! What an embedded gateway is told when it starts.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use protocol_spec::{context::Prefix, id::Name};

/// How an embedded gateway is set up. The default listens on free loopback
/// ports and knows nobody.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where end users send ESP in UDP. `[::]:PORT` serves IPv4 as well.
    pub outer: SocketAddr,
    /// Where the inner network sends raw IP packets, one in each UDP datagram.
    pub inner: SocketAddr,
    /// Where neighbours relay packets to.
    pub relay: SocketAddr,
    /// Where packets from end users go. May be set later, by
    /// [`super::EmbeddedGateway::set_inner_host`].
    pub inner_host: Option<SocketAddr>,
    /// Gateways that sessions may be moved to and come from, with their relay
    /// addresses. More may be added later.
    pub neighbours: Vec<(Name, SocketAddr)>,
    /// Names of configurations that sessions may have been set up under; `None`
    /// for any.
    pub configurations: Option<BTreeSet<String>>,
    /// Inner addresses that this gateway hands out itself. A session with one of
    /// them is taken only if it comes home.
    pub hands_out: Vec<Prefix>,
    /// Most sessions at a time.
    pub max_sessions: usize,
    /// Most packets held for one session that is staged.
    pub held_per_session: usize,
    /// Most packets held altogether.
    pub held_in_all: usize,
    /// Most released sessions whose stragglers are still relayed.
    pub max_released: usize,
    /// Breaks the protocol on purpose, so that a test can see its detector work.
    pub sabotage: Option<Sabotage>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            outer: any,
            inner: any,
            relay: any,
            inner_host: None,
            neighbours: Vec::new(),
            configurations: None,
            hands_out: Vec::new(),
            max_sessions: 4_000_000,
            held_per_session: 512,
            held_in_all: 1 << 18,
            max_released: 4_000_000,
            sabotage: None,
        }
    }
}

/// A rule of the protocol that a gateway breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// A staged session begins below its grant: sequence numbers are used twice.
    NoGrant,
    /// A paused or released session goes on: two gateways own it.
    NoPause,
}
