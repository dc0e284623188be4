//! What the specification demands of a target (sections 4, 6.1, 6.3, 6.5, 6.6,
//! 6.8), sentence by sentence.

mod desk;

use std::time::Duration;

use cxtp::engine::{
    Command, Exported, GatewayCommand, GatewayReply, Input, Record, Reply, Standing,
};
use desk::{BATCH, Desk, REQUEST, S, Wants, context, finals, refusal};
use protocol_spec::{
    id::{RequestId, SessionEpoch, SessionId},
    message::{Ctc, CtdEntry, Grant, Message, Preflight, Query, TargetState as Said},
    samples,
    status::Status,
    transfer::SaRef,
};

fn ctc(epoch: u64) -> Message {
    let entries = vec![(S, SessionEpoch(epoch))];
    Message::Ctc(Ctc { batch: BATCH, entries, reason: refusal(Status::Cancelled) })
}

fn query(epoch: u64) -> Message {
    Message::Query(Query { request: REQUEST, transfers: vec![(S, SessionEpoch(epoch), BATCH)] })
}

fn activates(wants: &Wants) -> bool {
    wants.orders().iter().any(|order| matches!(order, GatewayCommand::Activate(_)))
}

fn discards(wants: &Wants) -> bool {
    wants.orders().iter().any(|order| matches!(order, GatewayCommand::Discard(_)))
}

#[test]
fn what_the_gateway_would_not_discard_is_discarded_again_until_it_is_gone() {
    let mut desk = Desk::holding();
    let wants = desk.from("b", ctc(1));
    assert!(discards(&desk.written(&wants)));
    let wait = Desk::config().request_retry;
    let answer = |desk: &mut Desk, result| {
        desk.gateway(GatewayReply::Discarded(vec![(S, SessionEpoch(1), result)]))
    };
    for _ in 0..3 {
        assert!(answer(&mut desk, Err(refusal(Status::Busy))).orders().is_empty());
        assert!(desk.pass(wait / 2).orders().is_empty());
        let wants = desk.pass(wait);
        let [GatewayCommand::Discard(again)] = wants.orders()[..] else { panic!("{wants:?}") };
        assert_eq!(*again, [(S, SessionEpoch(1))]);
    }
    // Gone, or something that is not to be discarded any more.
    answer(&mut desk, Ok(()));
    assert!(desk.pass(wait * 10).orders().is_empty());
    let ends = [Status::NoSession, Status::StaleEpoch, Status::NoTransfer, Status::TransferRunning];
    for end in ends {
        answer(&mut desk, Err(refusal(end)));
        assert!(desk.pass(wait * 10).orders().is_empty(), "{end:?}");
    }
}

/// Hears something that must end in a written and then a said *aborted*.
fn ends_aborted(desk: &mut Desk, message: Message) {
    let wants = desk.from("b", message);
    assert!(wants.said().is_empty(), "said before it was written: {wants:?}");
    assert!(matches!(wants.records().as_slice(), [Record::Aborted { .. }]), "{wants:?}");
    let wants = desk.written(&wants);
    assert!(matches!(wants.entry().state, Said::Aborted(_)), "{wants:?}");
}

// proves CXTP-6.1-2
#[test]
fn an_epoch_that_is_not_above_the_known_one_is_refused_with_it() {
    let mut desk = Desk::target();
    desk.offer("b", 5, context());
    desk.installed(5);
    let wants = desk.from("b", ctc(5));
    desk.written(&wants);
    for epoch in [1, 4, 5] {
        let wants = desk.offer("b", epoch, context());
        let known = SessionEpoch(5);
        assert_eq!(wants.refused(), Status::StaleEpoch);
        assert!(matches!(wants.entry().state, Said::Refused { known: k, .. } if k == known));
        assert!(wants.orders().is_empty());
    }
    assert!(!desk.offer("b", 6, context()).orders().is_empty());
}

// proves CXTP-6.1-6
#[test]
fn an_epoch_that_cannot_be_is_refused() {
    for epoch in [0, 1 << 48, u64::MAX] {
        assert_eq!(Desk::target().offer("b", epoch, context()).refused(), Status::StaleEpoch);
    }
    assert!(Desk::target().offer("b", (1 << 48) - 1, context()).said().is_empty());
}

