use std::sync::{Mutex, mpsc as std_mpsc};

use gateway_plugin::{Activate, Discard, Extend, Pause, PerSession, Release, Resume, Stage};
use protocol_spec::{
    context::Context,
    id::{BatchId, Generation, Name, SessionEpoch},
    profile::FeatureSet,
    samples,
    transfer::{Finals, SessionStatus},
};

use super::*;
use crate::engine::StageOrder;

/// Sessions in one call.
const AT_ONCE: usize = 1024;

fn id(number: u16) -> SessionId {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&number.to_be_bytes());
    SessionId(octets)
}

fn name() -> Name {
    "gw-b".parse().unwrap()
}

/// What the test lets the gateway do with its next call.
enum Let {
    Work,
    Fail(Fault),
}

/// A gateway that says each call, and waits for the test's word at each act.
struct Puppet {
    calls: std_mpsc::Sender<String>,
    word: std_mpsc::Receiver<Let>,
    sinks: Arc<Mutex<Vec<EventSink>>>,
}

impl Puppet {
    fn act<T>(
        &mut self,
        what: &str,
        sessions: Vec<SessionId>,
        result: impl Fn(SessionId) -> T,
    ) -> Result<PerSession<T>, Fault> {
        self.calls.send(format!("{what} {}", sessions.len())).unwrap();
        match self.word.recv().unwrap() {
            Let::Work => Ok(sessions.into_iter().map(|id| (id, Ok(result(id)))).collect()),
            Let::Fail(fault) => Err(fault),
        }
    }
}

impl GatewayPlugin for Puppet {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        Ok(Capabilities {
            features: FeatureSet(u64::MAX),
            child_transforms: [].into(),
            ike_transforms: [].into(),
            max_replay_window: 32,
            max_sessions: 1,
        })
    }
    fn subscribe(&mut self, sink: EventSink) -> Result<(), Fault> {
        self.sinks.lock().unwrap().push(sink);
        Ok(())
    }
    fn list(&mut self) -> Result<Vec<SessionStatus>, Fault> {
        self.act("list", vec![], |_| ()).map(|_| vec![])
    }
    fn snapshot(&mut self, sessions: &[SessionId]) -> Result<PerSession<Context>, Fault> {
        self.act("snapshot", sessions.to_vec(), |id| Context { session: id, ..samples::smallest() })
    }
    fn admit(&mut self, profiles: &[Profile]) -> Result<PerSession<()>, Fault> {
        self.act("admit", profiles.iter().map(|profile| profile.session).collect(), |_| ())
    }
    fn stage(&mut self, orders: Vec<Stage>) -> Result<PerSession<Generation>, Fault> {
        let ids = orders.iter().map(|order| order.context.session).collect();
        self.act("stage", ids, |_| Generation(1))
    }
    fn pause(&mut self, orders: Vec<Pause>) -> Result<PerSession<Finals>, Fault> {
        let finals = |_| Finals { generation: Generation(1), ike: None, children: vec![] };
        self.act("pause", orders.iter().map(|order| order.session).collect(), finals)
    }
    fn resume(&mut self, orders: Vec<Resume>) -> Result<PerSession<()>, Fault> {
        self.act("resume", orders.iter().map(|order| order.session).collect(), |_| ())
    }
    fn activate(&mut self, orders: Vec<Activate>) -> Result<PerSession<()>, Fault> {
        self.act("activate", orders.iter().map(|order| order.session).collect(), |_| ())
    }
    fn release(&mut self, orders: Vec<Release>) -> Result<PerSession<()>, Fault> {
        self.act("release", orders.iter().map(|order| order.session).collect(), |_| ())
    }
    fn discard(&mut self, orders: Vec<Discard>) -> Result<PerSession<()>, Fault> {
        self.act("discard", orders.iter().map(|order| order.session).collect(), |_| ())
    }
    fn extend(&mut self, orders: Vec<Extend>) -> Result<PerSession<()>, Fault> {
        self.act("extend", orders.iter().map(|order| order.session).collect(), |_| ())
    }
}

struct Theatre {
    hands: Hands,
    heard: std_mpsc::Receiver<Heard>,
    calls: std_mpsc::Receiver<String>,
    word: std_mpsc::Sender<Let>,
    sinks: Arc<Mutex<Vec<EventSink>>>,
}

