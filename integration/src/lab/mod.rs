//! `cargo lab`: scenarios, one at a time. Some run on embedded gateways, without root
//! and without anything installed; the others in a guest: user-mode Linux on the
//! host's own file system, with real strongSwan.

pub mod charon;
pub mod embedded;
pub mod gateway;
pub mod guest;
pub mod host;
pub mod inside;
pub mod kernel;
pub mod logs;
pub mod net;
pub mod observer;
pub mod packages;
pub mod report;
pub mod scenarios;
pub mod tap;
pub mod traffic;
pub mod world;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use serde_json::json;

pub use guest::keep_kernel;
pub use packages::obstacle;

#[derive(Parser)]
#[command(name = "lab", about = "Runs scenarios", version)]
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
        /// Keeps logs and captures even if it passes
        #[arg(long)]
        keep: bool,
    },
    /// Runs the scenarios that need a kernel of their own, two at a time
    All {
        /// Only those that are short
        #[arg(long)]
        quick: bool,
    },
    /// The first process of a guest
    #[command(hide = true)]
    GuestInit {
        /// The folder of our programs on the host
        programs: PathBuf,
        /// The guest's folder on the host
        folder: PathBuf,
        /// What the kernel adds by itself; not read
        rest: Vec<String>,
    },
    /// The process in a guest that runs a scenario
    #[command(hide = true)]
    Guest,
}

/// `cargo lab`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command {
        Command::List => list(cli.json),
        Command::Run { name, keep } => run(&name, cli.json, keep),
        Command::All { quick } => host::run_all(quick, cli.json),
        Command::GuestInit { programs, folder, .. } => inside::init(&programs, &folder),
        Command::Guest => inside::scenario(),
    }
}

/// Whether these are the arguments of a program in a guest, which is the one that
/// booted it.
pub fn is_in_guest(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|word| word == "guest-init" || word == "guest")
}

fn list(as_json: bool) -> ExitCode {
    let obstacle = obstacle();
    let note = obstacle.clone().unwrap_or_else(|| "all of them can run here".into());
    if as_json {
        let embedded = embedded::ALL.iter().map(|s| json!({ "name": s.name, "shows": s.shows }));
        let kernel = scenarios::ALL.iter().map(
            |s| json!({ "name": s.name, "shows": s.shows, "needs": ["kernel"], "quick": s.quick }),
        );
        let all: Vec<_> = embedded.chain(kernel).collect();
        println!("{}", json!({ "scenarios": all, "note": note }));
        return ExitCode::SUCCESS;
    }
    for scenario in embedded::ALL {
        println!("{:<22} {}", scenario.name, scenario.shows);
    }
    for scenario in scenarios::ALL {
        println!("{:<22} {}", scenario.name, scenario.shows);
    }
    println!("\n{note}");
    ExitCode::SUCCESS
}

fn run(name: &str, as_json: bool, keep: bool) -> ExitCode {
    if let Some(scenario) = embedded::ALL.iter().find(|scenario| scenario.name == name) {
        return embedded::run(scenario, as_json);
    }
    if let Some(scenario) = scenarios::find(name) {
        return host::run_one(scenario, as_json, keep);
    }
    let error = format!("there is no scenario `{name}`: see `cargo lab list`");
    eprintln!("{error}");
    if as_json {
        println!("{}", json!({ "scenario": name, "ok": false, "error": error }));
    }
    ExitCode::FAILURE
}
