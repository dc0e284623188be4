//! The embedded gateway in a process of its own: what its end users' IKE does to
//! it there, beside the calls of the trait.

use std::{io, net::SocketAddr};

use bincode::{Decode, Encode};
use protocol_spec::{
    context::{ChildSa, Context},
    id::{Generation, Name, SessionId},
    status::Refusal,
};

use super::{Addresses, Counters, EmbeddedGateway, GatewayAdmin};
use crate::{
    holder::{
        RemoteGateway, ServedGateway,
        call::{Answer, Call},
        client::one,
        server::{OwnAnswer, OwnCall},
    },
    plugin::Fault,
};

const PROVISION: Call = Call(Call::FIRST_OWN);
const ADD_CHILD: Call = Call(Call::FIRST_OWN + 1);
const REMOVE_CHILD: Call = Call(Call::FIRST_OWN + 2);
const REMOVE: Call = Call(Call::FIRST_OWN + 3);
const COUNTERS: Call = Call(Call::FIRST_OWN + 4);
const SET_NEIGHBOUR: Call = Call(Call::FIRST_OWN + 5);
const SET_INNER_HOST: Call = Call(Call::FIRST_OWN + 6);
const ADDRESSES: Call = Call(Call::FIRST_OWN + 7);

impl ServedGateway for EmbeddedGateway {
    fn life(&self) -> [u8; 16] {
        self.instance()
    }

    fn outlives_process(&self) -> bool {
        false
    }

    fn own_call(&mut self, call: OwnCall<'_>) -> Result<OwnAnswer, Fault> {
        let gateway = &*self;
        let answer = match call.0.call {
            ADDRESSES => answer(&[gateway.addresses().map_err(|error| broken(&error))?]),
            COUNTERS => answer(&[gateway.counters()]),
            PROVISION => answer(&gateway.provision(orders::<Context>(&call)?)),
            ADD_CHILD => {
                each(&call, |(id, child): (SessionId, ChildSa)| gateway.add_child(id, child))
            }
            REMOVE_CHILD => {
                each(&call, |(id, spi): (SessionId, u32)| gateway.remove_child(id, spi))
            }
            REMOVE => each(&call, |id: SessionId| gateway.remove(id)),
            SET_NEIGHBOUR => each(&call, |(name, relay): (Name, SocketAddr)| {
                gateway.set_neighbour(name, relay);
            }),
            SET_INNER_HOST => each(&call, |address: SocketAddr| gateway.set_inner_host(address)),
            Call(number) => Err(Fault::Unreachable(format!("call {number} is not known"))),
        }?;
        Ok(OwnAnswer(answer))
    }
}

fn broken(error: &io::Error) -> Fault {
    Fault::Unreachable(error.to_string())
}

fn orders<Q: Encode + Decode<()>>(call: &OwnCall<'_>) -> Result<Vec<Q>, Fault> {
    call.0.items().map_err(|error| broken(&error))
}

fn answer<R: Encode>(results: &[R]) -> Result<Answer, Fault> {
    Answer::of(results).map_err(|error| broken(&error))
}

fn each<Q: Encode + Decode<()>, R: Encode>(
    call: &OwnCall<'_>,
    act: impl FnMut(Q) -> R,
) -> Result<Answer, Fault> {
    answer(&orders(call)?.into_iter().map(act).collect::<Vec<R>>())
}

impl GatewayAdmin for RemoteGateway {
    fn addresses(&mut self) -> Result<Addresses, Fault> {
        self.ask(ADDRESSES).and_then(one)
    }

    fn provision(
        &mut self,
        contexts: Vec<Context>,
    ) -> Result<Vec<Result<SessionId, Refusal>>, Fault> {
        self.in_chunks(PROVISION, &contexts, false)
    }

    fn add_child(
        &mut self,
        session: SessionId,
        child: ChildSa,
    ) -> Result<Result<Generation, Refusal>, Fault> {
        self.in_chunks(ADD_CHILD, &[(session, child)], false).and_then(one)
    }

    fn remove_child(
        &mut self,
        session: SessionId,
        spi: u32,
    ) -> Result<Result<Generation, Refusal>, Fault> {
        self.in_chunks(REMOVE_CHILD, &[(session, spi)], false).and_then(one)
    }

    fn remove(&mut self, session: SessionId) -> Result<Result<(), Refusal>, Fault> {
        self.in_chunks(REMOVE, &[session], false).and_then(one)
    }

    fn counters(&mut self) -> Result<Counters, Fault> {
        self.ask(COUNTERS).and_then(one)
    }

    fn set_neighbour(&mut self, name: Name, relay: SocketAddr) -> Result<(), Fault> {
        self.repeat(SET_NEIGHBOUR, &[(name, relay)]).and_then(one)
    }

    fn set_inner_host(&mut self, address: SocketAddr) -> Result<(), Fault> {
        self.repeat(SET_INNER_HOST, &[address]).and_then(one)
    }
}
