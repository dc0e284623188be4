//! Every call that an act makes fails in turn, with and without its effect, alone
//! and with all that follow; and the process is killed there.

use std::time::Duration;

use protocol_spec::{
    id::SessionId,
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, SessionState},
};

use super::{
    Bench, Fail, Kind,
    drive::{Ledger, other},
    ground::lock,
};
use crate::{
    conformance::{
        Harness,
        Side::{self, Source, Target},
    },
    plugin::{EventSink, GatewayEvent, GatewayPlugin as _, Pause},
};

/// A session that stands before the act.
struct Scene {
    id: SessionId,
    grants: Vec<GrantedRange>,
    finals: Option<Finals>,
}

impl Scene {
    fn finals(&self) -> &Finals {
        self.finals.as_ref().unwrap()
    }
}

/// Up to where a session is moved before the act.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Before {
    Nothing,
    Staged,
    Paused,
    Active,
}

fn scene(bench: &mut Bench, before: Before) -> Scene {
    let id = bench.provision().unwrap();
    assert!(bench.passes(Source, id));
    let mut scene = Scene { id, grants: Vec::new(), finals: None };
    if before >= Before::Staged {
        scene.grants = bench.stage(Source, id, 1).unwrap().0;
    }
    if before >= Before::Paused {
        scene.finals = Some(bench.pause(Source, id).unwrap());
    }
    if before >= Before::Active {
        bench.activate(Target, id, 1, scene.finals()).unwrap();
    }
    scene
}

type Act = fn(&mut Bench, &Scene) -> Result<(), Refusal>;
/// What must hold after a refusal; `true` says that all later calls failed too.
type After = fn(&mut Bench, &Scene, bool, &str);

/// Lets the n-th call fail for every n, until the act succeeds without it.
fn each_call(side: Side, before: Before, act: Act, after: After) {
    for kind in [Kind::Kernel, Kind::Charon] {
        let mut bench = Bench::new(kind);
        for (onwards, done, killed) in [
            (false, false, false),
            (false, true, false),
            (true, false, false),
            (true, true, false),
            (true, false, true),
        ] {
            let mut faults = 0;
            for at in 1.. {
                assert!(at < 100, "an act makes calls without end");
                let scene = scene(&mut bench, before);
                let by = std::thread::current().id();
                bench.fail(side, Some(Fail { by, at, onwards, done }));
                let refused = act(&mut bench, &scene).is_err();
                let (calls, _) = bench.calls(side);
                bench.fail(side, None);
                if refused && killed {
                    bench.start(side);
                }
                bench.survive(side);
                let what = format!(
                    "{kind:?}, call {at} of {calls} failing, onwards {onwards}, done {done}, \
                     killed {killed}"
                );
                let mut ledger = Ledger::default();
                if refused {
                    after(&mut bench, &scene, onwards, &what);
                }
                // Repeated, it succeeds, whatever was left.
                act(&mut bench, &scene).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
                bench.audit(scene.id, &mut ledger, &what);
                if calls < at {
                    break;
                }
                faults += u32::from(refused);
            }
            assert!(faults > 0, "nothing was refused");
        }
    }
}

fn goes_on_at_the_source(bench: &mut Bench, scene: &Scene, what: &str) {
    assert_eq!(bench.state(Source, scene.id), Some(SessionState::Active), "{what}");
    assert!(bench.passes_soon(Source, scene.id), "{what}: it does not go on at its source");
    assert!(!bench.passes(Target, scene.id), "{what}: it passes at the target");
}

#[test]
fn a_stage_that_fails_leaves_nothing() {
    let act: Act = |bench, scene| bench.stage(Source, scene.id, 1).map(drop);
    each_call(Target, Before::Nothing, act, |bench, scene, onwards, what| {
        goes_on_at_the_source(bench, scene, what);
        if onwards {
            // What could not be taken away either is discarded later.
            bench.discard(Target, scene.id, 1).unwrap();
        }
        assert!(bench.is_empty_of(Target, scene.id), "{what}: something is left");
    });
}

#[test]
fn a_pause_that_fails_was_none() {
    let act: Act = |bench, scene| bench.pause(Source, scene.id).map(drop);
    each_call(Source, Before::Staged, act, |bench, scene, _, what| {
        // Only a process that was killed cannot say whether it has answered: it leaves
        // the session stopped until it is told to go on.
        if bench.state(Source, scene.id) != Some(SessionState::Active) {
            assert!(what.ends_with("killed true"), "{what}: it is not active");
            assert!(!bench.passes(Source, scene.id), "{what}: a paused session speaks");
            bench.resume(Source, scene.id, 0, Vec::new()).unwrap();
        }
        goes_on_at_the_source(bench, scene, what);
    });
}

