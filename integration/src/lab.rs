//! Scenarios, one at a time. Those that need a kernel of their own come with the
//! gateways of the Linux kernel; what there is now runs on embedded gateways, without
//! root and without anything installed.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::demo::{self, PartName, Plan, show::Show};

/// Sessions of a scenario on embedded gateways.
const SESSIONS: usize = 200;

/// A thing that can be run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it needs beside Rust.
    pub needs: &'static [&'static str],
    /// What it shows.
    pub shows: &'static str,
    #[serde(skip)]
    part: PartName,
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "embedded-predictive",
        needs: &[],
        shows: "sessions with traffic move in advance; no packet is lost",
        part: PartName::Predictive,
    },
    Scenario {
        name: "embedded-reactive",
        needs: &[],
        shows: "the target asks for sessions under an order that the source knows",
        part: PartName::Reactive,
    },
    Scenario {
        name: "embedded-refused",
        needs: &[],
        shows: "a session that the target refuses goes on at its source",
        part: PartName::Refused,
    },
    Scenario {
        name: "embedded-aborted",
        needs: &[],
        shows: "a batch is stopped on the way; what is not committed goes on at its source",
        part: PartName::Aborted,
    },
    Scenario {
        name: "embedded-crash",
        needs: &[],
        shows: "the target's daemon is killed in the middle; both journals settle each session",
        part: PartName::Crash,
    },
];

/// What a list without scenarios on a kernel says.
const NOTE: &str = "all scenarios run on embedded gateways; there are none on a Linux kernel yet";

#[derive(Parser)]
#[command(name = "lab", about = "Runs one scenario", version)]
struct Cli {
    /// End with one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names the scenarios
    List,
    /// Runs one
    Run {
        /// Which
        name: String,
    },
}

/// `cargo lab`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command {
        Command::List => list(cli.json),
        Command::Run { name } => run(&name, cli.json),
    }
}

fn list(as_json: bool) -> ExitCode {
    if as_json {
        println!("{}", json!({ "scenarios": SCENARIOS, "note": NOTE }));
    } else {
        for scenario in SCENARIOS {
            println!("{:<22} {}", scenario.name, scenario.shows);
        }
        println!("\n{NOTE}");
    }
    ExitCode::SUCCESS
}

fn run(name: &str, as_json: bool) -> ExitCode {
    let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == name) else {
        let error = format!("there is no scenario `{name}`: see `cargo lab list`");
        eprintln!("{error}");
        if as_json {
            println!("{}", json!({ "scenario": name, "ok": false, "error": error }));
        }
        return ExitCode::FAILURE;
    };
    let plan = Plan { sessions: SESSIONS, parts: vec![scenario.part], ..Plan::default() };
    demo::run_and_tell(&plan, &Show::new(as_json), as_json, Some(scenario.name))
}
