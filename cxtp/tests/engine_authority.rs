//! Who may pull, what a file is good for, and what a hostile peer gets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod pair;

use std::time::Duration;

use cxtp::engine::{Command, Input, Reply};
use pair::{A, B, Pair, batch, config, name, request, session};
use protocol_spec::{
    KeyMaterial,
    id::{BatchId, GatewayEpoch, Identity, Role},
    message::{Authority, CtReq, Ctaa, Ctar, Kind, Message},
    status::Status,
    token::{Order, OrderClaims, Token, TokenClaims},
    transfer::TransferMode,
};
use ring::signature::{Ed25519KeyPair, KeyPair};

fn controller() -> Identity {
    Identity { role: Role::Controller, name: "c".parse().unwrap() }
}

fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap()
}

fn pair_with_controller(count: u32) -> Pair {
    let [mut a, mut b] = [config(A), config(B)];
    for config in [&mut a, &mut b] {
        config.controllers.insert(controller().name, key().public_key().as_ref().to_vec());
    }
    Pair::with(a, b, count)
}

fn order(number: u8, count: u32, expires: u64) -> Order {
    let claims = OrderClaims {
        id: request(number),
        controller: controller().name,
        sessions: (0..count).map(session).collect(),
        source: name(A),
        target: name(B),
        expires,
    };
    Order::sign(claims, &key()).unwrap()
}

fn statuses(reply: &Message) -> Vec<Status> {
    match reply {
        Message::Ctaa(Ctaa { refused, .. }) => refused.iter().map(|(_, why)| why.status).collect(),
        other => panic!("{other:?}"),
    }
}

// proves CXTP-6.7-1
#[test]
fn a_reactive_transfer_ordered_at_the_source_is_asked_for_by_the_target() {
    let mut pair = Pair::new(1000);
    let all = (0..1000).map(session).collect();
    pair.transfer_as(A, 1, all, TransferMode::Reactive);
    pair.assert_owner(B, 1000);
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().moved, 1000);
    assert_eq!(pair.nodes[B].summary(batch(1)).unwrap().moved, 1000);
    assert!(pair.sent.contains(&(B, Kind::CtReq)));
}

#[test]
fn a_large_reactive_transfer_goes_in_parts() {
    let mut pair = Pair::new(3000);
    let all = (0..3000).map(session).collect();
    pair.transfer_as(A, 1, all, TransferMode::Reactive);
    pair.assert_owner(B, 3000);
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().moved, 3000);
}

// proves CXTP-6.7-2
#[test]
fn a_reactive_order_that_nobody_follows_ends() {
    let mut pair = Pair::new(2);
    pair.drop.insert((A, "ctar"));
    let all = (0..2).map(session).collect();
    pair.transfer_as(A, 1, all, TransferMode::Reactive);
    pair.advance(Duration::from_secs(16));
    assert_eq!(pair.nodes[A].summary(batch(1)).unwrap().aborted, 2);
    pair.assert_owner(A, 2);
}

// proves CXTP-7.2-2
#[test]
fn a_signed_order_pulls_once() {
    let mut pair = pair_with_controller(2);
    let order = order(7, 2, pair.now.unix + 60);
    pair.command(B, Command::Pull { request: request(7), order: order.clone() });
    assert!(matches!(pair.nodes[B].replies.last(), Some((_, Reply::Accepted))));
    pair.assert_owner(B, 2);
    assert_eq!(pair.nodes[B].summary(BatchId(request(7).0)).unwrap().moved, 2);
    // Home again, and the same order a second time.
    pair.transfer_as(B, 8, vec![session(0), session(1)], TransferMode::Predictive);
    pair.assert_owner(A, 2);
    pair.command(B, Command::Pull { request: request(9), order });
    pair.assert_owner(A, 2);
    assert_eq!(pair.nodes[B].summary(BatchId(request(9).0)).unwrap().refused, 2);
}

// proves CXTP-7.2-1
// proves CXTP-7.2-2
#[test]
fn an_order_that_is_forged_expired_or_about_others_pulls_nothing() {
    let mut pair = pair_with_controller(2);
    let now = pair.now.unix;
    let mut forged = order(1, 1, now + 60);
    forged.claims.sessions = vec![session(1)];
    pair.hold.insert((A, "message"));
    for (number, order, status) in [
        (1, forged, Status::BadAuthorization),
        (2, order(2, 1, now), Status::Expired),
        (3, order(3, 1, now + 100_000), Status::BadAuthorization),
    ] {
        let sessions = order.claims.sessions.clone();
        let authority = Authority::Order(order);
        let ask = CtReq { request: request(number), sessions, authority };
        pair.message(B, Message::CtReq(ask));
        pair.assert_owner(A, 2);
        assert_eq!(statuses(&pair.take_held()[0]), [status]);
    }
    let reported = [Status::BadAuthorization, Status::Expired, Status::BadAuthorization];
    assert_eq!(pair.nodes[A].misbehaviour(), reported);
}

