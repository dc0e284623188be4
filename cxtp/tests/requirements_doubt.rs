//! What the specification demands after the commit and after a restart (section
//! 6.4), sentence by sentence.

mod desk;

use std::time::Duration;

use cxtp::engine::{
    Command, Event, GatewayCommand, GatewayReply, Input, Record, Resolution, Standing,
};
use desk::{BATCH, Desk, REQUEST, S, Wants, context, finals, refusal, status};
use protocol_spec::{
    id::SessionEpoch,
    limits::{CT_REQUEST_RETRY, CT_RETRY_MAX},
    message::{Message, TargetState as Said},
    samples,
    status::Status,
    transfer::SessionState,
};

fn is_query(message: &Message) -> bool {
    matches!(message, Message::Query(_))
}

fn committed_record() -> Record {
    Record::Committed {
        session: S,
        epoch: SessionEpoch(1),
        batch: BATCH,
        target: samples::name("b"),
        grants: samples::grants(&context()),
        by_file: false,
    }
}

fn active_record() -> Record {
    Record::Active {
        session: S,
        epoch: SessionEpoch(1),
        batch: BATCH,
        source: samples::name("b"),
        finals: finals(),
    }
}

fn staged() -> SessionState {
    SessionState::Staged { source: samples::name("b"), batch: BATCH }
}

fn paused() -> SessionState {
    SessionState::Paused { target: samples::name("b") }
}

/// Starts with a record and a gateway that shows S like this.
fn restarted(record: Option<Record>, shown: Option<(SessionState, u64)>) -> (Desk, Wants) {
    let (mut desk, _) = Desk::start(Desk::config(), record.into_iter().collect());
    let held = shown.into_iter().map(|(state, epoch)| status(state, epoch)).collect();
    let mut wants = desk.gateway(GatewayReply::Listed(held));
    wants.0.extend(desk.up("b").0);
    (desk, wants)
}

// proves CXTP-6.4-1
#[test]
fn a_doubt_is_asked_about_with_growing_pauses_and_on_return_at_once() {
    let (mut desk, _) = Desk::committed();
    // The first question ends the waiting for an answer to the CTD.
    for seconds in [2, 2, 4, 8, 15, 15] {
        let pause = Duration::from_secs(seconds);
        assert!((CT_REQUEST_RETRY..=CT_RETRY_MAX).contains(&pause));
        assert!(!desk.pass(pause - Duration::from_millis(1)).says(is_query), "{pause:?}");
        assert!(desk.pass(Duration::from_millis(1)).says(is_query), "{pause:?}");
    }
    desk.down("b");
    assert!(desk.up("b").says(is_query));
}

// proves CXTP-6.4-2
#[test]
fn a_target_that_still_waits_gets_the_final_data_again() {
    let (mut desk, _) = Desk::committed();
    desk.down("b");
    desk.up("b");
    assert!(desk.staged().orders_to_pause(), "the finals are read again");
    let wants = desk.paused(finals());
    let same = |message: &Message| match message {
        Message::Ctd(ctd) => ctd.entries[0].finals == finals(),
        _ => false,
    };
    assert!(wants.says(same), "{wants:?}");
    assert!(!wants.orders_to_resume());
}

// proves CXTP-6.4-3
#[test]
fn after_an_abort_the_session_goes_on_under_a_written_newer_epoch() {
    let (mut desk, _) = Desk::committed();
    let wants = desk.answer("b", 1, Said::Aborted(refusal(Status::NoTransfer)));
    let [Record::Resumed { epoch, .. }] = wants.records()[..] else { panic!("{wants:?}") };
    assert_eq!(*epoch, SessionEpoch(2));
    assert!(!wants.orders_to_resume());
    assert!(desk.written(&wants).orders_to_resume());
}

// proves CXTP-6.4-4
#[test]
fn a_forced_resume_begins_above_everything_that_was_granted() {
    let (mut desk, _) = Desk::committed();
    let resolution = Resolution::ResumeHere;
    let resolve = Command::Resolve { request: REQUEST, session: S, resolution };
    let wants = desk.hear(Input::Command(resolve));
    assert!(!wants.orders_to_resume());
    let wants = desk.written(&wants);
    let [GatewayCommand::Resume(resumed)] = wants.orders()[..] else { panic!("{wants:?}") };
    let granted = samples::grants(&context());
    assert_eq!(resumed[0].2, [(granted[0].sa, granted[0].end)]);
}

// proves CXTP-6.4-5
#[test]
fn after_a_restart_a_committed_session_is_in_doubt_whatever_the_gateway_shows() {
    for shown in [Some((paused(), 0)), Some((SessionState::Active, 0)), None] {
        let (mut desk, mut wants) = restarted(Some(committed_record()), shown.clone());
        let active = matches!(shown, Some((SessionState::Active, _)));
        assert_eq!(wants.orders_to_pause(), active, "one that is in use is paused again");
        if active {
            wants.0.extend(desk.paused(finals()).0);
        }
        wants.0.extend(desk.pass(Duration::from_secs(24 * 3600)).0);
        assert!(wants.says(is_query), "{shown:?}: {wants:?}");
        assert!(!wants.orders_to_resume(), "{shown:?}");
        assert_eq!(desk.standing(), Some(Standing::InDoubt), "{shown:?}");
    }
}

// proves CXTP-6.4-6
#[test]
fn after_a_restart_a_paused_session_that_is_not_committed_goes_on() {
    let (desk, wants) = restarted(None, Some((paused(), 0)));
    assert!(wants.orders_to_resume(), "{wants:?}");
    assert_eq!(desk.standing(), Some(Standing::Paused));
}

// proves CXTP-6.4-7
#[test]
fn after_a_restart_what_is_written_active_is_activated() {
    let (mut desk, wants) = restarted(Some(active_record()), Some((staged(), 1)));
    let orders = wants.orders();
    let [GatewayCommand::Activate(all)] = orders[..] else { panic!("{wants:?}") };
    assert_eq!(all[..], [(S, SessionEpoch(1), finals())]);
    assert_eq!(desk.activated(1).entry().state, Said::Active);
    // Without the record it waits for its source.
    let (desk, wants) = restarted(None, Some((staged(), 1)));
    assert!(wants.orders().is_empty(), "{wants:?}");
    assert_eq!(desk.standing(), Some(Standing::Staged));
}

// proves CXTP-6.4-8
#[test]
fn after_a_restart_what_the_gateway_does_not_hold_is_lost() {
    let (desk, wants) = restarted(Some(active_record()), None);
    let lost = |event: &&&Event| matches!(event, Event::Lost { session, .. } if *session == S);
    assert_eq!(wants.events().iter().filter(lost).count(), 1, "{wants:?}");
    assert_eq!(desk.standing(), Some(Standing::Lost));
}
