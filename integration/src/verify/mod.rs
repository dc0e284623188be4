//! `cargo verify`: the one command that says whether the tree is good.
//!
//! Each check is a step with a name. Steps run one after the other, since the
//! machines are small and some of them measure; a failed step does not stop the
//! others. The closing line counts tests and the steps that are no tests.

mod steps;

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;

/// Runs every check of the repository and says what it skipped, and why.
#[derive(Debug, Parser)]
#[command(name = "verify", bin_name = "cargo verify")]
struct Args {
    /// Also the long ones: every lab scenario, longer searches and fuzzing.
    #[arg(long)]
    full: bool,
    /// Only steps whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Names the steps and ends.
    #[arg(long)]
    list: bool,
}

/// One check.
pub(crate) struct Step {
    name: &'static str,
    act: Act,
}

/// Looks at the repository; says what it found, or what is wrong.
type Look = Box<dyn FnOnce(&Path) -> Result<String, String>>;

/// What a step does.
enum Act {
    /// Runs a command and succeeds as it does. Test results in its output are
    /// counted.
    Run(Command),
    /// Looks at something by itself; the error says what is wrong.
    Look(Look),
    /// Cannot be done here.
    Skip(String),
}

#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs the steps.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = args.into_iter().skip_while(|arg| arg == "--");
    let args = Args::parse_from([OsString::from("verify")].into_iter().chain(args));
    let root = root();
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let mut skips = Vec::new();
    for step in steps::all(&root, args.full) {
        if args.only.as_ref().is_some_and(|text| !step.name.contains(text.as_str())) {
            continue;
        }
        if args.list {
            println!("{}", step.name);
            continue;
        }
        println!("== {}", step.name);
        let begun = now();
        match step.act {
            Act::Skip(why) => {
                println!("   skipped: {why}");
                tally.skipped += 1;
                skips.push(format!("{}: {why}", step.name));
            }
            Act::Look(look) => match look(&root) {
                Ok(found) => {
                    println!("   {found}");
                    tally.passed += 1;
                }
                Err(wrong) => {
                    println!("   FAILED: {wrong}");
                    tally.failed += 1;
                    failures.push(step.name);
                }
            },
            Act::Run(command) => {
                let result = run(command, &root);
                tally.passed += result.tests.passed;
                tally.failed += result.tests.failed;
                tally.skipped += result.tests.skipped;
                if result.tests.skipped > 0 {
                    skips.push(format!("{}: {} tests ignored", step.name, result.tests.skipped));
                }
                let counted = result.tests.passed + result.tests.failed > 0;
                match (result.success, counted) {
                    (true, true) => {}
                    (true, false) => tally.passed += 1,
                    (false, _) => {
                        tally.failed += u64::from(result.tests.failed == 0);
                        failures.push(step.name);
                        println!("   FAILED");
                    }
                }
            }
        }
        println!("   {:.1} s", begun.elapsed().as_secs_f64());
    }
    if args.list {
        return ExitCode::SUCCESS;
    }
    println!();
    for skip in &skips {
        println!("skipped: {skip}");
    }
    for name in &failures {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if failures.is_empty() && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct RunResult {
    success: bool,
    tests: Tally,
}

/// Runs a command, shows its output as it comes, and counts test results in it.
fn run(mut command: Command, root: &Path) -> RunResult {
    let mut tests = Tally::default();
    let child = command.current_dir(root).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            println!("   cannot start {:?}: {e}", command.get_program());
            return RunResult { success: false, tests };
        }
    };
    if let Some(stdout) = child.stdout.take() {
        let reader = std::io::BufReader::new(stdout);
        for line in std::io::BufRead::lines(reader).map_while(Result::ok) {
            // A hundred lines of "running 0 tests" tell nobody anything.
            if !line.is_empty()
                && line != "running 0 tests"
                && !line.contains(" 0 passed; 0 failed; 0 ignored")
            {
                println!("{line}");
            }
            count(&line, &mut tests);
        }
    }
    let _ = std::io::stdout().flush();
    let success = child.wait().is_ok_and(|status| status.success());
    RunResult { success, tests }
}

/// Adds up a closing line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn count(line: &str, tests: &mut Tally) {
    let Some(result) = line.trim_start().strip_prefix("test result: ") else { return };
    for part in result.split([';', '.']) {
        let mut words = part.split_whitespace();
        if let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next())
        {
            match what {
                "passed" => tests.passed += number,
                "failed" => tests.failed += number,
                "ignored" => tests.skipped += number,
                _ => {}
            }
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "says how long each step took")]
fn now() -> Instant {
    Instant::now()
}

/// How long a fuzz target runs.
fn fuzz_time(full: bool) -> Duration {
    Duration::from_secs(if full { 120 } else { 10 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_results_are_added_up() {
        let mut tally = Tally::default();
        count(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out",
            &mut tally,
        );
        count("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured", &mut tally);
        count("running 12 tests", &mut tally);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (14, 3, 1));
    }
}
