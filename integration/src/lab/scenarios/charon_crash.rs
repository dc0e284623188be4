//! `kill -9` of charon at every step of a transfer. What it had in the kernel lives on;
//! its IKE SAs are gone once it is started again, and only its users can make new ones.

use std::{
    path::PathBuf,
    process::Command,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cxtp::service::api::Summary;
use serde_json::{Value, json};

use super::crash::{Played, SETTLED, actives, outcome};
use crate::{
    clock,
    lab::{
        charon::{EXCHANGE, config::CONNECTION},
        net::{GATEWAYS, Namespace, output},
        world::Setup,
    },
    process::wait_for,
};

/// Packets per second each way.
const RATE: u32 = 250;
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a transfer is when somebody is killed.
#[derive(Clone, Copy, Debug)]
enum Step {
    Asked,
    Staging,
    Staged,
    Paused,
    Activated,
    Ended,
}

const STEPS: [Step; 6] =
    [Step::Asked, Step::Staging, Step::Staged, Step::Paused, Step::Activated, Step::Ended];

/// What became of the session of a round.
enum Then {
    /// The place of its owner among the gateways, whose charon has it.
    Active(usize),
    /// Nobody has it, and why.
    Lost(String),
}

/// `kill -9` of charon: at the target, the session stays or moves; at the source, whose
/// state charon is, it moves or is lost, and that is said.
///
/// # Errors
/// What could not be done.
pub fn scenario(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(Setup::default())?;
    let begun = clock::now();
    let summary = played.begin_transfer()?.join().ok().context("the thread")?;
    let span = clock::now() - begun;
    ensure!(outcome(&summary) == "moved", "undisturbed: {}", outcome(&summary));
    played.settle()?;
    let mut rounds: Vec<Value> = Vec::new();
    let mut failures = Vec::new();
    let (mut moved, mut lost) = (0, 0);
    for of_target in [true, false] {
        for step in STEPS {
            // Each round begins where the user's address comes from: a charon that was
            // killed has forgotten whom it lent addresses.
            reconnect(&mut played)?;
            let role = if of_target { "target" } else { "source" };
            let place = format!("charon of the {role}, {step:?}");
            let source = played.at;
            let victim = if of_target { 1 - source } else { source };
            let sas = played.world.users[0].sas()?;
            let traffic = played.traffic(1, RATE)?;
            let transfer = played.begin_transfer()?;
            reach(&played, step, span, &transfer)?;
            played.world.gateways[victim].kill()?;
            played.world.sites[1 - source].freeze_linux(false)?;
            let summary = transfer.join().ok().context("the thread")?;
            let said = outcome(&summary);
            played.world.gateways[victim].run()?;
            played.world.gateways[victim].load()?;
            let place = format!("{place}: {said}");
            let then = settled(&mut played, &sas[0].spis).with_context(|| place.clone())?;
            let words = match &then {
                Then::Active(at) => format!("active at {}", GATEWAYS[*at]),
                Then::Lost(why) => format!("lost: {why}"),
            };
            let owner = match then {
                Then::Active(at) => Some(at),
                Then::Lost(_) => None,
            };
            let spis: Vec<&str> =
                sas.iter().flat_map(|sa| &sa.children).map(|child| &*child.spi_out).collect();
            in_kernels(&spis, owner).with_context(|| format!("{place}, {words}"))?;
            if owner.is_some() {
                traffic.wait_for_packets(20, PATIENCE).with_context(|| place.clone())?;
                played.world.users[0].rekey_child("net").with_context(|| place.clone())?;
            }
            // What is lost while a charon is gone is its user's to bear.
            let tally = traffic.stop()?;
            if tally.duplicated > 0 {
                failures.push(format!("{place}: {} packets came twice", tally.duplicated));
            }
            let was_owner = if of_target { said == "moved" } else { said != "moved" };
            if owner.is_none() && !was_owner && !said.starts_with("lost") {
                failures.push(format!("{place}, then {words}"));
            }
            moved += u64::from(owner == Some(1 - source));
            lost += u64::from(owner.is_none());
            rounds.push(json!({ "killed": place, "then": words, "lost": tally.lost }));
        }
    }
    reconnect(&mut played)?;
    let Played { mut world, .. } = played;
    let traffic = world.start_traffic(RATE)?;
    traffic.wait_for_packets(200, PATIENCE)?;
    world.stop_traffic(traffic)?;
    world.still_works(1)?;
    world.report.moved = moved;
    world.report.more.insert("sessions_lost".into(), json!(lost));
    world.report.more.insert("rounds".into(), json!(rounds));
    let mut report = world.gather()?;
    report.failures.extend(failures);
    for (name, figure) in report.zeros() {
        // Each round begins with an IKE SA of its own.
        report.expect(figure == 0 || name == "new_ike_sas", || format!("{name} is {figure}"));
    }
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// Waits until the transfer is at a step, or has ended. It stays paused until the
/// target's `cxtp-linux` goes on.
fn reach(
    played: &Played,
    step: Step,
    span: Duration,
    transfer: &JoinHandle<Result<Summary>>,
) -> Result<()> {
    let target = 1 - played.at;
    let comes = |what: &str, there: &dyn Fn() -> Result<bool>| {
        wait_for(what, PATIENCE, || Ok((transfer.is_finished() || there()?).then_some(())))
    };
    let stands = |at: usize, state: &str| -> Result<bool> {
        Ok(played.entry(at)?.is_some_and(|entry| entry.state == state))
    };
    match step {
        Step::Asked => Ok(()),
        Step::Staging => {
            // Somewhere in the middle of it.
            thread::sleep(span / 2);
            Ok(())
        }
        Step::Staged => comes("a staged session", &|| stands(target, "staged")),
        Step::Paused => {
            comes("a staged session", &|| stands(target, "staged"))?;
            played.world.sites[target].freeze_linux(true)?;
            comes("a paused session", &|| {
                let mut list = Command::new("nft");
                list.args(["list", "set", "netdev", "cxtp", "block_ike4"]);
                let blocked = Namespace::of(GATEWAYS[played.at]).enter(|| output(&mut list))?;
                Ok(blocked.contains("elements"))
            })
        }
        Step::Activated => comes("an activated session", &|| stands(target, "active")),
        Step::Ended => comes("the end", &|| Ok(false)),
    }
}

/// Waits until nothing of the session is open: it has one owner, whose charon has its
/// IKE SA, or none, and somebody says why.
fn settled(played: &mut Played, spis: &[String; 2]) -> Result<Then> {
    let mut last = String::new();
    let settled = wait_for("an owner, or none", SETTLED, || {
        let both = [played.entry(0)?, played.entry(1)?];
        let states = both.clone().map(|entry| entry.map_or("-".into(), |entry| entry.state));
        last = format!("{states:?}");
        let owners: Vec<usize> = (0..2).filter(|at| states[*at] == "active").collect();
        ensure!(owners.len() < 2, "two owners");
        let open = ["moving", "paused", "staged", "in-doubt"];
        if states.iter().any(|state| open.contains(&state.as_str())) {
            return Ok(None);
        }
        if let [owner] = owners[..] {
            let sas = played.world.gateways[owner].sas()?;
            let whole = sas.iter().any(|sa| sa.spis == *spis && sa.established());
            return Ok(whole.then_some(Then::Active(owner)));
        }
        let gone = both.into_iter().flatten().find(|entry| entry.state == "lost");
        let why = gone.and_then(|entry| entry.reason);
        Ok(why.map(|why| Then::Lost(format!("{why:?}"))))
    });
    settled.with_context(|| last)
}

/// The session's SAs are in the kernel of its owner alone.
fn in_kernels(spis: &[&str], owner: Option<usize>) -> Result<()> {
    let mut found = Vec::new();
    let fits = wait_for("its SAs at its owner alone", PATIENCE, || {
        found.clear();
        for (at, gateway) in GATEWAYS.iter().enumerate() {
            let states = output(Command::new("ip").args(["-n", gateway, "xfrm", "state"]))?;
            if spis.iter().any(|spi| states.contains(&format!("spi 0x{spi}"))) {
                found.push(at);
            }
        }
        Ok((found.iter().eq(&owner)).then_some(()))
    });
    fits.with_context(|| format!("they are at {found:?}"))
}

/// The user ends what it has and connects again.
fn reconnect(played: &mut Played) -> Result<()> {
    let gateways = &played.world.gateways;
    let user = &mut played.world.users[0];
    let old = user.sas()?;
    let alive = |sa: &crate::lab::charon::IkeSa| -> Result<bool> {
        for gateway in gateways {
            if gateway.sas()?.iter().any(|other| other.spis == sa.spis && other.established()) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if old.first().map(alive).transpose()?.unwrap_or(false) {
        user.swanctl(&["--terminate", "--ike", CONNECTION, "--timeout", "20"])?;
    } else {
        user.kill()?;
        played.world.net.ip(user.node(), "xfrm state flush")?;
        played.world.net.ip(user.node(), "xfrm policy flush")?;
        user.run()?;
        user.load()?;
    }
    let sites = &played.world.sites;
    wait_for("the end of the old session", EXCHANGE, || {
        Ok(actives(sites)?.is_empty().then_some(()))
    })?;
    user.initiate("net")?;
    let (session, at) = wait_for("the new session", EXCHANGE, || match &actives(sites)?[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        more => bail!("{} sessions of one user", more.len()),
    })?;
    (played.session, played.at) = (session, at);
    played.world.note_keys()
}
