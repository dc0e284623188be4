//! How fast sessions move through the whole protocol, with both journals.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use cxtp::service::api::{Mode, Progress};
use serde::Serialize;

use super::{
    bare::{self, End},
    node::bytes_per_context,
};
use crate::{
    clock,
    control::Control,
    homes::{Homes, NAMES},
    process::{Process, Program, Role, wait_for},
    rig::{A, At, B, wait_for_peer},
    stats::Spread,
    wire::free_address,
};

/// For setting up or moving a million sessions on a slow machine.
const LONG: Duration = Duration::from_secs(900);
/// Runs up to this size are repeated and their median is taken.
const SMALL: u32 = 10_000;
/// How often.
const REPEATS: usize = 3;
/// Transfers in which all sessions must have moved.
const ATTEMPTS: usize = 5;
/// Transfers of a single session.
const SINGLES: usize = 200;

/// One size.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    /// Sessions moved.
    pub sessions: u32,
    /// Sessions per second, from the order to its end.
    pub sessions_per_s: f64,
    /// Octets of one session in a PCTD.
    pub bytes_per_context: usize,
    /// Context octets per second in relation to those of a bare QUIC stream.
    pub ratio_to_bare_stream: f64,
    /// Octets per second of the bare stream.
    pub bare_bytes_per_s: f64,
    /// Sessions whose pause took too long, so that they were moved once more.
    pub moved_again: usize,
    /// From pause to active, median.
    pub pause_us_p50: u64,
    /// 99th percentile.
    pub pause_us_p99: u64,
    /// Resident memory of the source after the move, with its gateway.
    pub rss_kib_source: u64,
    /// Resident memory of the target after the move, with its gateway.
    pub rss_kib_target: u64,
    /// Resident memory of the source before the move.
    pub rss_kib_source_before: u64,
}

/// How much may be open at a time: more is faster, and each session pauses longer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Windows {
    /// Sessions paused at a time (`transfer.pause_window`).
    pub pause: u32,
    /// Sessions sent and not yet answered (`transfer.staging_window`).
    pub staging: u32,
}

/// All sessions have moved.
struct Moved {
    took: Duration,
    again: usize,
    pauses: Spread,
}

/// Two daemons with gateways inside.
struct Pair {
    homes: Homes,
    processes: [Process; 2],
    controls: [Control; 2],
}

impl Pair {
    fn start(program: &Program, sessions: u32, windows: Windows) -> Result<Self> {
        let Windows { pause, staging } = windows;
        let table = format!("[transfer]\npause_window = {pause}\nstaging_window = {staging}\n");
        let tables = [table.clone(), table];
        let homes = Homes::make(program, &tables)?;
        let relays = [free_address()?, free_address()?];
        let node = |at: At, sessions: u32| -> Result<Process> {
            let other = 1 - at;
            let args = [
                "node".to_owned(),
                "--config".to_owned(),
                homes.each[at].config.display().to_string(),
                format!("--sessions={sessions}"),
                format!("--relay={}", relays[at]),
                "--neighbour".to_owned(),
                NAMES[other].to_owned(),
                relays[other].to_string(),
            ];
            program.start(NAMES[at], Role::Measured, &args, &homes.log(at, "node"))
        };
        let mut processes = [node(A, sessions)?, node(B, 0)?];
        let control = |at: At| Control::at(&homes.each[at].control);
        let controls = [control(A)?, control(B)?];
        for (process, control) in processes.iter_mut().zip(&controls) {
            wait_for(process.name().to_owned().as_str(), LONG, || {
                process.check()?;
                Ok(control.status().ok())
            })?;
        }
        wait_for_peer(&controls[A], NAMES[A], NAMES[B])?;
        wait_for_peer(&controls[B], NAMES[B], NAMES[A])?;
        let pair = Self { homes, processes, controls };
        pair.wait_for(A, sessions)?;
        Ok(pair)
    }

    fn wait_for(&self, at: At, sessions: u32) -> Result<()> {
        wait_for(&format!("{sessions} sessions at {}", NAMES[at]), LONG, || {
            let status = self.controls[at].status()?;
            let active = status.sessions.get("active").copied().unwrap_or(0);
            Ok((active == sessions as usize).then_some(()))
        })
    }

