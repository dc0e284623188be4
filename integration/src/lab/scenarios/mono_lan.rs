//! Several users at gateways with one address: one of them moves in the middle of the
//! traffic of all, and the figures of the others are looked at apart.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use cxtp::service::api::Mode;
use serde_json::Value;

use super::moves::no_long_gap;
use crate::lab::{
    gateway::{Settings, Sharing},
    net::{GATEWAYS, Namespace, Net, Network, SHARED, output},
    report::Report,
    traffic::Tally,
    world::{Setup, World},
};
use crate::process::wait_for;

/// Packets per second each way, of all users together.
const RATE: u32 = 999;
const USERS: usize = 3;
/// Who moves.
const MOVER: usize = 1;
/// How long traffic runs before the move, and after it.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(2);
/// Longer than a gateway passes on what comes late for sessions that left it.
const DRAIN: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(20);

/// The source sends the session.
///
/// # Errors
/// What could not be done.
pub fn predictive(_: &[PathBuf]) -> Result<Value> {
    let mut report = one_of_many(Mode::Predictive)?;
    no_long_gap(&mut report);
    judged(report)
}

/// The same, without a bound for the gap: what must hold however busy the machine is.
///
/// # Errors
/// What could not be done.
pub fn lossless(_: &[PathBuf]) -> Result<Value> {
    judged(one_of_many(Mode::Predictive)?)
}

/// The target asks for it.
///
/// # Errors
/// What could not be done.
pub fn reactive(_: &[PathBuf]) -> Result<Value> {
    let mut report = one_of_many(Mode::Reactive)?;
    no_long_gap(&mut report);
    judged(report)
}

fn judged(mut report: Report) -> Result<Value> {
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

fn one_of_many(mode: Mode) -> Result<Report> {
    let settings = Settings { sharing: Sharing::Multicast, ..Settings::default() };
    let (users, daemons) = (USERS, Some(settings));
    let mut world =
        World::build(Setup { moves: 1, shared: true, users, daemons, ..Setup::default() })?;
    world.establish()?;
    // The gateways divide new users among themselves.
    let before: Vec<_> = (1..=USERS).map(|user| world.session_of(user)).collect::<Result<_>>()?;
    let (source, session) = before[MOVER - 1].clone();
    let others = (1..=USERS).filter(|user| *user != MOVER);
    let rate = RATE / u32::try_from(USERS)?;
    let mover = world.start_traffic_of([MOVER], rate)?;
    let others = world.start_traffic_of(others, RATE - rate)?;
    mover.take_gap();
    others.take_gap();
    mover.run_for(BEFORE);
    world.report.gap_ms_baseline = mover.take_gap().max(others.take_gap());

    let summary = world.transfer(source, Some(vec![session]), mode)?;
    if summary.moved != 1 {
        bail!("the session did not move: {:?}", summary.failures);
    }
    mover.wait_for_packets(20, PATIENCE)?;
    mover.run_for(AFTER);
    let tallies = [
        ("moved_user", world.count_traffic(mover)?),
        ("other_users", world.count_traffic(others)?),
    ];
    let after = places(&world)?;
    for user in 1..=USERS {
        world.still_works(user)?;
    }
    let mut report = world.finish()?;
    for (at, place) in after.iter().enumerate() {
        let (was, user) = (before[at].0, at + 1);
        let wanted = if user == MOVER { 1 - was } else { was };
        report.expect(*place == wanted, || {
            format!("{} speaks to end user {user} after the move", GATEWAYS[*place])
        });
    }
    tallies.iter().for_each(|(whose, tally)| apart(&mut report, whose, tally));
    Ok(report)
}

/// All sessions of the first gateway move, and the address after them.
///
/// # Errors
/// What could not be done.
pub fn gateway(_: &[PathBuf]) -> Result<Value> {
    let settings = Settings { sharing: Sharing::Address, ..Settings::default() };
    let (users, daemons) = (USERS, Some(settings));
    let mut world =
        World::build(Setup { moves: 1, shared: true, users, daemons, ..Setup::default() })?;
    world.establish()?;
    world.sites[0].wait_for_sessions("active", USERS, PATIENCE)?;
    let traffic = world.start_traffic(RATE)?;
    world.baseline(&traffic);
    let all = world.sites[0].ask(&["transfer", "--all", "--to", GATEWAYS[1]])?;
    world.report.moved = all["moved"].as_u64().context("cxtpctl does not say what moved")?;
    if all["moved"] != USERS {
        bail!("not all sessions moved: {all}");
    }
    let address = SHARED.of(false).to_string();
    wait_for("the address at the other gateway", PATIENCE, || {
        Ok((!has(GATEWAYS[0], &address)? && has(GATEWAYS[1], &address)?).then_some(()))
    })?;
    for user in 1..=USERS {
        let name = Net::user_name(user);
        wait_for(&format!("{name} to send to the other gateway"), PATIENCE, || {
            let known = ip(&name, &["neighbour", "show", &address])?;
            Ok(known.contains(&mac(GATEWAYS[1])?).then_some(()))
        })?;
    }
    // Longer than what is late is passed on.
    traffic.run_for(DRAIN);
    world.stop_traffic(traffic)?;
    let after = places(&world)?;
    for user in 1..=USERS {
        world.still_works(user)?;
    }
    let mut report = world.finish()?;
    report.expect(after == [1; USERS], || format!("the users hear {after:?}"));
    no_long_gap(&mut report);
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

fn ip(node: &str, args: &[&str]) -> Result<String> {
    Namespace::of(node).enter(|| output(std::process::Command::new("ip").args(args)))
}

fn has(node: &str, address: &str) -> Result<bool> {
    let wan = Network::Outer.interface();
    Ok(ip(node, &["address", "show", "dev", wan])?.contains(&format!("inet {address}/")))
}

fn mac(node: &str) -> Result<String> {
    let link = ip(node, &["-o", "link", "show", "dev", Network::Outer.interface()])?;
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    mac.map(str::to_owned).context("an interface without a MAC address")
}

/// Which gateway spoke to each user last, by what was seen on the wire.
fn places(world: &World) -> Result<Vec<usize>> {
    let owners = world.observed(|observer| observer.owners())?;
    let of = |charon: &crate::lab::charon::Charon| {
        let sas = charon.sas()?;
        let child = sas.iter().flat_map(|sa| &sa.children).next().context("no Child SA")?;
        let spi = u32::from_str_radix(&child.spi_in, 16)?;
        let owner = owners.iter().find(|(of, _)| *of == spi).context("nobody spoke to a user")?;
        Ok(owner.1)
    };
    world.users.iter().map(of).collect()
}

/// Notes the figures of some users.
fn apart(report: &mut Report, whose: &str, tally: &Tally) {
    let Tally { lost, duplicated, .. } = *tally;
    report.expect(lost + duplicated == 0, || {
        format!("{whose}: {lost} packets lost and {duplicated} duplicated")
    });
    report.more.insert(whose.into(), serde_json::json!(tally));
}