impl Theatre {
    /// A gateway that is up and has been listed.
    fn new() -> Self {
        let (tell_call, calls) = std_mpsc::channel();
        let (word, words) = std_mpsc::channel();
        let sinks = Arc::new(Mutex::new(Vec::new()));
        let puppet = Puppet { calls: tell_call, word: words, sinks: Arc::clone(&sinks) };
        let (tell, heard) = std_mpsc::channel();
        let hands = Hands::start(Box::new(puppet), AT_ONCE, move |heard| drop(tell.send(heard)));
        let hands = hands.unwrap();
        let theatre = Self { hands, heard, calls, word, sinks };
        assert!(matches!(theatre.hear(), Heard::Up(_)));
        theatre.plays("list 0");
        assert!(matches!(theatre.hear(), Heard::Reply(GatewayReply::Listed(_))));
        theatre
    }

    fn hear(&self) -> Heard {
        self.heard.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn called(&self, call: &str) {
        assert_eq!(self.calls.recv_timeout(Duration::from_secs(20)).unwrap(), call);
    }

    fn plays(&self, call: &str) {
        self.called(call);
        self.word.send(Let::Work).unwrap();
    }

    fn fails(&self, call: &str, fault: Fault) {
        self.called(call);
        self.word.send(Let::Fail(fault)).unwrap();
    }

    fn snapshot(&self, ids: std::ops::Range<u16>) {
        self.hands.order(GatewayCommand::Snapshot(ids.map(id).collect()));
    }

    fn pause(&self, ids: std::ops::Range<u16>) {
        self.hands.order(GatewayCommand::Pause(ids.map(|n| (id(n), name(), None)).collect()));
    }

    fn waiting(&self) -> usize {
        self.hands.waiting.load(Ordering::Relaxed)
    }
}

fn refused<T>(results: &[(SessionId, Result<T, Refusal>)], status: Status) -> bool {
    results.iter().all(|(_, result)| result.as_ref().is_err_and(|refusal| refusal.status == status))
}

#[test]
fn what_a_stopped_session_waits_for_comes_first_and_orders_are_joined() {
    let theatre = Theatre::new();
    theatre.snapshot(0..1);
    theatre.called("snapshot 1");
    theatre.snapshot(1..600);
    theatre.snapshot(600..1000);
    theatre.snapshot(1000..1100);
    theatre.pause(0..3);
    theatre.pause(3..5);
    assert_eq!(theatre.waiting(), 1105);
    theatre.word.send(Let::Work).unwrap();
    theatre.plays("pause 5");
    theatre.plays("snapshot 999");
    theatre.plays("snapshot 100");
    for expected in [1, 5, 999, 100] {
        let results = match theatre.hear() {
            Heard::Reply(GatewayReply::Snapshots(all)) => all.len(),
            Heard::Reply(GatewayReply::Paused(all)) => all.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(results, expected);
    }
    assert_eq!(theatre.waiting(), 0);
    drop(theatre.hands);
}

#[test]
fn a_large_order_is_carried_out_in_parts() {
    let theatre = Theatre::new();
    theatre.snapshot(0..2500);
    for part in ["snapshot 1024", "snapshot 1024", "snapshot 452"] {
        theatre.plays(part);
        assert!(matches!(theatre.hear(), Heard::Reply(GatewayReply::Snapshots(_))));
    }
    drop(theatre.hands);
}

#[test]
fn a_gateway_that_does_not_answer_is_asked_again_for_what_is_urgent_only() {
    let theatre = Theatre::new();
    let away = || Fault::Unreachable("timed out".to_owned());
    theatre.snapshot(0..2);
    theatre.fails("snapshot 2", away());
    assert!(matches!(theatre.hear(), Heard::Down(why) if why.contains("timed out")));
    let Heard::Reply(GatewayReply::Snapshots(all)) = theatre.hear() else { panic!() };
    assert!(all.len() == 2 && refused(&all, Status::GatewayFault));
    assert!(matches!(theatre.hear(), Heard::Up(_)));
    theatre.plays("list 0");
    assert!(matches!(theatre.hear(), Heard::Reply(GatewayReply::Listed(_))));
    theatre.pause(0..2);
    theatre.fails("pause 2", away());
    assert!(matches!(theatre.hear(), Heard::Down(_)));
    assert!(matches!(theatre.hear(), Heard::Up(_)));
    theatre.plays("pause 2");
    let Heard::Reply(GatewayReply::Paused(all)) = theatre.hear() else { panic!() };
    assert!(all.iter().all(|(_, result)| result.is_ok()));
    theatre.plays("list 0");
    theatre.hear();
    drop(theatre.hands);
}

#[test]
fn what_may_be_staged_after_a_failure_is_discarded() {
    let theatre = Theatre::new();
    let away = || Fault::Unreachable("timed out".to_owned());
    for (number, discarded) in [(7, true), (8, false)] {
        let order = StageOrder {
            epoch: SessionEpoch(4),
            source: name(),
            batch: BatchId([1; 16]),
            grants: vec![],
            context: Context { session: id(number), ..samples::smallest() },
        };
        theatre.hands.order(GatewayCommand::Stage(vec![order]));
        theatre.fails("stage 1", away());
        if discarded {
            theatre.plays("discard 1");
        } else {
            theatre.fails("discard 1", away());
        }
        let Heard::Reply(GatewayReply::Staged(all)) = theatre.hear() else { panic!() };
        let [(session, epoch, Err(refusal))] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((*session, *epoch), (id(number), SessionEpoch(4)));
        assert_eq!(refusal.status, Status::GatewayFault);
        // The engine orders again what could not be discarded.
        let Heard::Reply(GatewayReply::Discarded(all)) = theatre.hear() else { panic!() };
        let [(session, SessionEpoch(4), result)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((*session, result.is_ok()), (id(number), discarded));
    }
    drop(theatre.hands);
}

#[test]
fn a_gateway_that_is_gone_is_told_once_and_all_that_waits_is_refused() {
    let theatre = Theatre::new();
    theatre.snapshot(0..1);
    theatre.called("snapshot 1");
    theatre.pause(0..4);
    theatre.word.send(Let::Fail(Fault::Lost("killed".to_owned()))).unwrap();
    assert!(matches!(theatre.hear(), Heard::Down(_)));
    assert!(matches!(theatre.hear(), Heard::Reply(GatewayReply::Lost(why)) if why == "killed"));
    let Heard::Reply(GatewayReply::Snapshots(all)) = theatre.hear() else { panic!() };
    assert!(refused(&all, Status::GatewayLost));
    let Heard::Reply(GatewayReply::Paused(all)) = theatre.hear() else { panic!() };
    assert!(all.len() == 4 && refused(&all, Status::GatewayLost));
    assert!(matches!(theatre.hear(), Heard::Up(_)));
    theatre.plays("list 0");
    theatre.hear();
    assert_eq!(theatre.waiting(), 0);
    drop(theatre.hands);
}

#[test]
fn events_are_passed_on_and_lost_ones_make_a_list() {
    let theatre = Theatre::new();
    let sink = theatre.sinks.lock().unwrap()[0].clone();
    assert!(sink.emit(GatewayEvent::Down { session: id(3) }));
    assert!(
        matches!(theatre.hear(), Heard::Reply(GatewayReply::Down(session)) if session == id(3))
    );
    assert!(sink.emit(GatewayEvent::Overflow));
    theatre.plays("list 0");
    assert!(matches!(theatre.hear(), Heard::Reply(GatewayReply::Listed(_))));
    drop(theatre.hands);
}

#[test]
fn a_session_without_a_result_is_refused() {
    let asked: std::collections::HashMap<_, _> = [(id(1), 5), (id(2), 6)].into();
    let results = vec![(id(2), Ok(())), (id(9), Ok(())), (id(2), Ok(()))];
    let mut settled = perform::settle(asked, results);
    settled.sort_by_key(|(session, ..)| *session);
    let [(first, 5, Err(refusal)), (second, 6, Ok(()))] = settled.as_slice() else {
        panic!("{settled:?}")
    };
    assert_eq!((*first, *second), (id(1), id(2)));
    assert_eq!(refusal.status, Status::GatewayFault);
}
