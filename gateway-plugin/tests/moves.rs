//! Moves between two embedded gateways under traffic, by plugin calls alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{activate, all, name, pair, pause, stage, transfer, until};
use gateway_plugin::{
    Discard, GatewayPlugin, Resume,
    embedded::{EmbeddedGateway, FleetConfig, FleetReport, SessionShape, UserFleet},
};
use protocol_spec::id::SessionEpoch;

fn fleet(shape: SessionShape, a: &mut EmbeddedGateway, b: &mut EmbeddedGateway) -> UserFleet {
    let config = FleetConfig { sessions: 40, rate: 50, shape, ..FleetConfig::default() };
    UserFleet::start(config, a, &mut [b]).unwrap()
}

fn received(fleet: &UserFleet) -> u64 {
    let (up, down) = fleet.counters();
    up.received.min(down.received)
}

/// Lets traffic flow until `more` further packets have arrived each way.
fn flow(fleet: &UserFleet, more: u64) {
    let goal = received(fleet) + more;
    until("traffic", || received(fleet) >= goal);
}

fn assert_whole(report: &FleetReport) {
    for (way, counts) in [("up", &report.up), ("down", &report.down)] {
        assert!(counts.sent > 500, "{way}: {counts:?}");
        assert_eq!((counts.lost, counts.duplicated), (0, 0), "{way}: {counts:?}");
    }
    assert_eq!((report.replay_rejected, report.forged, report.strays), (0, 0, 0));
}

fn there_and_back(shape: SessionShape) {
    let (mut a, mut b) = pair(|_| {});
    let (watch_a, watch_b) = (a.clone(), b.clone());
    let fleet = fleet(shape, &mut a, &mut b);
    let ids = fleet.sessions();
    flow(&fleet, 200);
    transfer(&mut a, &mut b, ("gw-a", "gw-b"), &ids, 1, || flow_into(&watch_b));
    flow(&fleet, 400);
    let at_b = b.addresses().unwrap().outer;
    assert!((0..ids.len()).all(|i| fleet.gateway_of(i) == Some(at_b)), "the users followed");
    transfer(&mut b, &mut a, ("gw-b", "gw-a"), &ids, 2, || flow_into(&watch_a));
    flow(&fleet, 400);
    let report = fleet.stop();
    assert_whole(&report);
    assert_eq!(report.roamed, 2 * ids.len() as u64);
    assert_eq!(a.list().unwrap().len(), ids.len());
    assert!(b.list().unwrap().is_empty(), "released sessions are not listed");
    for gateway in [&a, &b] {
        let counters = gateway.counters();
        assert_eq!(counters.dummies_sent, ids.len() as u64);
        assert_eq!((counters.dropped_hops, counters.dropped_strangers), (0, 0));
    }
}

/// Waits until packets of paused sessions have reached their target.
fn flow_into(target: &EmbeddedGateway) {
    let before = target.counters().held;
    until("diverted packets", || target.counters().held >= before + 40);
}

#[test]
fn a_move_there_and_back_loses_and_duplicates_nothing() {
    there_and_back(SessionShape::default());
}

#[test]
fn so_do_sessions_with_256_bits_esn_and_ipv6_inside() {
    let shape = SessionShape {
        key_bits: 256,
        esn: true,
        window: 4096,
        inner_v6: true,
        ..SessionShape::default()
    };
    there_and_back(shape);
}

#[test]
fn so_do_sessions_with_several_child_sas() {
    there_and_back(SessionShape { children: 3, ..SessionShape::default() });
}

#[test]
fn an_abort_after_the_pause_loses_nothing() {
    let (mut a, mut b) = pair(|_| {});
    let fleet = fleet(SessionShape::default(), &mut a, &mut b);
    let ids = fleet.sessions();
    let (first, second) = ids.split_at(ids.len() / 2);
    flow(&fleet, 200);
    stage(&mut a, &mut b, "gw-a", &ids, 1);
    pause(&mut a, "gw-b", &ids);
    flow_into(&b);
    let discard = |b: &mut EmbeddedGateway, ids: &[_]| {
        let epoch = SessionEpoch(1);
        all(b.discard(ids.iter().map(|id| Discard { session: *id, epoch }).collect()).unwrap());
    };
    let resume = |a: &mut EmbeddedGateway, ids: &[_]| {
        let order = |id: &_| Resume { session: *id, epoch: SessionEpoch(1), from: Vec::new() };
        all(a.resume(ids.iter().map(order).collect()).unwrap());
    };
    // Either side may be first.
    resume(&mut a, first);
    discard(&mut b, &ids);
    resume(&mut a, second);
    flow(&fleet, 400);
    assert_whole(&fleet.stop());
    assert!(b.list().unwrap().is_empty());
    assert_eq!(b.counters().opened, 0, "nothing passed at the target");
    assert_eq!(b.counters().sealed, 0);
}

