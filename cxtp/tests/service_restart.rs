//! Daemons that end and come again beside gateways that go on.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;
mod service_support;

use std::time::Duration;

use cxtp::service::api::{Mode, Request};

use common::{say, within};
use service_support::Pair;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_find_each_other_again_and_sessions_are_found_again() {
    let mut pair = Pair::start().await;
    let ids = pair.a.provision(0..20).await;
    let first = pair.a.transfer(Some(ids[..10].to_vec()), "gw-b", Mode::Predictive).await;
    assert_eq!(first.moved, 10, "{first:?}");

    pair.b.stop().await;
    within("A to notice", async {
        while pair.a.status().await.peers["gw-b"] == "up" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let transfer = Request::Transfer {
        sessions: Some(ids[10..].to_vec()),
        to: "gw-b".into(),
        mode: Mode::Predictive,
    };
    assert_eq!(pair.a.refusal(&transfer).await, "no-peer");

    pair.b.start_again().await;
    pair.connected().await;
    let status = pair.b.status().await;
    assert_eq!((status.gateway_epoch, status.sessions["active"]), (2, 10), "{status:?}");
    let second = pair.a.transfer(Some(ids[10..].to_vec()), "gw-b", Mode::Predictive).await;
    assert_eq!(second.moved, 10, "{second:?}");

    // And the one who dials: it comes back as well, and what went away stays away.
    pair.a.stop().await;
    pair.a.start_again().await;
    pair.connected().await;
    assert!(pair.a.sessions().await.iter().all(|session| session.state == "moved"));
    let back = pair.b.transfer(Some(ids.clone()), "gw-a", Mode::Predictive).await;
    assert_eq!(back.moved, 20, "{back:?}");
    assert!(pair.a.sessions().await.iter().all(|s| s.state == "active" && s.epoch == 2));
    assert_eq!(pair.a.gateway.all_active().len(), 20);
    assert!(pair.b.gateway.all_active().is_empty());
    pair.stop().await;
}

// proves CXTP-2.7-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_was_killed_is_connected_again_long_before_silence_would_tell() {
    let mut pair = Pair::start().await;
    for site in [&mut pair.a, &mut pair.b] {
        site.stop().await;
        site.set("dead_after_ms = 2000", "dead_after_ms = 600000");
    }
    pair.a.start_again().await;
    // It is dialled, and does not dial: it can only answer.
    let life = pair.b.live_and_be_killed().await;
    pair.connected().await;
    drop(life);
    assert_eq!(pair.a.status().await.peers["gw-b"], "up");
    pair.b.start_again().await;
    pair.connected().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_doubt_stays_in_doubt_over_a_restart_until_the_operator_speaks() {
    let mut pair = Pair::start().await;
    let ids = pair.a.provision(0..1).await;
    let get = Request::Get { session: ids[0].clone(), to: "gw-b".into() };
    let _: serde_json::Value = pair.a.call(&get).await;
    pair.a.stop().await;
    pair.a.start_again().await;
    pair.connected().await;
    let session = say::session(0).session;
    let listed = pair.a.sessions().await;
    assert_eq!(listed[0].state, "in-doubt", "{listed:?}");
    assert_eq!(pair.a.gateway.active(session), None);
    let resume = Request::Resolve {
        session: ids[0].clone(),
        resolution: cxtp::service::api::Resolution::ResumeHere,
    };
    let _: serde_json::Value = pair.a.call(&resume).await;
    within("the session to go on", async {
        while pair.a.gateway.active(session).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    pair.stop().await;
}
