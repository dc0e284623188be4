//! A gateway product of your own: `product.rs` is the product, `plugin.rs` is the
//! least that its plugin must do so that sessions can be moved to and from it.
//! Here two such products go through the suite that every plugin must pass.
//!
//! Run it with `cargo run -p examples --example own_gateway_plugin`.

mod plugin;
mod product;

use std::{collections::HashMap, net::SocketAddr, process::ExitCode};

use gateway_plugin::{
    EventSink, EventSource, Fault, GatewayPlugin,
    conformance::{self, Harness, Passed, Side},
    embedded::SessionShape,
};
use product::Product;
use protocol_spec::{
    context::Context,
    id::{Name, SessionId},
};

fn main() -> ExitCode {
    conformance::checks().for_each(|check| println!("- {check}"));
    let mut bench = Bench::default();
    match conformance::run(&mut bench) {
        Ok(()) => {
            println!("The plugin conforms; {} tunnels went through its hands.", bench.made);
            ExitCode::SUCCESS
        }
        Err(findings) => {
            findings.iter().for_each(|finding| eprintln!("{finding}"));
            ExitCode::FAILURE
        }
    }
}

/// Two products on a bench, and the end users of their tunnels.
#[derive(Default)]
struct Bench {
    source: Product,
    target: Product,
    /// Tunnels and rekeys so far.
    made: u32,
    /// The last number that each end user has sent.
    sent: HashMap<SessionId, u64>,
}

impl Bench {
    fn product(&mut self, side: Side) -> &mut Product {
        match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        }
    }

    /// What an IKE exchange would give: new keys, SPIs and an inner address.
    fn negotiated(&mut self) -> Result<Context, String> {
        self.made += 1;
        let address = |last| SocketAddr::from(([192, 0, 2, last], 4500));
        SessionShape::default()
            .context(1, self.made, address(1), address(2))
            .ok_or_else(|| "no random numbers".to_owned())
    }
}

impl Harness for Bench {
    fn gateway(&mut self, side: Side) -> &mut dyn GatewayPlugin {
        self.product(side)
    }

    fn name(&self, side: Side) -> Name {
        let name = match side {
            Side::Source => "source",
            Side::Target => "target",
        };
        #[expect(clippy::expect_used, reason = "it is one")]
        name.parse().expect("a name")
    }

    fn events(&mut self, side: Side) -> Result<EventSource, Fault> {
        let (sink, source) = EventSink::bounded(64);
        self.product(side).subscribe(sink)?;
        Ok(source)
    }

    fn provision(&mut self) -> Result<SessionId, String> {
        let context = self.negotiated()?;
        // The gateway gives ids; this one counts.
        let id = SessionId(u128::from(self.made).to_be_bytes());
        self.source.came_up(Context { session: id, ..context });
        Ok(id)
    }

    fn rekey(&mut self, side: Side, session: SessionId) -> Result<(), String> {
        let children = self.negotiated()?.children;
        self.product(side).rekeyed(session, children);
        self.sent.remove(&session);
        Ok(())
    }

    fn pass(&mut self, side: Side, session: SessionId, packets: u32) -> Result<Passed, String> {
        let mut passed = Passed::default();
        for _ in 0..packets {
            passed.numbers.extend(self.product(side).send(session));
            let sent = self.sent.entry(session).or_default();
            *sent += 1;
            let number = *sent;
            passed.delivered += u32::from(self.product(side).receive(session, number));
        }
        Ok(passed)
    }

    fn replay(&mut self, side: Side, session: SessionId) -> Result<bool, String> {
        let number = self.sent.get(&session).copied().unwrap_or_default();
        Ok(self.product(side).receive(session, number))
    }
}
