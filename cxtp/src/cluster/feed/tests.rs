#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(3);
const FIRST: GatewayEpoch = GatewayEpoch(1);

fn id(number: u8) -> SessionId {
    SessionId([number; 16])
}

fn connected(window: usize) -> Feed {
    let mut feed = Feed::new(window);
    feed.connected(FIRST, NOW);
    feed
}

#[test]
fn a_state_is_there_once_it_is_acknowledged_and_not_before() {
    let mut feed = connected(8);
    let revision = feed.changed(id(1), NOW);
    let batch = feed.poll(8).unwrap();
    assert_eq!(batch.sessions, [(id(1), News::State(revision))]);
    assert!(!feed.has(id(1), revision));
    assert_eq!(feed.lag(LATER), Lag { sessions: 1, age: LATER - NOW });
    assert!(feed.acknowledged(batch.number, LATER));
    assert!(feed.has(id(1), revision));
    assert_eq!(feed.lag(LATER), Lag { sessions: 0, age: Duration::ZERO });
    assert_eq!(feed.poll(8), None, "nothing is told twice");
}

#[test]
fn many_changes_cost_one_state_and_one_on_its_way_is_followed_by_the_newest() {
    let mut feed = connected(8);
    let first = feed.changed(id(1), NOW);
    feed.changed(id(1), NOW);
    let on_its_way = feed.poll(8).unwrap();
    let last = (0..1000).map(|_| feed.changed(id(1), NOW)).max().unwrap();
    assert!(feed.acknowledged(on_its_way.number, NOW));
    assert!(feed.has(id(1), first) && !feed.has(id(1), last));
    assert_eq!(feed.poll(8).unwrap().sessions, [(id(1), News::State(last))]);
    assert_eq!(feed.poll(8), None);
}

#[test]
fn a_standby_that_does_not_acknowledge_is_told_no_more_than_the_window() {
    let mut feed = connected(3);
    for number in 0..10 {
        feed.changed(id(number), NOW);
    }
    let first = feed.poll(2).unwrap();
    assert_eq!((first.sessions.len(), feed.poll(8).unwrap().sessions.len()), (2, 1));
    assert_eq!(feed.poll(8), None);
    assert!(feed.acknowledged(first.number, NOW));
    assert_eq!(feed.poll(8).unwrap().sessions.len(), 2);
}

#[test]
fn another_life_of_the_standby_is_told_all_and_the_same_one_what_it_lacks() {
    let mut feed = connected(8);
    for number in 1..=2 {
        feed.changed(id(number), NOW);
    }
    let both = feed.poll(8).unwrap();
    assert!(feed.acknowledged(both.number, NOW));
    feed.changed(id(2), NOW);
    feed.poll(8).unwrap();
    feed.connected(FIRST, NOW);
    assert_eq!(feed.poll(8).unwrap().sessions, [(id(2), News::State(Revision(2)))]);
    feed.connected(FIRST.next(), NOW);
    assert!(!feed.has(id(1), Revision(1)), "the new life does not know it");
    assert_eq!(feed.poll(8).unwrap().sessions.len(), 2);
}

#[test]
fn a_session_that_is_gone_is_told_until_the_standby_knows() {
    let mut feed = connected(8);
    feed.changed(id(1), NOW);
    let state = feed.poll(8).unwrap();
    feed.gone(id(1), NOW);
    assert!(feed.acknowledged(state.number, NOW));
    let gone = feed.poll(8).unwrap();
    assert_eq!(gone.sessions, [(id(1), News::Gone(Revision(2)))]);
    feed.connected(FIRST, NOW);
    let again = feed.poll(8).unwrap();
    assert_eq!(again.sessions, gone.sessions);
    assert!(feed.acknowledged(again.number, NOW));
    assert_eq!(feed.lag(NOW).sessions, 0);
    feed.connected(FIRST.next(), NOW);
    assert_eq!(feed.poll(8), None);
}

#[test]
fn a_session_that_comes_back_and_goes_again_is_told_to_be_gone_again() {
    let mut feed = connected(8);
    feed.changed(id(1), NOW);
    feed.gone(id(1), NOW);
    let gone = feed.poll(8).unwrap();
    let back = feed.changed(id(1), NOW);
    assert_eq!(feed.poll(8).unwrap().sessions, [(id(1), News::State(back))]);
    feed.gone(id(1), NOW);
    assert!(feed.acknowledged(gone.number, NOW));
    assert!(matches!(feed.poll(8).unwrap().sessions[..], [(_, News::Gone(_))]));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_noticed() {
    let mut feed = connected(8);
    assert!(!feed.acknowledged(1, NOW));
    feed.changed(id(1), NOW);
    feed.poll(8).unwrap();
    assert!(feed.acknowledged(1, NOW) && feed.acknowledged(0, NOW));
    assert!(!feed.acknowledged(2, NOW));
}

/// What can happen to a feed, and to the standby at its other end.
#[derive(Clone, Debug)]
enum Step {
    Change(u8),
    End(u8),
    Tell(usize),
    Acknowledge,
    Break,
    Connect { anew: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..5_u8).prop_map(Step::Change),
        1 => (0..5_u8).prop_map(Step::End),
        4 => (1..4_usize).prop_map(Step::Tell),
        3 => Just(Step::Acknowledge),
        1 => Just(Step::Break),
        1 => any::<bool>().prop_map(|anew| Step::Connect { anew }),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// What the owner believes to be at the standby is there, or something newer;
    /// and once all has been told and acknowledged, the standby has just what the
    /// owner has.
    #[test]
    fn what_the_owner_believes_the_standby_has(steps in steps()) {
        let mut feed = connected(3);
        let mut life = FIRST;
        let mut owned: BTreeMap<SessionId, Revision> = BTreeMap::new();
        let mut standby: BTreeMap<SessionId, Revision> = BTreeMap::new();
        let mut heard = 0;
        let hear = |standby: &mut BTreeMap<SessionId, Revision>, batch: &Batch| {
            for (session, news) in &batch.sessions {
                let _before = match news {
                    News::State(revision) => standby.insert(*session, *revision),
                    News::Gone(_) => standby.remove(session),
                };
            }
            batch.number
        };
        for step in steps {
            match step {
                Step::Change(number) => {
                    owned.insert(id(number), feed.changed(id(number), NOW));
                }
                Step::End(number) => {
                    owned.remove(&id(number));
                    feed.gone(id(number), NOW);
                }
                Step::Tell(room) => {
                    if let Some(batch) = feed.poll(room) {
                        heard = hear(&mut standby, &batch);
                    }
                }
                Step::Acknowledge => prop_assert!(feed.acknowledged(heard, NOW)),
                Step::Break => {
                    feed.disconnected(NOW);
                    heard = 0;
                }
                Step::Connect { anew } => {
                    if anew {
                        life = life.next();
                        standby.clear();
                    }
                    feed.connected(life, NOW);
                    heard = 0;
                }
            }
            for (session, newest) in &owned {
                for revision in (1..=newest.0).map(Revision) {
                    let there = standby.get(session).is_some_and(|there| *there >= revision);
                    prop_assert!(there || !feed.has(*session, revision), "{session} {revision:?}");
                }
            }
        }
        feed.connected(life, NOW);
        while let Some(batch) = feed.poll(2) {
            let number = hear(&mut standby, &batch);
            prop_assert!(feed.acknowledged(number, NOW));
        }
        prop_assert_eq!(&standby, &owned);
        prop_assert_eq!(feed.lag(NOW).sessions, 0);
    }
}