#[test]
fn a_resume_that_fails_can_be_repeated() {
    let act: Act = |bench, scene| {
        let from = scene.grants.iter().map(|grant| (grant.sa, grant.end)).collect();
        bench.resume(Source, scene.id, 2, from)
    };
    each_call(Source, Before::Paused, act, |bench, scene, _, what| {
        match bench.state(Source, scene.id) {
            Some(SessionState::Active) => goes_on_at_the_source(bench, scene, what),
            Some(SessionState::Paused { .. }) => {
                assert!(!bench.passes(Source, scene.id), "{what}: a paused session speaks");
            }
            state => panic!("{what}: {state:?}"),
        }
    });
}

#[test]
fn an_activation_that_fails_stays_staged() {
    let act: Act = |bench, scene| bench.activate(Target, scene.id, 1, scene.finals());
    each_call(Target, Before::Paused, act, |bench, scene, _, what| {
        let state = bench.state(Target, scene.id);
        assert!(matches!(state, Some(SessionState::Staged { .. })), "{what}: {state:?}");
        assert!(bench.silent_soon(Target, scene.id), "{what}: a staged session speaks");
        assert!(!bench.passes(Source, scene.id), "{what}: the source speaks");
    });
}

#[test]
fn an_activation_that_fails_can_be_taken_back() {
    let act: Act = |bench, scene| bench.activate(Target, scene.id, 1, scene.finals());
    for kind in [Kind::Kernel, Kind::Charon] {
        let mut bench = Bench::new(kind);
        for done in [false, true] {
            for at in 1.. {
                let scene = scene(&mut bench, Before::Paused);
                let mut ledger = Ledger::default();
                let by = std::thread::current().id();
                bench.fail(Target, Some(Fail { by, at, onwards: false, done }));
                let refused = act(&mut bench, &scene).is_err();
                let (_, call) = bench.calls(Target);
                bench.fail(Target, None);
                if !refused {
                    break;
                }
                let what = format!("{kind:?}, activation failed at {call}, done {done}");
                bench.audit(scene.id, &mut ledger, &what);
                bench.discard(Target, scene.id, 1).unwrap();
                assert!(bench.is_empty_of(Target, scene.id), "{what}: something is left");
                let from = scene.grants.iter().map(|grant| (grant.sa, grant.end)).collect();
                bench.resume(Source, scene.id, 2, from).unwrap();
                assert!(bench.passes(Source, scene.id), "{what}: it does not go on");
                bench.audit(scene.id, &mut ledger, &what);
            }
        }
    }
}

#[test]
fn a_release_that_fails_can_be_repeated() {
    let act: Act = |bench, scene| bench.release(Source, scene.id, 1);
    each_call(Source, Before::Active, act, |bench, scene, _, what| {
        let state = bench.state(Source, scene.id);
        let gone = matches!(state, None | Some(SessionState::Paused { .. }));
        assert!(gone, "{what}: {state:?}");
        assert!(!bench.passes(Source, scene.id), "{what}: the source speaks");
        assert!(bench.passes(other(Source), scene.id), "{what}: the target does not");
    });
}

#[test]
fn a_discard_that_fails_can_be_repeated() {
    let act: Act = |bench, scene| bench.discard(Target, scene.id, 1);
    each_call(Target, Before::Staged, act, |bench, scene, _, what| {
        goes_on_at_the_source(bench, scene, what);
        bench.discard(Target, scene.id, 1).unwrap();
        assert!(bench.is_empty_of(Target, scene.id), "{what}: something is left");
    });
}

#[test]
fn a_child_sa_that_is_half_replaced_is_asked_for_again_and_not_called_a_fault() {
    let mut bench = Bench::new(Kind::Charon);
    let scene = scene(&mut bench, Before::Nothing);
    let sas = std::mem::take(&mut lock(&bench.grounds[0]).sas);
    for (exchange, status) in [(true, Status::Busy), (false, Status::GatewayFault)] {
        lock(&bench.grounds[0]).exchange = exchange;
        let answers = bench.at(Source).snapshot(&[scene.id]).unwrap();
        assert_eq!(answers[0].1.as_ref().unwrap_err().status, status, "{answers:?}");
    }
    lock(&bench.grounds[0]).sas = sas;
    assert!(bench.at(Source).snapshot(&[scene.id]).unwrap()[0].1.is_ok());
}

