//! Predictive transfers: the good day, refusals, aborts, restaging, timeouts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pair;

use std::time::Duration;

use cxtp::engine::{Event, GatewayReply, Input, Record, Standing, source::SourceState};
use pair::{A, B, Pair, batch, session};
use protocol_spec::{
    id::{Generation, SessionEpoch},
    message::Kind,
    status::{Refusal, Status},
    transfer::{Outcome, SessionState, TransferMode},
};

#[test]
fn one_session_moves_and_is_released_and_granted_all_numbers() {
    let mut pair = Pair::new(1);
    pair.transfer(1);
    pair.assert_owner(B, 1);
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::Moved));
    assert!(matches!(pair.nodes[A].outcomes()[..], [(_, Outcome::Moved { .. })]));
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().moved, 1);
    assert!(matches!(pair.nodes[A].journal[&session(0)], Record::Moved { .. }));
    assert!(matches!(pair.nodes[B].journal[&session(0)], Record::Active { .. }));
    assert_eq!(pair.nodes[B].gateway.sessions[&session(0)].end, u64::MAX);
    assert_eq!(pair.nodes[B].view(0).unwrap().epoch, SessionEpoch(1));
}

#[test]
fn a_batch_of_a_thousand_moves_in_few_messages() {
    let mut pair = Pair::new(1000);
    pair.transfer(1000);
    pair.assert_owner(B, 1000);
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().moved, 1000);
    assert_eq!(pair.nodes[A].engine.batches().count(), 0);
    let of = |kind| pair.sent.iter().filter(|(_, sent)| *sent == kind).count();
    assert!(of(Kind::Pctd) <= 8, "{} messages with contexts", of(Kind::Pctd));
}

#[test]
fn a_session_comes_back_and_goes_again_with_ever_higher_epochs() {
    let mut pair = Pair::new(1);
    for round in 0..6 {
        let source = round % 2;
        let number = u8::try_from(round).unwrap() + 1;
        pair.transfer_as(source, number, vec![session(0)], TransferMode::Predictive);
        pair.assert_owner(1 - source, 1);
    }
    assert_eq!(pair.nodes[A].view(0).unwrap().epoch, SessionEpoch(6));
}

#[test]
fn what_the_target_refuses_goes_on_at_the_source() {
    let mut pair = Pair::new(3);
    let why = Refusal::new(Status::NoConfiguration, "no such configuration");
    pair.nodes[B].gateway.refuse.insert("stage", why.clone());
    pair.transfer(3);
    pair.assert_owner(A, 3);
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().refused, 3);
    assert_eq!(pair.nodes[A].outcomes()[0].1, Outcome::Refused(why));
    assert!(!pair.sent.iter().any(|(_, kind)| *kind == Kind::Ctd));
    assert_eq!(pair.nodes[B].engine.sessions().count(), 0, "nothing is remembered");
}

/// Holds `word` back at `node`, cancels, and lets everything go on.
fn cancel_while_held(node: usize, word: &'static str, state: SourceState) -> Pair {
    let mut pair = Pair::new(2);
    pair.hold.insert((node, word));
    pair.transfer(2);
    assert_eq!(pair.nodes[A].view(0).unwrap().source, Some(state), "holding {word}");
    pair.command(A, cxtp::engine::Command::Cancel { batch: batch(1) });
    pair.release();
    pair
}

#[test]
fn a_cancelled_batch_goes_on_at_the_source_from_every_state_before_the_commit() {
    for (node, word, state) in [
        (A, "snapshot", SourceState::Reading),
        (A, "pctd", SourceState::Staging),
        (B, "stage", SourceState::Staging),
        (B, "ctdr", SourceState::Staging),
        (A, "pause", SourceState::Pausing),
    ] {
        let pair = cancel_while_held(node, word, state);
        pair.assert_owner(A, 2);
        assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().aborted, 2, "holding {word}");
        let outcome = &pair.nodes[A].outcomes()[0].1;
        assert!(matches!(outcome, Outcome::Aborted(why) if why.status == Status::Cancelled));
    }
}

#[test]
fn a_cancel_while_the_commit_is_written_comes_too_late() {
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "journal"));
    pair.transfer(1);
    assert_eq!(pair.nodes[A].view(0).unwrap().source, Some(SourceState::Committing));
    pair.command(A, cxtp::engine::Command::Cancel { batch: batch(1) });
    pair.release();
    pair.assert_owner(B, 1);
}

