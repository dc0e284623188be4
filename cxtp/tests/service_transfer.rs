//! What operators do with two daemons that run: move, ask, hand out, take in.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;
mod service_support;

use std::time::Duration;

use cxtp::service::{
    api::{Line, Mode, PreflightReport, Request, Resolution, Sealed},
    client::ControlClient,
};
use protocol_spec::id::SessionEpoch;
use serde_json::Value;

use common::{KEY_MARK, PATIENCE, say, within};
use service_support::Pair;

const SESSIONS: u32 = 2500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_moves_and_is_pulled_back() {
    let pair = Pair::start().await;
    let all = pair.a.provision(0..SESSIONS).await;
    let request = Request::Transfer { sessions: None, to: "gw-b".into(), mode: Mode::Predictive };
    let lines = pair.a.lines(&request).await;
    let (last, before) = lines.split_last().unwrap();
    let Line::Done(summary) = last else { panic!("{last:?}") };
    assert_eq!(summary["moved"], SESSIONS, "{summary}");
    assert!(summary["gap_us_p50"].as_u64() <= summary["gap_us_p99"].as_u64());
    assert!(summary["gap_us_p99"].as_u64() <= summary["gap_us_max"].as_u64());
    assert!(summary["gap_us_p50"].as_u64().unwrap() > 0);
    let (first, before) = before.split_first().unwrap();
    let Line::Event(begun) = first else { panic!("{first:?}") };
    assert_eq!((begun.event.as_str(), &begun.fields["batch"]), ("batch-begun", &summary["batch"]));
    let mut ended = 0;
    for line in before {
        let Line::Progress(progress) = line else { panic!("{line:?}") };
        assert_eq!(progress.sessions, SESSIONS as usize);
        assert!(progress.ended >= ended && progress.moved <= progress.ended);
        ended = progress.ended;
    }
    assert_eq!((pair.a.gateway.all_active().len(), pair.b.gateway.all_active().len()), (0, 2500));
    let at_b = pair.b.sessions().await;
    assert!(at_b.iter().all(|session| session.state == "active" && session.epoch == 1));
    assert_eq!(at_b.len(), all.len());
    assert!(pair.a.sessions().await.iter().all(|session| session.state == "moved"));

    let summary = pair.b.transfer(Some(all[..1500].to_vec()), "gw-a", Mode::Reactive).await;
    assert_eq!((summary.sessions, summary.moved), (1500, 1500), "{summary:?}");
    assert_eq!(
        (pair.a.gateway.all_active().len(), pair.b.gateway.all_active().len()),
        (1500, 1000)
    );
    assert_eq!(pair.b.status().await.batches, 0);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_target_refuses_goes_on_at_its_source() {
    let pair = Pair::start().await;
    let ids = pair.a.provision(0..10).await;
    // The SPI of the fourth is in use at the target, by a session of its own.
    let mut other = say::session(3);
    other.session = say::session(4711).session;
    pair.b.gateway.provision(other);

    let request = Request::Preflight { sessions: None, to: "gw-b".into() };
    let report: PreflightReport = pair.a.call(&request).await;
    assert_eq!((report.sessions, report.accepted), (10, 9));
    assert_eq!(report.refused[0].session, ids[3]);
    assert_eq!(report.refused[0].reason.status, "spi-collision");
    assert_eq!(pair.a.gateway.all_active().len(), 10, "a question touches nothing");

    let summary = pair.a.transfer(None, "gw-b", Mode::Predictive).await;
    assert_eq!((summary.moved, summary.refused), (9, 1));
    assert_eq!(summary.failures.len(), 1);
    assert_eq!(summary.failures[0].session, ids[3]);
    assert_eq!(summary.failures[0].outcome, "refused");
    assert_eq!(pair.a.gateway.active(say::session(3).session), Some(SessionEpoch(0)));
    let shown: Value = pair.a.call(&Request::Show { session: ids[3].clone() }).await;
    assert_eq!(shown["session"]["state"], "active", "{shown}");
    assert!(shown["gateway"]["children"][0]["inbound_spi"].is_string(), "{shown}");
    assert!(!common::leaks_key(&shown.to_string()));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_by_file_once_and_sealed() {
    let pair = Pair::start().await;
    let ids = pair.a.provision(0..2).await;
    let get = Request::Get { session: ids[0].clone(), to: "gw-b".into() };
    let sealed: Sealed = pair.a.call(&get).await;
    assert!(!common::leaks_key(&serde_json::to_string(&sealed).unwrap()));
    let session = say::session(0).session;
    assert_eq!(pair.a.gateway.active(session), None, "it is paused");
    let listed = pair.a.sessions().await;
    assert_eq!(listed.iter().find(|s| s.session == ids[0]).unwrap().state, "in-doubt");
    // Another gateway cannot open it, nor can anybody who changed it.
    assert_eq!(pair.a.refusal(&Request::Put { sealed: sealed.clone() }).await, "not-authorized");
    let mut changed = sealed.clone();
    changed.session = ids[1].clone();
    assert_eq!(pair.b.refusal(&Request::Put { sealed: changed }).await, "not-authorized");
    let _: Value = pair.b.call(&Request::Put { sealed: sealed.clone() }).await;
    assert_eq!(pair.b.gateway.active(session), Some(SessionEpoch(1)));
    pair.b.refusal(&Request::Put { sealed }).await;
    assert_eq!(pair.b.gateway.activations(session), 1);
    // The target tells the source, which ends its doubt.
    within("the source to release it", async {
        while pair.a.gateway.holds(session) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // What is on disk holds no key. It was synced, so it is all there.
    for state in [&pair.a.state, &pair.b.state] {
        for file in ["journal.redb", "journal.log"] {
            let journal = std::fs::read(state.join(file)).unwrap();
            assert!(!journal.windows(8).any(|octets| octets == [KEY_MARK; 8]), "{file}");
        }
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_watches_hears_each_step() {
    let pair = Pair::start().await;
    let ids = pair.a.provision(0..1).await;
    let mut client = ControlClient::connect(&pair.a.control).await.unwrap();
    let mut events = client.request(&Request::Watch).await.unwrap();
    // The daemon hears of the watcher before of the transfer once it has
    // answered another client that came later.
    let mut heard = Vec::new();
    let moved = async {
        tokio::time::timeout(PATIENCE, async {
            loop {
                match events.next().await.unwrap() {
                    Some(Line::Event(event)) => {
                        heard.push(event.event.clone());
                        if event.event == "transfer-ended" {
                            assert_eq!(event.fields["session"], ids[0].as_str());
                            assert_eq!(event.fields["outcome"], "moved");
                        }
                        if event.event == "batch-ended" {
                            return;
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        })
        .await
        .unwrap();
    };
    let transfer = async {
        // A watcher is told of a session that comes up, so it is at work.
        pair.a.provision(1..2).await;
        pair.a.transfer(Some(vec![ids[0].clone()]), "gw-b", Mode::Predictive).await
    };
    tokio::join!(moved, transfer);
    let steps: Vec<_> = heard.iter().filter(|kind| *kind != "session-up").collect();
    assert_eq!(steps, ["transfer-begun", "committed", "transfer-ended", "batch-ended"]);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_by_name() {
    let pair = Pair::start().await;
    let ids = pair.a.provision(0..1).await;
    let id = ids[0].clone();
    let other = "00".repeat(16);
    let transfer = |to: &str| Request::Transfer {
        sessions: Some(vec![id.clone()]),
        to: to.to_owned(),
        mode: Mode::Predictive,
    };
    let cases = [
        (transfer("gw-z"), "no-peer"),
        (transfer("gw-a"), "no-peer"),
        (Request::Show { session: other.clone() }, "no-session"),
        (Request::Get { session: id.clone(), to: "gw-z".into() }, "no-peer"),
        (Request::Cancel { batch: other.clone() }, "no-transfer"),
        (
            Request::Resolve { session: id.clone(), resolution: Resolution::ResumeHere },
            "no-transfer",
        ),
        (Request::Pull { order: "zz".into() }, "bad-authorization"),
    ];
    for (request, status) in cases {
        assert_eq!(pair.a.refusal(&request).await, status, "{request:?}");
    }
    let unknown = pair.a.transfer(Some(vec![other]), "gw-b", Mode::Predictive).await;
    assert_eq!((unknown.refused, unknown.failures[0].reason.status.as_str()), (1, "no-session"));
    assert_eq!(pair.a.gateway.all_active().len(), 1);
    pair.stop().await;
}