// proves CXTP-7.3-1
#[test]
fn a_pull_without_the_right_is_refused_whatever_its_authority() {
    let mut pair = pair_with_controller(1);
    let mut config = pair.nodes[A].config.clone();
    config.peers.get_mut(&name(B)).unwrap().may_pull = false;
    pair = Pair::with(config, pair.nodes[B].config.clone(), 1);
    let order = order(7, 1, pair.now.unix + 60);
    pair.command(B, Command::Pull { request: request(7), order });
    pair.assert_owner(A, 1);
    assert_eq!(pair.nodes[A].misbehaviour(), [Status::NotAuthorized]);
    pair.transfer_as(A, 1, vec![session(0)], TransferMode::Reactive);
    assert!(matches!(pair.nodes[A].replies.last(), Some((_, Reply::Refused(_)))));
}

// proves CXTP-7.3-1
#[test]
fn a_peers_word_alone_pulls_nothing() {
    let mut pair = Pair::new(1);
    for authority in [Authority::Known(request(3)), Authority::Standby] {
        let ask = CtReq { request: request(3), sessions: vec![session(0)], authority };
        pair.message(B, Message::CtReq(ask));
    }
    pair.assert_owner(A, 1);
    assert_eq!(pair.nodes[A].misbehaviour(), [Status::NotAuthorized; 2]);
}

// proves CXTP-4.2-1
#[test]
fn a_controller_orders_at_the_target_or_at_the_source() {
    for (node, mode) in [(B, TransferMode::Reactive), (A, TransferMode::Predictive)] {
        let mut pair = pair_with_controller(2);
        let epoch = GatewayEpoch(1);
        pair.input(node, Input::PeerUp { peer: controller(), epoch, capabilities: None });
        let message = Message::Ctar(Ctar {
            request: request(4),
            source: name(A),
            target: name(B),
            mode,
            sessions: vec![session(0), session(1)],
            authority: Authority::Order(order(4, 2, pair.now.unix + 60)),
        });
        pair.input(node, Input::Message { from: controller(), message });
        pair.run();
        pair.assert_owner(B, 2);
        assert_eq!(statuses(&pair.outside[0].1), []);
    }
}

// proves CXTP-7.3-2
#[test]
fn a_flood_of_requests_is_answered_with_a_refusal_and_starts_nothing() {
    let mut pair = pair_with_controller(1);
    let epoch = GatewayEpoch(1);
    pair.input(B, Input::PeerUp { peer: controller(), epoch, capabilities: None });
    for number in 0..200_u8 {
        let message = Message::Ctar(Ctar {
            request: request(number),
            source: name(A),
            target: name(B),
            mode: TransferMode::Reactive,
            sessions: vec![session(0)],
            authority: Authority::Known(request(number)),
        });
        pair.input(B, Input::Message { from: controller(), message });
    }
    pair.run();
    pair.assert_owner(A, 1);
    let limited = |(_, reply): &&(Identity, Message)| statuses(reply) == [Status::RateLimited];
    assert_eq!(pair.outside.iter().filter(limited).count(), 190);
}

// proves CXTP-7.3-3
#[test]
fn the_quota_of_pulls_is_kept() {
    let mut config_a = pair_with_controller(0).nodes[A].config.clone();
    config_a.peers.get_mut(&name(B)).unwrap().pulls_per_minute = 1;
    let config_b = pair_with_controller(0).nodes[B].config.clone();
    let mut pair = Pair::with(config_a, config_b, 2);
    let order = order(7, 2, pair.now.unix + 60);
    pair.command(B, Command::Pull { request: request(7), order });
    pair.assert_owner(A, 2);
}

#[test]
fn an_end_users_token_pulls_its_own_session_once_and_a_forged_one_nothing() {
    for forged in [true, false] {
        let mut pair = Pair::new(2);
        pair.nodes[A].gateway.ike = true;
        let claims = TokenClaims {
            session: Some(session(0)),
            ike_spis: pair::IKE_SPIS,
            source: name(A),
            target: name(B),
            mode: TransferMode::Reactive,
            sequence: 4711,
            expires: pair.now.unix + 30,
        };
        let sk_d = KeyMaterial::new(vec![if forged { 1 } else { pair::SK_D }; 32]);
        let token = Token::issue(claims, &sk_d, pair::PRF).unwrap();
        let client = Identity { role: Role::Client, name: "someone".parse().unwrap() };
        let epoch = GatewayEpoch(1);
        pair.input(B, Input::PeerUp { peer: client.clone(), epoch, capabilities: None });
        let ctar = |number, sessions| {
            let authority = Authority::Token(token.clone());
            let mode = TransferMode::Reactive;
            let (source, target) = (name(A), name(B));
            Message::Ctar(Ctar {
                request: request(number),
                source,
                target,
                mode,
                sessions,
                authority,
            })
        };
        // For another's session, for its own, and for its own again.
        for (number, id) in [(1, 1), (2, 0), (3, 0)] {
            let message = ctar(number, vec![session(id)]);
            pair.input(B, Input::Message { from: client.clone(), message });
            pair.run();
        }
        assert!(pair.nodes[A].is_active(1));
        let owner = if forged { A } else { B };
        pair.assert_owner(owner, 1);
    }
}
