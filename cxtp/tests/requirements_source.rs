//! What the specification demands of a source (sections 6.1, 6.2, 6.5, 6.8),
//! sentence by sentence.

mod desk;

use std::time::Duration;

use cxtp::engine::{Command, GatewayCommand, GatewayReply, Input, Record, Reply, Standing};
use desk::{BATCH, Desk, REQUEST, S, Wants, context, finals, refusal};
use protocol_spec::{
    id::{Generation, SessionEpoch},
    limits::CT_MAX_TRANSFER_TIME,
    message::{Message, TargetState as Said},
    profile::{Capabilities, Feature},
    samples,
    status::Status,
    transfer::Finals,
};

/// The epoch of the one offer among what is said.
fn offered(wants: &Wants) -> SessionEpoch {
    match wants.said().as_slice() {
        [(_, Message::Pctd(pctd))] => pctd.entries[0].epoch,
        other => panic!("{other:?}"),
    }
}

fn is_ctd(message: &Message) -> bool {
    matches!(message, Message::Ctd(_))
}

fn is_ctc(message: &Message) -> bool {
    matches!(message, Message::Ctc(_))
}

// proves CXTP-6.1-1
#[test]
fn an_offer_goes_above_every_epoch_that_is_known() {
    let mut desk = Desk::source();
    desk.transfer();
    assert_eq!(offered(&desk.read()), SessionEpoch(1));
    // The target knows a newer one.
    let known = SessionEpoch(7);
    let refusal = refusal(Status::StaleEpoch);
    desk.answer("b", 1, Said::Refused { refusal, known });
    assert_eq!(offered(&desk.read()), SessionEpoch(8));
    // And an attempt that came to nothing used its epoch up.
    desk.down("b");
    desk.up("b");
    desk.transfer();
    assert_eq!(offered(&desk.read()), SessionEpoch(9));
}

// proves CXTP-6.2-1
#[test]
fn nothing_is_paused_before_the_target_holds_what_was_sent() {
    let mut desk = Desk::source();
    assert!(!desk.transfer().orders_to_pause());
    assert!(!desk.read().orders_to_pause());
    let (other, epoch) = (Generation(99), 1);
    let staged = Said::Staged { generation: context().generation };
    assert!(!desk.answer("c", epoch, staged.clone()).orders_to_pause(), "from another peer");
    assert!(!desk.answer("b", 9, staged.clone()).orders_to_pause(), "for another epoch");
    assert!(desk.answer("b", epoch, staged).orders_to_pause());

    let mut desk = Desk::source();
    desk.transfer();
    desk.read();
    let wants = desk.answer("b", epoch, Said::Staged { generation: other });
    assert!(!wants.orders_to_pause(), "another generation");
    assert_eq!(desk.standing(), Some(Standing::Active));
}

/// Pauses with finals that do not fit what is staged.
fn does_not_fit(change: fn(&mut Finals)) {
    let mut desk = Desk::source();
    desk.transfer();
    desk.read();
    desk.staged();
    let mut finals = finals();
    change(&mut finals);
    let wants = desk.paused(finals);
    assert!(wants.records().is_empty(), "{wants:?}");
    assert!(wants.orders_to_resume(), "{wants:?}");
    let wants = desk.gateway(GatewayReply::Resumed(vec![(S, Ok(()))]));
    assert!(matches!(wants.orders().as_slice(), [GatewayCommand::Snapshot(_)]), "{wants:?}");
    assert_eq!(offered(&desk.read()), SessionEpoch(2));
}

// proves CXTP-6.2-2
#[test]
fn what_changed_since_it_was_staged_is_staged_again_and_not_committed() {
    does_not_fit(|finals| finals.generation = finals.generation.next());
    does_not_fit(|finals| {
        finals.children[0].sequence = samples::grants(&context())[0].base;
    });
    does_not_fit(|finals| finals.children[0].sa.inbound_spi += 1);
}

// proves CXTP-6.2-2
#[test]
fn the_gateway_stops_nothing_else_than_what_was_staged() {
    let mut desk = Desk::source();
    desk.transfer();
    let read = context();
    desk.read();
    let wants = desk.staged();
    let [GatewayCommand::Pause(pauses)] = &wants.orders()[..] else { panic!("{wants:?}") };
    assert_eq!(pauses[0].2, Some(read.generation));
    // Nothing was stopped, so there is nothing to resume.
    let refused = Err(refusal(Status::GenerationChanged));
    let wants = desk.gateway(GatewayReply::Paused(vec![(S, refused)]));
    assert!(matches!(wants.orders().as_slice(), [GatewayCommand::Snapshot(_)]), "{wants:?}");
    assert_eq!(offered(&desk.read()), SessionEpoch(2));
}

