//! Crashes: of either daemon at each record, of the gateways; sessions that end
//! on the way; doubts that an operator ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pair;

use std::time::Duration;

use cxtp::engine::{
    Command, GatewayReply, Input, Record, Reply, Resolution, Standing, source::SourceState,
};
use pair::{A, B, Pair, batch, request, session};
use protocol_spec::{
    id::SessionEpoch,
    status::{Refusal, Status},
    transfer::{Outcome, SessionState},
};

/// Stops a transfer while `word` is held back at `holder`.
fn stopped_at(holder: usize, word: &'static str) -> Pair {
    let mut pair = Pair::new(1);
    pair.hold.insert((holder, word));
    pair.transfer(1);
    assert!(pair.is_holding(), "{word} at {holder} never came");
    pair
}

fn settle(pair: &mut Pair) {
    pair.release();
    pair.connect();
    for _ in 0..80 {
        pair.advance(Duration::from_secs(1));
    }
}

#[test]
fn a_crash_of_the_source_at_any_point_leaves_one_owner() {
    for (holder, word, owner) in [
        (A, "pctd", A),
        (B, "stage", A),
        (B, "ctdr", A),
        (A, "pause", A),
        (A, "journal", A),
        (A, "ctd", B),
        (B, "journal", B),
        (B, "activate", B),
    ] {
        let mut pair = stopped_at(holder, word);
        pair.crash(A);
        settle(&mut pair);
        pair.assert_owner(owner, 1);
    }
}

#[test]
fn a_crash_of_the_target_at_any_point_leaves_one_owner() {
    for (holder, word, owner) in [
        (A, "pctd", A),
        (B, "ctdr", A),
        (A, "pause", A),
        (A, "ctd", B),
        (B, "journal", B),
        (B, "activate", B),
    ] {
        let mut pair = stopped_at(holder, word);
        pair.crash(B);
        settle(&mut pair);
        pair.assert_owner(owner, 1);
    }
}

#[test]
fn moved_and_not_released_is_released_after_a_crash() {
    let mut pair = stopped_at(A, "release");
    assert!(matches!(pair.nodes[A].journal[&session(0)], Record::Moved { .. }));
    pair.crash(A);
    settle(&mut pair);
    pair.assert_owner(B, 1);
    assert_eq!(pair.nodes[B].gateway.sessions[&session(0)].end, u64::MAX, "granted all the same");
}

#[test]
fn aborted_and_not_discarded_is_discarded_after_a_crash() {
    let mut pair = stopped_at(A, "pause");
    pair.command(A, Command::Cancel { batch: batch(1) });
    // The target is told once the session goes on at its source.
    pair.hold = [(B, "discard")].into();
    pair.release();
    assert!(matches!(pair.nodes[B].journal[&session(0)], Record::Aborted { .. }));
    pair.crash(B);
    settle(&mut pair);
    pair.assert_owner(A, 1);
}

#[test]
fn a_committed_session_is_in_doubt_after_a_crash_and_never_resumed_by_itself() {
    let mut pair = stopped_at(B, "journal");
    pair.crash(A);
    for _ in 0..100 {
        pair.advance(Duration::from_secs(1));
        assert!(!pair.nodes[A].is_active(0));
    }
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::InDoubt));
}

fn resolve(pair: &mut Pair, resolution: Resolution) {
    let resolve = Command::Resolve { request: request(9), session: session(0), resolution };
    pair.command(A, resolve);
}

#[test]
fn a_doubt_resumed_by_the_operator_goes_on_above_every_granted_number() {
    let mut pair = stopped_at(A, "ctd");
    pair.disconnect();
    let Record::Committed { grants, epoch, .. } = pair.nodes[A].journal[&session(0)].clone() else {
        panic!("not committed");
    };
    // The daemon dies between the record and the act: the act is done again.
    pair.hold.insert((A, "resume"));
    resolve(&mut pair, Resolution::ResumeHere);
    assert!(matches!(pair.nodes[A].replies.last(), Some((_, Reply::Accepted))));
    assert!(matches!(pair.nodes[A].journal[&session(0)], Record::Resumed { .. }));
    pair.crash(A);
    pair.release();
    let held = &pair.nodes[A].gateway.sessions[&session(0)];
    assert_eq!(held.state, SessionState::Active);
    assert!(held.sequence >= grants[0].end, "{} is below the grant", held.sequence);
    assert!(held.epoch > epoch);
}

#[test]
fn a_doubt_released_by_the_operator_is_written_down_first() {
    let mut pair = stopped_at(B, "ctdr");
    pair.release();
    pair.assert_owner(B, 1);
    let mut pair = stopped_at(B, "activate");
    pair.disconnect();
    pair.hold.insert((A, "journal"));
    resolve(&mut pair, Resolution::ReleaseHere);
    assert!(pair.nodes[A].gateway.sessions.contains_key(&session(0)), "not before the record");
    pair.release();
    assert!(!pair.nodes[A].gateway.sessions.contains_key(&session(0)));
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::Moved));
    pair.assert_owner(B, 1);
}

#[test]
fn only_a_doubt_can_be_resolved() {
    let mut pair = stopped_at(A, "pause");
    resolve(&mut pair, Resolution::ResumeHere);
    let refused = |reply: Option<&(_, Reply)>| matches!(reply, Some((_, Reply::Refused(_))));
    assert!(refused(pair.nodes[A].replies.last()));
    pair.release();
    resolve(&mut pair, Resolution::ResumeHere);
    assert!(refused(pair.nodes[A].replies.last()));
    pair.assert_owner(B, 1);
}

