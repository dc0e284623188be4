//! Traffic between end users and gateways over the wire, without any daemon.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{thread, time::Duration};

use gateway_plugin::{
    GatewayPlugin as _,
    embedded::RemoteGateway,
    plugin::{Activate, Pause, Release, Stage},
};
use integration::{
    demo::NAMES,
    fleet::{Fleet, Tally},
    observer::Figures,
    process::Program,
    rig::{Rig, Settings},
    wire::Wire,
};
use protocol_spec::id::{BatchId, Name, SessionEpoch, SessionId};

/// As much as the demo has.
#[test]
fn a_thousand_sessions_lose_nothing() {
    let program = Program::at(env!("CARGO_BIN_EXE_demo"));
    let rig = Rig::new(&program, &Settings::default()).unwrap();
    let outer = rig.sites.each_ref().map(|site| site.addresses.outer);
    let wire = Wire::start(&outer).unwrap();
    let mut fleet = Fleet::start(&rig, &wire, 1000, 0, 20, NAMES).unwrap();
    for _ in 0..2 {
        fleet.begin();
        fleet.pass(Duration::from_secs(5)).unwrap();
        thread::sleep(Duration::from_secs(2));
        let tally = fleet.end();
        assert_eq!((tally.lost, tally.duplicated), (0, 0), "{tally:?}");
        let expected = 1000.0 * 20.0 * 2.0 * tally.seconds;
        assert!(tally.sent as f64 >= 0.95 * expected, "{} of {expected} sent", tally.sent);
        let figures = wire.observer().figures();
        assert_eq!((figures.seq_reuse, figures.owner_violations, wire.dropped()), (0, 0, 0));
    }
}

/// The acts of a move by hand, as a daemon would do them for all sessions.
fn move_all(from: &mut RemoteGateway, to: &mut RemoteGateway, names: [&str; 2]) {
    let [source, target] = names.map(|name| name.parse::<Name>().unwrap());
    let ids: Vec<_> = from.list().unwrap().into_iter().map(|status| status.session).collect();
    let batch = BatchId([7; 16]);
    for ids in ids.chunks(64) {
        let contexts = from.snapshot(ids).unwrap();
        let stages = contexts.into_iter().map(|(_, context)| {
            let context = context.unwrap();
            let profile = context.profile();
            let grants = profile
                .children
                .iter()
                .map(|child| child.usage.grant(Duration::from_secs(1), 1 << 24).unwrap());
            let grants = Vec::from_iter(grants);
            Stage { epoch: SessionEpoch(1), source: source.clone(), batch, grants, context }
        });
        let staged = to.stage(stages.collect()).unwrap();
        assert!(staged.iter().all(|(_, result)| result.is_ok()));
        let pauses =
            ids.iter().map(|id| Pause { session: *id, target: target.clone(), generation: None });
        let paused = from.pause(pauses.collect()).unwrap();
        let epoch = SessionEpoch(1);
        let activate = paused.into_iter().map(|(session, finals)| Activate {
            session,
            epoch,
            finals: finals.unwrap(),
        });
        to.activate(activate.collect()).unwrap();
        let release = |id: &SessionId| Release { session: *id, epoch, target: target.clone() };
        from.release(ids.iter().map(release).collect()).unwrap();
    }
}

/// Moves 200 sessions under traffic and tells what observer and end users saw.
fn moved_by_hand(sabotage: Option<&str>) -> (Figures, Tally) {
    let program = Program::at(env!("CARGO_BIN_EXE_demo"));
    let mut settings = Settings::default();
    if let Some(sabotage) = sabotage {
        settings.gateway = [(); 2].map(|()| vec!["--sabotage".to_owned(), sabotage.to_owned()]);
    }
    let rig = Rig::new(&program, &settings).unwrap();
    let wire = Wire::start(&rig.sites.each_ref().map(|site| site.addresses.outer)).unwrap();
    let mut fleet = Fleet::start(&rig, &wire, 200, 0, 50, NAMES).unwrap();
    let [mut a, mut b] =
        rig.sites.each_ref().map(|site| RemoteGateway::connect(&site.home.plugin).unwrap());
    fleet.begin();
    fleet.pass(Duration::from_secs(5)).unwrap();
    move_all(&mut a, &mut b, rig.sites.each_ref().map(|site| site.name));
    thread::sleep(Duration::from_millis(500));
    let tally = fleet.end();
    let figures = wire.observer().figures();
    (figures, tally)
}

#[test]
fn a_move_is_seen_on_the_wire_and_loses_nothing() {
    let (figures, tally) = moved_by_hand(None);
    assert_eq!((figures.handovers, figures.seq_reuse, figures.owner_violations), (200, 0, 0));
    assert_eq!((tally.lost, tally.duplicated), (0, 0), "{tally:?}");
}

#[test]
fn two_owners_are_seen_on_the_wire() {
    let (figures, _) = moved_by_hand(Some("no-pause"));
    assert!(figures.owner_violations > 0, "{figures:?}");
}

#[test]
fn numbers_used_twice_are_seen_on_the_wire() {
    let (figures, _) = moved_by_hand(Some("no-grant"));
    assert!(figures.seq_reuse > 0, "{figures:?}");
}
