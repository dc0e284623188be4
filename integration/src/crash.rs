//! `kill -9` of a daemon at a random moment of a transfer, again and again, under
//! traffic; and what the two sides make of it.

use std::{
    collections::BTreeMap,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use cxtp::service::api::{Mode, Summary};
use serde::Serialize;

use crate::{
    clock,
    control::Control,
    demo::{
        Plan,
        show::Show,
        stage::{SETTLE, Stage, TRANSFER, since},
    },
    process::{Program, wait_for},
    random::Random,
    rig::{A, At, B},
};

/// How long the killed daemon is away.
const AWAY: Duration = Duration::from_millis(300);
/// Every so many rounds it is away until the other one has noticed.
const PATIENT: usize = 4;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Crashes {
    /// Sessions.
    pub sessions: usize,
    /// Packets per second of each, each way.
    pub rate: u32,
    /// How often a daemon is killed.
    pub rounds: usize,
    /// Decides who is killed, and when.
    pub seed: u64,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Victim {
    /// The daemon that gives.
    Source,
    /// The daemon that takes.
    Target,
}

/// One kill.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Who was killed.
    pub killed: Victim,
    /// How long after the order.
    pub after_us: u64,
    /// Sessions in doubt at the source while the target was away, once noticed.
    pub in_doubt: usize,
    /// Sessions that went on while the victim was away.
    pub going_on: usize,
    /// Sessions with exactly one owner in the end.
    pub one_owner: usize,
    /// Sessions that the target has in the end.
    pub moved: usize,
    /// Sessions that stayed at the source.
    pub stayed: usize,
    /// From the restart until nothing was open.
    pub settled_ms: u64,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct CrashReport {
    /// Sessions.
    pub sessions: usize,
    /// What decided.
    pub seed: u64,
    /// A transfer that nobody disturbed.
    pub undisturbed_ms: u64,
    /// Each kill.
    pub rounds: Vec<Round>,
    /// Packets from a gateway that had given the session away, on the wire.
    pub owner_violations: u64,
    /// Sequence numbers used twice, on the wire.
    pub seq_reuse: u64,
    /// Packets sent over all.
    pub packets_sent: u64,
    /// Packets that never arrived.
    pub packets_lost: u64,
    /// Packets that arrived twice.
    pub packets_duplicated: u64,
}

/// Kills daemons.
///
/// # Errors
/// If a session has not exactly one owner once both sides are back, or if ESP does
/// not pass both ways.
pub fn run(crashes: &Crashes, program: &Program) -> Result<CrashReport> {
    let plan = Plan {
        sessions: crashes.sessions,
        rate: crashes.rate,
        parts: Vec::new(),
        ..Plan::default()
    };
    let show = Show::new(true);
    let mut stage = Stage::set(&plan, &show, program)?;
    let played = play(crashes, &mut stage);
    if played.is_err() {
        let logs = crate::demo::stage::kept(&mut stage.rig);
        return played.map_err(|error| error.context(logs));
    }
    played
}

fn play(crashes: &Crashes, stage: &mut Stage<'_>) -> Result<CrashReport> {
    stage.fleet.begin();
    let began = clock::now();
    together(stage, B)?;
    let undisturbed = since(began);
    together(stage, A)?;
    let mut random = Random::new(crashes.seed);
    let mut rounds = Vec::new();
    for number in 0..crashes.rounds {
        let source = together(stage, if number % 2 == 0 { A } else { B })?;
        let killed = if random.below(2) == 0 { Victim::Source } else { Victim::Target };
        let span = u64::try_from(undisturbed.as_micros())?;
        let after = Duration::from_micros(random.below(span.max(1)));
        let patient = number % PATIENT == 0;
        let round = round(stage, source, killed, after, patient).map_err(|error| {
            error.context(format!("round {number}, {killed:?} after {after:?}"))
        })?;
        rounds.push(round);
        let figures = stage.wire.observer().figures();
        ensure!(
            (figures.owner_violations, figures.seq_reuse) == (0, 0),
            "round {number}, {killed:?} after {after:?}: {figures:?}"
        );
    }
    for at in [A, B] {
        // What a killed source had offered does not stay staged for ever.
        stage.rig.wait_for_sessions(at, "staged", 0, SETTLE)?;
    }
    let tally = stage.fleet.end();
    let figures = stage.wire.observer().figures();
    Ok(CrashReport {
        sessions: crashes.sessions,
        seed: crashes.seed,
        undisturbed_ms: u64::try_from(undisturbed.as_millis())?,
        rounds,
        owner_violations: figures.owner_violations,
        seq_reuse: figures.seq_reuse,
        packets_sent: tally.sent,
        packets_lost: tally.lost,
        packets_duplicated: tally.duplicated,
    })
}

/// Brings all sessions to one site, and says which one.
fn together(stage: &Stage<'_>, at: At) -> Result<At> {
    let away = stage.movable_at(1 - at)?;
    if !away.is_empty() {
        let count = away.len();
        let happened = stage.transfer("", 1 - at, away, Mode::Predictive)?;
        let (outcomes, why) = (happened.outcomes, happened.why);
        ensure!(outcomes.moved == count, "{outcomes:?}: {}", why.unwrap_or_default());
    }
    Ok(at)
}

fn begin(stage: &Stage<'_>, from: At) -> JoinHandle<Result<Summary>> {
    let path = stage.rig.sites[from].control.path().to_owned();
    let (sessions, target) = (stage.fleet.movable().to_vec(), stage.rig.sites[1 - from].name);
    thread::spawn(move || {
        let control = Control::at(&path)?;
        control.transfer(Some(sessions), target, Mode::Predictive, TRANSFER, |_| ())
    })
}

fn round(
    stage: &mut Stage<'_>,
    source: At,
    killed: Victim,
    after: Duration,
    patient: bool,
) -> Result<Round> {
    let victim = if killed == Victim::Source { source } else { 1 - source };
    let transfer = begin(stage, source);
    thread::sleep(after);
    stage.rig.kill_daemon(victim)?;
    let (in_doubt, going_on) = if patient {
        while_away(stage, 1 - victim, killed)?
    } else {
        thread::sleep(AWAY);
        (0, 0)
    };
    let began = clock::now();
    stage.rig.start_daemon(victim)?;
    stage.rig.wait_for_peers()?;
    stage.settle()?;
    let settled_ms = u64::try_from(since(began).as_millis())?;
    // Of a killed source there is no answer; of a killed target there is one.
    let answer = transfer.join().map_err(|_| anyhow::anyhow!("the transfer panicked"))?;
    if killed == Victim::Target {
        answer?;
    }
    let owners = ownership(stage)?;
    let wrong: Vec<_> = owners.iter().filter(|(_, at)| at.len() != 1).collect();
    if let Some((session, at)) = wrong.first() {
        bail!("{} sessions without exactly one owner; {session} has {at:?}", wrong.len());
    }
    let moved = owners.values().filter(|at| at.contains(&(1 - source))).count();
    stage.fleet.pass(SETTLE)?;
    Ok(Round {
        killed,
        after_us: u64::try_from(after.as_micros())?,
        in_doubt,
        going_on,
        one_owner: owners.len() - wrong.len(),
        moved,
        stayed: owners.len() - moved,
        settled_ms,
    })
}

/// Waits until a daemon has noticed that the other one is gone. Whatever it lists as
/// active goes on then; of a source, all the rest is in doubt or has moved.
fn while_away(stage: &Stage<'_>, left: At, killed: Victim) -> Result<(usize, usize)> {
    let (site, gone) = (&stage.rig.sites[left], stage.rig.sites[1 - left].name);
    wait_for(&format!("{} to notice", site.name), SETTLE, || {
        let status = site.control.status()?;
        let noticed = status.peers.get(gone).is_none_or(|state| state != "up");
        let busy = status.sessions.get("moving").copied().unwrap_or(0);
        Ok((noticed && busy == 0).then_some(()))
    })?;
    let listed = site.control.sessions()?;
    let mut going_on = Vec::new();
    let (mut in_doubt, mut elsewhere) = (0, 0);
    for session in listed {
        match session.state.as_str() {
            "active" => going_on.push(session.session),
            "in-doubt" => in_doubt += 1,
            "moved" => elsewhere += 1,
            _ => {}
        }
    }
    if killed == Victim::Target {
        let all = going_on.len() + in_doubt + elsewhere;
        let expected = stage.fleet.movable().len();
        ensure!(all == expected, "{all} of {expected} sessions are accounted for");
    }
    stage.fleet.pass_in(&going_on, SETTLE)?;
    Ok((in_doubt, going_on.len()))
}

/// Who owns each session of the fleet, by the word of the daemons.
fn ownership(stage: &Stage<'_>) -> Result<BTreeMap<String, Vec<At>>> {
    let ids = stage.fleet.movable().iter().cloned();
    let mut owners: BTreeMap<_, Vec<At>> = ids.map(|id| (id, Vec::new())).collect();
    for (at, site) in stage.rig.sites.iter().enumerate() {
        for session in site.control.sessions()?.into_iter().filter(|s| s.state == "active") {
            owners.entry(session.session).or_default().push(at);
        }
    }
    Ok(owners)
}

/// What a killed gateway leaves behind.
#[derive(Clone, Debug, Serialize)]
pub struct LostGateway {
    /// Sessions that it held.
    pub held: usize,
    /// Sessions that its daemon lists as lost.
    pub lost: usize,
    /// The reason that it gives, which is the same for all.
    pub reason: String,
    /// Sessions at the other gateway that go on.
    pub going_on: usize,
}

/// Kills a gateway that holds half of the sessions.
///
/// # Errors
/// If not just these are lost, each with its reason.
pub fn lose_gateway(sessions: usize, program: &Program) -> Result<LostGateway> {
    let plan = Plan { sessions, rate: 5, parts: Vec::new(), ..Plan::default() };
    let show = Show::new(true);
    let mut stage = Stage::set(&plan, &show, program)?;
    stage.fleet.begin();
    let ids = stage.fleet.movable().to_vec();
    let (moving, staying) = ids.split_at(sessions / 2);
    let happened = stage.transfer("", A, moving.to_vec(), Mode::Predictive)?;
    ensure!(happened.outcomes.moved == moving.len(), "{:?}", happened.outcomes);
    stage.rig.kill_gateway(B)?;
    let control = &stage.rig.sites[B].control;
    let lost = wait_for("the daemon to list lost sessions", SETTLE, || {
        let listed = control.sessions()?;
        let lost: Vec<_> = listed.into_iter().filter(|s| s.state == "lost").collect();
        Ok((lost.len() == moving.len()).then_some(lost))
    })?;
    let Some(reason) = lost.first().and_then(|session| session.reason.clone()) else {
        bail!("a lost session has no reason");
    };
    ensure!(lost.iter().all(|s| s.reason.as_ref() == Some(&reason)), "reasons differ");
    ensure!(lost.iter().all(|s| moving.contains(&s.session)), "a session is lost that stayed");
    stage.fleet.pass_in(staying, SETTLE)?;
    let (held, going_on) = (moving.len(), staying.len());
    Ok(LostGateway { held, lost: lost.len(), reason, going_on })
}
