//! What the specification demands of whoever asks for sessions (sections 4.2, 6.7
//! and 7), sentence by sentence, where no other test looks at it.
#![expect(clippy::expect_used, reason = "what fails in a helper fails the test")]

mod desk;

use std::time::Duration;

use cxtp::engine::{Command, GatewayCommand, GatewayReply, Input};
use desk::{Desk, REQUEST, S, UNIX, Wants, context};
use protocol_spec::{
    id::{BatchId, GatewayEpoch, Identity, RequestId, Role, SessionId},
    limits::CT_RETRY_MAX,
    message::{Authority, CtReq, Ctaa, Ctar, Message},
    samples,
    status::Status,
    token::{Token, TokenClaims},
    transfer::TransferMode,
};

/// The claims that an end user of the sample session makes.
fn claims() -> TokenClaims {
    TokenClaims {
        session: Some(S),
        source: samples::name("a"),
        target: samples::name("b"),
        expires: UNIX + 60,
        ..samples::token_claims()
    }
}

fn token(claims: TokenClaims) -> Authority {
    let ike = context().ike.expect("the sample has one");
    let sk_d = ike.sk_d().expect("the sample has keys");
    Authority::Token(Token::issue(claims, &sk_d, ike.transforms.prf).expect("a known prf"))
}

fn ask(number: u8, authority: Authority) -> Message {
    let request = RequestId([number; 16]);
    Message::CtReq(CtReq { request, sessions: vec![S], authority })
}

