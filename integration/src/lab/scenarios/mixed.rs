//! A session goes from a gateway of the kernel, with an unmodified charon, to an
//! embedded one, which does its ESP in user space, and back: each goes on with the
//! numbers, windows and keys of the other.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail, ensure};
use cxtp::service::api::Mode;
use serde_json::Value;

use crate::lab::{
    charon::config::Vpn,
    gateway::{Settings, Sharing},
    net::{GATEWAYS, Namespace, output},
    world::{Setup, World},
};

/// Packets per second each way.
const RATE: u32 = 1000;
/// How long a session is at the embedded gateway: longer than the kernel's passes on
/// what comes late.
const THERE: Duration = Duration::from_secs(13);
const AFTER: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);
const KERNEL: usize = 0;
const EMBEDDED: usize = 1;

/// There and back.
///
/// # Errors
/// What could not be done.
pub fn scenario(_: &[PathBuf]) -> Result<Value> {
    let settings =
        Settings { sharing: Sharing::Multicast, embedded: [false, true], ..Settings::default() };
    let mut world = World::build(Setup {
        // ESP in UDP from the beginning: that is what a gateway in user space speaks.
        vpn: Vpn { user_more: "encap = yes".into(), ..Vpn::default() },
        shared: true,
        moves: 2,
        daemons: Some(settings),
        ..Setup::default()
    })?;
    world.establish()?;
    let source = world.wait_for_owner(1)?;
    ensure!(source == KERNEL, "the session began at {}", GATEWAYS[source]);
    let traffic = world.start_traffic(RATE)?;
    world.baseline(&traffic);
    let mut gaps = Vec::new();
    let mut speakers = Vec::new();
    for (from, span) in [(KERNEL, THERE), (EMBEDDED, AFTER)] {
        let summary = world.transfer(from, None, Mode::Predictive)?;
        if summary.moved != 1 {
            bail!("from {}: {:?}", GATEWAYS[from], summary.failures);
        }
        gaps.push(summary.gap_us_max);
        traffic.wait_for_packets(20, PATIENCE)?;
        traffic.run_for(span);
        let owners = world.observed(|observer| observer.owners())?;
        let at = 1 - from;
        speakers.push((at, owners, sas(GATEWAYS[at])?));
    }
    world.stop_traffic(traffic)?;
    let owner = world.wait_for_owner(1)?;
    world.still_works(1)?;
    let mut report = world.finish()?;
    report.expect(owner == KERNEL, || format!("the session ended at {}", GATEWAYS[owner]));
    for (at, owners, sas) in speakers {
        let name = GATEWAYS[at];
        report.expect(!owners.is_empty() && owners.iter().all(|(_, owner)| *owner == at), || {
            format!("while the session was at {name}: {owners:?} spoke")
        });
        // The embedded gateway needs no SA of its kernel; nor does what left one.
        report.expect((at == EMBEDDED) == sas.is_empty(), || {
            format!("the kernel of {name} has {} SAs", sas.len())
        });
    }
    report.more.insert("pause_us".into(), gaps.into());
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// The SAs in a node's kernel, by their first lines.
fn sas(node: &str) -> Result<Vec<String>> {
    let mut ip = std::process::Command::new("ip");
    let text = Namespace::of(node).enter(|| output(ip.args(["xfrm", "state"])))?;
    Ok(text.lines().filter(|line| line.starts_with("src ")).map(Into::into).collect())
}
