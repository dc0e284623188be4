//! Several users at gateways with one address: one of them moves in the middle of the
//! traffic of all, and the figures of the others are looked at apart.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use cxtp::service::api::Mode;
use serde_json::Value;

use super::moves::no_long_gap;
use crate::lab::{
    gateway::{Settings, Sharing},
    net::GATEWAYS,
    report::Report,
    traffic::Tally,
    world::{Setup, World},
};

/// Packets per second each way, of all users together.
const RATE: u32 = 999;
const USERS: usize = 3;
/// Who moves.
const MOVER: usize = 1;
/// How long traffic runs before the move, and after it.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

/// The source sends the session.
///
/// # Errors
/// What could not be done.
pub fn predictive(_: &[PathBuf]) -> Result<Value> {
    one_of_many(Mode::Predictive)
}

/// The target asks for it.
///
/// # Errors
/// What could not be done.
pub fn reactive(_: &[PathBuf]) -> Result<Value> {
    one_of_many(Mode::Reactive)
}

fn one_of_many(mode: Mode) -> Result<Value> {
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
    no_long_gap(&mut report);
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// Which gateway spoke to each user last, by what was seen on the wire.
fn places(world: &World) -> Result<Vec<usize>> {
    let owners = world.observed(|observer| observer.owners());
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
