//! The embedded gateway does what every body must do, in process and behind its
//! socket; and the suite notices bodies that do not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "common/bench.rs"]
mod bench;
mod common;

pub(crate) use common::name;

use bench::Bench;
use gateway_plugin::{
    Activate, Discard, EventSink, Extend, Fault, GatewayPlugin, Pause, PerSession, Release, Resume,
    Stage, conformance,
    embedded::{
        Addresses, Counters, EmbeddedGateway, GatewayAdmin, GatewayConfig, GatewayServer,
        RemoteGateway, Sabotage,
    },
};
use protocol_spec::{
    context::{ChildSa, Context},
    id::{Generation, Name, SessionId},
    profile::{Capabilities, Profile},
    status::{Refusal, Status},
    transfer::{Finals, SessionStatus},
};

fn gateway(sabotage: Option<Sabotage>) -> EmbeddedGateway {
    EmbeddedGateway::start(GatewayConfig { sabotage, ..GatewayConfig::default() }).unwrap()
}

// proves CXTP-6.3-2
#[test]
fn the_embedded_gateway_conforms_in_process() {
    let mut bench = Bench::new(Box::new(gateway(None)), Box::new(gateway(None)));
    assert_eq!(conformance::run(&mut bench), Ok(()));
}

#[test]
fn the_embedded_gateway_conforms_behind_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let served = |name: &str| {
        let path = folder.path().join(name);
        let server = GatewayServer::start(gateway(None), &path).unwrap();
        (server, Box::new(RemoteGateway::connect(path).unwrap()))
    };
    let (_server_a, a) = served("a.sock");
    let (_server_b, b) = served("b.sock");
    assert_eq!(conformance::run(&mut Bench::new(a, b)), Ok(()));
}

/// Which checks fail with such a source and target.
fn failed(source: Box<dyn bench::Body>, target: Box<dyn bench::Body>) -> Vec<String> {
    let findings = conformance::run(&mut Bench::new(source, target)).unwrap_err();
    findings.into_iter().map(|f| f.split(':').next().unwrap().to_owned()).collect()
}

#[test]
fn a_body_that_goes_on_while_paused_fails() {
    let failed = failed(Box::new(gateway(Some(Sabotage::NoPause))), Box::new(gateway(None)));
    assert!(failed.contains(&"finals are stable and a paused session is silent".to_owned()));
    assert!(!failed.contains(&"staging can be repeated and is not use".to_owned()), "{failed:?}");
}

#[test]
fn a_body_that_ignores_grants_fails() {
    let failed = failed(Box::new(gateway(None)), Box::new(gateway(Some(Sabotage::NoGrant))));
    let expected = "an activated session uses granted numbers and the old window";
    assert!(failed.contains(&expected.to_owned()), "{failed:?}");
}

#[test]
fn a_body_that_forgets_epochs_and_repetition_fails() {
    let failed = failed(
        Box::new(Forgetful { gateway: gateway(None), pauses: 0 }),
        Box::new(Forgetful { gateway: gateway(None), pauses: 0 }),
    );
    for check in [
        "older epochs are refused",
        "finals are stable and a paused session is silent",
        "staging can be repeated and is not use",
        "a discarded session is gone, an active one is not discarded",
        "changes are told",
    ] {
        assert!(failed.contains(&check.to_owned()), "{check} is not among {failed:?}");
    }
}

/// A gateway behind a careless adapter.
struct Forgetful {
    gateway: EmbeddedGateway,
    pauses: u64,
}

impl GatewayPlugin for Forgetful {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        self.gateway.capabilities()
    }
    fn subscribe(&mut self, _: EventSink) -> Result<(), Fault> {
        Ok(())
    }
    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault> {
        self.gateway.list()
    }
    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        self.gateway.snapshot(sessions)
    }
    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        self.gateway.admit(profiles)
    }
    /// Not safe to repeat.
    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        let order = orders.into_iter().next().unwrap();
        let id = order.context.session;
        if self.gateway.list()?.iter().any(|status| status.session == id) {
            return Ok(vec![(id, Err(Refusal::new(Status::SpiCollision, "there already")))]);
        }
        self.gateway.stage(vec![order])
    }
    /// Other finals each time.
    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        self.pauses += 1;
        let mut answer = self.gateway.pause(orders)?;
        for finals in answer.iter_mut().filter_map(|(_, result)| result.as_mut().ok()) {
            finals.children.iter_mut().for_each(|child| child.sequence += self.pauses);
        }
        Ok(answer)
    }
    /// Every refusal is kept to itself.
    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault> {
        let answer = self.gateway.resume(orders)?;
        Ok(answer.into_iter().map(|(id, _)| (id, Ok(()))).collect())
    }
    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault> {
        self.gateway.activate(orders)
    }
    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault> {
        self.gateway.release(orders)
    }
    /// Discards whatever there is.
    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault> {
        let drop = |order: Discard| (order.session, self.gateway.remove(order.session).or(Ok(())));
        Ok(orders.into_iter().map(drop).collect())
    }
    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault> {
        self.gateway.extend(orders)
    }
}

impl GatewayAdmin for Forgetful {
    fn addresses(&mut self) -> Result<Addresses, Fault> {
        GatewayAdmin::addresses(&mut self.gateway)
    }
    fn provision(
        &mut self,
        contexts: Vec<Context>,
    ) -> Result<Vec<Result<SessionId, Refusal>>, Fault> {
        Ok(self.gateway.provision(contexts))
    }
    fn add_child(
        &mut self,
        session: SessionId,
        child: ChildSa,
    ) -> Result<Result<Generation, Refusal>, Fault> {
        Ok(self.gateway.add_child(session, child))
    }
    fn remove_child(
        &mut self,
        session: SessionId,
        spi: u32,
    ) -> Result<Result<Generation, Refusal>, Fault> {
        Ok(self.gateway.remove_child(session, spi))
    }
    fn remove(&mut self, session: SessionId) -> Result<Result<(), Refusal>, Fault> {
        Ok(self.gateway.remove(session))
    }
    fn counters(&mut self) -> Result<Counters, Fault> {
        Ok(self.gateway.counters())
    }
    fn set_neighbour(&mut self, name: Name, relay: std::net::SocketAddr) -> Result<(), Fault> {
        self.gateway.set_neighbour(name, relay);
        Ok(())
    }
    fn set_inner_host(&mut self, address: std::net::SocketAddr) -> Result<(), Fault> {
        self.gateway.set_inner_host(address);
        Ok(())
    }
}
