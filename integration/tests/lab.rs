//! `lab list` and `lab run`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use serde_json::Value;

fn lab(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lab")).args(args).output().unwrap()
}

fn object(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn the_list_names_scenarios_and_what_they_need() {
    let output = lab(&["list", "--json"]);
    assert!(output.status.success());
    let list = object(&output);
    let scenarios = list["scenarios"].as_array().unwrap();
    assert!(scenarios.iter().any(|scenario| scenario["name"] == "embedded-predictive"));
    let on_a_kernel = scenarios.iter().find(|scenario| scenario["name"] == "guest").unwrap();
    assert_eq!(on_a_kernel["needs"][0], "kernel");
    assert!(!list["note"].as_str().unwrap().is_empty());
    let text = lab(&["list"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("embedded-crash"));
}

#[test]
fn an_unknown_scenario_fails_and_says_where_to_look() {
    let output = lab(&["run", "moon", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer = object(&output);
    assert_eq!(answer["ok"], false);
    assert!(answer["error"].as_str().unwrap().contains("cargo lab list"));
}

#[test]
fn a_scenario_runs() {
    let output = lab(&["run", "embedded-refused", "--json"]);
    let answer = object(&output);
    assert!(output.status.success(), "{answer:#}");
    assert_eq!(answer["scenario"], "embedded-refused");
    assert_eq!(answer["refused"], 10);
}