#[test]
fn a_ctc_before_the_commit_is_answered_aborted_and_journaled_first() {
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "pause"));
    pair.transfer(1);
    pair.hold.insert((B, "journal"));
    pair.command(A, cxtp::engine::Command::Cancel { batch: batch(1) });
    let said = pair.sent.iter().filter(|(node, kind)| (*node, *kind) == (B, Kind::Ctdr)).count();
    assert_eq!(said, 1, "staged was said, aborted is not before it is on disk");
    pair.release();
    let said = pair.sent.iter().filter(|(node, kind)| (*node, *kind) == (B, Kind::Ctdr)).count();
    assert_eq!(said, 2);
    assert!(matches!(pair.nodes[B].journal[&session(0)], Record::Aborted { .. }));
    pair.assert_owner(A, 1);
}

#[test]
fn a_changed_session_is_staged_again_with_a_higher_epoch() {
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "pause"));
    pair.transfer(1);
    pair.nodes[A].gateway.sessions.get_mut(&session(0)).unwrap().generation = Generation(2);
    pair.release();
    pair.assert_owner(B, 1);
    let view = pair.nodes[B].view(0).unwrap();
    assert_eq!((view.epoch, view.generation), (SessionEpoch(2), Generation(2)));
}

#[test]
fn a_change_that_the_gateway_reports_is_staged_again_before_any_pause() {
    let mut pair = Pair::new(1);
    pair.hold.insert((B, "ctdr"));
    pair.transfer(1);
    pair.nodes[A].gateway.sessions.get_mut(&session(0)).unwrap().generation = Generation(2);
    let changed = GatewayReply::Changed(session(0), Generation(2));
    pair.input(A, Input::Gateway(changed));
    pair.run();
    pair.release();
    pair.assert_owner(B, 1);
    assert_eq!(pair.nodes[B].view(0).unwrap().epoch, SessionEpoch(2));
}

#[test]
fn numbers_used_beyond_the_granted_base_are_never_committed() {
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "pause"));
    pair.transfer(1);
    // A burst larger than anybody expected, while the session was staged.
    pair.nodes[A].gateway.sessions.get_mut(&session(0)).unwrap().sequence = 1 << 20;
    pair.release();
    pair.assert_owner(B, 1);
    assert!(pair.nodes[B].gateway.sessions[&session(0)].sequence > 1 << 20);
}

#[test]
fn a_session_that_never_stops_changing_is_aborted_and_goes_on() {
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "pause"));
    pair.transfer(1);
    let mut generation = 1;
    while pair.is_holding() {
        generation += 1;
        let held = pair.nodes[A].gateway.sessions.get_mut(&session(0)).unwrap();
        held.generation = Generation(generation);
        pair.let_go();
    }
    assert_eq!(generation, 5, "staged once, and three times again");
    pair.assert_owner(A, 1);
    let outcome = &pair.nodes[A].outcomes()[0].1;
    assert!(matches!(outcome, Outcome::Aborted(why) if why.status == Status::GenerationChanged));
}

#[test]
fn silence_before_the_commit_resumes_at_the_source() {
    // The target never answers the offer.
    let mut pair = Pair::new(1);
    pair.drop.insert((A, "pctd"));
    pair.transfer(1);
    pair.advance(Duration::from_secs(16));
    pair.drop.clear();
    pair.assert_owner(A, 1);
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().aborted, 1);

    // The gateway takes too long to pause.
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "pause"));
    pair.transfer(1);
    // It is tried again, but not for ever.
    use SourceState::{Halting, Overdue};
    for state in [Overdue, Overdue, Overdue, Halting] {
        pair.advance(Duration::from_millis(201));
        assert_eq!(pair.nodes[A].view(0).unwrap().source, Some(state));
        pair.let_go();
    }
    pair.assert_owner(A, 1);
}

#[test]
fn silence_after_the_commit_never_resumes() {
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "pause"));
    pair.transfer(1);
    pair.hold.clear();
    pair.drop.extend([(A, "ctd"), (A, "query"), (B, "ctdr")]);
    pair.let_go();
    for _ in 0..100 {
        pair.advance(Duration::from_secs(1));
        assert!(!pair.nodes[A].is_active(0));
    }
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::InDoubt));
    assert!(pair.nodes[A].events.iter().any(|e| matches!(e, Event::InDoubt { .. })));
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().in_doubt, 1);
    // The target dropped it meanwhile, wrote that down, and says so when asked.
    assert!(matches!(pair.nodes[B].journal[&session(0)], Record::Aborted { .. }));
    pair.drop.clear();
    pair.advance(Duration::from_secs(16));
    pair.assert_owner(A, 1);
    assert!(matches!(pair.nodes[A].journal[&session(0)], Record::Resumed { .. }));
}

