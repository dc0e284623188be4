//! A user with traffic moves from the first gateway to the second.

use std::time::Duration;

use anyhow::{Result, bail};
use cxtp::service::api::Mode;
use serde_json::Value;

use crate::lab::{
    net::GATEWAYS,
    report::Report,
    world::{Setup, World},
};

/// Packets per second each way.
const RATE: u32 = 1000;
/// A gap that nobody notices, in milliseconds.
const GAP: f64 = 20.0;
/// How long traffic goes on after a move.
const AFTER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

/// All users of the setup move at once, in the middle of their traffic.
pub(super) fn one_move(setup: Setup, mode: Mode) -> Result<Value> {
    let users = setup.users;
    let mut world = World::build(setup)?;
    world.establish()?;
    let source = world.wait_for_owner(users)?;
    let traffic = world.start_traffic(RATE)?;
    world.baseline(&traffic);
    let summary = world.transfer(source, None, mode)?;
    if summary.moved != users {
        bail!("{} of {users} sessions moved: {:?}", summary.moved, summary.failures);
    }
    traffic.wait_for_packets(20, PATIENCE)?;
    traffic.run_for(AFTER);
    world.stop_traffic(traffic)?;
    let owners = world.observed(|observer| observer.owners())?;
    for user in 1..=users {
        world.still_works(user)?;
    }
    let mut report = world.finish()?;
    for (spi, owner) in owners {
        let name = GATEWAYS[owner];
        report
            .expect(owner != source, || format!("{name} speaks for SPI {spi:08x} after the move"));
    }
    no_long_gap(&mut report);
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// A move must not be felt. A busy machine may make every gap longer: then the gap of
/// the same run without a move is what counts.
pub(super) fn no_long_gap(report: &mut Report) {
    let (gap, bound) = (report.gap_ms_max, GAP.max(2.0 * report.gap_ms_baseline));
    report.expect(gap <= bound, || format!("a gap of {gap} ms, and {bound} ms are allowed"));
}
