//! The kernel tests of our crates: ordinary ignored tests, which need root and a
//! kernel with ESP, and find both here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::lab::inside::LAB;

/// Lines of a failure that are told.
const LINES: usize = 6;
/// And characters.
const CHARACTERS: usize = 600;

/// Runs them.
///
/// # Errors
/// If there are none or one cannot be started.
pub fn run(programs: &[PathBuf]) -> Result<Value> {
    if programs.is_empty() {
        bail!("there is no `tests/kernel_*.rs`");
    }
    let folder = Path::new(LAB).join("run");
    fs::create_dir_all(&folder)?;
    let (mut passed, mut failed) = (0, 0);
    let (mut failures, mut each) = (Vec::new(), serde_json::Map::new());
    for program in programs {
        let name = program.file_name().context("a test without a name")?.to_string_lossy();
        // Without the hash that cargo adds.
        let name = name.rsplit_once('-').map_or(name.as_ref(), |(name, _)| name).to_owned();
        let output = Command::new(program)
            .args(["--ignored", "--test-threads=1"])
            .current_dir("/tmp")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let said = [output.stdout, output.stderr].concat();
        fs::write(folder.join(format!("{name}.log")), &said)?;
        let said = String::from_utf8_lossy(&said);
        let results = said.lines().filter_map(|line| line.strip_prefix("test "));
        let results: Vec<_> = results.filter_map(|line| line.split_once(" ... ")).collect();
        let ok = results.iter().filter(|(_, result)| *result == "ok").count();
        let bad = results.iter().filter(|(_, result)| result.starts_with("FAILED"));
        let bad: Vec<_> =
            bad.map(|(test, _)| format!("{name}: {test}: {}", why(&said, test))).collect();
        if !output.status.success() && bad.is_empty() {
            failures.push(format!("{name}: {}", output.status));
            failed += 1;
        }
        passed += ok;
        failed += bad.len();
        failures.extend(bad);
        each.insert(name, json!(ok));
    }
    let fine = failed == 0 && passed > 0;
    Ok(json!({
        "passed": fine, "tests_passed": passed, "tests_failed": failed, "failures": failures,
        "tests": each,
    }))
}

/// The first words of a test that failed: where, and what it found.
fn why(said: &str, test: &str) -> String {
    let Some((_, words)) = said.split_once(&format!("thread '{test}'")) else {
        return "without a word".into();
    };
    let lines: Vec<_> = words.lines().take(LINES).map(str::trim).collect();
    lines.join(" ").chars().take(CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::why;

    #[test]
    fn a_failure_is_told_with_its_place_and_its_reason() {
        let said = "test a ... FAILED\nthread 'a' (7) panicked at x.rs:3:5:\nleft: 1\nright: 2\n";
        assert_eq!(why(said, "a"), "(7) panicked at x.rs:3:5: left: 1 right: 2");
        assert_eq!(why(said, "b"), "without a word");
    }
}
