//! Transfers as an evil gateway would have them, from a peer that may connect and
//! may send sessions.
#![cfg(feature = "service")]
#![expect(clippy::expect_used, reason = "what fails in a helper fails the test")]

mod common;

use common::{CARL, EVE, Link, MAX_STAGED, Stream, World, say, until};
use protocol_spec::{
    context::{Context, ReplayWindow},
    id::{BatchId, Generation, RequestId, SessionEpoch, SessionId},
    message::{Ctc, Ctdr, CtdrEntry, Grant, Message, Query, QueryAnswer, TargetState},
    status::{Refusal, Status},
};
use tracing::Level;

/// What a CTDR says of one session.
fn state_of(answer: &Message, session: SessionId) -> &TargetState {
    let Message::Ctdr(Ctdr { entries, .. }) = answer else { panic!("{answer:?}") };
    let entry = entries.iter().find(|entry| entry.session == session);
    &entry.unwrap_or_else(|| panic!("nothing about {session} in {answer:?}")).state
}

/// Says something and takes the answer.
async fn ask(stream: &mut Stream, message: &Message) -> Message {
    stream.say(message).await;
    stream.hear().await.expect("an answer")
}

/// Says something on a stream of its own, as each batch has one, and takes the
/// answer.
async fn ask_anew(link: &Link, message: &Message) -> Message {
    ask(&mut link.bulk.stream().await, message).await
}

fn is_refused(answer: &Message, session: SessionId, status: Status) -> bool {
    matches!(
        state_of(answer, session),
        TargetState::Refused { refusal, .. } if refusal.status == status
    )
}

fn is_staged(answer: &Message, session: SessionId) -> bool {
    matches!(state_of(answer, session), TargetState::Staged { .. })
}

fn cancelled(batch: u64, session: SessionId, epoch: u64) -> Message {
    Message::Ctc(Ctc {
        batch: BatchId(say::id(batch)),
        entries: vec![(session, SessionEpoch(epoch))],
        reason: Refusal::new(Status::Cancelled, "because I say so"),
    })
}

// proves CXTP-6.3-6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_ctd_is_answered_and_nothing_is_activated_twice() {
    let world = World::start().await;
    let hostile = world.gateway(EVE, &world.b);
    let context = world.fresh();
    let session = context.session;
    let ctd = say::committed(1, 1, &context);
    let pctd = || say::pushed(1, 1, vec![say::copy(&context)]);
    {
        let link = hostile.link(EVE).await;
        let mut stream = link.bulk.stream().await;
        assert!(is_staged(&ask(&mut stream, &pctd()).await, session));
        assert_eq!(state_of(&ask(&mut stream, &ctd).await, session), &TargetState::Active);
        let attack = async {
            for _ in 0..20 {
                let answer = ask(&mut stream, &ctd).await;
                assert_eq!(state_of(&answer, session), &TargetState::Active);
            }
        };
        world.during(attack).await;
    }
    // Again on another connection, with other finals, and the offer again too.
    let link = hostile.link(EVE).await;
    let mut stream = link.bulk.stream().await;
    let mut other = say::copy(&context);
    other.children[0].outbound.sequence = 0;
    let answer = ask(&mut stream, &say::committed(1, 1, &other)).await;
    assert_eq!(state_of(&answer, session), &TargetState::Active);
    let mut answer = ask(&mut stream, &pctd()).await;
    // To a source that is back the target says by itself, too, that it has it.
    if state_of(&answer, session) == &TargetState::Active {
        answer = stream.hear().await.expect("the answer");
    }
    assert!(is_refused(&answer, session, Status::StaleEpoch), "{answer:?}");
    let answer = ask(&mut stream, &cancelled(1, session, 1)).await;
    assert_eq!(state_of(&answer, session), &TargetState::Active, "too late to cancel");
    assert_eq!(world.b.gateway.activations(session), 1);
    assert_eq!(world.b.gateway.active(session), Some(SessionEpoch(1)));
    world.finish().await;
}

// proves CXTP-6.3-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_another_peer_staged_is_not_activated() {
    let world = World::start().await;
    let context = world.fresh();
    let session = context.session;
    let owner = world.gateway(EVE, &world.b).link(EVE).await;
    let thief = world.gateway(CARL, &world.b).link(CARL).await;
    let mut owners = owner.bulk.stream().await;
    let answer = ask(&mut owners, &say::pushed(1, 1, vec![say::copy(&context)])).await;
    assert!(is_staged(&answer, session));

    let attack = async {
        for epoch in [1, 2, u64::MAX] {
            let answer = ask_anew(&thief, &say::committed(1, epoch, &context)).await;
            assert_ne!(state_of(&answer, session), &TargetState::Active);
        }
        let answer = ask_anew(&thief, &cancelled(1, session, 1)).await;
        assert!(!matches!(state_of(&answer, session), TargetState::Aborted(_)), "{answer:?}");
        let again = say::pushed(2, 9, vec![say::copy(&context)]);
        let answer = ask_anew(&thief, &again).await;
        assert!(is_refused(&answer, session, Status::TransferRunning), "{answer:?}");
    };
    world.during(attack).await;
    assert_eq!(world.b.gateway.activations(session), 0);
    world.says(Level::WARN, &[CARL, "not its own"]).await;
    // Who staged it can still commit it.
    let answer = ask(&mut owners, &say::committed(1, 1, &context)).await;
    assert_eq!(state_of(&answer, session), &TargetState::Active);
    assert_eq!(world.b.gateway.activations(session), 1);
    world.finish().await;
}