/// The statuses of the one CTAA.
fn refused(wants: &Wants) -> Vec<Status> {
    match wants.said().as_slice() {
        [(_, Message::Ctaa(Ctaa { refused, .. }))] => {
            refused.iter().map(|(_, r)| r.status).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn is_offer(message: &Message) -> bool {
    matches!(message, Message::Pctd(_))
}

// proves CXTP-6.7-1
// proves CXTP-7.1-4
#[test]
fn a_token_of_the_end_user_pulls_its_session_once() {
    let mut desk = Desk::source();
    let wants = desk.from("b", ask(1, token(claims())));
    assert!(matches!(wants.orders().as_slice(), [GatewayCommand::Snapshot(_)]), "{wants:?}");
    let wants = desk.read();
    let batch = |message: &Message| match message {
        Message::Pctd(pctd) => pctd.batch == BatchId([1; 16]),
        _ => false,
    };
    assert!(wants.says(batch), "the batch has the octets of the request: {wants:?}");
    // The same token under another number.
    desk.down("b");
    desk.up("b");
    assert_eq!(refused(&desk.from("b", ask(2, token(claims())))), [Status::Expired]);
}

// proves CXTP-7.1-4
#[test]
fn a_token_that_says_anything_else_pulls_nothing() {
    type Change = fn(&mut TokenClaims);
    let changes: [(&str, Change, Status); 7] = [
        ("expired", |c| c.expires = UNIX, Status::Expired),
        ("too long valid", |c| c.expires = UNIX + 1_000_000, Status::BadAuthorization),
        ("source", |c| c.source = samples::name("c"), Status::BadAuthorization),
        ("target", |c| c.target = samples::name("c"), Status::BadAuthorization),
        ("session", |c| c.session = Some(SessionId([9; 16])), Status::BadAuthorization),
        ("mode", |c| c.mode = TransferMode::Predictive, Status::BadAuthorization),
        ("SPIs", |c| c.ike_spis.0 ^= 1, Status::BadAuthorization),
    ];
    for (what, change, status) in changes {
        let mut desk = Desk::source();
        let mut claims = claims();
        change(&mut claims);
        let wants = desk.from("b", ask(1, token(claims)));
        if what == "SPIs" {
            // These are known once the context is there.
            let wants = desk.read();
            assert!(!wants.says(is_offer), "{what}: {wants:?}");
            assert!(format!("{:?}", wants.events()).contains("BadAuthorization"), "{wants:?}");
        } else {
            assert_eq!(refused(&wants), [status], "{what}");
            assert!(wants.orders().is_empty(), "{what}");
        }
    }
}

// proves CXTP-7.1-2
#[test]
fn a_token_under_another_key_pulls_nothing() {
    let mut desk = Desk::source();
    let forged = Token::issue(claims(), &samples::key(1, 32), 5).expect("a known prf");
    desk.from("b", ask(1, Authority::Token(forged)));
    let wants = desk.read();
    assert!(!wants.says(is_offer), "{wants:?}");
    // And where there is no IKE SA there is no key at all.
    let mut desk = Desk::source();
    desk.from("b", ask(1, token(claims())));
    let mut kernel_only = context();
    kernel_only.ike = None;
    let wants = desk.gateway(GatewayReply::Snapshots(vec![(S, Ok(kernel_only))]));
    assert!(!wants.says(is_offer), "{wants:?}");
}

fn ctar(number: u8, mode: TransferMode, authority: Authority) -> Message {
    Message::Ctar(Ctar {
        request: RequestId([number; 16]),
        source: samples::name("b"),
        target: samples::name("a"),
        mode,
        sessions: vec![S],
        authority,
    })
}

fn at_target_of_client() -> (Desk, Identity) {
    let mut desk = Desk::target();
    let client = Identity { role: Role::Client, name: samples::name("user") };
    let (peer, epoch) = (client.clone(), GatewayEpoch(0));
    desk.hear(Input::PeerUp { peer, epoch, capabilities: None });
    (desk, client)
}

fn clients_token() -> Authority {
    let claims = TokenClaims { source: samples::name("b"), target: samples::name("a"), ..claims() };
    token(claims)
}

// proves CXTP-4.2-1
// proves CXTP-4.2-2
#[test]
fn a_request_is_answered_and_carried_out_once() {
    let (mut desk, client) = at_target_of_client();
    let mut say = |message| desk.hear(Input::Message { from: client.clone(), message });
    let asks = |wants: &Wants| wants.says(|message| matches!(message, Message::CtReq(_)));
    let answers = |wants: &Wants| wants.says(|message| matches!(message, Message::Ctaa(_)));
    let wants = say(ctar(1, TransferMode::Reactive, clients_token()));
    assert!(asks(&wants) && answers(&wants), "{wants:?}");
    // Said again, since the answer may have been lost.
    let wants = say(ctar(1, TransferMode::Reactive, clients_token()));
    assert!(!asks(&wants) && answers(&wants), "{wants:?}");

    // And at the source: the request is not a second transfer.
    let mut desk = Desk::source();
    assert!(!desk.from("b", ask(1, token(claims()))).orders().is_empty());
    let wants = desk.from("b", ask(1, token(claims())));
    assert!(wants.orders().is_empty(), "{wants:?}");
}

// proves CXTP-7.3-5
#[test]
fn a_client_needs_a_token_and_a_controller_its_own_order() {
    let (mut desk, client) = at_target_of_client();
    let mut order = samples::order_claims();
    order.controller = samples::name("other");
    let key = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let order = protocol_spec::token::Order::sign(order, &key).expect("an order");
    let controller = Identity { role: Role::Controller, name: samples::name("noc") };
    let (peer, epoch) = (controller.clone(), GatewayEpoch(0));
    desk.hear(Input::PeerUp { peer, epoch, capabilities: None });
    let reactive = TransferMode::Reactive;
    for (from, message) in [
        (&client, ctar(1, reactive, Authority::Known(REQUEST))),
        (&client, ctar(2, reactive, Authority::Standby)),
        (&client, ctar(3, reactive, Authority::Order(order.clone()))),
        (&client, ctar(4, TransferMode::Predictive, clients_token())),
        (&controller, ctar(5, reactive, clients_token())),
        (&controller, ctar(6, reactive, Authority::Known(REQUEST))),
        (&controller, ctar(7, reactive, Authority::Order(order))),
    ] {
        let wants = desk.hear(Input::Message { from: from.clone(), message });
        assert_eq!(refused(&wants), [Status::NotAuthorized], "{from}: {wants:?}");
    }
}

// proves CXTP-6.7-2
#[test]
fn an_order_of_the_source_is_for_its_target_its_sessions_and_a_short_time() {
    let ordered = || {
        let mut desk = Desk::source();
        let (batch, sessions, target) = (BatchId(REQUEST.0), vec![S], samples::name("b"));
        let mode = TransferMode::Reactive;
        let transfer = Command::Transfer { batch, sessions, target, mode };
        let wants = desk.hear(Input::Command(transfer));
        assert!(wants.says(|message| matches!(message, Message::Ctar(_))), "{wants:?}");
        desk
    };
    let known = |sessions: Vec<SessionId>| {
        let authority = Authority::Known(REQUEST);
        Message::CtReq(CtReq { request: REQUEST, sessions, authority })
    };
    let reads = |wants: &Wants| !wants.orders().is_empty();
    assert!(reads(&ordered().from("b", known(vec![S]))));
    assert!(!reads(&ordered().from("c", known(vec![S]))), "another target");
    assert!(!reads(&ordered().from("b", known(vec![SessionId([9; 16])]))), "another session");
    let mut desk = ordered();
    desk.pass(CT_RETRY_MAX + Duration::from_millis(1));
    assert!(!reads(&desk.from("b", known(vec![S]))), "too late");
    let mut desk = ordered();
    desk.from("b", known(vec![S]));
    assert!(!reads(&desk.from("b", known(vec![S]))), "twice");
}
