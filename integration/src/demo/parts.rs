//! The parts of the demo.

use std::{sync::mpsc, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use cxtp::service::api::{Mode, Summary};

use super::{
    report::{Outcomes, Part},
    stage::{Happened, SETTLE, Stage, TRANSFER, said, since},
};
use crate::{
    clock,
    control::Control,
    rig::{A, B},
    stats::Spread,
};

/// How long a daemon is away that crashed.
const AWAY: Duration = Duration::from_millis(700);
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
        anyhow::bail!("each of {TRIES} batches ended before it could be stopped")
    })
}

/// Starts a batch and stops it once the first session has moved.
fn cancelled(stage: &Stage<'_>, sessions: Vec<String>) -> Result<(Summary, Duration)> {
    let step = stage.show.step("A → B, stopped on the way", sessions.len());
    let site = &stage.rig.sites[A];
    let path = site.control.path().to_owned();
    let (watching, begin) = mpsc::channel();
    let canceller = thread::spawn(move || -> Result<()> {
        let control = Control::at(&path)?;
        let batch = control.watch(
            TRANSFER,
            // The other end is gone only if the transfer failed already.
            || drop(watching.send(())),
            |event| {
                let batch = event.fields.get("batch").and_then(|batch| batch.as_str());
                batch.filter(|_| event.event == "transfer-ended").map(str::to_owned)
            },
        )?;
        control.cancel(&batch)
    });
    begin.recv_timeout(SETTLE).context("the daemon's events cannot be watched")?;
    let began = clock::now();
    let target = stage.rig.sites[B].name;
    let transfer = site.control.transfer(Some(sessions), target, Mode::Predictive, TRANSFER, |p| {
        step.at(p);
    });
    let summary = transfer?;
    let cancelled = canceller.join().map_err(|_| anyhow::anyhow!("the canceller panicked"))?;
    if summary.aborted > 0 {
        cancelled.context("the batch could not be stopped")?;
    }
    step.done(&said(&summary));
    Ok((summary, since(began)))
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
    ensure!(happened.outcomes.moved == count, "only {:?} came home", happened.outcomes);
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
        let (told, progress) = mpsc::channel();
        let began = clock::now();
        let moving = thread::spawn(move || {
            Control::at(&path)?.transfer(
                Some(sessions),
                target,
                Mode::Predictive,
                TRANSFER,
                // Nobody listens once the daemon was killed.
                |p| drop(told.send(p)),
            )
        });
        while let Ok(now) = progress.recv_timeout(TRANSFER) {
            step.at(now);
            if now.moved > 0 {
                break;
            }
        }
        stage.rig.kill_daemon(B)?;
        thread::sleep(AWAY);
        let in_doubt = stage.rig.sites[A].control.status()?.sessions.get("in-doubt").copied();
        stage.rig.start_daemon(B)?;
        let summary = moving.join().map_err(|_| anyhow::anyhow!("the transfer panicked"))??;
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
            settled: in_doubt.unwrap_or(0).max(summary.in_doubt),
            ..Outcomes::default()
        };
        stage.fleet.pass(SETTLE)?;
        step.done(&format!(
            "{} moved, {} stayed, {} were in doubt and are settled",
            outcomes.moved, outcomes.aborted, outcomes.settled
        ));
        let pauses =
            Spread { p50: summary.gap_us_p50, p99: summary.gap_us_p99, max: summary.gap_us_max };
        Ok(Happened { outcomes, took, pauses })
    })
}
