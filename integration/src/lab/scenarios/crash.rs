//! `kill -9` at every step of a transfer.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cxtp::service::api::{Mode, Session, Summary};
use serde_json::{Value, json};

use super::steps::{Held, STEPS, Step, counted};
use crate::{
    control::Control,
    lab::{
        charon::EXCHANGE,
        gateway::{Settings, Sharing, Site},
        net::GATEWAYS,
        traffic::{Tally, Traffic},
        world::{Setup, World},
    },
    process::wait_for,
};

/// Packets per second each way of each user.
const RATE: u32 = 250;
/// Who is killed: which process, and whether the target's.
const VICTIMS: [(&str, bool); 4] =
    [("cxtpd", false), ("cxtpd", true), ("cxtp-linux", false), ("cxtp-linux", true)];
/// Until a batch has ended, and until what it left has settled.
pub(super) const SETTLED: Duration = Duration::from_secs(60);
const MAX_TRANSFER_MS: u32 = 3000;
const STAGED_MS: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// A user who moves and, in most scenarios, one whom nobody moves.
pub(super) struct Played {
    pub(super) world: World,
    /// The session that moves, which is the first user's.
    pub(super) session: String,
    /// The place of its owner among the gateways.
    pub(super) at: usize,
}

/// What traffic of one user counted, for the report.
pub(super) fn figures(tally: &Tally) -> Value {
    json!({
        "sent": tally.sent, "lost": tally.lost, "duplicated": tally.duplicated,
        "reordered": tally.reordered, "gap_ms": tally.gap_ms,
    })
}

impl Played {
    /// Gateways with one address for both, and these users, one after the other.
    pub(super) fn begin(setup: Setup) -> Result<Self> {
        // On a busy machine a pause lasts; what is tried here is not how long. What a
        // killed gateway had staged and nobody asks for goes in its time.
        let patient = format!(
            "[transfer]\nmax_transfer_ms = {MAX_TRANSFER_MS}\nstaged_timeout_ms = {STAGED_MS}"
        );
        let daemon = [patient.clone(), patient];
        let settings = Settings { sharing: Sharing::Multicast, daemon, ..Settings::default() };
        let mut world =
            World::build(Setup { shared: true, moves: 1000, daemons: Some(settings), ..setup })?;
        let all = |user: usize, world: &World| {
            let children = &world.setup.vpn.children;
            children.iter().try_for_each(|child| world.users[user].initiate(&child.name))
        };
        all(0, &world)?;
        let (session, at) = wait_for("the first user's session", EXCHANGE, || {
            let found = actives(&world.sites)?.into_iter().next();
            Ok(found)
        })?;
        for user in 1..world.users.len() {
            all(user, &world)?;
        }
        world.note_keys()?;
        world.observed(|observer| observer.mark())?;
        Ok(Self { world, session, at })
    }

    /// Traffic of one user alone.
    pub(super) fn traffic(&self, user: usize, rate: u32) -> Result<Traffic> {
        let traffic = Traffic::start(&[self.world.flow(user)?], rate)?;
        traffic.wait_for_packets(3, EXCHANGE)?;
        Ok(traffic)
    }

    /// Begins to move the session to the other gateway.
    pub(super) fn begin_transfer(&self) -> Result<JoinHandle<Result<Summary>>> {
        let control = Control::at(self.world.sites[self.at].control.path())?;
        let (sessions, to) = (Some(vec![self.session.clone()]), GATEWAYS[1 - self.at]);
        Ok(thread::spawn(move || control.transfer(sessions, to, Mode::Predictive, SETTLED, |_| ())))
    }

    /// What a daemon says of the session.
    pub(super) fn entry(&self, at: usize) -> Result<Option<Session>> {
        let all = self.world.sites[at].control.sessions()?;
        Ok(all.into_iter().find(|session| session.session == self.session))
    }

    /// Waits until nothing of the session is open, and looks who has it: just one, or
    /// somebody says why nobody does.
    pub(super) fn settle(&mut self) -> Result<String> {
        let mut last = String::new();
        let settled = wait_for("one owner of the session", SETTLED, || {
            let both = [self.entry(0).ok().flatten(), self.entry(1).ok().flatten()];
            let states = both.clone().map(|entry| entry.map_or("-".into(), |entry| entry.state));
            last = format!("{states:?}");
            let open = ["moving", "paused", "staged", "in-doubt"];
            if states.iter().any(|state| open.contains(&state.as_str())) {
                return Ok(None);
            }
            let owners: Vec<_> = (0..2).filter(|at| states[*at] == "active").collect();
            match owners[..] {
                [owner] => Ok(Some((owner, format!("active at {}", GATEWAYS[owner])))),
                [] => {
                    let lost = both.into_iter().flatten().find(|entry| entry.state == "lost");
                    Ok(lost.map(|entry| (self.at, format!("lost: {:?}", entry.reason))))
                }
                _ => bail!("two owners: {states:?}"),
            }
        });
        let (owner, words) = settled.with_context(|| last)?;
        self.at = owner;
        Ok(words)
    }
}

