//! The stage on which each part plays: processes, end users, wire, and how traffic is
//! measured while something happens.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use cxtp::service::api::{Mode, Summary};

use super::{
    NAMES, Plan,
    report::{Outcomes, Part, Traffic},
    show::Show,
};
use crate::{
    clock,
    fleet::Fleet,
    process::{Program, wait_for},
    rig::{A, At, Rig},
    stats::Spread,
    wire::Wire,
};

/// Traffic before and after each part, so that its sessions are seen to go on.
const BEFORE: Duration = Duration::from_millis(800);
const AFTER: Duration = Duration::from_millis(1200);
/// For a transfer of all sessions on a busy machine.
pub const TRANSFER: Duration = Duration::from_secs(60);
/// For daemons to settle what is open.
pub const SETTLE: Duration = Duration::from_secs(40);

/// Everything that runs.
pub struct Stage<'a> {
    /// What is played.
    pub plan: &'a Plan,
    /// The screen.
    pub show: &'a Show,
    /// Gateways and daemons.
    pub rig: Rig,
    /// End users and the inner host.
    pub fleet: Fleet,
    /// What is between them.
    pub wire: Wire,
}

/// What happened in a part.
pub struct Happened {
    /// What became of the sessions.
    pub outcomes: Outcomes,
    /// From the order to its end.
    pub took: Duration,
    /// From pause to active at the target.
    pub pauses: Spread,
    /// Why a session did not move: the first of them.
    pub why: Option<String>,
}

impl Happened {
    /// What the daemon says of a batch.
    pub fn in_batch(summary: &Summary, took: Duration) -> Self {
        let outcomes = Outcomes {
            sessions: summary.sessions,
            moved: summary.moved,
            refused: summary.refused,
            aborted: summary.aborted,
            in_doubt: summary.in_doubt,
            lost: summary.lost,
            settled: 0,
        };
        let pauses =
            Spread { p50: summary.gap_us_p50, p99: summary.gap_us_p99, max: summary.gap_us_max };
        let why = summary
            .failures
            .first()
            .map(|failure| format!("{}: {}", failure.reason.status, failure.reason.detail));
        Self { outcomes, took, pauses, why }
    }
}

impl<'a> Stage<'a> {
    /// Starts everything: all sessions are up at the first site, no packet is sent yet.
    ///
    /// # Errors
    /// What does not start; the logs are kept then.
    pub fn set(plan: &'a Plan, show: &'a Show, program: &Program) -> Result<Self> {
        let step = show.wait("start two gateways and a PKI");
        let mut rig = Rig::new(program, &plan.settings())?;
        step.done("");
        match Self::populate(plan, show, &mut rig) {
            Ok((fleet, wire)) => Ok(Self { plan, show, rig, fleet, wire }),
            Err(error) => Err(error.context(kept(&mut rig))),
        }
    }

    fn populate(plan: &Plan, show: &Show, rig: &mut Rig) -> Result<(Fleet, Wire)> {
        let outer = [0, 1].map(|at: At| rig.sites[at].addresses.outer);
        let wire = Wire::start(&outer)?;
        let step = show.wait("set up sessions at the first gateway");
        let fleet = Fleet::start(rig, &wire, plan.sessions, plan.guests(), plan.rate, NAMES)?;
        step.done("");
        let step = show.wait("start two daemons");
        rig.start_daemons()?;
        rig.wait_for_sessions(A, "active", plan.sessions + plan.guests(), SETTLE)?;
        step.done("");
        Ok((fleet, wire))
    }

