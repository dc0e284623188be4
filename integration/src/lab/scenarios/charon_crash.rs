//! `kill -9` of charon at every step of a transfer. What it had in the kernel lives on
//! until it is started again; its IKE SAs are gone then, and only its users can make new
//! ones.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    crash::{Played, SETTLED, actives, outcome},
    steps::{Held, STEPS, Step, counted},
};
use crate::{
    lab::{
        charon::{EXCHANGE, IkeSa, config::CONNECTION},
        net::{GATEWAYS, output},
        world::Setup,
    },
    process::wait_for,
};

/// Packets per second each way of each user.
const RATE: u32 = 250;
const PATIENCE: Duration = Duration::from_secs(30);
/// Steps at which a session can go on in the target's next charon, and is not lost if that
/// is started at once.
const HEALED: [Step; 4] = [Step::Staged, Step::Paused, Step::Committed, Step::Claimed];
/// The users' numbers: one moves, one is not moved by anybody.
const MOVER: usize = 1;
const OTHER: usize = 2;

/// What became of the session of a round.
enum Then {
    /// The place of its owner among the gateways, whose charon has it.
    Active(usize),
    /// Nobody has it, and why.
    Lost(String),
}

impl Then {
    fn owner(&self) -> Option<usize> {
        match self {
            Self::Active(at) => Some(*at),
            Self::Lost(_) => None,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Active(at) => format!("active at {}", GATEWAYS[*at]),
            Self::Lost(why) => format!("lost: {why}"),
        }
    }
}

/// charon of the target is killed: the session stays, or moves; where it was handed over
/// already, it goes on in the charon that is started next, or is lost if none is.
///
/// # Errors
/// What could not be done.
pub fn of_target(_: &[PathBuf]) -> Result<Value> {
    scenario(true)
}

/// charon of the source is killed, whose state the session is: it moves if its context
/// was read already, or is lost.
///
/// # Errors
/// What could not be done.
pub fn of_source(_: &[PathBuf]) -> Result<Value> {
    scenario(false)
}

