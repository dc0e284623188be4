//! `cargo demo`: live sessions move between two gateways, and back, while their end
//! users and the inner network go on sending.

pub mod parts;
pub mod report;
pub mod show;
pub mod stage;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde_json::Value;

use self::{report::Report, show::Show, stage::Stage};
use crate::{
    clock,
    fleet::Configurations,
    process::Program,
    rig::{B, Settings},
};

/// The configurations of the sessions: one that both gateways know, and one that the
/// second gateway does not know.
pub const NAMES: Configurations = Configurations { movable: "demo", foreign: "only-at-a" };
/// A demo is short: a silent peer is given up sooner than by default, and so is what
/// it had staged.
const IMPATIENT: &str = "
[transport]
heartbeat_ms = 250
dead_after_ms = 1500
[transfer]
request_retry_ms = 500
staged_timeout_ms = 8000
";
/// Rounds of pauses that a batch has at least, if it has so many sessions.
const ROUNDS: usize = 16;
/// Sessions that the second gateway refuses, beside those that can move.
const GUESTS: usize = 10;

/// What is played.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sessions that can move.
    pub sessions: usize,
    /// Packets per second of each session, each way.
    pub rate: u32,
    /// Which parts, in this order.
    pub parts: Vec<PartName>,
    /// A rule of the protocol that is broken on purpose.
    pub sabotage: Option<Sabotage>,
}

/// The parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PartName {
    /// All sessions move in advance.
    Predictive,
    /// All sessions are asked for by the target.
    Reactive,
    /// Sessions that the target does not take.
    Refused,
    /// A batch that is stopped on the way.
    Aborted,
    /// The target's daemon dies in the middle.
    Crash,
}

/// A rule of the protocol that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// The source does not stop sessions that it gave away.
    TwoOwners,
    /// The target uses sequence numbers that the source has used.
    SequenceReuse,
}

impl Sabotage {
    /// What the gateways call it.
    fn at_the_gateway(self) -> &'static str {
        match self {
            Self::TwoOwners => "no-pause",
            Self::SequenceReuse => "no-grant",
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        let parts = PartName::value_variants().to_vec();
        Self { sessions: 1000, rate: 20, parts, sabotage: None }
    }
}

impl Plan {
    /// Sessions that the second gateway refuses; only where that is shown.
    pub fn guests(&self) -> usize {
        if self.parts.contains(&PartName::Refused) { GUESTS } else { 0 }
    }

    /// How the processes are set up.
    pub fn settings(&self) -> Settings {
        // A batch of any size takes several rounds, so that it can be stopped between.
        let pause_window = (self.sessions / ROUNDS).clamp(1, 64);
        let daemon = [(); 2].map(|()| format!("{IMPATIENT}pause_window = {pause_window}\n"));
        let mut settings = Settings { daemon, ..Settings::default() };
        settings.gateway[B].extend(["--configuration", NAMES.movable].map(str::to_owned));
        if let Some(sabotage) = self.sabotage {
            for gateway in &mut settings.gateway {
                gateway.extend(["--sabotage", sabotage.at_the_gateway()].map(str::to_owned));
            }
        }
        settings
    }
}

#[derive(Parser)]
#[command(
    name = "demo",
    version,
    about = "Moves live IPsec sessions between two gateways while they carry traffic",
    after_help = "Needs no root and no configuration, opens only ports on loopback, and leaves nothing behind."
)]
struct Cli {
    /// End with one JSON object and draw nothing
    #[arg(long)]
    json: bool,
    /// Sessions
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    sessions: u16,
    /// Packets per second of each session, each way
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_enum)]
    parts: Vec<PartName>,
    /// Break a rule on purpose
    #[arg(long, hide = true, value_enum)]
    sabotage: Option<Sabotage>,
}

/// `cargo demo`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let mut plan = Plan {
        sessions: cli.sessions.into(),
        rate: cli.rate,
        sabotage: cli.sabotage,
        ..Plan::default()
    };
    if !cli.parts.is_empty() {
        plan.parts = cli.parts;
    }
    run_and_tell(&plan, &Show::new(cli.json), cli.json, None)
}

/// Plays the parts, says how it went, and fails if a figure is not as it must be.
pub fn run_and_tell(plan: &Plan, show: &Show, as_json: bool, scenario: Option<&str>) -> ExitCode {
    let report = match Program::current().map_err(Into::into).and_then(|p| run(plan, show, &p)) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("demo: {error:#}");
            if as_json {
                let error = format!("{error:#}");
                println!("{}", serde_json::json!({ "ok": false, "failures": [error] }));
            }
            return ExitCode::FAILURE;
        }
    };
    if as_json {
        let mut object = serde_json::to_value(&report).unwrap_or_default();
        if let (Some(scenario), Value::Object(fields)) = (scenario, &mut object) {
            fields.insert("scenario".to_owned(), scenario.into());
        }
        println!("{object}");
    } else {
        println!("\n{}", report.table());
        for failure in &report.failures {
            println!("not as it must be: {failure}");
        }
        let end = if report.ok { "all as it must be" } else { "FAILED" };
        println!("{end}, in {:.0} s", report.seconds);
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays the parts.
///
/// # Errors
/// If the stage cannot be set; what goes wrong on it stands in the report.
pub fn run(plan: &Plan, show: &Show, program: &Program) -> Result<Report> {
    let began = clock::now();
    let mut stage = Stage::set(plan, show, program)?;
    let mut parts = Vec::new();
    let mut failures = Vec::new();
    for name in &plan.parts {
        let played = match name {
            PartName::Predictive => parts::predictive(&mut stage),
            PartName::Reactive => parts::reactive(&mut stage),
            PartName::Refused => parts::refused(&mut stage),
            PartName::Aborted => parts::aborted(&mut stage),
            PartName::Crash => parts::crash(&mut stage),
        };
        match played {
            Ok(part) => parts.push(part),
            Err(error) => {
                failures.push(format!("{name:?}: {error:#}").to_lowercase());
                break;
            }
        }
    }
    let observed = stage.wire.observer().figures();
    let seconds = stage::since(began).as_secs_f64();
    let mut report = Report::new(plan.sessions, plan.rate, seconds, &observed, parts, failures);
    if !report.ok {
        report.failures.push(stage::kept(&mut stage.rig));
    }
    Ok(report)
}