    /// Lets traffic run before, during and after something, and tells how both went.
    ///
    /// # Errors
    /// Those of what happens, or if a process ends that should not.
    pub fn part(
        &mut self,
        name: &'static str,
        happen: impl FnOnce(&mut Self) -> Result<Happened>,
    ) -> Result<Part> {
        let seen = self.wire.observer().figures();
        let began = clock::now();
        self.fleet.begin();
        std::thread::sleep(BEFORE);
        let happened = happen(self)?;
        std::thread::sleep(AFTER);
        let seconds = since(began).as_secs_f64();
        let tally = self.fleet.end();
        self.rig.check()?;
        let wire = self.wire.observer().figures().since(&seen);
        let traffic = Traffic {
            seconds,
            sent: tally.sent,
            lost: tally.lost,
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            gaps: Spread::of(tally.gaps.iter().copied()),
            wire,
        };
        let sessions = (self.plan.sessions + self.plan.guests()) as f64;
        let expected = f64::from(self.plan.rate) * sessions * 2.0 * seconds;
        let took = happened.took.as_secs_f64();
        Ok(Part::new(name, happened.outcomes, took, happened.pauses, expected as u64, &traffic))
    }

    /// Moves sessions and shows how far it is.
    ///
    /// # Errors
    /// If the daemon does not do it.
    pub fn transfer(
        &self,
        name: &'static str,
        from: At,
        sessions: Vec<String>,
        mode: Mode,
    ) -> Result<Happened> {
        let step = self.show.step(name, sessions.len());
        let (source, target) = (&self.rig.sites[from], self.rig.sites[1 - from].name);
        let began = clock::now();
        let moving = Some(sessions);
        let summary = source
            .control
            .transfer(moving, target, mode, TRANSFER, |progress| step.at(progress))?;
        let happened = Happened::in_batch(&summary, since(began));
        step.done(&said(&summary));
        Ok(happened)
    }

    /// Which site's daemon says that it owns a session.
    ///
    /// # Errors
    /// If a daemon does not answer, or a session has two owners.
    pub fn owners(&self) -> Result<BTreeMap<String, At>> {
        let mut owners = BTreeMap::new();
        for (at, site) in self.rig.sites.iter().enumerate() {
            for session in site.control.sessions()?.into_iter().filter(|s| s.state == "active") {
                let before = owners.insert(session.session.clone(), at);
                ensure!(before.is_none(), "session {} has two owners", session.session);
            }
        }
        Ok(owners)
    }

    /// Waits until no session is in doubt or on its way at any site. What a target
    /// staged for a source that gave up may still be there: it goes by itself.
    ///
    /// # Errors
    /// Which ones are after the time.
    pub fn settle(&self) -> Result<()> {
        for site in &self.rig.sites {
            wait_for(&format!("{} to settle all sessions", site.name), SETTLE, || {
                let status = site.control.status()?;
                let open = ["paused", "in-doubt", "moving"];
                let open =
                    open.iter().filter_map(|state| status.sessions.get(*state)).sum::<usize>();
                Ok((open == 0 && status.batches == 0).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The sessions that can move and are active at a site.
    ///
    /// # Errors
    /// As for [`Stage::owners`].
    pub fn movable_at(&self, at: At) -> Result<Vec<String>> {
        let owners = self.owners()?;
        let movable = self.fleet.movable().iter();
        Ok(movable.filter(|id| owners.get(*id) == Some(&at)).cloned().collect())
    }
}

/// Keeps the logs and says where.
pub fn kept(rig: &mut Rig) -> String {
    format!("the logs are in {}", rig.keep_logs().display())
}

/// The time since then.
pub fn since(began: Instant) -> Duration {
    clock::now().saturating_duration_since(began)
}

/// A summary in a few words.
pub fn said(summary: &Summary) -> String {
    let figures = [
        (summary.moved, "moved"),
        (summary.refused, "refused"),
        (summary.aborted, "aborted"),
        (summary.in_doubt, "in doubt"),
        (summary.lost, "lost"),
    ];
    let words = figures.iter().filter(|(count, _)| *count > 0);
    let words: Vec<_> = words.map(|(count, word)| format!("{count} {word}")).collect();
    if words.is_empty() { "nothing to do".to_owned() } else { words.join(", ") }
}
