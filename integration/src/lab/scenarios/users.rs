//! Many users: half of them move in one batch, back and forth.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use cxtp::service::api::{Mode, Summary};
use serde_json::{Value, json};

use crate::{
    clock::now,
    lab::{
        charon::config::{Vpn, connection_of},
        gateway::{Settings, Sharing},
        report::Report,
        traffic::millis,
        world::{Setup, World},
    },
    stats::Spread,
};

/// Nodes of end users, and end users in each.
const NODES: (usize, usize) = (5, 20);
/// Of these move.
const BATCH: usize = 50;
/// Moves to the other gateway and back.
const ROUNDS: usize = 10;
/// Packets per second in all: of all users, and both ways together.
const RATE: u32 = 1000;
/// The longest that the packets of a user may wait while a batch moves, of however many
/// sessions it is: RFC 4067's bound for one. In one case of a hundred the only processor
/// may have been another machine's for a while.
const WAIT: Duration = Duration::from_millis(200);
const STALL: Duration = Duration::from_secs(1);
/// How long traffic goes on after the last move.
const AFTER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

/// 100 users, and batches of 50.
///
/// # Errors
/// What could not be done.
pub fn hundred(_: &[PathBuf]) -> Result<Value> {
    let settings = Settings { sharing: Sharing::Multicast, ..Settings::default() };
    // A household's addresses are not ways to the same user, and silence before there is
    // traffic means nothing.
    let vpn = Vpn { mobike: false, dpd: 30, ..Vpn::default() };
    let mut world = World::build(Setup {
        vpn,
        users: NODES.0,
        each: NODES.1,
        moves: 2 * ROUNDS as u64,
        shared: true,
        daemons: Some(settings),
        ..Setup::default()
    })?;
    world.net.spare_users()?;
    world.establish()?;
    let all = NODES.0 * NODES.1;
    // The gateways agree by themselves on who answers which user.
    let counts = [at(&world, 0)?.len(), at(&world, 1)?.len()];
    if counts.iter().sum::<usize>() != all {
        bail!("{counts:?} sessions instead of {all} came up");
    }
    let home = usize::from(counts[1] > counts[0]);
    let batch: Vec<String> = at(&world, home)?.into_iter().take(BATCH).collect();
    let traffic = world.start_traffic(RATE / 2)?;
    traffic.take_delays();
    world.baseline(&traffic);
    let idle = traffic.take_delays().into_iter().max().unwrap_or_default();
    let (mut batches, mut waits) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let from = if round % 2 == 0 { home } else { 1 - home };
        let begun = now();
        let summary = world.transfer(from, Some(batch.clone()), Mode::Predictive)?;
        batches.push(figures(&summary, begun));
        if let Some(failure) = summary.failures.first() {
            bail!("{} moved in batch {}, and one did not: {failure:?}", summary.moved, round + 1);
        }
        // Those that waited are there, and one more.
        traffic.wait_for_packets(1, PATIENCE)?;
        waits.extend(traffic.take_delays());
    }
    let wait = Spread::of(waits);
    traffic.wait_for_packets(2, PATIENCE)?;
    traffic.run_for(AFTER);
    world.stop_traffic(traffic)?;
    let moved: BTreeSet<String> = batch.into_iter().collect();
    let back = at(&world, home)?.into_iter().filter(|id| moved.contains(id)).count();
    rekey_some(&world)?;
    let mut report: Report = world.finish()?;
    report.expect(back == moved.len(), || format!("{back} of {} came home", moved.len()));
    // A machine that is busy with other things delays whatever there is.
    let [most, longest] = [wait.p99, wait.max].map(Duration::from_micros);
    report.expect(most <= WAIT + idle && longest <= STALL + idle, || {
        format!("packets waited for {most:?} and {longest:?}; {idle:?} before anything moved")
    });
    let flow = Duration::from_secs(1) * u32::try_from(all)? / (RATE / 2);
    let gap = millis(flow + STALL) + report.sender_late_ms.max(millis(idle));
    let longest = report.gap_ms_max;
    report.expect(longest <= gap, || {
        format!("a flow of a packet in {flow:?} paused for {longest} ms")
    });
    report.more.insert("wait_us".into(), serde_json::to_value(wait)?);
    report.more.insert("wait_ms_baseline".into(), millis(idle).into());
    report.more.insert("users".into(), all.into());
    report.more.insert("batches".into(), batches.into());
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// The sessions at a gateway.
fn at(world: &World, gateway: usize) -> Result<Vec<String>> {
    let site = world.sites.get(gateway).context("no daemon")?;
    let active = |session: &cxtp::service::api::Session| session.state == "active";
    let sessions = site.control.sessions()?.into_iter().filter(active);
    Ok(sessions.map(|session| session.session).collect())
}

fn figures(summary: &Summary, begun: Instant) -> Value {
    json!({
        "moved": summary.moved,
        "ms": begun.elapsed().as_millis(),
        "gap_us_p50": summary.gap_us_p50,
        "gap_us_p99": summary.gap_us_p99,
        "gap_us_max": summary.gap_us_max,
    })
}

/// One user of each node rekeys its IKE SA.
fn rekey_some(world: &World) -> Result<()> {
    for (node, charon) in (1..).zip(&world.users) {
        for user in world.setup.household(node).into_iter().take(1) {
            charon.rekey_ike_of(&connection_of(user)).with_context(|| format!("user {user}"))?;
        }
    }
    Ok(())
}
