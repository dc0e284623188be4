//! What IKE and an operator do to an embedded gateway, beside the trait that
//! moves sessions.

use std::net::SocketAddr;

use protocol_spec::{
    context::{ChildSa, Context},
    id::{Generation, Name, SessionId},
    status::Refusal,
};

use super::{Addresses, Counters, EmbeddedGateway};
use crate::plugin::Fault;

/// The other side of an embedded gateway: sessions come up, are rekeyed and end.
/// In process and over the socket alike.
pub trait GatewayAdmin {
    /// Where the gateway listens.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn addresses(&mut self) -> Result<Addresses, Fault>;

    /// Sets sessions up as IKE would. The gateway gives each its id, whatever the
    /// context says; answers come in the order of the contexts.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn provision(
        &mut self,
        contexts: Vec<Context>,
    ) -> Result<Vec<Result<SessionId, Refusal>>, Fault>;

    /// First half of a rekey, as CREATE_CHILD_SA: the new Child SA is used for
    /// sending at once, the old one still receives.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn add_child(
        &mut self,
        session: SessionId,
        child: ChildSa,
    ) -> Result<Result<Generation, Refusal>, Fault>;

    /// Second half of a rekey, as a Delete: removes the Child SA with this
    /// inbound SPI.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn remove_child(
        &mut self,
        session: SessionId,
        spi: u32,
    ) -> Result<Result<Generation, Refusal>, Fault>;

    /// Ends a session as the end user would.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn remove(&mut self, session: SessionId) -> Result<Result<(), Refusal>, Fault>;

    /// What the gateway has counted.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn counters(&mut self) -> Result<Counters, Fault>;

    /// Adds a neighbour, or changes where it is relayed to.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn set_neighbour(&mut self, name: Name, relay: SocketAddr) -> Result<(), Fault>;

    /// Says where packets from end users go.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn set_inner_host(&mut self, address: SocketAddr) -> Result<(), Fault>;
}

impl GatewayAdmin for EmbeddedGateway {
    fn addresses(&mut self) -> Result<Addresses, Fault> {
        Self::addresses(self).map_err(|error| Fault::Unreachable(error.to_string()))
    }

    fn provision(
        &mut self,
        contexts: Vec<Context>,
    ) -> Result<Vec<Result<SessionId, Refusal>>, Fault> {
        Ok(Self::provision(self, contexts))
    }

    fn add_child(
        &mut self,
        session: SessionId,
        child: ChildSa,
    ) -> Result<Result<Generation, Refusal>, Fault> {
        Ok(Self::add_child(self, session, child))
    }

    fn remove_child(
        &mut self,
        session: SessionId,
        spi: u32,
    ) -> Result<Result<Generation, Refusal>, Fault> {
        Ok(Self::remove_child(self, session, spi))
    }

    fn remove(&mut self, session: SessionId) -> Result<Result<(), Refusal>, Fault> {
        Ok(Self::remove(self, session))
    }

    fn counters(&mut self) -> Result<Counters, Fault> {
        Ok(Self::counters(self))
    }

    fn set_neighbour(&mut self, name: Name, relay: SocketAddr) -> Result<(), Fault> {
        Self::set_neighbour(self, name, relay);
        Ok(())
    }

    fn set_inner_host(&mut self, address: SocketAddr) -> Result<(), Fault> {
        Self::set_inner_host(self, address);
        Ok(())
    }
}
