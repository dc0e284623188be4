//! The parts of the demo.

use std::{
    path::Path,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use cxtp::service::api::{Mode, Summary};

use super::{
    report::{Outcomes, Part},
    stage::{Happened, SETTLE, Stage, TRANSFER, said, since},
};
use crate::{
    clock,
    control::Control,
    process::wait_for,
    rig::{A, B},
    stats::Spread,
};

/// A crash is noticed by silence, and shown once it is; nothing may have been open.
const NOTICED: Duration = Duration::from_secs(4);
/// A batch may end before it is stopped: then it is played once more.
const TRIES: usize = 3;

/// All sessions go to the second gateway, which gets their contexts in advance.
///
/// # Errors
/// If the stage breaks; what only goes wrong stands in the part.
pub fn predictive(stage: &mut Stage<'_>) -> Result<Part> {
    stage.part("predictive", |stage| {
        let sessions = stage.fleet.movable().to_vec();
        stage.transfer("A → B, predictive", A, sessions, Mode::Predictive)
    })
}

/// They come back: the first gateway asks for them.
///
/// # Errors
/// If the stage breaks; what only goes wrong stands in the part.
pub fn reactive(stage: &mut Stage<'_>) -> Result<Part> {
    let away = stage.movable_at(B)?;
    let name = "B → A, reactive";
    if away.is_empty() {
        // Played alone: all are at home.
        return stage.part("reactive", |stage| {
            let sessions = stage.fleet.movable().to_vec();
            stage.transfer("A → B, reactive", A, sessions, Mode::Reactive)
        });
    }
    stage.part("reactive", |stage| stage.transfer(name, B, away, Mode::Reactive))
}

/// Sessions that the second gateway will not have: they go on at their source.
///
/// # Errors
/// If the stage breaks, or a refused session does not go on.
pub fn refused(stage: &mut Stage<'_>) -> Result<Part> {
    stage.part("refused", |stage| {
        let guests = stage.fleet.guests().to_vec();
        let happened =
            stage.transfer("A → B, refused by B", A, guests.clone(), Mode::Predictive)?;
        let refused = happened.outcomes.refused;
        ensure!(refused == guests.len(), "{refused} of {} sessions were refused", guests.len());
        stage.fleet.pass(SETTLE)?;
        Ok(happened)
    })
}

/// A batch is stopped on the way: what is not committed goes on at the source.
///
/// # Errors
/// If the stage breaks, or nothing is stopped in several attempts.
pub fn aborted(stage: &mut Stage<'_>) -> Result<Part> {
    stage.part("aborted", |stage| {
        for _ in 0..TRIES {
            bring_home(stage)?;
            let sessions = stage.movable_at(A)?;
            let (summary, took) = cancelled(stage, sessions)?;
            if summary.aborted > 0 {
                stage.settle()?;
                let owners = stage.owners()?;
                let at_b = owners.values().filter(|at| **at == B).count();
                ensure!(at_b == summary.moved, "{at_b} at B, and {} moved", summary.moved);
                stage.fleet.pass(SETTLE)?;
                return Ok(Happened::in_batch(&summary, took));
            }
        }
        bail!("each of {TRIES} batches ended before it could be stopped")
    })
}

/// Starts a batch and stops it once the first sessions have moved.
fn cancelled(stage: &Stage<'_>, sessions: Vec<String>) -> Result<(Summary, Duration)> {
    let step = stage.show.step("A → B, stopped on the way", sessions.len());
    let site = &stage.rig.sites[A];
    let moved = Moved::watch(site.control.path(), sessions.len() / 10)?;
    let path = site.control.path().to_owned();
    let canceller = thread::spawn(move || Control::at(&path)?.cancel(&moved.wait()?));
    let began = clock::now();
    let (moving, target) = (Some(sessions), stage.rig.sites[B].name);
    let progress = |progress| step.at(progress);
    let transfer = site.control.transfer(moving, target, Mode::Predictive, TRANSFER, progress);
    let summary = transfer?;
    let cancelled = canceller.join().map_err(|_| anyhow!("the canceller panicked"))?;
    if summary.aborted > 0 {
        cancelled.context("the batch could not be stopped")?;
    }
    step.done(&said(&summary));
    Ok((summary, since(began)))
}

/// Waits in a thread of its own until some sessions of a batch have ended.
struct Moved(Receiver<Result<String>>);

impl Moved {
    /// Watches a daemon from now on, until more than `count` sessions have ended.
    fn watch(control: &Path, count: usize) -> Result<Self> {
        let control = Control::at(control)?;
        let ((ready, is_ready), (found, batch)) = (mpsc::channel(), mpsc::channel());
        thread::spawn(move || {
            let mut ended = 0;
            let watched = control.watch(
                TRANSFER,
                // Whoever does not listen any more has no use for it, here and below.
                || {
                    let _ = ready.send(());
                },
                |event| {
                    ended += usize::from(event.event == "transfer-ended");
                    let batch = event.fields.get("batch").and_then(|batch| batch.as_str());
                    batch.filter(|_| ended > count).map(str::to_owned)
                },
            );
            let _ = found.send(watched);
        });
        is_ready.recv_timeout(SETTLE).context("the daemon's events cannot be watched")?;
        Ok(Self(batch))
    }

    /// The batch, once it is so far.
    fn wait(self) -> Result<String> {
        self.0.recv_timeout(TRANSFER).context("nothing moves")?
    }
}

/// Moves whatever is at the second gateway back, outside the figures of a part.
///
/// # Errors
/// If not all come home.
pub fn bring_home(stage: &Stage<'_>) -> Result<()> {
    let away = stage.movable_at(B)?;
    if away.is_empty() {
        return Ok(());
    }
    let count = away.len();
    let happened = stage.transfer("(back to A)", B, away, Mode::Predictive)?;
    let (outcomes, why) = (happened.outcomes, happened.why);
    ensure!(outcomes.moved == count, "back to A: {outcomes:?}: {}", why.unwrap_or_default());
    Ok(())
}

/// The target's daemon is killed in the middle and comes back; both journals settle
/// what was open.
///
/// # Errors
/// If the stage breaks, or a session has no owner afterwards.
pub fn crash(stage: &mut Stage<'_>) -> Result<Part> {
    bring_home(stage)?;
    stage.part("crash", |stage| {
        let sessions = stage.movable_at(A)?;
        let count = sessions.len();
        let step = stage.show.step("A → B, B's daemon dies in the middle", count);
        let path = stage.rig.sites[A].control.path().to_owned();
        let target = stage.rig.sites[B].name;
        let moved = Moved::watch(&path, count / 4)?;
        let began = clock::now();
        let moving = thread::spawn(move || {
            let control = Control::at(&path)?;
            control.transfer(Some(sessions), target, Mode::Predictive, TRANSFER, |_| ())
        });
        moved.wait()?;
        stage.rig.kill_daemon(B)?;
        let in_doubt = noticed(stage)?;
        stage.rig.start_daemon(B)?;
        let summary = moving.join().map_err(|_| anyhow!("the transfer panicked"))??;
        stage.rig.wait_for_peers()?;
        stage.settle()?;
        let took = since(began);
        let owners = stage.owners()?;
        let movable = stage.fleet.movable();
        let owned = |at| movable.iter().filter(|id| owners.get(*id) == Some(&at)).count();
        let outcomes = Outcomes {
            sessions: count,
            moved: owned(B),
            aborted: owned(A),
            lost: count - owned(A) - owned(B),
            settled: in_doubt.max(summary.in_doubt),
            ..Outcomes::default()
        };
        stage.fleet.pass(SETTLE)?;
        step.done(&format!(
            "{} moved, {} stayed, {} were in doubt and are settled",
            outcomes.moved, outcomes.aborted, outcomes.settled
        ));
        let pauses =
            Spread { p50: summary.gap_us_p50, p99: summary.gap_us_p99, max: summary.gap_us_max };
        Ok(Happened { outcomes, took, pauses, why: None })
    })
}

/// Waits until the source has noticed that its target is gone, and says how many
/// sessions are in doubt then.
fn noticed(stage: &Stage<'_>) -> Result<usize> {
    let (source, target) = (&stage.rig.sites[A].control, stage.rig.sites[B].name);
    wait_for("the source to notice that its target is gone", NOTICED, || {
        let status = source.status()?;
        let gone = status.peers.get(target).is_none_or(|state| state != "up");
        let in_doubt = status.sessions.get("in-doubt").copied().unwrap_or(0);
        Ok(gone.then_some(in_doubt))
    })
}