// proves CXTP-6.3-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_in_use_here_cannot_be_pushed_committed_or_cancelled() {
    let world = World::start().await;
    let session = world.at_a().await;
    let link = world.gateway(EVE, &world.a).link(EVE).await;
    let mut context = world.fresh();
    context.session = session;
    let attack = async {
        for (batch, epoch) in [(1, 1), (2, 1 << 40), (3, u64::MAX)] {
            let pctd = say::pushed(batch, epoch, vec![say::copy(&context)]);
            let answer = ask_anew(&link, &pctd).await;
            let TargetState::Refused { .. } = state_of(&answer, session) else {
                panic!("{answer:?}")
            };
            let answer = ask_anew(&link, &say::committed(batch, epoch, &context)).await;
            assert_ne!(state_of(&answer, session), &TargetState::Active);
            let answer = ask_anew(&link, &cancelled(batch, session, epoch)).await;
            assert_ne!(state_of(&answer, session), &TargetState::Active);
        }
    };
    world.during(attack).await;
    assert_eq!(world.a.gateway.active(session), Some(SessionEpoch(0)));
    world.says(Level::WARN, &[EVE, "not its own"]).await;
    // And it moves as if nothing had happened.
    let summary = world.a.transfer(session, "gw-b").await;
    assert_eq!(summary.moved, 1, "{summary:?}");
    world.finish().await;
}

// proves CXTP-6.1-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_is_not_above_the_known_one_is_refused() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let context = world.fresh();
    let session = context.session;
    let mut stream = link.bulk.stream().await;
    let pctd = |batch, epoch| say::pushed(batch, epoch, vec![say::copy(&context)]);
    assert!(is_staged(&ask(&mut stream, &pctd(1, 5)).await, session));
    assert_eq!(
        state_of(&ask(&mut stream, &say::committed(1, 5, &context)).await, session),
        &TargetState::Active
    );
    // The session leaves B again, so that only its tombstone speaks for it.
    let summary = world.b.transfer(session, "gw-a").await;
    assert_eq!(summary.moved, 1, "{summary:?}");
    let attack = async {
        for epoch in [0, 1, 5, 6] {
            let answer = ask_anew(&link, &pctd(100 + epoch, epoch)).await;
            let TargetState::Refused { refusal, known } = state_of(&answer, session) else {
                panic!("{answer:?}")
            };
            assert_eq!(refusal.status, Status::StaleEpoch, "{refusal}");
            assert!(epoch == 0 || *known >= SessionEpoch(6), "{known}");
        }
        // The last ones that can be counted are not for a peer to use up.
        for epoch in [u64::MAX, u64::MAX - 1] {
            let answer = ask_anew(&link, &pctd(epoch, epoch)).await;
            assert!(is_refused(&answer, session, Status::StaleEpoch), "{answer:?}");
        }
    };
    world.during(attack).await;
    assert!(!world.b.gateway.holds(session));
    assert_eq!(world.a.gateway.active(session), Some(SessionEpoch(6)));
    world.finish().await;
}

