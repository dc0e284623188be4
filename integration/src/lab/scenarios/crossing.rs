//! Rekeys and liveness checks that cross a transfer.

use std::{collections::BTreeMap, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::crash::{Played, outcome};
use crate::{
    clock,
    lab::{
        charon::{EXCHANGE, config::CONNECTION},
        world::Setup,
    },
};

/// Packets per second each way.
const RATE: u32 = 500;
/// Places in a transfer at which something begins, for each kind and side.
const STEPS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(20);

/// Who begins what.
const CROSSINGS: [(&str, bool, &[&str]); 4] = [
    ("Child SA by the user", false, &["--rekey", "--child", "net"]),
    ("Child SA by the gateway", true, &["--rekey", "--child", "net"]),
    ("IKE SA by the user", false, &["--rekey", "--ike", CONNECTION]),
    ("IKE SA by the gateway", true, &["--rekey", "--ike", CONNECTION]),
];

/// Rekeys of both kinds by either side, then DPD by the user; the transfer succeeds, or
/// the session was busy for too long and goes on where it was; afterwards all works.
///
/// # Errors
/// What could not be done.
pub fn scenario(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(Setup::default())?;
    let traffic = played.traffic(1, RATE)?;
    let begun = clock::now();
    let summary = played.begin_transfer()?.join().ok().context("the thread")?;
    let span = clock::now() - begun;
    ensure!(outcome(&summary) == "moved", "undisturbed: {}", outcome(&summary));
    played.settle()?;
    let mut rounds = Vec::new();
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failures = Vec::new();
    for (kind, by_gateway, command) in CROSSINGS {
        for step in 0..STEPS {
            let place = format!("{kind}, step {step}");
            let charon =
                if by_gateway { &played.world.gateways[played.at] } else { &played.world.users[0] };
            // swanctl needs about as long as a transfer until charon hears it.
            let delay = span * step / STEPS;
            let (asked, summary) = thread::scope(|scope| -> Result<_> {
                // A gateway that has released the session already has nothing to rekey.
                let rekey = scope.spawn(|| charon.swanctl(command).is_ok());
                thread::sleep(delay);
                let summary = played.begin_transfer()?.join().ok().context("the thread")?;
                Ok((rekey.join().ok().context("the thread")?, summary))
            })?;
            judge(&mut played, &place, &outcome(&summary), &mut tally, &mut failures)?;
            rounds.push(json!({
                "crossing": place, "asked": asked, "outcome": outcome(&summary),
            }));
            works(&played).with_context(|| place.clone())?;
            played.world.users[0].rekey_ike(CONNECTION).with_context(|| place.clone())?;
            traffic.wait_for_packets(20, PATIENCE).with_context(|| place)?;
        }
        played.world.users[0].rekey_child("net").context(kind)?;
    }
    played.world.stop_traffic(traffic)?;
    let dpd = Duration::from_secs(played.world.setup.vpn.dpd.into());
    for step in 0..STEPS {
        let place = format!("DPD, step {step}");
        let user = &played.world.users[0];
        user.wait_for_line(user.said()?.len(), "sending DPD request", dpd * 2 + EXCHANGE)?;
        user.wait_for_line(
            user.said()?.len().saturating_sub(400),
            "INFORMATIONAL response",
            EXCHANGE,
        )?;
        // The next one begins when the transfer is this far.
        thread::sleep(dpd.saturating_sub(span * (step + 1) / STEPS));
        let transfer = played.begin_transfer()?;
        let summary = transfer.join().ok().context("the thread")?;
        judge(&mut played, &place, &outcome(&summary), &mut tally, &mut failures)?;
        rounds.push(json!({ "crossing": place, "outcome": outcome(&summary) }));
        played.world.users[0].liveness(dpd).with_context(|| place)?;
    }
    let Played { mut world, .. } = played;
    world.still_works(1)?;
    world.report.moved = tally.get("moved").copied().unwrap_or(0);
    world.report.more.insert("tally".into(), json!(tally));
    world.report.more.insert("rounds".into(), json!(rounds));
    let mut report = world.finish()?;
    for failure in failures {
        report.expect(false, || failure);
    }
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

fn judge(
    played: &mut Played,
    place: &str,
    said: &str,
    tally: &mut BTreeMap<&str, u64>,
    failures: &mut Vec<String>,
) -> Result<()> {
    let owner = played.settle().with_context(|| format!("{place}: {said}"))?;
    ensure!(owner.starts_with("active"), "{place}: {said}, then {owner}");
    let key = if said == "moved" {
        "moved"
    } else if ["busy", "generation-changed", "timed-out"].iter().any(|why| said.contains(why)) {
        "stayed"
    } else {
        failures.push(format!("{place}: {said}"));
        "otherwise"
    };
    *tally.entry(key).or_default() += 1;
    Ok(())
}

/// One IKE SA with one Child SA at the user.
fn works(played: &Played) -> Result<()> {
    let user = &played.world.users[0];
    user.wait_for_sas("one IKE SA with its Child SA", |sas| match sas {
        [sa] if sa.established() => sa.child("net").map(drop),
        _ => None,
    })
}
