//! The messages of the valid vectors.

use std::collections::BTreeSet;

use protocol_spec::{
    context::{Context, Protocol},
    id::{BatchId, GatewayEpoch, Generation, RequestId, SessionEpoch, SessionId},
    message::{
        Authority, Bye, CtReq, Ctaa, Ctar, Ctc, Ctd, CtdEntry, Ctdr, CtdrEntry, Grant, Heartbeat,
        Hello, Lane, Message, Preflight, PreflightAnswer, Query, QueryAnswer, ReplicaAck,
        ReplicaDelta, ReplicaEntry, TargetState,
    },
    profile::{Capabilities, Feature},
    samples::{context, finals, name, order_claims, token_claims},
    status::{Refusal, Status},
    token::{Order, Token},
    transfer::{SaRef, TransferMode},
};

use crate::contexts::contexts;

pub(crate) type Case = (&'static str, &'static str, Message);

const S1: SessionId = SessionId([0xa1; 16]);
pub(crate) const S2: SessionId = SessionId([0xa2; 16]);
pub(crate) const BATCH: BatchId = BatchId([0xb0; 16]);
const REQUEST: RequestId = RequestId([0x0e; 16]);
const SA: SaRef = SaRef { protocol: Protocol::Esp, inbound_spi: 0xc000_0001 };

fn refusal(status: Status, detail: &str) -> Refusal {
    Refusal::new(status, detail)
}

/// Name, what it shows, message.
pub(crate) fn all() -> Vec<Case> {
    [requests(), transfers(), contexts(), connection(), questions()].into_iter().flatten().collect()
}

fn requests() -> Vec<Case> {
    let ctar = |mode, authority| {
        Message::Ctar(Ctar {
            request: REQUEST,
            source: name("gw-a.example"),
            target: name("gw-b.example"),
            mode,
            sessions: vec![S1, S2],
            authority,
        })
    };
    let token = || Authority::Token(Token { claims: token_claims(), mac: [0x3c; 16] });
    let order = Authority::Order(Order { claims: order_claims(), signature: vec![0x5a; 64] });
    let anonymous = {
        let claims = protocol_spec::token::TokenClaims { session: None, ..token_claims() };
        Authority::Token(Token { claims, mac: [0; 16] })
    };
    let ct_req =
        |authority| Message::CtReq(CtReq { request: REQUEST, sessions: vec![S1], authority });
    vec![
        (
            "ctar-token",
            "An end user asks the target; its MAC is not a real one",
            ctar(TransferMode::Reactive, token()),
        ),
        (
            "ctar-order",
            "A controller asks the source; its signature is not a real one",
            ctar(TransferMode::Predictive, order),
        ),
        (
            "ctar-known",
            "The source tells the target of an operator's order",
            ctar(TransferMode::Reactive, Authority::Known(REQUEST)),
        ),
        (
            "ctaa-accepted",
            "All was accepted",
            Message::Ctaa(Ctaa { request: REQUEST, refused: vec![] }),
        ),
        (
            "ctaa-refused",
            "Two sessions are refused; the second explanation is empty",
            Message::Ctaa(Ctaa {
                request: REQUEST,
                refused: vec![
                    (S1, refusal(Status::BadAuthorization, "the token does not verify: renew it")),
                    (S2, refusal(Status::NoSession, "")),
                ],
            }),
        ),
        (
            "ct-req-token",
            "The target passes an end user's token on; the session id is not known to it",
            ct_req(anonymous),
        ),
        (
            "ct-req-known",
            "The target asks for what the source offered",
            ct_req(Authority::Known(REQUEST)),
        ),
        ("ct-req-standby", "A standby asks", ct_req(Authority::Standby)),
    ]
}

