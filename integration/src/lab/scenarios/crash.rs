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

use crate::{
    clock,
    control::Control,
    lab::{
        charon::{EXCHANGE, config::CONNECTION},
        gateway::{Settings, Sharing, Site},
        net::GATEWAYS,
        traffic::{Tally, Traffic},
        world::{Setup, World},
    },
    process::wait_for,
};

/// Packets per second each way of each user.
const RATE: u32 = 250;
/// How often somebody is killed, in each role.
const STEPS: u32 = 4;
/// Until a batch has ended, and until what it left has settled.
pub(super) const SETTLED: Duration = Duration::from_secs(60);
const MAX_TRANSFER_MS: u32 = 3000;
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
        // On a busy machine a pause lasts; what is tried here is not how long.
        let patient = format!("[transfer]\nmax_transfer_ms = {MAX_TRANSFER_MS}");
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

/// `kill -9` of our own processes. The session has one owner afterwards, keeps its id,
/// and nothing is rekeyed; another user notices nothing.
///
/// # Errors
/// What could not be done.
pub fn daemons(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(Setup { users: 2, ..Setup::default() })?;
    let (mover, other) = (played.traffic(1, RATE)?, played.traffic(2, RATE)?);
    let begun = clock::now();
    let summary = played.begin_transfer()?.join().ok().context("the thread")?;
    let span = clock::now() - begun;
    ensure!(outcome(&summary) == "moved", "undisturbed: {}", outcome(&summary));
    played.settle()?;
    let before = played.world.users[0].sas()?;
    let mut rounds: Vec<Value> = Vec::new();
    let mut tally: BTreeMap<String, u32> = BTreeMap::new();
    for (victim, of_target) in
        [("cxtpd", false), ("cxtpd", true), ("cxtp-linux", false), ("cxtp-linux", true)]
    {
        for step in 0..STEPS {
            let source = played.at;
            let site = if of_target { 1 - source } else { source };
            let transfer = played.begin_transfer()?;
            thread::sleep(span * step / STEPS);
            let site = &mut played.world.sites[site];
            match victim {
                "cxtpd" => site.kill_daemon()?,
                _ => site.kill_linux()?,
            }
            match victim {
                "cxtpd" => site.start_daemon()?,
                _ => site.start_linux()?,
            }
            let summary = transfer.join().ok().context("the thread")?;
            for site in &played.world.sites {
                site.wait_for_peer()?;
            }
            let place = format!(
                "{victim} of the {}, step {step}",
                if of_target { "target" } else { "source" }
            );
            let owner = played.settle().with_context(|| place.clone())?;
            ensure!(owner.starts_with("active"), "{place}: {owner}");
            mover.wait_for_packets(20, PATIENCE).with_context(|| place.clone())?;
            let moved = played.at != source;
            *tally
                .entry(format!("{victim} {}", if moved { "moved" } else { "stayed" }))
                .or_default() += 1;
            rounds.push(json!({ "killed": place, "outcome": outcome(&summary), "then": owner }));
        }
    }
    let after = played.world.users[0].sas()?;
    let mover = mover.stop()?;
    let Played { mut world, .. } = played;
    world.stop_traffic(other)?;
    for user in 1..=2 {
        world.still_works(user)?;
    }
    world.report.moved =
        tally.iter().filter(|(k, _)| k.ends_with("moved")).map(|(_, n)| u64::from(*n)).sum();
    let more =
        [("rounds", json!(rounds)), ("tally", json!(tally)), ("moving_user", figures(&mover))];
    world.report.more.extend(more.map(|(name, value)| (name.to_owned(), value)));
    let mut report = world.finish()?;
    report.expect(mover.duplicated == 0, || format!("{} packets came twice", mover.duplicated));
    let spis = |sas: &[crate::lab::charon::IkeSa]| -> Vec<_> {
        sas.iter().map(|sa| (sa.spis.clone(), sa.children.clone())).collect()
    };
    report.expect(spis(&before) == spis(&after), || "something was rekeyed".into());
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// `kill -9` of charon: at the target, the session stays or moves; at the source, whose
/// state charon is, it moves or is gone, and that is said.
///
/// # Errors
/// What could not be done.
pub fn charons(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(Setup::default())?;
    let mut rounds: Vec<Value> = Vec::new();
    let begun = clock::now();
    let summary = played.begin_transfer()?.join().ok().context("the thread")?;
    let span = clock::now() - begun;
    ensure!(outcome(&summary) == "moved", "undisturbed: {}", outcome(&summary));
    played.settle()?;
    let mut failures = Vec::new();
    for of_target in [true, false] {
        for step in 0..STEPS {
            let source = played.at;
            let victim = if of_target { 1 - source } else { source };
            let role = if of_target { "target" } else { "source" };
            let place = format!("charon of the {role}, step {step}");
            let transfer = played.begin_transfer()?;
            thread::sleep(span * step / STEPS);
            played.world.gateways[victim].kill()?;
            let summary = transfer.join().ok().context("the thread")?;
            let said = outcome(&summary);
            played.world.gateways[victim].run()?;
            played.world.gateways[victim].load()?;
            let words = settle_or_gone(&mut played).with_context(|| format!("{place}: {said}"))?;
            rounds.push(json!({ "killed": place, "outcome": said, "then": words }));
            let works = words.starts_with("active") && answers(&played)?;
            if !works {
                if of_target {
                    failures.push(format!("{place}: {said}, then {words}"));
                }
                // The user comes again, as it does when its gateway is gone.
                reconnect(&mut played)?;
            }
        }
    }
    let Played { mut world, .. } = played;
    let traffic = world.start_traffic(RATE)?;
    traffic.wait_for_packets(200, PATIENCE)?;
    world.stop_traffic(traffic)?;
    world.still_works(1)?;
    world.report.more.insert("rounds".into(), json!(rounds));
    let mut report = world.gather()?;
    for failure in failures {
        report.expect(false, || failure);
    }
    for (name, figure) in report.zeros() {
        // The user of a charon that was killed begins anew.
        report.expect(figure == 0 || name == "new_ike_sas", || format!("{name} is {figure}"));
    }
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// As [`Played::settle`], where the session may also have ended at both.
fn settle_or_gone(played: &mut Played) -> Result<String> {
    let mut last = String::new();
    let settled = wait_for("an owner, or none", SETTLED, || {
        let both = [played.entry(0)?, played.entry(1)?];
        let states = both.clone().map(|entry| entry.map_or("-".into(), |entry| entry.state));
        last = format!("{states:?}");
        let owners: Vec<_> = (0..2).filter(|at| states[*at] == "active").collect();
        let open = ["moving", "paused", "staged"];
        if owners.len() > 1 {
            bail!("two owners: {states:?}");
        }
        if states.iter().any(|state| open.contains(&state.as_str())) {
            return Ok(None);
        }
        let why = both.into_iter().flatten().find_map(|entry| entry.reason);
        Ok(Some(match owners[..] {
            [owner] => (owner, format!("active at {}", GATEWAYS[owner])),
            _ => (played.at, format!("{states:?}, {why:?}")),
        }))
    });
    let (owner, words) = settled.with_context(|| last)?;
    played.at = owner;
    Ok(words)
}

/// Whether the user's IKE SA is alive: it can rekey its Child SA.
fn answers(played: &Played) -> Result<bool> {
    let gateway = &played.world.gateways[played.at];
    let sas = played.world.users[0].sas()?;
    let Some(sa) = sas.first() else { return Ok(false) };
    if !gateway.sas()?.iter().any(|other| other.spis == sa.spis && other.established()) {
        return Ok(false);
    }
    Ok(played.world.users[0].rekey_child("net").is_ok())
}

/// The user drops what it has, without a word, and connects again.
fn reconnect(played: &mut Played) -> Result<()> {
    let user = &mut played.world.users[0];
    user.kill()?;
    played.world.net.ip(user.node(), "xfrm state flush")?;
    played.world.net.ip(user.node(), "xfrm policy flush")?;
    user.run()?;
    user.load()?;
    user.initiate("net")?;
    let spis = user.sas()?.first().context("no IKE SA")?.spis.clone();
    let gateways = &played.world.gateways;
    played.at = wait_for("the gateway that answered", EXCHANGE, || {
        for (at, gateway) in gateways.iter().enumerate() {
            if gateway.sas()?.iter().any(|sa| sa.spis == spis && sa.name == CONNECTION) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    })?;
    let (sites, at) = (&played.world.sites, played.at);
    let known: Vec<String> = Vec::from([played.session.clone()]);
    played.session = wait_for("the new session", EXCHANGE, || {
        let new = actives(sites)?.into_iter().find(|(id, of)| *of == at && !known.contains(id));
        Ok(new.map(|(id, _)| id))
    })?;
    Ok(())
}
