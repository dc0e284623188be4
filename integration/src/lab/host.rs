//! Scenarios in guests, seen from the host: what they need is there, they run, their
//! result is told.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Mutex,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    guest::{self, Job},
    kernel::{self, Kernel},
    packages,
    scenarios::{self, Scenario},
};

/// Guests that run at a time: each keeps one processor busy, and the machines are
/// small.
const AT_A_TIME: usize = 2;
/// Seconds that a measurement may take.
const MEASURING: u64 = 1500;

/// Runs one scenario and tells its result.
pub(super) fn run_one(scenario: &Scenario, as_json: bool, keep: bool) -> ExitCode {
    let prepared = prepare(&[scenario]);
    let result = match prepared {
        Ok((kernel, programs)) => run(scenario, &kernel, programs, keep),
        Err(error) => failed(scenario, &error),
    };
    let passed = result["passed"] == true;
    if as_json {
        println!("{result}");
    } else {
        println!("{}", text(&result));
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all scenarios, or the quick ones, several at a time.
pub(super) fn run_all(quick: bool, as_json: bool) -> ExitCode {
    let wanted: Vec<_> = scenarios::ALL.iter().filter(|s| s.quick || !quick).collect();
    if let Some(why) = packages::obstacle() {
        println!("skipped: {why}");
        println!("test result: ok. 0 passed; 0 failed; {} ignored", wanted.len());
        return ExitCode::SUCCESS;
    }
    let (kernel, programs) = match prepare(&wanted) {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("{error:#}");
            println!("test result: FAILED. 0 passed; {} failed; 0 ignored", wanted.len());
            return ExitCode::FAILURE;
        }
    };
    let waiting = Mutex::new(wanted.into_iter());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(scenario) = waiting.lock().ok().and_then(|mut next| next.next()) {
                    let result = run(scenario, &kernel, programs.clone(), false);
                    println!("{}", line(&result));
                    if let Ok(mut results) = results.lock() {
                        results.push(result);
                    }
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_default();
    let passed = results.iter().filter(|result| result["passed"] == true).count();
    let failed = results.len() - passed;
    // Last, where whoever looks for a reason looks first.
    for result in results.iter().filter(|result| result["passed"] != true) {
        println!("{}", text(result));
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; 0 ignored");
    if as_json {
        println!("{}", json!({ "passed": failed == 0, "scenarios": results }));
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures something in these sizes in a guest, which has the kernel tests too.
///
/// # Errors
/// What is missing, or what the guest says.
pub fn measure(what: &str, sizes: &[usize]) -> Result<Value> {
    let (kernel, programs) = prepare_for(&["gateway-plugin"])?;
    let job = Job {
        scenario: what.into(),
        sizes: sizes.to_vec(),
        limit: MEASURING,
        keep: std::env::var_os("CXTP_KEEP").is_some(),
        modules: !kernel.own,
        programs,
    };
    let guest::Outcome { result, kept } = guest::run(&kernel, &job)?;
    if result["passed"] != true {
        let kept = kept.map(|kept| format!("; logs are in {}", kept.display()));
        bail!("{}{}", result["error"].as_str().unwrap_or("no reason"), kept.unwrap_or_default());
    }
    Ok(result)
}

/// Installs, finds and builds what these scenarios need.
fn prepare(scenarios: &[&Scenario]) -> Result<(Kernel, Vec<PathBuf>)> {
    let mut packages: Vec<_> = scenarios.iter().flat_map(|s| s.tests_of).copied().collect();
    packages.sort_unstable();
    packages.dedup();
    prepare_for(&packages)
}

/// The same by the packages whose kernel tests are needed.
fn prepare_for(tests_of: &[&str]) -> Result<(Kernel, Vec<PathBuf>)> {
    if let Some(why) = packages::obstacle() {
        bail!("{why}");
    }
    packages::for_scenarios()?;
    let kernel = kernel::find_or_build()?;
    let mut programs = Vec::new();
    for package in tests_of {
        programs.extend(build_tests(package)?);
    }
    Ok((kernel, programs))
}

/// Builds the kernel tests of a package; their paths are relative to the folder of
/// our programs, which the guest mounts.
fn build_tests(package: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(package).join("tests");
    let tests = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = tests
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| name.starts_with("kernel_"))
        .collect();
    names.sort();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With this package, so that libraries have the same features and are built once.
    let ours = env!("CARGO_PKG_NAME");
    cargo.args([
        "test",
        "--locked",
        "--no-run",
        "--message-format=json",
        "-p",
        package,
        "-p",
        ours,
    ]);
    for name in &names {
        cargo.args(["--test", name]);
    }
    // Else they would lie elsewhere than this program.
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    if !output.status.success() {
        bail!("cannot build {names:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let ours = std::env::current_exe()?;
    let ours = ours.parent().context("this program lies in no folder")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found: Vec<_> = messages
        .filter(|message| message["target"]["kind"][0] == "test")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .filter_map(|path| path.strip_prefix(ours).map(Path::to_path_buf).ok())
        .collect();
    if found.len() != names.len() {
        bail!("{} of {names:?} lie below {}", found.len(), ours.display());
    }
    Ok(found)
}

fn run(scenario: &Scenario, kernel: &Kernel, programs: Vec<PathBuf>, keep: bool) -> Value {
    let job = Job {
        scenario: scenario.name.into(),
        sizes: Vec::new(),
        limit: scenario.limit,
        keep,
        modules: !kernel.own,
        programs,
    };
    match guest::run(kernel, &job) {
        Ok(outcome) => {
            let mut result = outcome.result;
            result["scenario"] = scenario.name.into();
            if let Some(kept) = outcome.kept {
                result["kept"] = kept.display().to_string().into();
            }
            result
        }
        Err(error) => failed(scenario, &error),
    }
}

fn failed(scenario: &Scenario, error: &anyhow::Error) -> Value {
    json!({ "scenario": scenario.name, "passed": false, "error": format!("{error:#}") })
}

/// What a result says in one line.
fn line(result: &Value) -> String {
    let name = result["scenario"].as_str().unwrap_or_default();
    let word = if result["passed"] == true { "passed" } else { "FAILED" };
    let figures = ["moved", "packets_sent", "packets_lost", "gap_ms_max", "gap_ms_baseline"];
    let mut line = format!("{name}: {word}");
    for figure in figures.iter().filter(|figure| !result[**figure].is_null()) {
        line.push_str(&format!(", {figure} {}", result[*figure]));
    }
    line
}

/// A result for a person: every figure of the JSON object, a line each.
fn text(result: &Value) -> String {
    let name = result["scenario"].as_str().unwrap_or_default();
    let word = if result["passed"] == true { "passed" } else { "FAILED" };
    let mut text = format!("{name}: {word}");
    for (key, value) in result.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "scenario" | "passed") {
            continue;
        }
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!("\n    {key:<22} {}", value.replace('\n', "\n        ")));
    }
    text
}
