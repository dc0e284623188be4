//! What the engine does with offers, final data and claims that it should not believe.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pair;

use std::time::Duration;

use cxtp::engine::{Command, Event, Input, Record, Reply, Resolution, Standing};
use pair::{A, B, Pair, batch, config, context, gateway, name, request, session};
use protocol_spec::{
    id::{GatewayEpoch, Generation, Identity, RequestId, Role, SessionEpoch},
    message::{
        Ctc, Ctd, CtdEntry, Ctdr, CtdrEntry, Kind, Message, Pctd, PctdEntry, Query, TargetState,
    },
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, TransferMode},
};

fn offer(epoch: u64, base: u64) -> PctdEntry {
    let grants = vec![GrantedRange { sa: pair::sa(session(5)), base, end: base + 1000 }];
    let context = context(session(5), Generation(1), 10);
    PctdEntry { epoch: SessionEpoch(epoch), grants, context }
}

fn finals() -> Finals {
    Finals { generation: Generation(1), ike: None, children: Vec::new() }
}

fn pctd(entry: PctdEntry) -> Message {
    let (batch, mode) = (batch(3), TransferMode::Predictive);
    Message::Pctd(Pctd { batch, mode, entries: vec![entry] })
}

fn ctd(epoch: u64) -> Message {
    let entry = CtdEntry { session: session(5), epoch: SessionEpoch(epoch), finals: finals() };
    Message::Ctd(Ctd { batch: batch(3), entries: vec![entry] })
}

#[test]
fn final_data_for_what_was_never_staged_activate_nothing() {
    let mut pair = Pair::new(0);
    pair.message(A, ctd(1));
    assert!(!pair.nodes[B].is_active(5));
    assert!(matches!(pair.nodes[B].journal[&session(5)], Record::Aborted { .. }));
}

#[test]
fn final_data_of_another_epoch_activate_nothing_and_repeated_ones_nothing_more() {
    let mut pair = Pair::new(0);
    pair.check = false;
    pair.message(A, pctd(offer(2, 100)));
    assert_eq!(pair.nodes[B].standing(5), Some(Standing::Staged));
    pair.message(A, ctd(1));
    pair.message(A, ctd(3));
    assert!(!pair.nodes[B].is_active(5));
    for _ in 0..3 {
        pair.message(A, ctd(2));
    }
    assert!(pair.nodes[B].is_active(5));
    let taken = |event: &&Event| matches!(event, Event::Taken { .. });
    assert_eq!(pair.nodes[B].events.iter().filter(taken).count(), 1);
}

#[test]
fn a_stale_offer_is_refused_with_the_epoch_that_is_known() {
    let mut pair = Pair::new(0);
    pair.check = false;
    pair.message(A, pctd(offer(5, 100)));
    pair.message(
        A,
        Message::Ctc(Ctc {
            batch: batch(3),
            entries: vec![(session(5), SessionEpoch(5))],
            reason: Refusal::new(Status::Cancelled, "no"),
        }),
    );
    for epoch in [0, 1, 5, 1 << 50] {
        pair.message(A, pctd(offer(epoch, 100)));
        assert!(pair.nodes[B].gateway.sessions.is_empty(), "epoch {epoch}");
    }
    pair.message(A, pctd(offer(6, 100)));
    assert_eq!(pair.nodes[B].standing(5), Some(Standing::Staged));
}

#[test]
fn an_offer_whose_numbers_were_used_already_is_refused() {
    let mut pair = Pair::new(0);
    pair.message(A, pctd(offer(1, 10)));
    assert!(pair.nodes[B].gateway.sessions.is_empty());
}

