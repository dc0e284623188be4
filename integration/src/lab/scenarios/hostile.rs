//! What others on the gateway's host may do.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    crash::{Played, outcome},
    steps::{Held, Step},
};
use crate::{
    clock,
    lab::{
        net::{GATEWAYS, Namespace, output, run},
        world::Setup,
    },
    process::wait_for,
};

const RATE: u32 = 500;
const PATIENCE: Duration = Duration::from_secs(20);
/// Places in a transfer at which rules are flushed, at each side.
const STEPS: u32 = 4;
/// How long traffic goes on after a move.
const AFTER: Duration = Duration::from_secs(5);
/// Until removed rules are back.
const REPAIRED: Duration = Duration::from_secs(15);
/// An unprivileged user's process takes the address of our HA socket.
const SQUATTER: &str = "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
    s.bind(('127.0.0.2',4510))\nprint('bound',flush=True)\ntime.sleep(600)";

/// Somebody else on the HA port, rules that are flushed, a charon that stops in the
/// middle of a move.
///
/// # Errors
/// What could not be done.
pub fn scenario(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(Setup::default())?;
    let refusal = squatter(&mut played)?;
    let traffic = played.traffic(1, RATE)?;
    let begun = clock::now();
    let summary = played.begin_transfer()?.join().ok().context("the thread")?;
    let span = clock::now() - begun;
    ensure!(outcome(&summary) == "moved", "undisturbed: {}", outcome(&summary));
    played.settle()?;
    let mut rounds = Vec::new();
    for of_target in [false, true] {
        for step in 0..STEPS {
            let at = if of_target { 1 - played.at } else { played.at };
            let transfer = played.begin_transfer()?;
            thread::sleep(span * step / STEPS);
            Namespace::of(GATEWAYS[at])
                .enter(|| run(Command::new("nft").args(["flush", "ruleset"])))?;
            let said = outcome(&transfer.join().ok().context("the thread")?);
            let role = if of_target { "target" } else { "source" };
            let place = format!("rules of the {role} flushed, step {step}: {said}");
            let owner = played.settle().with_context(|| place.clone())?;
            ensure!(owner.starts_with("active"), "{place}: {owner}");
            wait_for("the rules are back", REPAIRED, || {
                let mut list = Command::new("nft");
                list.args(["list", "ruleset"]);
                let rules = Namespace::of(GATEWAYS[at]).enter(|| output(&mut list))?;
                Ok(["hold_spi", "guard4", "queue"].iter().all(|w| rules.contains(w)).then_some(()))
            })?;
            traffic.wait_for_packets(20, PATIENCE).with_context(|| place.clone())?;
            rounds.push(json!({ "flushed": place, "then": owner }));
        }
    }
    let tally = traffic.stop()?;
    let stopped = stopping_charon(&mut played)?;
    let Played { mut world, .. } = played;
    world.still_works(1)?;
    world.report.moved = 1;
    let flushed = super::crash::figures(&tally);
    let more = [
        ("squatter", json!(refusal)),
        ("rounds", json!(rounds)),
        ("while_flushed", flushed),
        ("stopping_charon", stopped),
    ];
    world.report.more.extend(more.map(|(name, value)| (name.to_owned(), value)));
    Ok(serde_json::to_value(world.finish()?)?)
}

/// Whoever has the HA address hears all secrets: we do not start beside it.
fn squatter(played: &mut Played) -> Result<String> {
    let at = 1 - played.at;
    let site = &mut played.world.sites[at];
    site.kill_linux()?;
    let mut squatter = Command::new("setpriv");
    squatter
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "python3", "-c", SQUATTER])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut squatter = Namespace::of(GATEWAYS[at]).enter(|| Ok(squatter.spawn()?))?;
    let bound = {
        let mut first = [0; 5];
        let out = squatter.stdout.as_mut().context("no output")?;
        std::io::Read::read_exact(out, &mut first).map(|()| first)
    };
    let refused = site.start_linux();
    squatter.kill()?;
    squatter.wait()?;
    ensure!(&bound? == b"bound", "the squatter did not get the address");
    let said = match refused {
        Ok(()) => anyhow::bail!("cxtp-linux started beside somebody on the HA port"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(said.contains("held by") && said.contains("python3"), "it does not say who: {said}");
    site.start_linux()?;
    site.wait_for_peer()?;
    let line = said.lines().find(|line| line.contains("held by")).unwrap_or_default();
    Ok(line.to_owned())
}

/// charon of the source ends, and tells its peers so, while the session is paused.
fn stopping_charon(played: &mut Played) -> Result<Value> {
    let source = played.at;
    let target = 1 - source;
    let traffic = played.traffic(1, RATE)?;
    let held = Held::at(played, Step::Paused)?;
    let ended = played.world.gateways[source].terminate();
    held.let_go(played)?;
    ended?;
    let said = outcome(&held.end()?);
    let owner = played.settle().with_context(|| said.clone())?;
    ensure!(played.at == target, "{said}; {owner}");
    traffic.wait_for_packets(20, PATIENCE)?;
    traffic.run_for(AFTER);
    played.world.stop_traffic(traffic)?;
    played.world.gateways[source].run()?;
    played.world.gateways[source].load()?;
    Ok(json!({ "outcome": said, "then": owner }))
}
