//! What hangs on IKE itself: users that follow to another address, users behind NAT,
//! and answers that were lost.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use cxtp::service::api::Mode;
use serde::Serialize;
use serde_json::{Value, json};

use super::moves::{GAP, Refused, no_long_gap};
use crate::{
    lab::{
        charon::EXCHANGE,
        gateway::{Settings, Sharing},
        net::{GATEWAYS, Namespace, Network, OUTER, ROUTER, ROUTER_OUTER, output, run, user_outer},
        report::Report,
        world::{Setup, World},
    },
    process::wait_for,
};

/// Packets per second each way.
const RATE: u32 = 1000;
/// How long traffic goes on after a move.
const AFTER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
/// A number of which no user is, for a further address.
const OTHER_ADDRESS: usize = 257;
/// The only user.
const USER: &str = "eu1";

/// Different addresses: the user's charon follows by MOBIKE, and comes back. What it
/// does to its own packets whenever it changes an address, a change of its own shows.
///
/// # Errors
/// What could not be done.
pub fn multi_lan(_: &[PathBuf]) -> Result<Value> {
    // The server sends to the first gateway, which knows where its users are.
    let settings = Settings { routed: true, ..Settings::default() };
    let setup = Setup { moves: 2, daemons: Some(settings), ..Setup::default() };
    let mut world = World::build(setup)?;
    // When it changes its address by itself, it would prefer IPv6.
    world.net.ip(USER, "-6 address flush dev wan")?;
    let user = &mut world.users[0];
    user.change_settings(|text| {
        text.replacen("charon {", "charon {\n  prefer_best_path = yes", 1)
    })?;
    user.kill()?;
    user.run()?;
    user.load()?;
    world.establish()?;
    let mut source = world.wait_for_owner(1)?;
    let own = own_change(&mut world)?;
    // The SAs of before were seen at the address of before.
    world.users[0].rekey_child("net")?;
    world.note_keys()?;
    let before = Refused::at(USER)?;
    for _ in 0..2 {
        let target = 1 - source;
        move_with_traffic(&mut world, source, |world| follows(world, target))?;
        world.still_works(1)?;
        source = target;
    }
    let refused = Refused::at(USER)?.since(before);
    let mut report: Report = world.gather()?;
    refused.judge(&mut report);
    let (gap, alone) = (report.held_ms_max, report.gap_ms_baseline.max(own.gap_ms));
    let bound = GAP.max(2.0 * alone);
    report.expect(gap <= bound, || format!("a gap of {gap} ms, and {bound} ms are allowed"));
    report.more.insert("own_change".into(), json!(own));
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// What a change of address that is the user's own does.
#[derive(Serialize)]
struct OwnChange {
    packets_lost: u64,
    packets_refused: u64,
    gap_ms: f64,
    refused_by_user: Refused,
}

/// The user prefers another of its addresses, and its charon tells the gateway so: no
/// session moves.
fn own_change(world: &mut World) -> Result<OwnChange> {
    let traffic = world.start_traffic(RATE)?;
    world.baseline(&traffic);
    let before = Refused::at(USER)?;
    let [address, _] = user_outer(OTHER_ADDRESS).with_prefixes();
    world.net.add_address(USER, Network::Outer, &address)?;
    let source = user_outer(OTHER_ADDRESS).v4;
    world.net.ip(USER, &format!("route replace 10.0.0.0/16 dev wan src {source}"))?;
    let local = format!("{source}[4500]");
    world.gateways[0].wait_for_sas(&format!("the user at {local}"), |sas| {
        sas.iter().any(|sa| sa.remote == local).then_some(())
    })?;
    traffic.wait_for_packets(20, PATIENCE)?;
    let gap_ms = traffic.take_gap();
    let tally = traffic.stop()?;
    let refused_by_user = Refused::at(USER)?.since(before);
    let (packets_lost, packets_refused) = (tally.lost, tally.refused);
    Ok(OwnChange { packets_lost, packets_refused, gap_ms, refused_by_user })
}

/// Waits until the user has its SAs with this gateway's own address.
fn follows(world: &World, gateway: usize) -> Result<()> {
    let address = OUTER[gateway].v4;
    let peer = format!("{address}[4500]");
    world.users[0].wait_for_sas(&format!("an IKE SA with {address}"), |sas| {
        sas.iter().any(|sa| sa.remote == peer).then_some(())
    })?;
    let states = output(Command::new("ip").args(["-n", USER, "xfrm", "state"]))?;
    if !states.contains(&format!("dst {address}\n")) {
        bail!("the user's kernel sends elsewhere than to {address}");
    }
    Ok(())
}

/// Moves the only session in the middle of its traffic; `after` waits for what is to
/// come of it.
fn move_with_traffic(
    world: &mut World,
    source: usize,
    after: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    let traffic = world.start_traffic(RATE)?;
    world.baseline(&traffic);
    let summary = world.transfer(source, None, Mode::Predictive)?;
    if summary.moved != 1 {
        bail!("the session did not move: {:?}", summary.failures);
    }
    traffic.wait_for_packets(20, PATIENCE)?;
    after(world)?;
    traffic.run_for(AFTER);
    world.stop_traffic(traffic)?;
    // Those of before a rekey belong to whoever had the session then.
    let sas = world.users[0].sas()?;
    let spis: Vec<&String> = sas.iter().flat_map(|sa| &sa.children).map(|c| &c.spi_in).collect();
    for (spi, owner) in world.observed(|observer| observer.owners())? {
        if owner == source && spis.contains(&&format!("{spi:08x}")) {
            bail!("{} speaks for SPI {spi:08x} after the move", GATEWAYS[source]);
        }
    }
    Ok(())
}

fn finish(world: World, more: Option<(&str, Value)>) -> Result<Value> {
    let mut report: Report = world.finish()?;
    report.more.extend(more.map(|(name, value)| (name.to_owned(), value)));
    no_long_gap(&mut report);
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// A user behind NAT moves between gateways with one address, and its NAT gives it
/// another port right before.
///
/// # Errors
/// What could not be done.
pub fn nat(_: &[PathBuf]) -> Result<Value> {
    let settings = Settings { sharing: Sharing::Multicast, ..Settings::default() };
    let daemons = Some(settings);
    let setup = Setup { moves: 2, nat: true, shared: true, daemons, ..Setup::default() };
    let mut world = World::build(setup)?;
    world.establish()?;
    let source = world.wait_for_owner(1)?;
    move_with_traffic(&mut world, source, |_| Ok(()))?;
    let source = 1 - source;
    let old = place(&world, source)?;
    rebind(&world)?;
    // Until the user speaks the gateway cannot know.
    let traffic = world.start_traffic(RATE)?;
    let new = world.gateways[source].wait_for_sas("the user at its new port", |sas| {
        sas.first().map(|sa| sa.remote.clone()).filter(|remote| *remote != old)
    })?;
    traffic.wait_for_packets(20, PATIENCE)?;
    let _lost_by_the_nat = traffic.stop()?;
    move_with_traffic(&mut world, source, |_| Ok(()))?;
    let there = place(&world, 1 - source)?;
    if there != new {
        bail!("{} has the user at {there}, and it is at {new}", GATEWAYS[1 - source]);
    }
    world.still_works(1)?;
    finish(world, Some(("rebound", json!([old, new]))))
}

/// Where a gateway's charon has the user.
fn place(world: &World, gateway: usize) -> Result<String> {
    let sas = world.gateways[gateway].sas()?;
    sas.first().map(|sa| sa.remote.clone()).context("the gateway has no IKE SA")
}

/// The NAT forgets what it knew, and takes other ports from now on.
fn rebind(world: &World) -> Result<()> {
    Namespace::of(ROUTER).enter(|| {
        run(Command::new("nft").arg(
            "flush chain inet nat out; \
             add rule inet nat out oifname wan meta l4proto udp masquerade to :20000-30000",
        ))
    })?;
    // With the address go the masquerades that stand for it.
    let [address, _] = ROUTER_OUTER.with_prefixes();
    world.net.ip(ROUTER, &format!("address del {address} dev wan"))?;
    world.net.add_address(ROUTER, Network::Outer, &address)
}

/// Nobody behind NAT can be told another address: said beforehand, refused otherwise,
/// and its traffic goes on.
///
/// # Errors
/// What could not be done.
pub fn nat_multi_lan(_: &[PathBuf]) -> Result<Value> {
    let settings = Settings { routed: true, ..Settings::default() };
    let setup = Setup { nat: true, daemons: Some(settings), ..Setup::default() };
    let mut world = World::build(setup)?;
    world.establish()?;
    let source = world.wait_for_owner(1)?;
    let traffic = world.start_traffic(RATE)?;
    world.baseline(&traffic);
    let target = GATEWAYS[1 - source];
    let asked = world.sites[source].ask(&["preflight", "--all", "--to", target])?;
    let foreseen = asked["refused"][0]["reason"]["detail"].as_str().unwrap_or_default().to_owned();
    let summary = world.transfer(source, None, Mode::Predictive)?;
    traffic.wait_for_packets(20, PATIENCE)?;
    traffic.run_for(AFTER);
    world.stop_traffic(traffic)?;
    world.still_works(1)?;
    let refused = summary.failures.first().map(|failure| failure.reason.clone());
    let mut report = world.finish()?;
    report.expect(summary.refused == 1, || format!("not refused: {summary:?}"));
    for (what, said) in [
        ("preflight", foreseen.as_str()),
        ("the refusal", refused.as_ref().map_or("", |reason| reason.detail.as_str())),
    ] {
        let whole = said.contains("NAT") && said.contains("share the address");
        report.expect(whole, || format!("{what} gives neither reason nor cure: `{said}`"));
    }
    report.more.insert("refused".into(), json!(foreseen));
    no_long_gap(&mut report);
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// The answer to the user's last request is lost, the session moves, and the user asks
/// again: it gets the very octets that the first gateway sent.
///
/// # Errors
/// What could not be done.
pub fn response_lost(_: &[PathBuf]) -> Result<Value> {
    let settings = Settings { sharing: Sharing::Multicast, ..Settings::default() };
    let setup = Setup { moves: 1, shared: true, daemons: Some(settings), ..Setup::default() };
    let mut world = World::build(setup)?;
    world.establish()?;
    let source = world.wait_for_owner(1)?;
    // From here on the user hears no IKE, and has something to say: a further address.
    let user = Namespace::of(USER);
    user.enter(|| {
        run(Command::new("nft").arg(
            "add table inet deaf; \
             add chain inet deaf in { type filter hook input priority 0; }; \
             add rule inet deaf in udp sport 4500 @th,64,32 0 drop",
        ))
    })?;
    let said = world.users[0].said()?.len();
    let answered = world.gateways[source].said()?.len();
    let further = user_outer(200).v4;
    world.net.add_address(USER, Network::Outer, &format!("{further}/16"))?;
    let request = last_id(&world, said, "generating INFORMATIONAL request ")?;
    let response = format!("generating INFORMATIONAL response {request} [");
    world.gateways[source].wait_for_line(answered, &response, EXCHANGE)?;
    let repeated = world.gateways[1 - source].said()?.len();
    move_with_traffic(&mut world, source, |world| {
        user.enter(|| run(Command::new("nft").arg("delete table inet deaf")))?;
        let parsed = format!("parsed INFORMATIONAL response {request} [");
        world.users[0].wait_for_line(said, &parsed, PATIENCE)
    })?;
    // The new owner's charon could not have answered.
    let heard = world.gateways[1 - source].said()?.split_off(repeated);
    if heard.contains(&response) {
        bail!("{} made an answer of its own", GATEWAYS[1 - source]);
    }
    world.still_works(1)?;
    finish(world, Some(("repeated", json!(request))))
}

/// The Message ID of the first such message in the user's log from an octet on.
fn last_id(world: &World, from: usize, before: &str) -> Result<u32> {
    wait_for(&format!("`{before}` of {USER}"), EXCHANGE, || {
        let said = world.users[0].said()?.split_off(from);
        let found = said.lines().find_map(|line| line.split_once(before));
        let number = found.and_then(|(_, rest)| rest.split_once(' '));
        Ok(number.map(|(number, _)| number.parse()).transpose()?)
    })
}