fn scenario(of_target: bool) -> Result<Value> {
    let mut played = Played::begin(Setup { users: OTHER, ..Setup::default() })?;
    let mut rounds: Vec<Value> = Vec::new();
    let mut kills = Vec::new();
    let mut failures = Vec::new();
    let (mut moved, mut lost, mut healed) = (0, 0, 0);
    let left = STEPS.map(|step| (step, false));
    // What manages services starts a charon that ended again.
    let started = STEPS.map(|step| (step, true));
    let started = started.into_iter().filter(|(step, _)| of_target && HEALED.contains(step));
    for (step, at_once) in left.into_iter().chain(started) {
        // Each round begins where the users' addresses come from: a charon that was
        // killed has forgotten whom it lent addresses.
        reconnect(&mut played, MOVER)?;
        let source = played.at;
        let victim = if of_target { 1 - source } else { source };
        let round = Round { step, source, victim, at_once };
        let place = format!("charon of {}, {step:?}, at once {at_once}", GATEWAYS[round.victim]);
        let (then, round) =
            round.play(&mut played, &mut failures).with_context(|| place.clone())?;
        kills.push(step);
        healed += u64::from(at_once && then.owner() == Some(1 - source));
        moved += u64::from(then.owner() == Some(1 - source));
        lost += u64::from(then.owner().is_none());
        rounds.push(round);
    }
    reconnect(&mut played, MOVER)?;
    let Played { mut world, .. } = played;
    let traffic = world.start_traffic(RATE)?;
    traffic.wait_for_packets(200, PATIENCE)?;
    world.stop_traffic(traffic)?;
    for user in [MOVER, OTHER] {
        world.still_works(user)?;
    }
    let (kills, missing) = counted(&kills);
    failures.extend(missing.iter().map(|step| format!("no charon was killed at {step:?}")));
    if of_target && healed == 0 {
        failures.push("no session went on in a charon that was started anew".into());
    }
    world.report.moved = moved;
    let more = [
        ("sessions_lost", json!(lost)),
        ("went_on_in_a_new_charon", json!(healed)),
        ("kills", json!(kills)),
        ("rounds", json!(rounds)),
    ];
    world.report.more.extend(more.map(|(name, value)| (name.to_owned(), value)));
    let mut report = world.gather()?;
    report.failures.extend(failures);
    for (name, figure) in report.zeros() {
        // Each round begins with an IKE SA of its own.
        report.expect(figure == 0 || name == "new_ike_sas", || format!("{name} is {figure}"));
    }
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// One kill.
#[derive(Clone, Copy)]
struct Round {
    step: Step,
    /// Where the session is.
    source: usize,
    /// Whose charon is killed.
    victim: usize,
    /// Whether it is started again at once, and not after the transfer has ended.
    at_once: bool,
}

impl Round {
    fn play(self, played: &mut Played, failures: &mut Vec<String>) -> Result<(Then, Value)> {
        let Self { step, source, victim, at_once } = self;
        let sas = played.world.users[0].sas()?;
        let (others_at, other) = played.world.session_of(OTHER)?;
        let traffic = played.traffic(MOVER, RATE)?;
        let undisturbed = played.traffic(OTHER, RATE)?;
        let held = Held::at(played, step)?;
        played.world.gateways[victim].kill()?;
        held.let_go(played)?;
        // Nobody moves the other user: its packets need no charon until there is another.
        undisturbed.wait_for_packets(100, PATIENCE).context("the other user, without charon")?;
        let (said, others) = if at_once {
            let others = undisturbed.stop()?;
            played.world.gateways[victim].run()?;
            played.world.gateways[victim].load()?;
            (outcome(&held.end()?), others)
        } else {
            (outcome(&held.end()?), undisturbed.stop()?)
        };
        let mut fails = |what: String| failures.push(format!("{step:?}, {said}: {what}"));
        if others.lost + others.duplicated > 0 {
            let (lost, twice) = (others.lost, others.duplicated);
            fails(format!("the other user lost {lost} packets, and {twice} came twice"));
        }
        if !at_once {
            played.world.gateways[victim].run()?;
            played.world.gateways[victim].load()?;
        }
        let then = settled(played, &sas[0].spis).with_context(|| said.clone())?;
        let owner = then.owner();
        let children = sas.iter().flat_map(|sa| &sa.children);
        let spis: Vec<&str> = children.map(|child| &*child.spi_out).collect();
        in_kernels(&spis, owner).with_context(|| format!("{said}, {}", then.words()))?;
        if owner.is_some() {
            traffic.wait_for_packets(20, PATIENCE)?;
            played.world.users[0].rekey_child("net")?;
        }
        // What is lost while a charon is gone is its user's to bear.
        let tally = traffic.stop()?;
        if tally.duplicated > 0 {
            fails(format!("{} packets came twice", tally.duplicated));
        }
        // Whoever has a living charon goes on.
        let may_be_lost = match victim == source {
            true => step < Step::Committed,
            false => step > Step::Staged && !at_once,
        };
        // Only what was not active yet goes into another charon.
        let went_on = victim != source && owner == Some(victim) && !HEALED.contains(&step);
        if went_on || owner.is_none() && !may_be_lost {
            fails(format!("then {}", then.words()));
        }
        let mut others_then = "active".to_owned();
        if others_at == victim {
            others_then = wait_for("a word about the other user", SETTLED, || {
                let all = played.world.sites[victim].control.sessions()?;
                let entry = all.into_iter().find(|entry| entry.session == other);
                let lost = entry.filter(|entry| entry.state == "lost");
                Ok(lost.and_then(|entry| entry.reason))
            })?;
            reconnect(played, OTHER)?;
        }
        let round = json!({
            "killed": format!("{} at {step:?}", GATEWAYS[victim]), "started_at_once": at_once,
            "outcome": said,
            "then": then.words(), "lost": tally.lost, "other": others_then,
        });
        Ok((then, round))
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

/// A user (from 1) ends what it has and connects again.
fn reconnect(played: &mut Played, user: usize) -> Result<()> {
    let world = &mut played.world;
    let charon = &mut world.users[user - 1];
    let old = charon.sas()?.first().cloned();
    let alive = |sa: &IkeSa| -> Result<bool> {
        for gateway in &world.gateways {
            if gateway.sas()?.iter().any(|other| other.spis == sa.spis && other.established()) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if old.as_ref().map(alive).transpose()?.unwrap_or(false) {
        charon.swanctl(&["--terminate", "--ike", CONNECTION, "--timeout", "20"])?;
    } else {
        charon.kill()?;
        world.net.ip(charon.node(), "xfrm state flush")?;
        world.net.ip(charon.node(), "xfrm policy flush")?;
        charon.run()?;
        charon.load()?;
    }
    wait_for("the end of the old session", EXCHANGE, || {
        for (session, at) in actives(&world.sites)? {
            let spis = world.sites[at].ike_spis(&session)?;
            if spis.is_none() || spis == old.as_ref().map(|old| old.spis.clone()) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    charon.initiate("net")?;
    let (at, session) = world.session_of(user)?;
    if user == MOVER {
        (played.session, played.at) = (session, at);
    }
    played.world.note_keys()
}
