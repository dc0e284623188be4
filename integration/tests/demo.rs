//! The demo as a user starts it, small; and its detectors, each tripped on purpose.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use serde_json::Value;

fn demo(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_demo")).args(args).output().unwrap()
}

/// The last line on stdout.
fn object(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| {
        panic!("{error} in `{last}`; stderr: {}", String::from_utf8_lossy(&output.stderr))
    })
}

fn figure(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_else(|| panic!("no `{name}` in {object}"))
}

#[test]
fn a_small_demo_shows_every_part() {
    let output = demo(&["--json", "--sessions", "50"]);
    let object = object(&output);
    assert!(output.status.success(), "{object:#}");
    assert_eq!(object["failures"], serde_json::json!([]));
    let parts = object["parts"].as_array().unwrap();
    let names: Vec<_> = parts.iter().map(|part| part["part"].as_str().unwrap()).collect();
    assert_eq!(names, ["predictive", "reactive", "refused", "aborted", "crash"]);
    let [predictive, reactive, refused, aborted, crash] = parts.as_slice() else { panic!() };

    assert_eq!((figure(predictive, "moved"), figure(reactive, "moved")), (50, 50));
    assert!(figure(predictive, "handovers") >= 50, "the wire saw the moves");
    assert!(figure(refused, "refused") > 0 && figure(refused, "moved") == 0);
    assert!(figure(aborted, "aborted") > 0);
    assert_eq!(figure(crash, "moved") + figure(crash, "aborted"), 50);

    for part in parts {
        for nothing in ["packets_lost", "packets_duplicated", "owner_violations", "seq_reuse"] {
            assert_eq!(figure(part, nothing), 0, "{nothing} in {part:#}");
        }
    }
    let expected = figure(&object, "sessions") as f64
        * figure(&object, "rate") as f64
        * 2.0
        * object["traffic_seconds"].as_f64().unwrap();
    assert!(figure(&object, "packets_sent") as f64 >= 0.95 * expected, "{object:#}");
    for name in ["gap_us_p50", "gap_us_p99", "gap_us_max", "refused", "aborted"] {
        assert!(figure(&object, name) > 0, "{name}");
    }
}

#[test]
fn two_owners_make_their_figure_rise() {
    let output =
        demo(&["--json", "--sessions", "50", "--parts", "predictive", "--sabotage", "two-owners"]);
    let object = object(&output);
    assert!(!output.status.success());
    assert!(figure(&object, "owner_violations") > 0, "{object:#}");
}

#[test]
fn numbers_used_twice_make_their_figure_rise() {
    let output = demo(&[
        "--json",
        "--sessions",
        "50",
        "--parts",
        "predictive",
        "--sabotage",
        "sequence-reuse",
    ]);
    let object = object(&output);
    assert!(!output.status.success());
    assert!(figure(&object, "seq_reuse") > 0, "{object:#}");
}

#[test]
fn a_person_gets_a_table() {
    let output = demo(&["--", "--sessions", "20", "--parts", "predictive"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for word in ["sessions", "moved", "refused", "lost", "gap p50", "predictive"] {
        assert!(text.contains(word), "no `{word}` in:\n{text}");
    }
}

#[test]
fn nonsense_is_answered_with_what_would_be_right() {
    let output = demo(&["--sessions", "0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1..=10000"));
}
