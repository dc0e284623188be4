//! Each example runs to its end and says what it should.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

/// What an example printed; it must have ended well.
fn run(example: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "-p", "examples", "--example", example])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {}\n{said}\n{complained}", output.status);
    said
}

#[test]
fn a_predictive_transfer_loses_nothing() {
    let said = run("predictive_transfer");
    let order = [
        "a -> b  Pctd for 3 sessions",
        "b -> a  Ctdr for 3 sessions",
        "COMMITTED",
        "a -> b  Ctd for 3 sessions",
        "ACTIVE",
        "b -> a  Ctdr for 3 sessions",
        "MOVED",
        "a says    3 sessions have moved",
        "0 lost, 0 duplicated",
        "a holds 0 sessions, b 3",
    ];
    let mut lines = said.lines();
    for wanted in order {
        assert!(lines.any(|line| line.contains(wanted)), "`{wanted}` is not in its place:\n{said}");
    }
}

#[test]
fn a_plugin_of_ones_own_conforms() {
    assert!(run("own_gateway_plugin").contains("The plugin conforms"));
}

#[test]
fn a_controller_triggers_a_handover() {
    let said = run("controller");
    for wanted in ["the controller orders 5 sessions", "b accepts", "b has all five; 0 packets"] {
        assert!(said.contains(wanted), "`{wanted}` is missing:\n{said}");
    }
}