// proves CXTP-6.1-5
#[test]
fn a_session_that_was_given_away_is_remembered() {
    let (mut desk, _) = Desk::committed();
    let wants = desk.answer("b", 1, Said::Active);
    desk.written(&wants);
    desk.gateway(GatewayReply::Released(vec![(S, Ok(()))]));
    assert_eq!(desk.standing(), Some(Standing::Moved));
    desk.pass(Duration::from_secs(3600));
    assert_eq!(desk.offer("b", 1, context()).refused(), Status::StaleEpoch);
    assert!(desk.offer("b", 2, context()).said().is_empty(), "it may come back");
}

// proves CXTP-6.3-1
#[test]
fn what_the_gateway_refuses_is_refused_and_forgotten() {
    let mut desk = Desk::target();
    desk.offer("b", 1, context());
    let result = Err(refusal(Status::NoRoom));
    let wants = desk.gateway(GatewayReply::Staged(vec![(S, SessionEpoch(1), result)]));
    assert_eq!(wants.refused(), Status::NoRoom);
    assert_eq!(desk.standing(), None);
    assert!(!desk.offer("b", 1, context()).orders().is_empty(), "the epoch was not used up");
}

// proves CXTP-4.4-1
#[test]
fn each_entry_is_answered_on_its_own() {
    let mut desk = Desk::target();
    let mut faulty = context();
    faulty.session = SessionId([0xa9; 16]);
    faulty.children[0].inbound.window.size = 4097;
    let entry = |context: protocol_spec::context::Context| protocol_spec::message::PctdEntry {
        epoch: SessionEpoch(1),
        grants: samples::grants(&context),
        context,
    };
    let entries = vec![entry(faulty), entry(context())];
    let mode = protocol_spec::transfer::TransferMode::Predictive;
    let pctd = protocol_spec::message::Pctd { batch: BATCH, mode, entries };
    let wants = desk.from("b", Message::Pctd(pctd));
    assert_eq!(wants.entry().session, SessionId([0xa9; 16]));
    assert_eq!(wants.refused(), Status::BadContext);
    let wants = desk.installed(1);
    assert_eq!((wants.entry().session, wants.entry().epoch), (S, SessionEpoch(1)));
    assert!(matches!(wants.entry().state, Said::Staged { .. }));
}

// proves CXTP-6.3-4
#[test]
fn only_who_staged_a_session_activates_it_and_only_that_epoch() {
    let mut desk = Desk::holding();
    for (peer, epoch) in [("c", 1), ("b", 2)] {
        let wants = desk.finals(peer, epoch);
        assert!(wants.records().is_empty() && wants.orders().is_empty(), "{wants:?}");
    }
    assert!(!desk.finals("b", 1).records().is_empty());
}

// proves CXTP-6.3-5
#[test]
fn no_act_before_active_is_written() {
    let mut desk = Desk::holding();
    let wants = desk.finals("b", 1);
    assert!(matches!(wants.records().as_slice(), [Record::Active { .. }]), "{wants:?}");
    assert!(wants.orders().is_empty() && wants.said().is_empty(), "{wants:?}");
    assert!(desk.pass(Duration::from_secs(3600)).is_quiet());
    assert!(activates(&desk.written(&wants)));
    assert_eq!(desk.activated(1).entry().state, Said::Active);
}

// proves CXTP-6.3-6
#[test]
fn a_repeated_ctd_is_answered_and_changes_nothing() {
    let mut desk = Desk::owning();
    for _ in 0..3 {
        let wants = desk.finals("b", 1);
        assert_eq!(wants.entry().state, Said::Active);
        assert!(wants.orders().is_empty() && wants.records().is_empty(), "{wants:?}");
    }
}

// proves CXTP-6.3-7
// proves CXTP-4.7-1
#[test]
fn aborted_is_written_before_it_is_said_and_holds() {
    let mut desk = Desk::holding();
    ends_aborted(&mut desk, ctc(1));
    let wants = desk.finals("b", 1);
    assert!(matches!(wants.entry().state, Said::Aborted(_)), "{wants:?}");
    assert!(!activates(&wants) && wants.records().is_empty());
    assert_eq!(desk.offer("b", 1, context()).refused(), Status::StaleEpoch);
}