// proves CXTP-6.2-3
#[test]
fn final_data_wait_for_the_record() {
    let (mut desk, wants) = Desk::committing();
    assert!(matches!(wants.records().as_slice(), [Record::Committed { .. }]), "{wants:?}");
    assert!(!wants.says(is_ctd));
    // However long that takes.
    assert!(!desk.pass(Duration::from_secs(3600)).says(is_ctd));
    assert!(desk.written(&wants).says(is_ctd));
}

// proves CXTP-6.2-4
#[test]
fn a_pause_that_takes_too_long_is_taken_back() {
    let mut desk = Desk::source();
    desk.transfer();
    let tries = u64::from(Desk::config().max_restage) + 1;
    for epoch in 1..=tries {
        desk.read();
        let staged = Said::Staged { generation: context().generation };
        assert!(desk.answer("b", epoch, staged).orders_to_pause());
        let wants = desk.pass(CT_MAX_TRANSFER_TIME - Duration::from_millis(1));
        assert!(wants.is_quiet(), "{wants:?}");
        desk.pass(Duration::from_millis(1));
        // The gateway pauses it after all: it goes on at once.
        let wants = desk.paused(finals());
        assert!(wants.orders_to_resume() && wants.records().is_empty(), "{wants:?}");
        let wants = desk.gateway(GatewayReply::Resumed(vec![(S, Ok(()))]));
        // Some other time it may be quicker; not for ever.
        assert_eq!(wants.says(is_ctc), epoch == tries, "{epoch}: {wants:?}");
    }
    assert_eq!(desk.standing(), Some(Standing::Active));
}

#[test]
fn a_gateway_that_was_busy_for_too_long_is_asked_again() {
    let mut desk = Desk::source();
    desk.transfer();
    desk.read();
    desk.staged();
    desk.pass(CT_MAX_TRANSFER_TIME);
    let busy = refusal(Status::Busy);
    let wants = desk.gateway(GatewayReply::Paused(vec![(S, Err(busy))]));
    assert!(wants.orders_to_pause(), "it is still staged: {wants:?}");
    let wants = desk.paused(finals());
    assert!(matches!(wants.records().as_slice(), [Record::Committed { .. }]), "{wants:?}");
}

#[test]
fn a_late_pause_is_not_tried_again_once_it_is_cancelled() {
    let mut desk = Desk::source();
    desk.transfer();
    desk.read();
    desk.staged();
    desk.pass(CT_MAX_TRANSFER_TIME);
    desk.hear(Input::Command(Command::Cancel { batch: BATCH }));
    assert!(desk.paused(finals()).orders_to_resume());
    let wants = desk.gateway(GatewayReply::Resumed(vec![(S, Ok(()))]));
    assert!(wants.says(is_ctc) && wants.orders().is_empty(), "{wants:?}");
    assert_eq!(desk.standing(), Some(Standing::Active));
}

// proves CXTP-6.2-5
#[test]
fn after_the_commit_nothing_but_an_answer_resumes() {
    let (mut desk, _) = Desk::committed();
    let mut wants = desk.pass(Duration::from_secs(24 * 3600));
    wants.0.extend(desk.down("b").0);
    wants.0.extend(desk.pass(Duration::from_secs(24 * 3600)).0);
    wants.0.extend(desk.up("b").0);
    wants.0.extend(desk.hear(Input::Command(Command::Cancel { batch: BATCH })).0);
    assert!(!wants.orders_to_resume());
    assert!(wants.records().is_empty());
    assert_eq!(desk.standing(), Some(Standing::InDoubt));
}

// proves CXTP-6.2-6
#[test]
fn a_transfer_that_is_stopped_tells_the_target_and_goes_on() {
    let cancel = || Input::Command(Command::Cancel { batch: BATCH });
    // Staged and not paused.
    let mut desk = Desk::source();
    desk.transfer();
    desk.read();
    let wants = desk.hear(cancel());
    assert!(wants.says(is_ctc) && !wants.orders_to_pause(), "{wants:?}");
    assert_eq!(desk.standing(), Some(Standing::Active));
    // Being paused.
    let mut desk = Desk::source();
    desk.transfer();
    desk.read();
    desk.staged();
    // The target hears of it when packets that come back from there are taken.
    assert!(!desk.hear(cancel()).says(is_ctc));
    let wants = desk.paused(finals());
    assert!(wants.orders_to_resume() && !wants.says(is_ctc), "{wants:?}");
    assert!(desk.gateway(GatewayReply::Resumed(vec![(S, Ok(()))])).says(is_ctc));
    assert_eq!(desk.standing(), Some(Standing::Active));
}

