//! A user with traffic moves from the first gateway to the second.

use std::{collections::HashMap, time::Duration};

use anyhow::{Result, bail};
use cxtp::service::api::Mode;
use serde::Serialize;
use serde_json::Value;

use crate::lab::{
    net::{GATEWAYS, xfrm_errors},
    report::Report,
    world::{Setup, World},
};

/// Packets per second each way.
const RATE: u32 = 1000;
/// A gap that nobody notices, in milliseconds.
pub(super) const GAP: f64 = 20.0;
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
/// the same run without a move is what counts. While the sender itself did not run there
/// was nothing to be felt.
pub(super) fn no_long_gap(report: &mut Report) {
    let (gap, bound) = (report.held_ms_max, GAP.max(2.0 * report.gap_ms_baseline));
    report.expect(gap <= bound, || format!("a gap of {gap} ms, and {bound} ms are allowed"));
}

/// Packets that a user's own kernel did not take because its charon was changing its
/// SAs. strongSwan lets policies drop everything while it replaces the SAs of a Child SA
/// whose address changes, and has none for a moment for what comes in.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Refused {
    /// Outbound, before they were encrypted.
    pub(super) outbound: u64,
    /// Inbound.
    pub(super) inbound: u64,
}

impl Refused {
    /// So far in a node.
    pub(super) fn at(node: &str) -> Result<Self> {
        let errors: HashMap<String, u64> = xfrm_errors(node)?.into_iter().collect();
        let of = |name: &str| errors.get(name).copied().unwrap_or(0);
        let inbound = of("XfrmInNoPols") + of("XfrmInNoStates");
        Ok(Self { outbound: of("XfrmOutPolBlock"), inbound })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self { outbound: self.outbound - before.outbound, inbound: self.inbound - before.inbound }
    }

    /// No packet was lost but those that the user's node did not take to send: a
    /// gateway cannot help these, and spares it the others by waiting.
    pub(super) fn judge(self, report: &mut Report) {
        for (name, figure) in report.zeros() {
            report.expect(figure == 0 || name == "packets_lost", || format!("{name} is {figure}"));
        }
        let (lost, refused, inbound) = (report.packets_lost, report.packets_refused, self.inbound);
        report.expect(lost == refused, || {
            format!("{lost} packets lost, of which the user's own node refused {refused}")
        });
        report.expect(inbound == 0, || {
            format!("{inbound} packets reached the user while it changed its SAs")
        });
        report.more.insert("refused_by_user".into(), serde_json::json!(self));
    }
}
