//! A predictive transfer with everything in sight: two gateways with real ESP,
//! three end users whose traffic never stops, two engines, and the one loop that
//! drives them. No daemon, no QUIC, no certificates: they only carry the same.
//!
//! Run it with `cargo run -p examples --example predictive_transfer`.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, ensure};
use cxtp::engine::{
    Command, Engine, EngineConfig, Event, Input, Output, PeerPolicy, Record, Recovered,
};
use examples::{Clock, act, wait_until};
use gateway_plugin::{
    GatewayPlugin,
    embedded::{EmbeddedGateway, FleetConfig, GatewayConfig, UserFleet},
};
use protocol_spec::{
    id::{BatchId, GatewayEpoch, Identity, Name, Role},
    message::Message,
    transfer::TransferMode,
};

const NAMES: [&str; 2] = ["a", "b"];

fn main() -> Result<()> {
    // Two gateways that relay to each other, and end users behind the first.
    let mut gateways = [gateway()?, gateway()?];
    for at in [0, 1] {
        gateways[at].set_neighbour(NAMES[1 - at].parse()?, gateways[1 - at].addresses()?.relay);
    }
    let [mut a, mut b] = gateways.clone();
    let fleet = FleetConfig { sessions: 3, rate: 200, ..FleetConfig::default() };
    let users = UserFleet::start(fleet, &mut a, &mut [&mut b])?;
    let traffic_flows = || {
        let wanted = users.counters().1.received + 100;
        wait_until(|| users.counters().1.received >= wanted)
    };
    ensure!(traffic_flows(), "no traffic through a");

    // Two engines; each is told that the other is there, and the first what to do.
    let clock = Clock::start();
    let mut sites = [Site::new(0, &clock)?, Site::new(1, &clock)?];
    let mut inbox = VecDeque::new();
    for at in [0, 1] {
        sites[at].drain(&mut gateways[at], &mut inbox)?;
        let capabilities = Some(gateways[1 - at].capabilities()?);
        let peer = identity(1 - at)?;
        inbox.push_back((at, Input::PeerUp { peer, epoch: GatewayEpoch(1), capabilities }));
    }
    let transfer = Command::Transfer {
        batch: BatchId([7; 16]),
        sessions: users.sessions(),
        target: NAMES[1].parse()?,
        mode: TransferMode::Predictive,
    };
    inbox.push_back((0, Input::Command(transfer)));

    // From here on it runs by itself, until nothing is left to be said or done.
    while let Some((at, input)) = inbox.pop_front() {
        sites[at].engine.handle(input, clock.now());
        sites[at].drain(&mut gateways[at], &mut inbox)?;
    }

    ensure!(traffic_flows(), "no traffic through b");
    let report = users.stop();
    let (up, down) = (report.up, report.down);
    println!("\n{} packets sent up and {} down", up.sent, down.sent);
    println!("{} lost, {} duplicated", up.lost + down.lost, up.duplicated + down.duplicated);
    let (at_a, at_b) = (a.list()?.len(), b.list()?.len());
    println!("a holds {at_a} sessions, b {at_b}");
    ensure!(at_b == 3 && up.lost + down.lost == 0, "that was not a clean move");
    Ok(())
}

fn gateway() -> Result<EmbeddedGateway> {
    Ok(EmbeddedGateway::start(GatewayConfig::default())?)
}

fn identity(at: usize) -> Result<Identity> {
    Ok(Identity { role: Role::Gateway, name: NAMES[at].parse()? })
}

/// An engine and its journal.
struct Site {
    at: usize,
    engine: Engine,
    journal: Vec<Record>,
}

impl Site {
    fn new(at: usize, clock: &Clock) -> Result<Self> {
        let mut config = EngineConfig::new(NAMES[at].parse()?);
        let other: Name = NAMES[1 - at].parse()?;
        config.peers.insert(other, PeerPolicy::default());
        let engine = Engine::new(config, Recovered::default(), clock.now());
        Ok(Self { at, engine, journal: Vec::new() })
    }

    /// Does what the engine wants until it waits. What comes of it is an input
    /// again, to this engine or to the other.
    fn drain(
        &mut self,
        gateway: &mut EmbeddedGateway,
        inbox: &mut VecDeque<(usize, Input)>,
    ) -> Result<()> {
        let (here, there) = (NAMES[self.at], NAMES[1 - self.at]);
        loop {
            match self.engine.poll_output() {
                Output::Wait(_) => return Ok(()),
                Output::Send { message, .. } => {
                    let (kind, count) = (message.kind().name(), message.entries());
                    println!("{here} -> {there}  {kind} for {count} sessions");
                    // There and back through the octets of the wire.
                    let message = Message::from_frame(&message.to_frame()?)?;
                    let message = message.context("a message that may be skipped")?;
                    let from = identity(self.at)?;
                    inbox.push_back((1 - self.at, Input::Message { from, message }));
                }
                Output::Gateway(command) => {
                    let reply = act(gateway, command)?;
                    inbox.extend(reply.map(|reply| (self.at, Input::Gateway(reply))));
                }
                Output::Journal { ticket, records } => {
                    for record in &records {
                        println!("{here} writes  {}", word(record));
                    }
                    self.journal.extend(records);
                    inbox.push_back((self.at, Input::Journaled { ticket }));
                }
                Output::Event(Event::BatchEnded(summary)) => {
                    println!("{here} says    {} sessions have moved", summary.moved);
                }
                Output::Event(_) | Output::Reply { .. } => (),
            }
        }
    }
}

/// What a record settles.
fn word(record: &Record) -> String {
    let what = match record {
        Record::Committed { .. } => "COMMITTED: from here on only the target may use it",
        Record::Active { .. } => "ACTIVE: it is ours",
        Record::Moved { .. } => "MOVED: the target has it",
        Record::Resumed { .. } => "RESUMED: it stays here",
        Record::Aborted { .. } => "ABORTED: it never will be ours",
        Record::Ended { .. } => "ENDED",
    };
    format!("{}…  {what}", &record.session().to_string()[..8])
}