fn transfers() -> Vec<Case> {
    let full = context(0x4b);
    let without_ike = Context { ike: None, ..context(0x4b) };
    let entry = |session, state| CtdrEntry { session, epoch: SessionEpoch(4), state };
    let known = SessionEpoch(9);
    vec![
        (
            "ctd-full",
            "Final counters of a session with an IKE SA and its last response",
            Message::Ctd(Ctd {
                batch: BATCH,
                entries: vec![CtdEntry {
                    session: S1,
                    epoch: SessionEpoch(4),
                    finals: finals(&full),
                }],
            }),
        ),
        (
            "ctd-without-ike",
            "Final counters of a session without IKE SA",
            Message::Ctd(Ctd {
                batch: BATCH,
                entries: vec![CtdEntry {
                    session: S2,
                    epoch: SessionEpoch(1),
                    finals: finals(&without_ike),
                }],
            }),
        ),
        (
            "ctdr-every-state",
            "The four states of a session at its target; the last text is not ASCII",
            Message::Ctdr(Ctdr {
                batch: BATCH,
                entries: vec![
                    entry(S1, TargetState::Staged { generation: Generation(3) }),
                    entry(
                        S2,
                        TargetState::Refused {
                            refusal: refusal(Status::StaleEpoch, "epoch 9 is known: go above it"),
                            known,
                        },
                    ),
                    entry(S1, TargetState::Active),
                    entry(S2, TargetState::Aborted(refusal(Status::TimedOut, "größer als 200 ms"))),
                ],
            }),
        ),
        (
            "ctc",
            "The source takes back two sessions before the commit",
            Message::Ctc(Ctc {
                batch: BATCH,
                entries: vec![(S1, SessionEpoch(4)), (S2, SessionEpoch(1))],
                reason: refusal(Status::Cancelled, "an operator stopped the batch"),
            }),
        ),
        (
            "grant-rest",
            "After the release the target may use all numbers",
            Message::Grant(Grant { entries: vec![(S1, SessionEpoch(4), vec![(SA, u64::MAX)])] }),
        ),
        (
            "grant-integers",
            "Integers on both sides of each length of the encoding",
            Message::Grant(Grant {
                entries: vec![(
                    S1,
                    SessionEpoch(0),
                    [
                        250,
                        251,
                        65_535,
                        65_536,
                        u64::from(u32::MAX),
                        1 << 32,
                        (1 << 53) - 1,
                        1 << 53,
                    ]
                    .into_iter()
                    .map(|end| (SA, end))
                    .collect(),
                )],
            }),
        ),
    ]
}

fn connection() -> Vec<Case> {
    let capabilities = Capabilities {
        features: [
            Feature::Ike,
            Feature::Esp,
            Feature::TunnelMode,
            Feature::Esn,
            Feature::PortSelectors,
        ]
        .into_iter()
        .collect(),
        child_transforms: BTreeSet::from([(20, 128, 0), (20, 256, 0), (12, 256, 12)]),
        ike_transforms: BTreeSet::from([(20, 256, 0, 5, 31)]),
        max_replay_window: 4096,
        max_sessions: 1_000_000,
    };
    let hello = |lane, capabilities| {
        Message::Hello(Hello {
            versions: (1, 1),
            name: name("gw-a.example"),
            epoch: GatewayEpoch(300),
            lane,
            capabilities,
        })
    };
    let beat =
        |number, echo| Message::Heartbeat(Heartbeat { number, epoch: GatewayEpoch(300), echo });
    vec![
        (
            "hello-gateway",
            "A gateway opens its control connection; sets are in ascending order",
            hello(Lane::Control, Some(capabilities)),
        ),
        ("hello-client", "A client or controller has no capabilities", hello(Lane::Control, None)),
        ("hello-bulk", "The bulk connection", hello(Lane::Bulk, None)),
        ("heartbeat-first", "Nothing was heard yet", beat(1, None)),
        (
            "heartbeat-echo",
            "The newest beat of the other side is echoed",
            beat(70_000, Some((250, GatewayEpoch(251)))),
        ),
        (
            "bye",
            "A planned end",
            Message::Bye(Bye { reason: refusal(Status::ShuttingDown, "maintenance") }),
        ),
        (
            "bye-newer-status",
            "A status of a newer registry is kept as a number",
            Message::Bye(Bye { reason: refusal(Status::Unknown(0x7ff), "") }),
        ),
        (
            "replica-delta",
            "A standby shall hold one session, and another one no longer",
            Message::ReplicaDelta(ReplicaDelta {
                number: 7,
                complete: true,
                entries: vec![
                    ReplicaEntry {
                        session: context(0).session,
                        epoch: SessionEpoch(3),
                        context: Some(context(0x77)),
                    },
                    ReplicaEntry { session: S2, epoch: SessionEpoch(0), context: None },
                ],
            }),
        ),
        (
            "replica-ack",
            "The standby has all up to the seventh delta",
            Message::ReplicaAck(ReplicaAck { number: 7 }),
        ),
    ]
}

fn questions() -> Vec<Case> {
    let state = TargetState::Active;
    vec![
        (
            "query",
            "The source asks how two transfers stand",
            Message::Query(Query {
                request: REQUEST,
                transfers: vec![(S1, SessionEpoch(4), BATCH), (S2, SessionEpoch(1), BATCH)],
            }),
        ),
        (
            "query-answer",
            "One of them is settled",
            Message::QueryAnswer(QueryAnswer {
                request: REQUEST,
                entries: vec![CtdrEntry { session: S1, epoch: SessionEpoch(4), state }],
            }),
        ),
        (
            "preflight",
            "What admission looks at in a session; no key",
            Message::Preflight(Preflight {
                request: REQUEST,
                profiles: vec![context(0x4b).profile()],
            }),
        ),
        (
            "preflight-answer",
            "The session would be refused",
            Message::PreflightAnswer(PreflightAnswer {
                request: REQUEST,
                refused: vec![(
                    S1,
                    refusal(Status::AddressCollision, "10.0.0.7 lies in the pool `pool`"),
                )],
            }),
        ),
    ]
}
