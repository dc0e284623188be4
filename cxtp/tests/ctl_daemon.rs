//! Every command that speaks to the daemon: what it asks, what a person and a
//! script get, and the exit code.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ctl_support;

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

use cxtp::service::api::{
    Event, Failure, Line, Mode, PreflightReport, Progress, Refused, Request, Resolution, Sealed,
    Session, Status, Summary,
};
use serde_json::{Value, json};

use ctl_support::{FakeDaemon, id};

fn done(answer: impl serde::Serialize) -> Line {
    Line::Done(serde_json::to_value(answer).unwrap())
}

fn refused(status: &str, detail: &str) -> Refused {
    Refused { status: status.to_owned(), detail: detail.to_owned() }
}

fn failure(session: u8, outcome: &str, status: &str, detail: &str) -> Failure {
    Failure { session: id(session), outcome: outcome.into(), reason: refused(status, detail) }
}

fn session(number: u8, state: &str) -> Session {
    Session {
        session: id(number),
        state: state.to_owned(),
        epoch: 3,
        generation: 7,
        with: (state == "in-doubt").then(|| "b".to_owned()),
        reason: (state == "in-doubt").then(|| "b does not answer".to_owned()),
        step: None,
    }
}

fn summary() -> Summary {
    Summary {
        batch: id(0xba),
        sessions: 3,
        moved: 3,
        gap_us_p50: 950,
        gap_us_p99: 4_200,
        gap_us_max: 1_500_000,
        ..Summary::default()
    }
}

