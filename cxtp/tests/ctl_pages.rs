//! Help, manual pages and completions: all generated, all complete.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ctl_support;

use std::fs;

use ctl_support::run;

/// Every command that ends in an act.
const COMMANDS: [&[&str]; 19] = [
    &["status"],
    &["sessions"],
    &["show"],
    &["transfer"],
    &["pull"],
    &["cancel"],
    &["preflight"],
    &["resolve"],
    &["get"],
    &["put"],
    &["watch"],
    &["pki"],
    &["pki", "init"],
    &["pki", "issue"],
    &["pki", "config"],
    &["order"],
    &["order", "issue"],
    &["completions"],
    &["man"],
];

#[test]
fn help_says_all_commands_and_exit_codes() {
    let ran = run(["--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    insta::assert_snapshot!("help", ran.stdout);
}

#[test]
fn help_of_a_command_says_its_arguments() {
    for command in ["transfer", "get", "resolve"] {
        let ran = run([command, "--help"]);
        assert_eq!(ran.code, 0);
        insta::assert_snapshot!(format!("help-{command}"), ran.stdout);
    }
}

#[test]
fn every_command_has_help() {
    for command in COMMANDS {
        let ran = run(command.iter().copied().chain(["--help"]));
        assert_eq!(ran.code, 0, "{command:?}");
        let usage = format!("Usage: cxtpctl {}", command.join(" "));
        assert!(ran.stdout.contains(&usage), "{command:?}: {}", ran.stdout);
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    let ran = run(["man", "--dir", pages.to_str().unwrap(), "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let count = fs::read_dir(&pages).unwrap().count();
    assert_eq!((count, &ran.json()["pages"]), (COMMANDS.len() + 1, &serde_json::json!(count)));
    for command in COMMANDS.iter().copied().chain([&[] as &[&str]]) {
        let name = [&["cxtpctl"], command].concat().join("-");
        let page = fs::read_to_string(pages.join(format!("{name}.1"))).expect(&name);
        let escaped = name.replace('-', "\\-");
        assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
        assert!(page.contains(&escaped) || page.contains(&name), "{name}: {page}");
        assert!(page.contains(".SH \"EXIT STATUS\""), "{name}: {page}");
    }
    let ran = run(["man"]);
    assert!(ran.stdout.contains(".SH SUBCOMMANDS"), "{ran:?}");
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(["completions", shell]);
        assert_eq!(ran.code, 0);
        for word in ["preflight", "resolve", "expires-in", "--json"] {
            let word = if shell == "fish" { word.trim_start_matches('-') } else { word };
            assert!(ran.stdout.contains(word), "{shell} lacks {word}");
        }
        let json = run(["completions", shell, "--json"]).json();
        assert_eq!(json["script"], ran.stdout, "{shell}");
    }
}
