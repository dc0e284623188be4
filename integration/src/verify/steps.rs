//! The steps of `cargo verify`, in their order.

use std::{path::Path, process::Command};

use super::{Act, Step, fuzz_time};

/// All steps.
pub(super) fn all(root: &Path, full: bool) -> Vec<Step> {
    let mut steps = vec![
        run("format", cargo(&["fmt", "--all", "--check"])),
        run(
            "clippy",
            cargo(&[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        run(
            "engine alone compiles",
            cargo(&["check", "--locked", "--quiet", "-p", "cxtp", "--no-default-features"]),
        ),
        look("engine alone has no runtime, no QUIC and no TLS in its tree", engine_tree),
        look("one version of rustls and of ring", single_versions),
        look("no file of code above 500 lines", file_lengths),
        deny(root),
        run("documentation", {
            let mut doc = cargo(&[
                "doc",
                "--locked",
                "--quiet",
                "--no-deps",
                "--workspace",
                "--document-private-items",
            ]);
            doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
            doc
        }),
        run(
            "programs",
            cargo(&["build", "--locked", "--quiet", "--workspace", "--bins", "--examples"]),
        ),
        run(
            "unit, property and hostile-peer tests",
            cargo(&[
                "test",
                "--locked",
                "--quiet",
                "--workspace",
                "--exclude",
                "integration",
                // As the integration tests have it, so that it is built once.
                "--features",
                "cxtp/sabotage",
                "--no-fail-fast",
            ]),
        ),
        // One at a time: these run processes with traffic and count every packet.
        run(
            "search, simulation, crashes, demo and README",
            cargo(&[
                "test",
                "--locked",
                "-p",
                "integration",
                "--no-fail-fast",
                "--",
                "--test-threads=1",
                "--nocapture",
            ]),
        ),
        run("the demo at full size", cargo(&["demo", "--", "--json"])),
        run("the lab answers", cargo(&["lab", "list"])),
    ];
    steps.extend(fuzz(root, full));
    steps.push(lab(full));
    steps
}

fn run(name: &'static str, command: Command) -> Step {
    Step { name, act: Act::Run(command) }
}

fn look(name: &'static str, look: fn(&Path) -> Result<String, String>) -> Step {
    Step { name, act: Act::Look(Box::new(look)) }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args);
    command
}

/// What a command prints, or what it says when it fails.
fn output(command: &mut Command, root: &Path) -> Result<String, String> {
    let output = command.current_dir(root).output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn engine_tree(root: &Path) -> Result<String, String> {
    let tree = output(
        &mut cargo(&[
            "tree",
            "--locked",
            "-p",
            "cxtp",
            "--no-default-features",
            "-e",
            "normal",
            "--prefix",
            "none",
        ]),
        root,
    )?;
    let mut names: Vec<_> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_unstable();
    names.dedup();
    for outside in ["tokio", "quinn", "quinn-proto", "rustls", "gateway-plugin"] {
        if names.contains(&outside) {
            return Err(format!("the engine's tree has {outside}: make the dependency optional"));
        }
    }
    if !names.contains(&"protocol-spec") {
        return Err("the engine's tree could not be read".into());
    }
    Ok(format!("{} packages", names.len()))
}

fn single_versions(root: &Path) -> Result<String, String> {
    let lock =
        std::fs::read_to_string(root.join("Cargo.lock")).map_err(|e| format!("Cargo.lock: {e}"))?;
    let mut found = Vec::new();
    for name in ["rustls", "ring"] {
        let wanted = format!("name = \"{name}\"");
        let versions: Vec<_> = lock
            .lines()
            .zip(lock.lines().skip(1))
            .filter(|(line, _)| *line == wanted)
            .filter_map(|(_, version)| version.split('"').nth(1))
            .collect();
        match versions.as_slice() {
            [version] => found.push(format!("{name} {version}")),
            [] => return Err(format!("{name} is not in Cargo.lock")),
            many => return Err(format!("{name} has {} versions: {}", many.len(), many.join(", "))),
        }
    }
    Ok(found.join(", "))
}

/// Long files do more than one thing.
fn file_lengths(root: &Path) -> Result<String, String> {
    let files = output(Command::new("git").args(["ls-files", "*.rs"]), root)?;
    let mut longest = (0, String::new());
    let mut long = Vec::new();
    for file in files.lines() {
        let lines =
            std::fs::read_to_string(root.join(file)).map(|text| text.lines().count()).unwrap_or(0);
        if lines > 500 {
            long.push(format!("{file} has {lines}"));
        }
        longest = longest.max((lines, file.to_owned()));
    }
    if long.is_empty() {
        Ok(format!("longest: {} with {} lines", longest.1, longest.0))
    } else {
        Err(long.join(", "))
    }
}

/// Licences, bans, duplicates and sources. Installed under `target/` if missing.
fn deny(root: &Path) -> Step {
    let name = "dependencies: licences, bans, one version each";
    let local = root.join("target/tools/bin/cargo-deny");
    let installed =
        Command::new("cargo-deny").arg("--version").output().is_ok_and(|o| o.status.success());
    let act = Act::Look(Box::new(move |root| {
        let program = if installed { "cargo-deny".into() } else { local.clone() };
        if !installed && !local.exists() {
            println!("   installs cargo-deny into target/tools (a few minutes, once)");
            output(
                &mut cargo(&[
                    "install",
                    "--quiet",
                    "--locked",
                    "--root",
                    "target/tools",
                    // It reads a few files once: built sooner matters more than run faster.
                    "--debug",
                    "cargo-deny",
                    "--version",
                    "0.20.2",
                ]),
                root,
            )?;
        }
        output(
            Command::new(program).args([
                "--all-features",
                "--log-level",
                "error",
                "check",
                "bans",
                "licenses",
                "sources",
            ]),
            root,
        )?;
        Ok("ok".into())
    }));
    Step { name, act }
}

/// The scenarios that need a kernel of their own, two guests at a time.
fn lab(full: bool) -> Step {
    let name = "lab scenarios";
    if let Some(why) = crate::lab::obstacle() {
        return Step { name, act: Act::Skip(why) };
    }
    run(name, cargo(if full { &["lab", "all"] } else { &["lab", "all", "--quick"] }))
}

/// Fuzz targets, where a nightly compiler can build them; their corpus is run by
/// an ordinary test in any case.
fn fuzz(root: &Path, full: bool) -> Vec<Step> {
    let name = "fuzzing";
    let nightly = Command::new("cargo")
        .args(["+nightly", "--version"])
        .output()
        .is_ok_and(|o| o.status.success());
    if !nightly {
        let why = "no nightly compiler; the corpus was run by the tests".into();
        return vec![Step { name, act: Act::Skip(why) }];
    }
    let mut command = Command::new("bash");
    command.arg(root.join("protocol-spec/fuzz/run.sh")).arg(fuzz_time(full).as_secs().to_string());
    vec![run(name, command)]
}