#[test]
fn after_an_abort_the_session_moves_under_the_next_epoch() {
    let (mut a, mut b) = pair(|_| {});
    let fleet = fleet(SessionShape::default(), &mut a, &mut b);
    let ids = fleet.sessions();
    stage(&mut a, &mut b, "gw-a", &ids, 1);
    flow(&fleet, 100);
    // Restaged without a discard, as after a changed generation.
    stage(&mut a, &mut b, "gw-a", &ids, 2);
    let finals = pause(&mut a, "gw-b", &ids);
    flow_into(&b);
    activate(&mut b, finals, 2);
    common::release(&mut a, "gw-b", &ids, 2);
    flow(&fleet, 400);
    assert_whole(&fleet.stop());
}

#[test]
fn what_an_older_staging_held_goes_back_when_the_session_is_staged_again() {
    let (mut a, mut b) = pair(|_| {});
    let fleet = fleet(SessionShape { window: 32, ..SessionShape::default() }, &mut a, &mut b);
    let ids = fleet.sessions();
    flow(&fleet, 100);
    stage(&mut a, &mut b, "gw-a", &ids, 1);
    pause(&mut a, "gw-b", &ids);
    flow_into(&b);
    let order = |id: &_| Resume { session: *id, epoch: SessionEpoch(1), from: Vec::new() };
    all(a.resume(ids.iter().map(order).collect()).unwrap());
    stage(&mut a, &mut b, "gw-a", &ids, 2);
    // Longer than the window reaches back.
    flow(&fleet, 50 * ids.len() as u64);
    let finals = pause(&mut a, "gw-b", &ids);
    activate(&mut b, finals, 2);
    common::release(&mut a, "gw-b", &ids, 2);
    flow(&fleet, 200);
    let report = fleet.stop();
    let (at_a, at_b) = (a.counters(), b.counters());
    assert_eq!((at_a.dropped_too_old, at_b.dropped_too_old), (0, 0), "{at_a:?}, {at_b:?}");
    assert_whole(&report);
}

#[test]
fn a_rekey_between_stage_and_pause_is_noticed_and_loses_nothing() {
    let (mut a, mut b) = pair(|_| {});
    let fleet = fleet(SessionShape::default(), &mut a, &mut b);
    let ids = fleet.sessions();
    stage(&mut a, &mut b, "gw-a", &ids[..1], 1);
    fleet.rekey(0, &mut a).unwrap().unwrap();
    let finals = pause(&mut a, "gw-b", &ids[..1]);
    let refused = b
        .activate(vec![gateway_plugin::Activate {
            session: ids[0],
            epoch: SessionEpoch(1),
            finals: finals[0].1.clone(),
        }])
        .unwrap();
    let status = refused[0].1.as_ref().unwrap_err().status;
    assert_eq!(status, protocol_spec::status::Status::GenerationChanged);
    let from = Vec::new();
    all(a.resume(vec![Resume { session: ids[0], epoch: SessionEpoch(1), from }]).unwrap());
    transfer(&mut a, &mut b, ("gw-a", "gw-b"), &ids[..1], 2, || {});
    flow(&fleet, 400);
    fleet.finish_rekey(0, &mut b).unwrap().unwrap();
    flow(&fleet, 400);
    assert_whole(&fleet.stop());
}

#[test]
fn a_thousand_packets_cross_three_gateways_in_a_row() {
    let (mut a, mut b) = pair(|_| {});
    let mut c = EmbeddedGateway::start(Default::default()).unwrap();
    c.set_neighbour(name("gw-b"), b.addresses().unwrap().relay);
    b.set_neighbour(name("gw-c"), c.addresses().unwrap().relay);
    let config = FleetConfig { sessions: 10, rate: 100, ..FleetConfig::default() };
    let fleet = UserFleet::start(config, &mut a, &mut [&mut b, &mut c]).unwrap();
    let ids = fleet.sessions();
    transfer(&mut a, &mut b, ("gw-a", "gw-b"), &ids, 1, || {});
    transfer(&mut b, &mut c, ("gw-b", "gw-c"), &ids, 2, || {});
    flow(&fleet, 1000);
    assert_whole(&fleet.stop());
}