/// Active sessions, and where.
pub(super) fn actives(sites: &[Site]) -> Result<Vec<(String, usize)>> {
    let mut found = Vec::new();
    for (at, site) in sites.iter().enumerate() {
        let sessions = site.control.sessions()?;
        let active = sessions.into_iter().filter(|session| session.state == "active");
        found.extend(active.map(|session| (session.session, at)));
    }
    Ok(found)
}

/// The outcome of a batch of one, in words.
pub(super) fn outcome(summary: &Result<Summary>) -> String {
    match summary {
        Ok(summary) if summary.moved == 1 => "moved".into(),
        Ok(summary) => summary.failures.first().map_or_else(
            || "no session".into(),
            |failure| {
                format!(
                    "{}: {} ({})",
                    failure.outcome, failure.reason.status, failure.reason.detail
                )
            },
        ),
        Err(error) => format!("no answer: {error}"),
    }
}

/// Who has the session after a kill.
struct Owner {
    moved: bool,
    words: String,
}

/// Kills one at a step and starts it again; says what became of the transfer, and who
/// has the session once nothing of it is open.
fn kill(played: &mut Played, step: Step, victim: &str, of_target: bool) -> Result<(String, Owner)> {
    let source = played.at;
    let at = if of_target { 1 - source } else { source };
    let held = Held::at(played, step)?;
    let site = &mut played.world.sites[at];
    match victim {
        "cxtpd" => site.kill_daemon()?,
        _ => site.kill_linux()?,
    }
    held.let_go(played)?;
    let site = &mut played.world.sites[at];
    match victim {
        "cxtpd" => site.start_daemon()?,
        _ => site.start_linux()?,
    }
    let summary = outcome(&held.end()?);
    for site in &played.world.sites {
        site.wait_for_peer()?;
    }
    let words = played.settle().with_context(|| summary.clone())?;
    ensure!(words.starts_with("active"), "{summary}, then {words}");
    Ok((summary, Owner { moved: played.at != source, words }))
}

/// `kill -9` of our own processes. The session has one owner afterwards, keeps its id,
/// and nothing is rekeyed; another user notices nothing.
///
/// # Errors
/// What could not be done.
pub fn daemons(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(Setup { users: 2, ..Setup::default() })?;
    let (mover, other) = (played.traffic(1, RATE)?, played.traffic(2, RATE)?);
    let summary = played.begin_transfer()?.join().ok().context("the thread")?;
    ensure!(outcome(&summary) == "moved", "undisturbed: {}", outcome(&summary));
    played.settle()?;
    let before = played.world.users[0].sas()?;
    let mut rounds: Vec<Value> = Vec::new();
    let mut kills = Vec::new();
    let mut tally: BTreeMap<String, u32> = BTreeMap::new();
    let mut failures = Vec::new();
    for step in STEPS {
        for (victim, of_target) in VICTIMS {
            let role = if of_target { "target" } else { "source" };
            let place = format!("{victim} of the {role}, {step:?}");
            let (summary, owner) =
                kill(&mut played, step, victim, of_target).with_context(|| place.clone())?;
            mover.wait_for_packets(20, PATIENCE).with_context(|| place.clone())?;
            kills.push(step);
            let moved = owner.moved;
            if step.is_settled() && !moved {
                failures.push(format!("{place}: it is back at its source"));
            }
            *tally
                .entry(format!("{victim} {}", if moved { "moved" } else { "stayed" }))
                .or_default() += 1;
            rounds.push(json!({
                "killed": place, "outcome": summary, "then": owner.words,
                "gap_ms": mover.take_gap(),
            }));
        }
    }
    let (kills, missing) = counted(&kills);
    failures.extend(missing.iter().map(|step| format!("nobody was killed at {step:?}")));
    let after = played.world.users[0].sas()?;
    let mover = mover.stop()?;
    let Played { mut world, .. } = played;
    world.stop_traffic(other)?;
    for user in 1..=2 {
        world.still_works(user)?;
    }
    world.report.moved =
        tally.iter().filter(|(k, _)| k.ends_with("moved")).map(|(_, n)| u64::from(*n)).sum();
    let more = [
        ("rounds", json!(rounds)),
        ("kills", json!(kills)),
        ("tally", json!(tally)),
        ("moving_user", figures(&mover)),
    ];
    world.report.more.extend(more.map(|(name, value)| (name.to_owned(), value)));
    let mut report = world.finish()?;
    report.failures.extend(failures);
    report.expect(mover.duplicated == 0, || format!("{} packets came twice", mover.duplicated));
    let spis = |sas: &[crate::lab::charon::IkeSa]| -> Vec<_> {
        sas.iter().map(|sa| (sa.spis.clone(), sa.children.clone())).collect()
    };
    report.expect(spis(&before) == spis(&after), || "something was rekeyed".into());
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}
