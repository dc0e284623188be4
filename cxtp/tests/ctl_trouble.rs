//! What goes wrong between `cxtpctl` and its user or its daemon, and what is said.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ctl_support;

use std::os::unix::net::UnixListener;

use socket2::{Domain, SockAddr, Socket, Type};

use ctl_support::{FakeDaemon, Then, id, run};

#[test]
fn wrong_usage_exits_with_2_and_says_what_to_write() {
    let id = id(1);
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage:"),
        (&["transfer", "--to", "b"], "<SESSION|--all>"),
        (&["transfer", "--all", &id, "--to", "b"], "cannot be used with"),
        (&["transfer", "--all"], "--to <GATEWAY>"),
        (&["transfer", "--all", "--to", "B"], "write 1 to 64 of a-z"),
        (&["show", "12"], "write 32 hexadecimal digits"),
        (&["resolve", &id, "maybe"], "resume-here, release-here"),
        (&["--timeout", "0", "status"], "a number of seconds above 0"),
        (&["frobnicate"], "unrecognized subcommand"),
    ];
    for (args, said) in cases {
        let ran = run(*args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(said), "{args:?}: {ran:?}");
    }
    let json = run(["show", "12", "--json"]).json();
    assert_eq!((json["exit"].as_u64(), json["error"]["status"].as_str()), (Some(2), Some("usage")));
}

#[test]
fn a_daemon_that_is_not_there_exits_with_3() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let at = socket.to_str().unwrap();
    let ran = run(["--socket", at, "status", "--json"]);
    assert_eq!(ran.code, 3);
    assert_eq!(ran.json()["error"]["status"], "unreachable");
    assert!(
        ran.stderr.contains("is cxtpd running") && ran.stderr.contains("CXTP_SOCKET"),
        "{ran:?}"
    );

    drop(UnixListener::bind(&socket).unwrap());
    let ran = run(["--socket", at, "status"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("cxtpd is not running"), "{ran:?}");

    let ran = run(["--socket", &"x".repeat(300), "status"]);
    assert_eq!(ran.code, 3, "{ran:?}");
}

#[test]
fn a_daemon_that_takes_no_calls_is_not_waited_for_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let address = SockAddr::unix(&path).unwrap();
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    // The queue takes one or two callers, whom nobody serves.
    let mut callers = Vec::new();
    loop {
        let caller = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        caller.set_nonblocking(true).unwrap();
        if caller.connect(&address).is_err() {
            break;
        }
        callers.push(caller);
        assert!(callers.len() < 100, "the queue has no end");
    }
    let ran = run(["--socket", path.to_str().unwrap(), "status"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("hangs or is overloaded"), "{ran:?}");
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let daemon = FakeDaemon::saying("{\"done\":{}}\n", Then::Close);
    let output = ctl_support::tool()
        .env("CXTP_SOCKET", daemon.socket())
        .args(["cancel", &id(1)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn an_answer_that_does_not_come_exits_with_6() {
    for words in ["", "{\"progress\":{\"sessions\":2,\"ended\":1,\"moved\":1}}\n", "{\"done\""] {
        let daemon = FakeDaemon::saying(words, Then::Hang);
        let ran = daemon.run(&["--timeout", "0.3", "transfer", "--all", "--to", "b", "--json"]);
        assert_eq!(ran.code, 6, "after {words:?}: {ran:?}");
        assert_eq!(ran.json()["error"]["status"], "no-answer");
        assert!(ran.stderr.contains("within 0.3 s"), "{ran:?}");
    }
}

#[test]
fn watching_for_some_time_ends_well_and_waiting_in_vain_does_not() {
    let daemon = FakeDaemon::saying("", Then::Hang);
    assert_eq!(daemon.run(&["--timeout", "0.2", "watch"]).code, 0);
    assert_eq!(daemon.run(&["--timeout", "0.2", "watch", "--count", "1"]).code, 6);
}

#[test]
fn a_daemon_that_ends_in_the_middle_exits_with_3() {
    for words in ["", "{\"done\":{}"] {
        let ran = FakeDaemon::saying(words, Then::Close).run(&["status", "--json"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert_eq!(ran.json()["error"]["status"], "daemon-ended");
    }
}

#[test]
fn what_is_not_the_control_api_exits_with_3() {
    let endless = "x".repeat((16 << 20) + 10_000);
    for words in ["SSH-2.0-x\n", "{\"done\":{\"name\":1}}\n", "\u{1b}[2J\n", "[]\n", &endless] {
        let ran = FakeDaemon::saying(words, Then::Close).run(&["status", "--json"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert_eq!(ran.json()["error"]["status"], "not-understood");
        assert!(!ran.stderr.contains('\u{1b}'), "{ran:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let binary = assert_cmd::cargo::cargo_bin!("cxtpctl");
    let script = format!("set -o pipefail; '{}' completions bash | head -n 1", binary.display());
    let status = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(status.status.success(), "{status:?}");
}