// proves CXTP-6.3-9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_sessions_are_staged_for_a_peer_than_it_may() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let attack = async {
        let (mut staged, mut refused) = (0, 0);
        for batch in 0..8 {
            let mut stream = link.bulk.stream().await;
            let contexts: Vec<_> = (0..200).map(|_| world.fresh()).collect();
            stream.say(&say::pushed(batch, 1, contexts)).await;
            let mut answered = 0;
            while answered < 200 {
                let Some(Message::Ctdr(answer)) = stream.hear().await else { panic!("no CTDR") };
                answered += answer.entries.len();
                for entry in answer.entries {
                    match entry.state {
                        TargetState::Staged { .. } => staged += 1,
                        TargetState::Refused { refusal, .. } => {
                            assert_eq!(refusal.status, Status::RateLimited, "{refusal}");
                            refused += 1;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        (staged, refused)
    };
    let (staged, refused) = world.during(attack).await;
    assert_eq!((staged, refused), (MAX_STAGED, 8 * 200 - MAX_STAGED));
    // One good transfer at a time beside them.
    let most = world.b.gateway.staged().1;
    assert!(most <= MAX_STAGED + 1, "{most}");
    world.finish().await;
}

// proves CXTP-4.4-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_that_contradicts_itself_is_refused_and_the_others_are_taken() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let changed = |change: &dyn Fn(&mut Context)| {
        let mut context = world.fresh();
        change(&mut context);
        context
    };
    let window = |size, words| ReplayWindow { size, highest: 5, bitmap: vec![0; words] };
    let bad = vec![
        changed(&|context| (context.ike, context.children) = (None, vec![])),
        changed(&|context| {
            let spi = context.children[0].inbound.spi;
            context.children.push(protocol_spec::samples::child(common::KEY_MARK, spi));
        }),
        changed(&|context| context.children[0].inbound.window = window(4096, 1)),
        changed(&|context| context.children[0].inbound.window = window(u32::MAX, 0)),
        changed(&|context| context.children[0].inbound.window = window(32, 5000)),
        changed(&|context| context.children[0].inbound.spi = 0),
        changed(&|context| {
            context.children[0].esn = false;
            context.children[0].outbound.sequence = 1 << 40;
        }),
        changed(&|context| context.children[0].policies[0].source.prefix.bits = 200),
        changed(&|context| context.children[0].policies[0].source.ports = (9, 1)),
        changed(&|context| {
            let keys = &mut context.children[0].outbound.keys;
            keys.encryption = protocol_spec::samples::key(common::KEY_MARK, 1);
        }),
        changed(&|context| context.children[0].configuration = "x".repeat(10_000)),
    ];
    let good = world.fresh();
    let expected_good = good.session;
    let expected_bad: Vec<_> = bad.iter().map(|context| context.session).collect();
    let mut without_grant = say::pushed(2, 1, vec![world.fresh(), world.fresh()]);
    let Message::Pctd(pctd) = &mut without_grant else { unreachable!() };
    pctd.entries[0].grants.clear();
    pctd.entries[1].grants[0].base = 1;
    let granted_badly: Vec<_> = pctd.entries.iter().map(|entry| entry.context.session).collect();

    let attack = async {
        let mut stream = link.bulk.stream().await;
        let mut all = bad;
        all.push(good);
        let mut entries = Vec::new();
        let Message::Ctdr(answer) = ask_anew(&link, &without_grant).await else {
            panic!("no CTDR")
        };
        entries.extend(answer.entries);
        stream.say(&say::pushed(1, 1, all)).await;
        while entries.len() < expected_bad.len() + granted_badly.len() + 1 {
            let Some(Message::Ctdr(answer)) = stream.hear().await else { panic!("no CTDR") };
            entries.extend(answer.entries);
        }
        entries
    };
    let entries = world.during(attack).await;
    for entry in &entries {
        let (session, state) = (entry.session, &entry.state);
        let place = expected_bad.iter().chain(&granted_badly).position(|bad| *bad == session);
        match (place, state) {
            (None, TargetState::Staged { .. }) => assert_eq!(session, expected_good),
            (Some(place), TargetState::Refused { refusal, .. }) => {
                assert_eq!(refusal.status, Status::BadContext, "{place}: {refusal}");
            }
            (place, state) => panic!("{place:?}: {state:?}"),
        }
    }
    let held = |session: &&SessionId| world.b.gateway.holds(**session);
    assert_eq!(expected_bad.iter().chain(&granted_badly).filter(held).count(), 0);
    assert!(world.b.gateway.holds(expected_good));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_stands_twice_in_one_message_is_taken_once() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let first = world.fresh();
    let session = first.session;
    let mut second = world.fresh();
    second.session = session;
    second.generation = Generation(77);
    let mut stream = link.bulk.stream().await;
    let message = say::pushed(1, 1, vec![say::copy(&first), second]);
    stream.say(&message).await;
    let mut entries = Vec::new();
    while entries.len() < 2 {
        let Some(Message::Ctdr(answer)) = stream.hear().await else { panic!("no CTDR") };
        entries.extend(answer.entries);
    }
    let staged = entries.iter().filter(|e| matches!(e.state, TargetState::Staged { .. })).count();
    assert_eq!(staged, 1, "{entries:?}");
    let answer = ask(&mut stream, &say::committed(1, 1, &first)).await;
    assert_eq!(state_of(&answer, session), &TargetState::Active);
    assert_eq!(world.b.gateway.activations(session), 1);
    world.finish().await;
}

// proves CXTP-5.4-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn final_data_that_contradict_themselves_do_not_activate() {
    let world = World::start().await;
    let link = world.gateway(EVE, &world.b).link(EVE).await;
    let context = world.fresh();
    let session = context.session;
    let mut stream = link.bulk.stream().await;
    let answer = ask(&mut stream, &say::pushed(1, 1, vec![say::copy(&context)])).await;
    assert!(is_staged(&answer, session));
    let attack = async {
        let mut bad = say::committed(1, 1, &context);
        let Message::Ctd(ctd) = &mut bad else { unreachable!() };
        ctd.entries[0].finals.children[0].window.size = u32::MAX;
        stream.say(&bad).await;
        let mut bad = say::committed(1, 1, &context);
        let Message::Ctd(ctd) = &mut bad else { unreachable!() };
        let twice = ctd.entries[0].finals.children[0].clone();
        ctd.entries[0].finals.children.push(twice);
        stream.say(&bad).await;
    };
    world.during(attack).await;
    world.says(Level::WARN, &[EVE, "bad-context"]).await;
    assert_eq!(world.b.gateway.activations(session), 0);
    // It is staged still; the right ones commit it.
    stream.say(&say::committed(1, 1, &context)).await;
    until("the session to be in use", || world.b.gateway.active(session).is_some()).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_word_neither_moves_nor_releases_a_session() {
    let world = World::start().await;
    let session = world.at_a().await;
    // In doubt: committed to Eve, who never answers the final data.
    let doubted = world.at_a().await;
    let mut eve = world.gateway(EVE, &world.a).link(EVE).await;
    let carl = world.gateway(CARL, &world.a).link(CARL).await;
    world.says(Level::INFO, &["peer up", EVE]).await;
    world.says(Level::INFO, &["peer up", CARL]).await;
    let moving = world.a.transfer(doubted, EVE);
    let target = async {
        let (mut send, receive) = {
            let (send, receive) =
                common::within("a batch", eve.bulk.connection.accept_bi()).await.unwrap();
            (send, receive)
        };
        let mut stream = Stream { send, receive };
        let Some(Message::Pctd(pctd)) = stream.hear().await else { panic!("no PCTD") };
        let entry = &pctd.entries[0];
        let staged = TargetState::Staged { generation: entry.context.generation };
        let epoch = entry.epoch;
        let answer = CtdrEntry { session: doubted, epoch, state: staged };
        stream.say(&Message::Ctdr(Ctdr { batch: pctd.batch, entries: vec![answer] })).await;
        let Some(Message::Ctd(ctd)) = stream.hear().await else { panic!("no CTD") };
        send = stream.send;
        (ctd.batch, epoch, send)
    };
    let (summary, (batch, epoch, _send)) = tokio::join!(moving, target);
    assert_eq!((summary.moved, summary.in_doubt), (0, 1), "{summary:?}");
    world.says(Level::WARN, &["in doubt", &doubted.to_string()]).await;

    let lies = |session, epoch, batch| {
        let aborted = TargetState::Aborted(Refusal::new(Status::Cancelled, "a lie"));
        let entry = |state| vec![CtdrEntry { session, epoch, state }];
        let request = RequestId(session.0);
        vec![
            Message::Ctdr(Ctdr { batch, entries: entry(TargetState::Active) }),
            Message::Ctdr(Ctdr { batch, entries: entry(aborted.clone()) }),
            Message::QueryAnswer(QueryAnswer { request, entries: entry(TargetState::Active) }),
            Message::QueryAnswer(QueryAnswer { request, entries: entry(aborted) }),
            Message::Grant(Grant { entries: vec![(session, epoch, vec![])] }),
        ]
    };
    let attack = async {
        let mut stream = carl.bulk.stream().await;
        for lie in lies(doubted, epoch, batch)
            .into_iter()
            .chain(lies(session, SessionEpoch(1), batch))
            .chain(lies(session, SessionEpoch(0), batch))
        {
            stream.say(&lie).await;
        }
        // Answered, so all before it were heard.
        let query = Query {
            request: RequestId(say::id(9)),
            transfers: vec![(session, SessionEpoch(1), batch)],
        };
        stream.say(&Message::Query(query)).await;
        let mut shared = carl.control.shared;
        shared.hear().await
    };
    let answer = world.during(attack).await;
    assert!(matches!(answer, Some(Message::QueryAnswer(_))), "{answer:?}");
    assert_eq!(world.a.gateway.active(session), Some(SessionEpoch(0)));
    assert_eq!(world.a.gateway.active(doubted), None, "the source resumed by a stranger's word");
    assert!(world.a.gateway.holds(doubted), "the source released by a stranger's word");
    assert_eq!(world.a.listed(doubted).await.unwrap().state, "in-doubt");
    // The target's own word ends it.
    let entries = vec![CtdrEntry { session: doubted, epoch, state: TargetState::Active }];
    eve.control.shared.say(&Message::Ctdr(Ctdr { batch, entries })).await;
    until("the session to be released", || !world.a.gateway.holds(doubted)).await;
    world.finish().await;
}