// proves CXTP-6.2-7
#[test]
fn an_answer_from_elsewhere_changes_nothing() {
    let aborted = || Said::Aborted(refusal(Status::NoTransfer));
    let (mut desk, _) = Desk::committed();
    for (peer, epoch) in [("c", 1), ("b", 0), ("b", 2)] {
        for state in [Said::Active, aborted()] {
            let wants = desk.answer(peer, epoch, state);
            assert!(wants.is_quiet(), "{peer} {epoch}: {wants:?}");
        }
    }
    assert!(!desk.answer("b", 1, Said::Active).is_quiet());
}

// proves CXTP-6.2-8
#[test]
fn a_release_waits_for_the_record() {
    let (mut desk, _) = Desk::committed();
    let wants = desk.answer("b", 1, Said::Active);
    assert!(matches!(wants.records().as_slice(), [Record::Moved { .. }]), "{wants:?}");
    assert!(wants.orders().is_empty(), "{wants:?}");
    let wants = desk.written(&wants);
    assert!(matches!(wants.orders().as_slice(), [GatewayCommand::Release(_)]), "{wants:?}");
    // And then all numbers are the target's.
    let wants = desk.gateway(GatewayReply::Released(vec![(S, Ok(()))]));
    let all = |message: &Message| match message {
        Message::Grant(grant) => grant.entries[0].2.iter().all(|(_, end)| *end == u64::MAX),
        _ => false,
    };
    assert!(wants.says(all), "{wants:?}");
}

// proves CXTP-6.2-9
#[test]
fn a_lost_connection_stops_what_is_not_committed() {
    let mut desk = Desk::source();
    desk.transfer();
    desk.read();
    desk.down("b");
    assert_eq!(desk.standing(), Some(Standing::Active));

    let mut desk = Desk::source();
    desk.transfer();
    desk.read();
    desk.staged();
    desk.down("b");
    assert!(desk.paused(finals()).orders_to_resume());
}

// proves CXTP-6.5-1
#[test]
fn a_commit_that_may_be_on_disk_is_taken_back_by_a_newer_record() {
    let (mut desk, wants) = Desk::committing();
    let wants = desk.not_written(&wants);
    assert!(!wants.orders_to_resume(), "{wants:?}");
    let [Record::Resumed { epoch, .. }] = wants.records()[..] else { panic!("{wants:?}") };
    assert_eq!(*epoch, SessionEpoch(2), "above the one that may be written");
    assert!(desk.written(&wants).orders_to_resume());

    // If that cannot be written either, it stays in doubt.
    let (mut desk, wants) = Desk::committing();
    let wants = desk.not_written(&wants);
    assert!(!desk.not_written(&wants).orders_to_resume());
    assert_eq!(desk.standing(), Some(Standing::InDoubt));
}

// proves CXTP-8.3-1
#[test]
fn what_a_target_cannot_carry_is_refused_by_name() {
    let mut desk = Desk::source();
    desk.down("b");
    let mut features = context().features();
    features.0 &= !(1 << Feature::Esn as u8);
    let capabilities = Capabilities {
        features,
        child_transforms: Default::default(),
        ike_transforms: Default::default(),
        max_replay_window: 4096,
        max_sessions: 1,
    };
    let (peer, epoch) = (desk::gateway("b"), protocol_spec::id::GatewayEpoch(1));
    desk.hear(Input::PeerUp { peer, epoch, capabilities: Some(capabilities) });
    desk.transfer();
    let wants = desk.read();
    assert!(wants.said().is_empty(), "{wants:?}");
    let told = format!("{:?}", wants.events());
    assert!(told.contains("NoFeature") && told.contains("extended sequence numbers"), "{told}");
    assert_eq!(desk.standing(), Some(Standing::Active));
}

// proves CXTP-6.6-4
#[test]
fn a_session_without_room_for_numbers_is_not_moved() {
    let mut desk = Desk::source();
    desk.transfer();
    let mut full = context();
    full.children[0].esn = false;
    full.children[0].outbound.sequence = u64::from(u32::MAX) - 10;
    let wants = desk.gateway(GatewayReply::Snapshots(vec![(S, Ok(full))]));
    assert!(wants.said().is_empty(), "{wants:?}");
    assert!(format!("{:?}", wants.events()).contains("NoSequenceRoom"));
}

// proves CXTP-6.8-1
#[test]
fn a_file_is_handed_out_after_the_record_only() {
    let mut desk = Desk::source();
    let target = samples::name("b");
    desk.hear(Input::Command(Command::Export { request: REQUEST, session: S, target }));
    let exported =
        |wants: &Wants| wants.replies().iter().any(|reply| matches!(reply, Reply::Exported(_)));
    let wants = desk.read();
    assert!(wants.orders_to_pause() && !exported(&wants), "{wants:?}");
    let wants = desk.paused(finals());
    assert!(matches!(wants.records().as_slice(), [Record::Committed { .. }]), "{wants:?}");
    assert!(!exported(&wants));
    assert!(!exported(&desk.written(&wants)));
    assert!(exported(&desk.read()));
}