// proves CXTP-4.7-1
#[test]
fn a_cancellation_is_answered_with_the_state_reached() {
    let mut desk = Desk::owning();
    assert_eq!(desk.from("b", ctc(1)).entry().state, Said::Active, "too late");
    // Of something that never came.
    ends_aborted(&mut Desk::target(), ctc(1));
}

// proves CXTP-6.3-8
#[test]
fn a_session_that_stays_staged_is_given_up() {
    let mut desk = Desk::holding();
    let timeout = Desk::config().staged_timeout;
    assert!(desk.pass(timeout - Duration::from_millis(1)).is_quiet());
    let wants = desk.pass(Duration::from_millis(1));
    assert!(matches!(wants.records().as_slice(), [Record::Aborted { .. }]), "{wants:?}");
    let wants = desk.written(&wants);
    assert!(discards(&wants), "{wants:?}");
    assert!(matches!(wants.entry().state, Said::Aborted(_)));
}

#[test]
fn what_can_never_be_activated_is_given_up_unless_it_is_owned() {
    let unusable = || GatewayReply::Unusable(S, refusal(Status::SessionEnded));
    let mut desk = Desk::holding();
    let wants = desk.gateway(unusable());
    assert!(matches!(wants.records().as_slice(), [Record::Aborted { .. }]), "{wants:?}");
    let wants = desk.written(&wants);
    assert!(discards(&wants), "{wants:?}");
    assert!(matches!(wants.entry().state, Said::Aborted(_)));
    let mut desk = Desk::holding();
    let claiming = desk.finals("b", 1);
    assert!(desk.gateway(unusable()).is_quiet());
    let wants = desk.written(&claiming);
    assert!(matches!(wants.orders().as_slice(), [GatewayCommand::Activate(_)]), "{wants:?}");
}

// proves CXTP-6.3-9
#[test]
fn one_peer_stages_only_so_many_sessions() {
    let mut config = Desk::config();
    if let Some(policy) = config.peers.get_mut(&samples::name("b")) {
        policy.max_staged = 1;
    }
    let mut desk = Desk::with(config, Vec::new());
    desk.offer("b", 1, context());
    desk.installed(1);
    let mut other = context();
    other.session = SessionId([0xa9; 16]);
    assert_eq!(desk.offer("b", 1, other).refused(), Status::RateLimited);
}

// proves CXTP-6.3-10
#[test]
fn a_session_that_is_here_is_not_taken() {
    assert_eq!(Desk::source().offer("b", 9, context()).refused(), Status::TransferRunning);
    assert_eq!(Desk::holding().offer("c", 9, context()).refused(), Status::TransferRunning);
    let (mut desk, _) = Desk::committed();
    let wants = desk.offer("c", 9, context());
    assert!(matches!(wants.entry().state, Said::Refused { .. }) && wants.orders().is_empty());
}

// proves CXTP-6.5-2
#[test]
fn what_could_not_be_written_is_neither_done_nor_said() {
    let mut desk = Desk::holding();
    let wants = desk.finals("b", 1);
    let wants = desk.not_written(&wants);
    assert!(wants.is_quiet(), "{wants:?}");
    assert_eq!(desk.standing(), Some(Standing::Staged));

    let mut desk = Desk::holding();
    let wants = desk.from("b", ctc(1));
    let wants = desk.not_written(&wants);
    assert!(wants.said().is_empty(), "{wants:?}");
}

// proves CXTP-4.10-1
#[test]
fn what_is_asked_about_and_unknown_is_written_off_first() {
    ends_aborted(&mut Desk::target(), query(1));
    // What is staged or active is said as it is.
    let mut desk = Desk::holding();
    assert!(matches!(desk.from("b", query(1)).entry().state, Said::Staged { .. }));
    assert_eq!(Desk::owning().from("b", query(1)).entry().state, Said::Active);
}

