//! A small measurement from end to end; what it says of speed is not looked at.

use std::{process::Command, time::Duration};

use integration::{homes::Homes, measure::transfer::bare_stream, process::Program};

use serde_json::Value;

#[test]
fn a_small_measurement_has_every_figure() {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_measure"))
        .args(["--", "transfer", "--json", "--sessions", "100,300", "--out"])
        .arg(out.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let object: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let runs = object["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        for name in [
            "sessions",
            "sessions_per_s",
            "bytes_per_context",
            "ratio_to_bare_stream",
            "rss_kib_source",
            "rss_kib_target",
        ] {
            assert!(run[name].as_f64().unwrap() > 0.0, "{name} in {run}");
        }
    }
    let single = |name: &str| object[name].as_u64().unwrap();
    assert!(single("single_us_p50") > 0 && single("single_us_p50") <= single("single_us_p99"));
    for file in ["transfer.json", "transfer.txt", "transfer.svg"] {
        assert!(out.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_bare_stream_takes_its_time() {
    let program = Program::at(env!("CARGO_BIN_EXE_measure"));
    let homes = Homes::make(&program, &Default::default()).unwrap();
    let took = bare_stream(&program, &homes, 10 << 20).unwrap();
    println!("{} octets in {took:?}", 10 << 20);
    assert!(took > Duration::ZERO);
}
