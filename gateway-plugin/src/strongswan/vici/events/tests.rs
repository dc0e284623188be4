//! A subscription against a charon that comes and goes.

use std::sync::mpsc::channel;

use super::*;
use crate::strongswan::vici::{
    fake::{Fake, Peer, Script},
    sa::samples::{child_section, ike_section},
};

const LONG: Duration = Duration::from_secs(10);

/// Confirms every registration but those of `unknown`.
fn register(peer: &mut Peer, unknown: &[&str]) {
    for name in NAMES {
        let known = !unknown.contains(&name);
        let answer = if known { Packet::Confirm } else { Packet::UnknownEvent };
        assert_eq!(peer.register(&answer), name);
    }
}

fn updown(up: bool) -> Section {
    let message = if up { Section::new().with("up", "yes") } else { Section::new() };
    message.with_section("vpn", ike_section())
}

#[test]
fn events_are_heard_typed_and_in_order() {
    let (done, wait) = channel::<()>();
    let fake = Fake::new(vec![Box::new(move |mut peer| {
        register(&mut peer, &["ike-update"]);
        peer.event("ike-updown", updown(true));
        let both = Section::new()
            .with_section("old", child_section("c0000001"))
            .with_section("new", child_section("c0000002"));
        let children = Section::new().with_section("net", both);
        let ike = ike_section().with_section("child-sas", children);
        peer.event("child-rekey", Section::new().with_section("vpn", ike));
        let children = Section::new().with_section("net-3", child_section("c0000002"));
        let ike = ike_section().with_section("child-sas", children);
        peer.event("child-updown", Section::new().with_section("vpn", ike));
        let both =
            Section::new().with_section("old", ike_section()).with_section("new", ike_section());
        peer.event("ike-rekey", Section::new().with_section("vpn", both));
        let moved = updown(false)
            .with("local-host", "10.0.0.2")
            .with("local-port", "4500")
            .with("remote-host", "fec0::10")
            .with("remote-port", "1024");
        peer.event("ike-update", moved);
        peer.event("ike-updown", updown(false));
        let _ = wait.recv();
    })]);
    let events = Subscription::start(&fake.path, 100).unwrap();
    let next = || events.next(LONG).unwrap();
    assert_eq!(next(), Event::Listening { missing: vec!["ike-update"] });
    assert!(matches!(next(), Event::IkeUp(ike) if ike.name == "vpn" && ike.unique_id == 1));
    let Event::ChildRekeyed { ike, old, new } = next() else { panic!("no child-rekey") };
    assert_eq!((ike.unique_id, old.spi_in, new.spi_in), (1, Some(0xc000_0001), Some(0xc000_0002)));
    assert!(matches!(next(), Event::ChildDown(_, child) if child.spi_in == Some(0xc000_0002)));
    assert!(matches!(next(), Event::IkeRekeyed { old, new } if old == new));
    let Event::IkeMoved { ike, local, remote } = next() else { panic!("no ike-update") };
    assert_eq!(ike.remote.to_string(), "10.0.0.10:4500");
    assert_eq!(local.to_string(), "10.0.0.2:4500");
    assert_eq!(remote.to_string(), "[fec0::10]:1024");
    assert!(matches!(next(), Event::IkeDown(_)));
    drop(done);
    fake.finish();
}

#[test]
fn an_event_before_the_last_confirmation_is_not_lost() {
    let (done, wait) = channel::<()>();
    let fake = Fake::new(vec![Box::new(move |mut peer| {
        peer.register(&Packet::Confirm);
        peer.event("ike-updown", updown(true));
        for _ in 1..NAMES.len() {
            peer.register(&Packet::Confirm);
        }
        let _ = wait.recv();
    })]);
    let events = Subscription::start(&fake.path, 100).unwrap();
    assert_eq!(events.next(LONG), Some(Event::Listening { missing: vec![] }));
    assert!(matches!(events.next(LONG), Some(Event::IkeUp(_))));
    drop(done);
    fake.finish();
}

#[test]
fn a_restart_of_charon_is_a_gap_and_then_events_are_heard_again() {
    let (done, wait) = channel::<()>();
    let dies: Script = Box::new(|mut peer| register(&mut peer, &[]));
    let reborn: Script = Box::new(move |mut peer| {
        register(&mut peer, &[]);
        peer.event("ike-updown", updown(true));
        let _ = wait.recv();
    });
    let fake = Fake::new(vec![dies, reborn]);
    let events = Subscription::start(&fake.path, 100).unwrap();
    let next = || events.next(LONG).unwrap();
    assert!(matches!(next(), Event::Listening { .. }));
    assert!(matches!(next(), Event::Gap { reason } if reason.contains("end of stream")));
    assert!(matches!(next(), Event::Listening { .. }));
    assert!(matches!(next(), Event::IkeUp(_)));
    drop(done);
    fake.finish();
}

#[test]
fn a_charon_that_is_not_there_yet_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vici");
    let events = Subscription::start(&path, 100).unwrap();
    let reason = "charon does not answer yet".to_owned();
    assert_eq!(events.next(LONG), Some(Event::Gap { reason }));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut peer = Peer(listener.accept().unwrap().0);
    register(&mut peer, &[]);
    assert!(matches!(events.next(LONG), Some(Event::Listening { .. })));
}

#[test]
fn an_event_that_cannot_be_read_is_a_gap_and_the_next_one_is_heard() {
    let (done, wait) = channel::<()>();
    let fake = Fake::new(vec![Box::new(move |mut peer| {
        register(&mut peer, &[]);
        let nothing = Section::new().with_section("vpn", Section::new());
        peer.event("ike-updown", nothing);
        peer.event("ike-updown", updown(true));
        let _ = wait.recv();
    })]);
    let events = Subscription::start(&fake.path, 100).unwrap();
    assert!(matches!(events.next(LONG), Some(Event::Listening { .. })));
    let reason = "`ike-updown`: `vpn.uniqueid` is missing".to_owned();
    assert_eq!(events.next(LONG), Some(Event::Gap { reason }));
    assert!(matches!(events.next(LONG), Some(Event::IkeUp(_))));
    drop(done);
    fake.finish();
}

#[test]
fn more_events_than_fit_become_one_gap() {
    let (done, wait) = channel::<()>();
    let fake = Fake::new(vec![Box::new(move |mut peer| {
        register(&mut peer, &[]);
        for _ in 0..100 {
            peer.event("ike-updown", updown(true));
        }
        let _ = wait.recv();
    })]);
    let events = Subscription::start(&fake.path, 4).unwrap();
    let within = Deadline::after(LONG);
    while !events.overflowed.load(Ordering::Acquire) {
        assert!(within.left().is_some(), "101 events fit where there is room for 4");
        std::thread::yield_now();
    }
    let reason = "more events came than were taken in time".to_owned();
    assert_eq!(events.next(LONG), Some(Event::Gap { reason }));
    drop(done);
    fake.finish();
}

#[test]
fn dropping_it_ends_its_thread() {
    let fake = Fake::new(vec![Box::new(|mut peer| {
        register(&mut peer, &[]);
        assert!(peer.read().is_none(), "the connection is closed");
    })]);
    let events = Subscription::start(&fake.path, 4).unwrap();
    assert!(matches!(events.next(LONG), Some(Event::Listening { .. })));
    drop(events);
    fake.finish();
}