// proves CXTP-4.11-1
#[test]
fn a_preflight_only_asks() {
    let mut desk = Desk::target();
    let profiles = vec![context().profile()];
    let before = desk.engine.sessions().count();
    let wants = desk.from("b", Message::Preflight(Preflight { request: REQUEST, profiles }));
    let [GatewayCommand::Admit(number, _)] = wants.orders()[..] else { panic!("{wants:?}") };
    let number = *number;
    assert!(wants.records().is_empty());
    let answer = vec![(S, Err(refusal(Status::NoRoom)))];
    let wants = desk.gateway(GatewayReply::Admitted(number, answer));
    assert!(wants.orders().is_empty() && wants.records().is_empty(), "{wants:?}");
    assert!(
        wants
            .says(|message| matches!(message, Message::PreflightAnswer(a) if a.refused.len() == 1))
    );
    assert_eq!(desk.engine.sessions().count(), before);

    // And at the source.
    let mut desk = Desk::source();
    let (sessions, target) = (vec![S], samples::name("b"));
    let asked = Command::Preflight { request: REQUEST, sessions, target };
    let wants = desk.hear(Input::Command(asked));
    assert!(matches!(wants.orders().as_slice(), [GatewayCommand::Snapshot(_)]), "{wants:?}");
    let wants = desk.read();
    assert!(wants.says(|message| matches!(message, Message::Preflight(_))), "{wants:?}");
    assert!(wants.orders().is_empty() && wants.records().is_empty());
    assert_eq!(desk.standing(), Some(Standing::Active));
}

// proves CXTP-6.6-3
#[test]
fn only_who_gave_a_session_grants_numbers_for_it() {
    let grant = |session, epoch| {
        let sa = SaRef { inbound_spi: 0xc000_0001, ..context().children[0].sa() };
        let entries = vec![(session, SessionEpoch(epoch), vec![(sa, u64::MAX)])];
        Message::Grant(Grant { entries })
    };
    let mut desk = Desk::owning();
    for (peer, session, epoch) in
        [("c", S, 1), ("b", S, 0), ("b", S, 2), ("b", SessionId([1; 16]), 1)]
    {
        assert!(desk.from(peer, grant(session, epoch)).orders().is_empty());
    }
    let wants = desk.from("b", grant(S, 1));
    assert!(matches!(wants.orders().as_slice(), [GatewayCommand::Extend(_)]), "{wants:?}");
}

// proves CXTP-7.3-4
#[test]
fn a_peer_that_may_not_send_sessions_is_refused() {
    let mut config = Desk::config();
    if let Some(policy) = config.peers.get_mut(&samples::name("b")) {
        policy.may_push = false;
    }
    let mut desk = Desk::with(config, Vec::new());
    assert_eq!(desk.offer("b", 1, context()).refused(), Status::NotAuthorized);
    assert!(desk.offer("c", 1, context()).said().is_empty());
}

// proves CXTP-5.4-1
#[test]
fn faulty_finals_activate_nothing() {
    let mut desk = Desk::holding();
    let mut faulty = finals();
    faulty.children[0].window.bitmap.push(0);
    let entry = CtdEntry { session: S, epoch: SessionEpoch(1), finals: faulty };
    let ctd = protocol_spec::message::Ctd { batch: BATCH, entries: vec![entry] };
    let wants = desk.from("b", Message::Ctd(ctd));
    assert!(wants.is_quiet() && wants.events().len() == 1, "{wants:?}");
    assert!(!desk.finals("b", 1).records().is_empty(), "the right ones still do");
}

// proves CXTP-6.8-3
#[test]
fn a_file_is_taken_by_its_target_and_once() {
    let import = |desk: &mut Desk, target: &str, epoch| {
        let context = context();
        let export = Exported {
            batch: BATCH,
            source: samples::name("b"),
            target: samples::name(target),
            epoch: SessionEpoch(epoch),
            grants: samples::grants(&context),
            finals: finals(),
            context,
        };
        let export = Box::new(export);
        desk.hear(Input::Command(Command::Import { request: RequestId([9; 16]), export }))
    };
    let refused = |wants: &Wants| match wants.replies()[..] {
        [Reply::Refused(refusal)] => refusal.status,
        ref other => panic!("{other:?}"),
    };
    let mut desk = Desk::target();
    assert_eq!(refused(&import(&mut desk, "c", 1)), Status::NotAuthorized);
    assert!(import(&mut desk, "a", 1).replies().is_empty());
    let wants = desk.installed(1);
    desk.written(&wants);
    let wants = desk.activated(1);
    assert!(matches!(wants.replies().as_slice(), [Reply::Accepted]), "{wants:?}");
    assert_eq!(refused(&import(&mut desk, "a", 1)), Status::StaleEpoch);
}
