//! Runs the fuzz corpus through the functions of the fuzz targets, on any
//! compiler.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use protocol_spec::fuzzing;

fn run(target: &str, function: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let octets = fs::read(entry.unwrap().path()).unwrap();
        function(&octets);
        // And its neighbours: cut anywhere, and each octet changed.
        for at in 0..octets.len() {
            function(&octets[..at]);
            for change in [1, 0x80, 0xff] {
                let mut changed = octets.clone();
                changed[at] ^= change;
                function(&changed);
            }
        }
        seeds += 1;
    }
    assert!(seeds >= 2, "{target} has {seeds} seeds");
}

#[test]
fn frame() {
    run("frame", fuzzing::frame);
}

#[test]
fn message() {
    run("message", fuzzing::message);
}

#[test]
fn context() {
    run("context", fuzzing::context);
}

#[test]
fn authority() {
    run("authority", fuzzing::authority);
}

#[test]
fn identity() {
    run("identity", fuzzing::identity);
}

#[test]
fn every_target_has_a_corpus_and_a_binary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut targets: Vec<String> = fs::read_dir(root.join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    targets.sort();
    assert_eq!(targets, ["authority", "context", "frame", "identity", "message"]);
    for target in targets {
        assert!(root.join("fuzz_targets").join(format!("{target}.rs")).is_file(), "{target}");
    }
}