#[test]
fn final_data_that_was_lost_is_sent_again_when_the_target_says_staged() {
    let mut pair = Pair::new(1);
    pair.drop.insert((A, "ctd"));
    pair.transfer(1);
    pair.drop.clear();
    pair.advance(Duration::from_secs(3));
    pair.assert_owner(B, 1);
}

#[test]
fn an_answer_that_was_lost_is_asked_for() {
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "pause"));
    pair.transfer(1);
    pair.drop.insert((B, "ctdr"));
    pair.hold.clear();
    pair.let_go();
    pair.advance(Duration::from_secs(3));
    pair.drop.clear();
    pair.advance(Duration::from_secs(3));
    pair.assert_owner(B, 1);
}

#[test]
fn a_lost_connection_before_the_commit_aborts_and_after_it_asks_on_return() {
    let mut pair = Pair::new(2);
    pair.hold.insert((A, "pause"));
    pair.transfer(2);
    pair.disconnect();
    pair.release();
    assert!(pair.nodes[A].is_active(0) && pair.nodes[A].is_active(1));
    pair.connect();
    pair.advance(Duration::from_secs(61));
    pair.assert_owner(A, 2);

    let mut pair = Pair::new(2);
    pair.hold.insert((B, "journal"));
    pair.transfer(2);
    pair.disconnect();
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::InDoubt));
    pair.release();
    pair.connect();
    pair.assert_owner(B, 2);
}

#[test]
fn a_commit_that_cannot_be_written_goes_on_at_the_source_above_its_epoch() {
    let mut pair = Pair::new(1);
    pair.hold.insert((A, "journal"));
    pair.transfer(1);
    pair.nodes[A].journal_fails = true;
    pair.hold.clear();
    pair.release();
    // Neither record could be written: nobody may use it.
    assert!(!pair.nodes[A].is_active(0));
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::InDoubt));
    pair.nodes[A].journal_fails = false;
    pair.advance(Duration::from_secs(3));
    pair.assert_owner(A, 1);
    assert!(pair.nodes[A].view(0).unwrap().epoch > SessionEpoch(1));
}

#[test]
fn an_activation_that_cannot_be_written_leaves_it_staged_until_it_can() {
    let mut pair = Pair::new(1);
    pair.nodes[B].journal_fails = true;
    pair.transfer(1);
    assert!(!pair.nodes[B].is_active(0));
    let held = &pair.nodes[B].gateway.sessions[&session(0)];
    assert!(matches!(held.state, SessionState::Staged { .. }));
    pair.nodes[B].journal_fails = false;
    pair.advance(Duration::from_secs(3));
    pair.assert_owner(B, 1);
}

#[test]
fn an_open_exchange_is_waited_for_and_then_the_transfer_ends() {
    let mut pair = Pair::new(1);
    let busy = Refusal::new(Status::Busy, "an exchange is open");
    pair.nodes[A].gateway.refuse.insert("pause", busy);
    pair.transfer(1);
    pair.assert_owner(A, 1);
    let outcome = &pair.nodes[A].outcomes()[0].1;
    assert!(matches!(outcome, Outcome::Aborted(why) if why.status == Status::Busy));
}

#[test]
fn where_one_thing_is_done_after_the_other_nothing_is_paused_while_others_are_staged() {
    let mut config = pair::config(A);
    (config.stage_first, config.staging_window, config.pause_window) = (true, 3, 1);
    let mut pair = Pair::with(config, pair::config(B), 7);
    // The window is full, and none of it is staged.
    pair.hold.insert((B, "stage"));
    pair.transfer(7);
    let count = |pair: &Pair, state| {
        let views = (0..7).filter_map(|number| pair.nodes[A].view(number));
        views.filter(|view| view.source == Some(state)).count()
    };
    assert_eq!(count(&pair, SourceState::Staging), 3);
    pair.hold.insert((A, "pause"));
    pair.hold.remove(&(B, "stage"));
    pair.let_go();
    // All of it is staged, one is paused, and none of the others has begun.
    assert_eq!(count(&pair, SourceState::Pausing), 1);
    assert_eq!(count(&pair, SourceState::Ready), 2);
    assert_eq!(count(&pair, SourceState::Staging) + count(&pair, SourceState::Reading), 0);
    pair.release();
    pair.assert_owner(B, 7);
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().moved, 7);
}
