//! Scenarios on embedded gateways: without root and without anything installed.

use std::process::ExitCode;

use serde::Serialize;

use crate::demo::{self, PartName, Plan, show::Show};

/// Sessions of a scenario.
const SESSIONS: usize = 200;

/// A part of the demo that can be run alone.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    #[serde(skip)]
    part: PartName,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "embedded-predictive",
        shows: "sessions with traffic move in advance; no packet is lost",
        part: PartName::Predictive,
    },
    Scenario {
        name: "embedded-reactive",
        shows: "the target asks for sessions under an order that the source knows",
        part: PartName::Reactive,
    },
    Scenario {
        name: "embedded-refused",
        shows: "a session that the target refuses goes on at its source",
        part: PartName::Refused,
    },
    Scenario {
        name: "embedded-aborted",
        shows: "a batch is stopped on the way; what is not committed goes on at its source",
        part: PartName::Aborted,
    },
    Scenario {
        name: "embedded-crash",
        shows: "the target's daemon is killed in the middle; both journals settle each session",
        part: PartName::Crash,
    },
];

/// Runs a scenario.
pub fn run(scenario: &Scenario, as_json: bool) -> ExitCode {
    let plan = Plan { sessions: SESSIONS, parts: vec![scenario.part], ..Plan::default() };
    demo::run_and_tell(&plan, &Show::new(as_json), as_json, Some(scenario.name))
}