#[test]
fn status_shows_the_daemon_its_sessions_and_its_peers() {
    let status = Status {
        name: "a".into(),
        version: "0.1.0".into(),
        pid: 4242,
        gateway_epoch: 5,
        gateway: "embedded: up".into(),
        sessions: BTreeMap::from([
            ("active".into(), 10),
            ("in-doubt".into(), 2),
            ("lost".into(), 0),
        ]),
        batches: 1,
        peers: BTreeMap::from([
            ("b".into(), "up".into()),
            ("c".into(), "no route\u{1b}[31m".into()),
        ]),
    };
    let daemon = FakeDaemon::answering(&[done(&status)]);
    let ran = daemon.run(&["status"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert_eq!(daemon.asked(), Request::Status);
    insta::assert_snapshot!(ran.stdout, @r"
    gateway   a
    daemon    cxtpd 0.1.0, process 4242, life 5
    plugin    embedded: up
    sessions  12 sessions: 10 active, 2 in-doubt
    batches   1 running
    peers     b: up
              c: no route�[31m
    ");
    let json = daemon.run(&["--json", "status"]).json();
    assert_eq!(json["exit"], 0);
    assert_eq!(json["sessions"], json!({"active": 10, "in-doubt": 2, "lost": 0}));
    assert_eq!((&json["pid"], &json["gateway_epoch"]), (&json!(4242), &json!(5)));
}

#[test]
fn status_waits_until_all_is_up_if_told_so() {
    let status = |gateway: &str, b: &str| Status {
        name: "a".into(),
        version: "0.1.0".into(),
        pid: 1,
        gateway_epoch: 1,
        gateway: gateway.into(),
        sessions: BTreeMap::new(),
        batches: 0,
        peers: BTreeMap::from([("b".into(), b.into())]),
    };
    let ran = FakeDaemon::answering(&[done(status("up", "up"))]).run(&["status", "--wait"]);
    assert_eq!(ran.code, 0, "{ran:?}");

    let daemon = FakeDaemon::answering(&[done(status("up", "no route"))]);
    let ran = daemon.run(&["status", "--wait", "--timeout", "0.5", "--json"]);
    assert_eq!(ran.code, 6);
    let detail = ran.json()["error"]["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail, "within 0.5 s this did not come up: b: no route");

    let refused = FakeDaemon::answering(&[Line::Error(refused("busy", "later"))]);
    assert_eq!(refused.run(&["status", "--wait"]).code, 1, "asking again would not help");

    // The daemon starts only after it was asked.
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let ran = ctl_support::run(
        ["--socket", socket.to_str().unwrap(), "status", "--wait"]
            .into_iter()
            .chain(["--timeout", "0.2"]),
    );
    assert_eq!(ran.code, 3, "{ran:?}");
    let waiting = std::process::Command::new(assert_cmd::cargo::cargo_bin!("cxtpctl"))
        .args(["--socket", socket.to_str().unwrap(), "status", "--wait"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let daemon = FakeDaemon::answering(&[done(status("up", "up"))]);
    std::os::unix::fs::symlink(daemon.socket(), &socket).unwrap();
    assert!(waiting.wait_with_output().unwrap().status.success());
}

#[test]
fn sessions_come_in_chunks_and_are_listed_in_order() {
    let chunks = [
        Line::Sessions(vec![session(2, "active"), session(9, "in-doubt")]),
        Line::Sessions(vec![session(1, "active")]),
        done(json!({})),
    ];
    let daemon = FakeDaemon::answering(&chunks);
    let ran = daemon.run(&["sessions"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(daemon.asked(), Request::Sessions);
    insta::assert_snapshot!(ran.stdout, @r"
    SESSION                           STATE     EPOCH  GENERATION  WITH  REASON
    00000000000000000000000000000001  active    3      7           -     -
    00000000000000000000000000000002  active    3      7           -     -
    00000000000000000000000000000009  in-doubt  3      7           b     b does not answer
    3 sessions: 2 active, 1 in-doubt
    ");
    let json = daemon.run(&["sessions", "--state", "in-doubt", "--json"]).json();
    assert_eq!(json["count"], 1);
    assert_eq!(json["states"], json!({"in-doubt": 1}));
    assert_eq!(json["sessions"][0]["session"], id(9));
    assert_eq!(json["sessions"][0]["with"], "b");
}

#[test]
fn a_list_that_comes_whole_is_taken_as_well() {
    let daemon = FakeDaemon::answering(&[done([session(1, "active")])]);
    assert_eq!(daemon.run(&["sessions", "--json"]).json()["count"], 1);
}

#[test]
fn show_prints_whatever_the_daemon_tells() {
    let told = json!({"session": id(1), "children": [{"spi": "0x1"}], "with": null});
    let daemon = FakeDaemon::answering(&[done(&told)]);
    let ran = daemon.run(&["show", &id(1)]);
    assert_eq!(daemon.asked(), Request::Show { session: id(1) });
    assert_eq!(
        ran.stdout,
        format!("children:\n  -\n    spi: 0x1\nsession: {}\nwith: none\n", id(1))
    );
    let json = daemon.run(&["show", &id(1), "--json"]).json();
    assert_eq!(json["children"], told["children"]);
}

#[test]
fn transfer_moves_all_or_some() {
    let progress = Progress { sessions: 3, ended: 1, moved: 1 };
    let daemon = FakeDaemon::answering(&[Line::Progress(progress), done(summary())]);
    let ran = daemon.run(&["transfer", "--all", "--to", "b", "--mode", "predictive"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "no bar without a terminal");
    let all = Request::Transfer { sessions: None, to: "b".into(), mode: Mode::Predictive };
    assert_eq!(daemon.asked(), all);
    insta::assert_snapshot!(ran.stdout, @r"
    3 sessions: 3 moved
    gap: half within 950 us, 99 % within 4.2 ms, longest 1.50 s
    batch 000000000000000000000000000000ba
    ");
    let ran = daemon.run(&["transfer", &id(1), &id(2), &id(1), "--to", "b", "--mode=reactive"]);
    assert_eq!(ran.code, 0);
    let some = Some(vec![id(1), id(2)]);
    assert_eq!(
        daemon.asked(),
        Request::Transfer { sessions: some, to: "b".into(), mode: Mode::Reactive }
    );
    let json = daemon.run(&["transfer", "--all", "--to", "b", "--json"]).json();
    for (name, value) in serde_json::to_value(summary()).unwrap().as_object().unwrap() {
        assert_eq!(&json[name], value, "{name}");
    }
}

#[test]
fn a_transfer_that_did_not_move_all_says_so_in_its_exit_code() {
    let ended = |moved, refused, aborted, in_doubt, lost, failures: &[Failure]| {
        let failures = failures.to_vec();
        let some = Summary { moved, refused, aborted, in_doubt, lost, failures, ..summary() };
        let daemon = FakeDaemon::answering(&[done(some)]);
        daemon.run(&["transfer", "--all", "--to", "b", "--json"])
    };
    let why = failure(1, "refused", "no-room", "b holds 10 sessions: raise max_sessions");
    assert_eq!(ended(0, 2, 1, 0, 0, &[]).code, 1);
    assert_eq!(ended(0, 2, 1, 0, 0, &[]).json()["exit"], 1);
    assert_eq!(ended(2, 1, 0, 0, 0, std::slice::from_ref(&why)).code, 4);
    assert_eq!(ended(2, 0, 0, 1, 0, &[]).code, 5);
    assert_eq!(ended(0, 1, 1, 0, 1, &[]).code, 5);

    let some = Summary { moved: 1, refused: 1, in_doubt: 1, failures: vec![why], ..summary() };
    let ran = FakeDaemon::answering(&[done(some)]).run(&["transfer", "--all", "--to", "b"]);
    insta::assert_snapshot!(ran.stdout, @r"
    SESSION                           OUTCOME  STATUS   REASON
    00000000000000000000000000000001  refused  no-room  b holds 10 sessions: raise max_sessions
    3 sessions: 1 moved, 1 refused, 1 in doubt
    gap: half within 950 us, 99 % within 4.2 ms, longest 1.50 s
    batch 000000000000000000000000000000ba
    1 more did not move and are not listed
    in doubt: the target is asked on; `cxtpctl sessions --state in-doubt` lists them, `cxtpctl resolve` ends it by your word
    ");
}

#[test]
fn a_refused_command_says_why_and_exits_with_1() {
    let daemon = FakeDaemon::answering(&[Line::Error(refused("no-peer", "`c` is no peer of `a`"))]);
    let ran = daemon.run(&["transfer", "--all", "--to", "c", "--json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stderr, "cxtpctl: no-peer: `c` is no peer of `a`\n");
    let error = json!({"status": "no-peer", "detail": "`c` is no peer of `a`"});
    assert_eq!(ran.json(), json!({"error": error, "exit": 1}));
    let ran = daemon.run(&["status"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
}

#[test]
fn cancel_names_the_batch() {
    let daemon = FakeDaemon::answering(&[done(json!({}))]);
    let ran = daemon.run(&["cancel", &id(5), "--json"]);
    assert_eq!(ran.json(), json!({"batch": id(5), "exit": 0}));
    assert_eq!(daemon.asked(), Request::Cancel { batch: id(5) });
}

#[test]
fn preflight_lists_what_would_not_be_taken() {
    let no = failure(1, "refused", "spi-collision", "0xc0ffee00 is in use at b: rekey it");
    let report = PreflightReport { sessions: 2, accepted: 1, refused: vec![no] };
    let daemon = FakeDaemon::answering(&[done(&report)]);
    let ran = daemon.run(&["preflight", &id(1), &id(2), "--to", "b"]);
    assert_eq!(ran.code, 4);
    let some = Some(vec![id(1), id(2)]);
    assert_eq!(daemon.asked(), Request::Preflight { sessions: some, to: "b".into() });
    insta::assert_snapshot!(ran.stdout, @r"
    SESSION                           OUTCOME  STATUS         REASON
    00000000000000000000000000000001  refused  spi-collision  0xc0ffee00 is in use at b: rekey it
    b would take 1 of 2 sessions
    ");
    let json = daemon.run(&["preflight", "--all", "--to", "b", "--json"]).json();
    assert_eq!(json["refused"][0]["reason"]["status"], "spi-collision");
    let exit = |accepted| {
        let report = PreflightReport { sessions: 2, accepted, refused: vec![] };
        FakeDaemon::answering(&[done(report)]).run(&["preflight", "--all", "--to", "b"]).code
    };
    assert_eq!([exit(2), exit(0)], [0, 1]);
}

#[test]
fn resolve_says_its_risk_and_wants_a_yes() {
    let daemon = FakeDaemon::answering(&[done(json!({}))]);
    for (resolution, risk) in
        [("resume-here", "two gateways use one session"), ("release-here", "nobody has")]
    {
        let ran = daemon.run(&["resolve", &id(1), resolution]);
        assert_eq!(ran.code, 2, "no terminal, no --yes");
        assert!(ran.stderr.contains(risk) && ran.stderr.contains("--yes"), "{ran:?}");
        assert!(daemon.was_not_asked());
    }
    let ran = daemon.run(&["resolve", &id(1), "release-here", "--yes", "--json"]);
    assert_eq!(ran.json(), json!({"session": id(1), "resolution": "release-here", "exit": 0}));
    let resolution = Resolution::ReleaseHere;
    assert_eq!(daemon.asked(), Request::Resolve { session: id(1), resolution });
}

fn sealed() -> Sealed {
    Sealed {
        format: "cxtp-sealed-session/1".into(),
        session: id(1),
        source: "a".into(),
        target: "b".into(),
        encapsulated_key: "00ff".into(),
        ciphertext: "abcd".into(),
    }
}

#[test]
fn get_writes_a_new_private_file_that_put_takes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("session.json");
    let at = file.to_str().unwrap();
    let daemon = FakeDaemon::answering(&[done(sealed())]);
    let ran = daemon.run(&["get", &id(1), "--to", "b", "--out", at, "--json"]);
    let json = json!({"session": id(1), "source": "a", "target": "b", "file": at, "exit": 0});
    assert_eq!(ran.json(), json);
    assert_eq!(daemon.asked(), Request::Get { session: id(1), to: "b".into() });
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let ran = daemon.run(&["get", &id(1), "--to", "b", "--out", at]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is there already"), "{ran:?}");
    assert!(daemon.was_not_asked(), "nothing is handed out that cannot be written down");

    let daemon = FakeDaemon::answering(&[done(json!({}))]);
    let ran = daemon.run(&["put", at, "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(daemon.asked(), Request::Put { sealed: sealed() });
}

#[test]
fn get_leaves_no_file_when_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("session.json");
    let daemon = FakeDaemon::answering(&[Line::Error(refused("no-session", "none here"))]);
    let ran = daemon.run(&["get", &id(1), "--to", "b", "--out", file.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(!file.exists());
}

#[test]
fn put_refuses_what_is_not_a_sealed_session() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("session.json");
    let daemon = FakeDaemon::answering(&[done(json!({}))]);
    let newer = serde_json::to_string(&Sealed { format: "cxtp/9".into(), ..sealed() }).unwrap();
    for (words, why) in [("nonsense", "not a sealed session"), (newer.as_str(), "`cxtp/9`")] {
        std::fs::write(&file, words).unwrap();
        let ran = daemon.run(&["put", file.to_str().unwrap()]);
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains(why), "{ran:?}");
    }
    assert!(daemon.was_not_asked());
}

#[test]
fn watch_prints_an_event_a_line() {
    let event = |name: &str, fields: Value| {
        let Value::Object(fields) = fields else { panic!("fields") };
        Line::Event(Event { unix_ms: 1_700_000_000_123, event: name.into(), fields })
    };
    let events = [
        event("session-up", json!({"session": id(1)})),
        event("lost", json!({"reason": {"status": "gateway-lost"}, "why": "it is\u{1b} gone"})),
    ];
    let daemon = FakeDaemon::answering(&events);
    let ran = daemon.run(&["watch", "--count", "2"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(daemon.asked(), Request::Watch);
    insta::assert_snapshot!(ran.stdout, @r#"
    2023-11-14T22:13:20.123Z session-up session=00000000000000000000000000000001
    2023-11-14T22:13:20.123Z lost reason={"status":"gateway-lost"} why="it is� gone"
    "#);
    let ran = daemon.run(&["watch", "--count", "2", "--json"]);
    let lines: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "no other object than the events");
    assert_eq!((&lines[0]["event"], &lines[0]["session"]), (&json!("session-up"), &json!(id(1))));
    let ran = daemon.run(&["watch"]);
    assert_eq!(ran.code, 3, "the daemon ended while it was watched");
}