fn down(pair: &mut Pair, node: usize) {
    pair.nodes[node].gateway.sessions.remove(&session(0));
    pair.input(node, Input::Gateway(GatewayReply::Down(session(0))));
    pair.run();
}

#[test]
fn a_session_that_ends_before_the_commit_ends_its_transfer_and_the_targets_copy() {
    for (holder, word) in [(A, "snapshot"), (A, "pctd"), (B, "stage"), (B, "ctdr"), (A, "pause")] {
        let mut pair = stopped_at(holder, word);
        down(&mut pair, A);
        settle(&mut pair);
        assert!(pair.nodes[A].gateway.sessions.is_empty(), "{word}");
        assert!(pair.nodes[B].gateway.sessions.is_empty(), "{word}");
        let outcome = &pair.nodes[A].outcomes()[0].1;
        assert!(
            matches!(outcome, Outcome::Aborted(why) if why.status == Status::SessionEnded),
            "{word}: {outcome:?}"
        );
    }
}

#[test]
fn a_session_that_ends_at_the_source_after_the_commit_lives_on_at_the_target() {
    for (holder, word) in [(A, "ctd"), (B, "journal"), (B, "activate"), (A, "release")] {
        let mut pair = stopped_at(holder, word);
        down(&mut pair, A);
        pair.release();
        pair.assert_owner(B, 1);
    }
}

#[test]
fn a_staged_session_that_ends_is_answered_aborted_and_goes_on_at_the_source() {
    let mut pair = stopped_at(A, "journal");
    down(&mut pair, B);
    settle(&mut pair);
    pair.assert_owner(A, 1);
    assert!(matches!(pair.nodes[A].journal[&session(0)], Record::Resumed { .. }));
}

#[test]
fn a_session_that_ends_while_it_is_claimed_is_lost_and_says_so() {
    let mut pair = stopped_at(B, "journal");
    down(&mut pair, B);
    settle(&mut pair);
    assert_eq!(pair.nodes[B].lost(), [(session(0), Status::SessionEnded)]);
    assert_eq!(pair.nodes[B].standing(0), Some(Standing::Lost));
    assert!(pair.nodes[A].gateway.sessions.is_empty(), "the source has released it");
}

#[test]
fn a_lost_gateway_reports_every_session_it_owned_as_lost() {
    let mut pair = Pair::new(3);
    pair.transfer(1);
    pair.nodes[A].gateway.lost = true;
    pair.input(A, Input::Gateway(GatewayReply::Lost("the process ended".to_owned())));
    pair.run();
    let lost = pair.nodes[A].lost();
    assert_eq!(lost, [(session(1), Status::GatewayLost), (session(2), Status::GatewayLost)]);
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::Moved));
    assert_eq!(pair.nodes[A].standing(1), Some(Standing::Lost));
}

#[test]
fn a_gateway_that_is_lost_after_the_commit_still_gives_the_session_away() {
    let mut pair = stopped_at(B, "journal");
    pair.nodes[A].gateway.lost = true;
    pair.nodes[A].gateway.sessions.clear();
    pair.input(A, Input::Gateway(GatewayReply::Lost("the process ended".to_owned())));
    pair.run();
    assert!(pair.nodes[A].lost().is_empty());
    pair.release();
    pair.assert_owner(B, 1);
}

#[test]
fn a_target_whose_gateway_is_lost_answers_aborted_for_what_was_staged() {
    let mut pair = stopped_at(A, "journal");
    pair.nodes[B].gateway.sessions.clear();
    pair.input(B, Input::Gateway(GatewayReply::Lost("the process ended".to_owned())));
    pair.run();
    settle(&mut pair);
    pair.assert_owner(A, 1);
}

#[test]
fn a_gateway_that_will_not_resume_yet_is_asked_until_it_does() {
    let mut pair = stopped_at(A, "pause");
    let fault = Refusal::new(Status::GatewayFault, "not now");
    pair.nodes[A].gateway.refuse.insert("resume", fault);
    pair.command(A, Command::Cancel { batch: batch(1) });
    pair.release();
    assert_eq!(pair.nodes[A].view(0).unwrap().source, Some(SourceState::Resuming));
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::Paused));
    pair.nodes[A].gateway.refuse.clear();
    pair.advance(Duration::from_secs(3));
    pair.assert_owner(A, 1);
}

#[test]
fn an_owned_session_that_the_gateway_lost_while_the_daemon_was_down_is_reported() {
    let mut pair = Pair::new(1);
    pair.transfer(1);
    pair.nodes[B].gateway.sessions.clear();
    pair.crash(B);
    assert_eq!(pair.nodes[B].lost(), [(session(0), Status::NoSession)]);
    assert!(matches!(pair.nodes[B].journal[&session(0)], Record::Ended { .. }));
}

#[test]
fn a_tombstone_is_forgotten_in_the_end() {
    let mut pair = Pair::new(1);
    pair.transfer(1);
    assert_eq!(pair.nodes[A].view(0).unwrap().epoch, SessionEpoch(1));
    pair.advance(Duration::from_secs(24 * 3600 + 1));
    assert!(pair.nodes[A].view(0).is_none());
}