#[test]
fn a_peer_cannot_take_back_or_activate_what_another_staged() {
    let mut b = config(B);
    b.peers.insert("x".parse().unwrap(), Default::default());
    let mut pair = Pair::with(config(A), b, 0);
    pair.check = false;
    let x = Identity { role: Role::Gateway, name: "x".parse().unwrap() };
    pair.input(B, Input::PeerUp { peer: x.clone(), epoch: GatewayEpoch(1), capabilities: None });
    pair.message(A, pctd(offer(1, 100)));
    let cancel = Message::Ctc(Ctc {
        batch: batch(3),
        entries: vec![(session(5), SessionEpoch(1))],
        reason: Refusal::new(Status::Cancelled, "no"),
    });
    for message in [ctd(1), cancel, pctd(offer(9, 100))] {
        pair.input(B, Input::Message { from: x.clone(), message });
        pair.run();
        assert_eq!(pair.nodes[B].standing(5), Some(Standing::Staged));
        assert!(!pair.nodes[B].is_active(5));
    }
    assert!(pair.nodes[B].misbehaviour().contains(&Status::NotAuthorized));
}

#[test]
fn a_target_that_claims_what_was_not_committed_changes_nothing() {
    let mut pair = Pair::new(1);
    pair.hold.insert((B, "ctdr"));
    pair.transfer(1);
    let entry =
        CtdrEntry { session: session(0), epoch: SessionEpoch(1), state: TargetState::Active };
    pair.message(B, Message::Ctdr(Ctdr { batch: batch(1), entries: vec![entry] }));
    assert!(pair.nodes[A].is_active(0));
    assert_eq!(pair.nodes[A].misbehaviour(), [Status::NoTransfer]);
    pair.release();
    pair.assert_owner(B, 1);
}

#[test]
fn an_owner_never_answers_aborted_about_what_it_owns() {
    let mut pair = Pair::new(1);
    let query =
        Query { request: request(1), transfers: vec![(session(0), SessionEpoch(77), batch(1))] };
    pair.message(B, Message::Query(query));
    assert!(pair.nodes[A].journal.is_empty());
    assert_eq!(pair.nodes[A].misbehaviour(), [Status::NotAuthorized]);
    pair.transfer(1);
    pair.assert_owner(B, 1);
}

#[test]
fn a_former_owner_that_refused_the_way_back_still_says_that_it_had_it() {
    // B has had epoch 1, gave it back as 2, and aborted 3: asked about 1 it must
    // not say aborted.
    let mut pair = Pair::new(1);
    pair.transfer(1);
    pair.transfer_as(B, 2, vec![session(0)], TransferMode::Predictive);
    pair.hold.insert((A, "pause"));
    pair.transfer_as(A, 3, vec![session(0)], TransferMode::Predictive);
    pair.command(A, Command::Cancel { batch: batch(3) });
    pair.release();
    assert!(matches!(pair.nodes[B].journal[&session(0)], Record::Aborted { .. }));
    pair.crash(B);
    pair.connect();
    let answers = |pair: &Pair| pair.sent.iter().filter(|s| **s == (B, Kind::QueryAnswer)).count();
    let before = answers(&pair);
    let transfers = vec![(session(0), SessionEpoch(1), batch(1))];
    pair.hold.insert((B, "answer"));
    pair.message(A, Message::Query(Query { request: request(1), transfers }));
    let said = pair.take_held();
    assert_eq!(answers(&pair), before);
    let said = said.into_iter().find_map(|message| match message {
        Message::QueryAnswer(answer) => answer.entries.into_iter().next(),
        _ => None,
    });
    assert_eq!(said.unwrap().state, TargetState::Active);
}

#[test]
fn an_older_life_of_a_gateway_is_refused() {
    let mut pair = Pair::new(1);
    pair.crash(B);
    pair.connect();
    let (peer, epoch) = (gateway(B), GatewayEpoch(1));
    pair.input(A, Input::PeerUp { peer, epoch, capabilities: None });
    pair.run();
    assert_eq!(pair.nodes[A].misbehaviour(), [Status::StaleEpoch]);
}

#[test]
fn staged_sessions_and_batches_of_a_peer_are_bounded() {
    let mut b = config(B);
    b.peers.get_mut(&name(A)).unwrap().max_staged = 3;
    let mut pair = Pair::with(config(A), b, 10);
    pair.hold.insert((A, "pause"));
    pair.transfer(10);
    assert_eq!(pair.nodes[B].gateway.sessions.len(), 3);
    pair.release();
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().moved, 3);

    let mut a = config(A);
    a.max_batches = 1;
    let mut pair = Pair::with(a, config(B), 2);
    pair.hold.insert((A, "pause"));
    pair.transfer_as(A, 1, vec![session(0)], TransferMode::Predictive);
    pair.transfer_as(A, 2, vec![session(1)], TransferMode::Predictive);
    let refused =
        |reply: &Reply| matches!(reply, Reply::Refused(why) if why.status == Status::RateLimited);
    assert!(refused(&pair.nodes[A].replies.last().unwrap().1));
}