#[test]
fn what_is_not_staged_any_more_is_not_stopped() {
    for kind in [Kind::Kernel, Kind::Charon] {
        let mut bench = Bench::new(kind);
        let scene = scene(&mut bench, Before::Staged);
        let now = bench.at(Source).list().unwrap()[0].generation;
        for (staged, stops) in [(now.next(), false), (now, true)] {
            let target = bench.name(Target);
            let order = Pause { session: scene.id, target, generation: Some(staged) };
            let answer = bench.at(Source).pause(vec![order]).unwrap().remove(0).1;
            assert_eq!(bench.passes(Source, scene.id), !stops, "{answer:?}");
            let refused = answer.err().map(|refusal| refusal.status);
            assert_eq!(refused, (!stops).then_some(Status::GenerationChanged));
        }
    }
}

/// charon of the target is killed: what it had in the kernel is left there.
fn kill_charon(bench: &Bench) {
    lock(&bench.grounds[1]).ike.clear();
}

#[test]
fn what_is_staged_goes_into_a_daemon_that_was_started_anew() {
    for told in [true, false] {
        let mut bench = Bench::new(Kind::Charon);
        let scene = scene(&mut bench, Before::Staged);
        let (sink, events) = EventSink::bounded(16);
        bench.at(Target).subscribe(sink).unwrap();
        kill_charon(&bench);
        lock(&bench.grounds[1]).absent = true;
        if told {
            assert!(bench.at(Target).list().is_err());
            let told = events.next(Duration::from_secs(10));
            let Some(GatewayEvent::Unusable { session, reason }) = told else { panic!("{told:?}") };
            assert_eq!((session, reason.status), (scene.id, Status::SessionEnded));
        }
        let finals = bench.pause(Source, scene.id).unwrap();
        for _ in 0..2 {
            let refused = bench.activate(Target, scene.id, 1, &finals).unwrap_err();
            assert_eq!(refused.status, Status::GatewayFault, "{refused}");
            assert!(bench.silent_soon(Target, scene.id), "a staged session speaks");
        }
        lock(&bench.grounds[1]).absent = false;
        bench.activate(Target, scene.id, 1, &finals).unwrap();
        let ike: Vec<bool> = lock(&bench.grounds[1]).ike.values().map(|ike| ike.passive).collect();
        assert_eq!(ike, [false], "the new charon speaks for it");
        bench.audit(scene.id, &mut Ledger::default(), "started anew");
    }
}

#[test]
fn what_is_staged_is_lost_with_its_daemon_and_its_context() {
    let mut bench = Bench::new(Kind::Charon);
    let scene = scene(&mut bench, Before::Paused);
    kill_charon(&bench);
    bench.start(Target);
    let refused = bench.activate(Target, scene.id, 1, scene.finals());
    assert_eq!(refused.unwrap_err().status, Status::SessionEnded);
    assert!(bench.is_empty_of(Target, scene.id), "something is left");
}

#[test]
fn a_staging_anew_that_fails_is_repeated_and_uses_no_number_twice() {
    let mut bench = Bench::new(Kind::Charon);
    for (onwards, done) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut faults = 0;
        for at in 1.. {
            assert!(at < 100, "an act makes calls without end");
            let scene = scene(&mut bench, Before::Paused);
            let mut ledger = Ledger::default();
            let by = std::thread::current().id();
            // Packets have passed when the first charon is seen to be gone.
            bench.fail(Target, Some(Fail { by, at, onwards, done }));
            kill_charon(&bench);
            let refused = bench.activate(Target, scene.id, 1, scene.finals()).is_err();
            let (calls, last) = bench.calls(Target);
            bench.fail(Target, None);
            let what = format!("call {at} of {calls} ({last}), onwards {onwards}, done {done}");
            if refused {
                faults += 1;
                assert!(bench.silent_soon(Target, scene.id), "{what}: a staged session speaks");
                bench.audit(scene.id, &mut ledger, &what);
                assert!(!bench.passes(Source, scene.id), "{what}: the source speaks");
                bench.activate(Target, scene.id, 1, scene.finals()).unwrap_or_else(|refusal| {
                    panic!("{what}: {refusal}");
                });
            }
            bench.audit(scene.id, &mut ledger, &what);
            assert!(bench.passes(Target, scene.id), "{what}: it does not go on");
            if calls < at {
                break;
            }
        }
        assert!(faults > 0, "nothing was refused");
    }
}

#[test]
fn what_is_staged_without_its_daemon_goes_on_at_its_source() {
    let mut bench = Bench::new(Kind::Charon);
    let scene = scene(&mut bench, Before::Staged);
    lock(&bench.grounds[1]).ike.clear();
    assert!(matches!(bench.state(Target, scene.id), Some(SessionState::Staged { .. })));
    bench.discard(Target, scene.id, 1).unwrap();
    assert!(bench.is_empty_of(Target, scene.id), "something is left");
    goes_on_at_the_source(&mut bench, &scene, "the target's daemon was killed");
}