    /// Moves all sessions. On a busy machine a pause may take longer than its bound,
    /// and the session goes on at its source; then it is moved again, which counts as
    /// time.
    fn move_all(
        &self,
        from: At,
        sessions: u32,
        mut progress: impl FnMut(Progress),
    ) -> Result<Moved> {
        let (mut moved, mut again, mut pauses) = (0, 0, Spread::default());
        let began = clock::now();
        for attempt in 0..ATTEMPTS {
            let (control, to) = (&self.controls[from], NAMES[1 - from]);
            let summary = control.transfer(None, to, Mode::Predictive, LONG, &mut progress)?;
            moved += summary.moved;
            again += summary.aborted;
            if attempt == 0 {
                let (p50, p99, max) = (summary.gap_us_p50, summary.gap_us_p99, summary.gap_us_max);
                pauses = Spread { p50, p99, max };
            }
            if moved == sessions as usize {
                let took = since(began);
                self.wait_for(1 - from, sessions)?;
                return Ok(Moved { took, again, pauses });
            }
            let stuck = summary.refused + summary.in_doubt + summary.lost;
            ensure!(stuck == 0, "of {sessions}: {:?}", summary.failures.first());
        }
        bail!("only {moved} of {sessions} sessions moved in {ATTEMPTS} attempts")
    }

    fn rss(&self, at: At) -> Result<u64> {
        self.processes[at].rss_kib()
    }
}

fn since(began: Instant) -> Duration {
    clock::now().saturating_duration_since(began)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Measures one size.
///
/// # Errors
/// If a process fails or not all sessions move.
pub fn run(
    program: &Program,
    sessions: u32,
    windows: Windows,
    mut progress: impl FnMut(Progress),
) -> Result<Run> {
    let pair = Pair::start(program, sessions, windows)?;
    let rss_kib_source_before = pair.rss(A)?;
    let mut moved = pair.move_all(A, sessions, &mut progress)?;
    let (rss_kib_source, rss_kib_target) = (pair.rss(A)?, pair.rss(B)?);
    let mut times = vec![moved.took];
    if sessions <= SMALL {
        for repeat in 1..REPEATS {
            let from = if repeat % 2 == 1 { B } else { A };
            moved = pair.move_all(from, sessions, &mut progress)?;
            times.push(moved.took);
        }
    }
    let took = median(times).as_secs_f64();
    let bytes_per_context = bytes_per_context()?;
    let bytes = bytes_per_context as u64 * u64::from(sessions);
    let bare = bare_stream(program, &pair.homes, bytes)?.as_secs_f64();
    Ok(Run {
        sessions,
        sessions_per_s: f64::from(sessions) / took,
        bytes_per_context,
        ratio_to_bare_stream: bare / took,
        bare_bytes_per_s: bytes as f64 / bare,
        moved_again: moved.again,
        pause_us_p50: moved.pauses.p50,
        pause_us_p99: moved.pauses.p99,
        rss_kib_source,
        rss_kib_target,
        rss_kib_source_before,
    })
}

/// The same octets on a bare stream between this process and another one: the median
/// time of a few.
///
/// # Errors
/// If they do not arrive.
pub fn bare_stream(program: &Program, homes: &Homes, bytes: u64) -> Result<Duration> {
    let listen: SocketAddr = free_address()?;
    let pki = homes.pki.display().to_string();
    let listen_at = listen.to_string();
    let args = ["bare", "--pki", &pki, "--name", NAMES[B], "--listen", &listen_at];
    let mut process =
        program.start("the bare stream", Role::Measured, &args, &homes.log(B, "bare"))?;
    let from = End { pki: homes.pki.clone(), name: NAMES[A].parse()? };
    let to = NAMES[B].parse()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let times = runtime.block_on(async {
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            times.push(bare::send(&from, &to, listen, bytes).await?);
        }
        anyhow::Ok(times)
    });
    process.check()?;
    Ok(median(times.context("the bare stream")?))
}

/// Moves single sessions, one after the other, as an operator would.
///
/// # Errors
/// If a process fails or a session does not move.
pub fn singles(program: &Program, windows: Windows) -> Result<Spread> {
    let pair = Pair::start(program, SINGLES as u32, windows)?;
    let sessions = pair.controls[A].sessions()?;
    let mut times = Vec::with_capacity(SINGLES);
    for session in sessions {
        let began = clock::now();
        let one = Some(vec![session.session]);
        let summary = pair.controls[A].transfer(one, NAMES[B], Mode::Predictive, LONG, |_| ())?;
        times.push(since(began));
        ensure!(summary.moved == 1, "{:?}", summary.failures);
    }
    Ok(Spread::of(times))
}