// proves CXTP-4.11-1
#[test]
fn preflight_says_what_would_be_refused_and_touches_nothing() {
    let mut pair = Pair::new(2);
    let ask = |pair: &mut Pair, number| {
        let sessions = vec![session(0), session(1), session(8)];
        pair.command(A, Command::Preflight { request: request(number), sessions, target: name(B) });
        match pair.nodes[A].replies.pop() {
            Some((_, Reply::Preflight(refused))) => {
                refused.into_iter().map(|(id, why)| (id, why.status)).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut pair, 1), [(session(8), Status::NoSession)]);
    let why = Refusal::new(Status::NoRoom, "full");
    pair.nodes[B].gateway.refuse.insert("stage", why);
    assert_eq!(ask(&mut pair, 2).len(), 3);
    pair.assert_owner(A, 2);
    assert_eq!(pair.nodes[B].engine.sessions().count(), 0);
}

fn export(pair: &mut Pair, number: u8) -> Box<cxtp::engine::Exported> {
    let export = Command::Export { request: request(number), session: session(0), target: name(B) };
    pair.command(A, export);
    match pair.nodes[A].replies.pop() {
        Some((_, Reply::Exported(exported))) => exported,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_moves_a_session_once_and_its_source_hears_of_it() {
    let mut pair = Pair::new(1);
    let exported = export(&mut pair, 1);
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::InDoubt));
    // However long the file lies about, and however often the daemon starts.
    pair.crash(A);
    pair.connect();
    pair.advance(Duration::from_secs(1000));
    assert_eq!(pair.nodes[A].standing(0), Some(Standing::InDoubt));
    let again = cxtp::engine::Exported {
        context: context(session(0), Generation(1), exported.context.children[0].outbound.sequence),
        source: exported.source.clone(),
        target: exported.target.clone(),
        grants: exported.grants.clone(),
        finals: exported.finals.clone(),
        ..*exported
    };
    pair.disconnect();
    pair.command(B, Command::Import { request: request(2), export: exported });
    assert!(matches!(pair.nodes[B].replies.last(), Some((_, Reply::Accepted))));
    pair.connect();
    pair.assert_owner(B, 1);
    pair.command(B, Command::Import { request: request(3), export: Box::new(again) });
    assert!(matches!(pair.nodes[B].replies.last(), Some((_, Reply::Refused(_)))));
    pair.assert_owner(B, 1);
}

#[test]
fn a_file_is_void_once_its_source_goes_on_and_could_say_so() {
    let mut pair = Pair::new(1);
    let exported = export(&mut pair, 1);
    let (request_id, resolution) = (request(2), Resolution::ResumeHere);
    let resolve = Command::Resolve { request: request_id, session: session(0), resolution };
    pair.command(A, resolve);
    pair.assert_owner(A, 1);
    pair.command(B, Command::Import { request: request(3), export: exported });
    let Some((_, Reply::Refused(why))) = pair.nodes[B].replies.last() else {
        panic!("the file was taken");
    };
    assert_eq!(why.status, Status::StaleEpoch);
    pair.assert_owner(A, 1);
}

#[test]
fn messages_of_strangers_and_of_wrong_roles_are_refused() {
    let mut pair = Pair::new(1);
    let from = Identity { role: Role::Client, name: "someone".parse().unwrap() };
    let query = || Message::Query(Query { request: RequestId([0; 16]), transfers: Vec::new() });
    pair.input(A, Input::Message { from: from.clone(), message: query() });
    pair.input(A, Input::PeerUp { peer: from.clone(), epoch: GatewayEpoch(1), capabilities: None });
    pair.input(A, Input::Message { from, message: query() });
    pair.run();
    assert_eq!(pair.nodes[A].misbehaviour(), [Status::NotAuthorized; 2]);
}
