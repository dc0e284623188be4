//! Sessions as charon tells them: captured ones, and the histories that a capture
//! is too short for.

mod samples;

use protocol_spec::{
    context::{IkeSecrets, Load, Mode},
    id::SessionEpoch,
    transfer::{SessionState, SessionStatus},
};

use samples::*;

use super::*;
use crate::strongswan::ha::{Attribute, Datagram, Version, put};

#[test]
fn a_captured_session_comes_up_and_is_whole() {
    let mut tracker = Tracker::new(Limits::default());
    let notices: Vec<Notice> = messages(CAPTURED_3)
        .into_iter()
        .flat_map(|message| tracker.handle(message, session(1)))
        .collect();
    let up = Notice::Event(GatewayEvent::Up(SessionStatus {
        session: session(1),
        epoch: SessionEpoch(0),
        generation: Generation(1),
        state: SessionState::Active,
    }));
    assert_eq!(notices, [vec![up], changed(2), changed(3)].concat());
    let told = tracker.describe(session(1)).unwrap();
    assert_eq!(told.generation, Generation(3));
    assert_eq!(told.ike.configuration, "vpn");
    assert_eq!(told.ike.local, client(1));
    assert_eq!(told.ike.remote, client(10));
    assert_eq!((told.ike.next_send, told.ike.next_receive), (0, 2));
    assert_eq!(told.ike.virtual_ips.len(), 1);
    assert!(told.ike.extensions.mobike && told.ike.extensions.fragmentation);
    assert!(told.ike.sk_d().is_some());
    let [child] = &told.children[..] else { panic!("one child") };
    assert_eq!((child.inbound, child.configuration.as_str()), (0xc72b_4a7b, "net"));
    assert!(child.seed.is_some());
    assert_eq!(child.negotiated.as_ref().unwrap().mode, Mode::Tunnel);
}

#[test]
fn a_hybrid_session_keeps_both_secrets_in_order() {
    let mut tracker = Tracker::new(Limits::default());
    for message in messages(CAPTURED_5) {
        tracker.handle(message, session(1));
    }
    let told = tracker.describe(session(1)).unwrap();
    let IkeSecrets::Seed { shared, replaced: None, .. } = &told.ike.secrets else {
        panic!("a seed")
    };
    assert_eq!(shared.len(), 2);
    assert_eq!(shared[0].expose()[..2], [0x33, 0x36]);
    assert_eq!(shared[1].expose()[..2], [0x98, 0xf7]);
    assert_eq!(told.ike.next_receive, 4);
    assert_eq!(told.ike.native.unwrap().conditions, 0x4000);
}

#[test]
fn a_repetition_changes_nothing() {
    for text in [CAPTURED_3, CAPTURED_5] {
        let mut tracker = Tracker::new(Limits::default());
        messages(text).into_iter().for_each(|m| drop(tracker.handle(m, session(1))));
        let before = tracker.describe(session(1)).unwrap();
        for message in messages(text) {
            if message.kind != Kind::ChildAdd {
                assert_eq!(tracker.handle(message, session(2)), []);
            }
        }
        assert_eq!(tracker.describe(session(1)).unwrap(), before);
        assert_eq!(tracker.sessions().count(), 1);
    }
}

#[test]
fn an_ike_rekey_keeps_the_session_and_its_children() {
    let mut tracker = one();
    assert_eq!(tracker.handle(add(id(5), Some(id(1))), session(2)), []);
    assert_eq!(tracker.find(id(5).spis()), Some(session(1)));
    assert_eq!(tracker.handle(delete(id(1)), session(2)), changed(4));
    assert_eq!(tracker.handle(update(id(5)), session(2)), []);
    assert_eq!(tracker.handle(child(id(5), 200), session(2)), changed(5));
    assert_eq!(tracker.find(id(1).spis()), None);
    // The peer's Delete for the old one: no gap.
    assert_eq!(tracker.handle(mid(id(1), Kind::IkeMidResponder, 6), session(2)), []);
    let told = tracker.describe(session(1)).unwrap();
    assert_eq!(told.ike.spi_initiator, 5);
    assert_eq!(tracker.replaced(session(1)), [id(1).spis()], "until charon has it no more");
    tracker.replaced_is_gone(session(1), id(1).spis());
    assert_eq!(tracker.replaced(session(1)), []);
    let told = tracker.describe(session(1)).unwrap();
    assert_eq!((told.ike.next_send, told.ike.next_receive), (0, 0));
    assert_eq!(told.ike.virtual_ips.len(), 1, "inherited: charon does not say it again");
    let IkeSecrets::Seed { replaced: Some(replaced), .. } = &told.ike.secrets else {
        panic!("made by a rekeying")
    };
    assert_eq!((replaced.prf, replaced.sk_d.len()), (5, 32));
    let seeds: Vec<_> =
        told.children.iter().map(|child| (child.inbound, child.seed.is_some())).collect();
    assert_eq!(seeds, [(100, false), (200, true)], "the old SA's SK_d made the first one's keys");
}

#[test]
fn an_update_of_the_successor_is_enough_if_the_delete_was_lost() {
    let mut tracker = one();
    tracker.handle(add(id(5), Some(id(1))), session(2));
    assert_eq!(tracker.handle(update(id(5)), session(2)), changed(4));
    assert_eq!(tracker.ike_id(session(1)), Some(id(5)));
    assert_eq!(tracker.handle(delete(id(5)), session(2)), down(1));
}

#[test]
fn crossing_rekeyings_end_with_the_one_in_use() {
    let mut tracker = one();
    tracker.handle(add(id(5), Some(id(1))), session(2));
    tracker.handle(add(id(7), Some(id(1))), session(2));
    assert_eq!(tracker.handle(delete(id(1)), session(2)), changed(4));
    assert_eq!(tracker.handle(update(id(5)), session(2)), changed(5));
    assert_eq!(tracker.ike_id(session(1)), Some(id(5)));
    assert_eq!(tracker.find(id(7).spis()), None);
    assert_eq!(tracker.replaced(session(1)), [id(7).spis(), id(1).spis()]);
    assert_eq!(tracker.handle(delete(id(7)), session(2)), []);
    assert_eq!(tracker.describe(session(1)).unwrap().ike.virtual_ips.len(), 1);
}

#[test]
fn a_rekeying_that_fails_leaves_the_session_alone() {
    let mut tracker = one();
    for number in 2..40 {
        tracker.handle(add(id(number * 2), Some(id(1))), session(2));
    }
    assert!(tracker.sessions[&session(1)].successors.len() <= MAX_SUCCESSORS);
    assert!(tracker.owners.len() <= MAX_SUCCESSORS + 1);
    assert_eq!(tracker.handle(delete(id(78)), session(2)), []);
    assert_eq!(tracker.ike_id(session(1)), Some(id(1)));
}

#[test]
fn a_child_rekey_adds_one_and_takes_one() {
    let mut tracker = one();
    assert_eq!(tracker.handle(child(id(1), 200), session(2)), changed(4));
    assert_eq!(tracker.handle(delete_child(id(1), 100), session(2)), changed(5));
    assert_eq!(tracker.handle(delete_child(id(1), 100), session(2)), []);
    let told = tracker.describe(session(1)).unwrap();
    assert_eq!(told.children.iter().map(|child| child.inbound).collect::<Vec<_>>(), [200]);
}

#[test]
fn message_ids_are_kept_but_are_no_change() {
    let mut tracker = one();
    assert_eq!(tracker.handle(mid(id(1), Kind::IkeMidInitiator, 3), session(2)), []);
    assert_eq!(tracker.handle(mid(id(1), Kind::IkeMidResponder, 8), session(2)), []);
    let told = tracker.describe(session(1)).unwrap();
    assert_eq!((told.ike.next_send, told.ike.next_receive), (3, 8));
    assert_eq!(told.generation, Generation(3));
}

#[test]
fn a_message_of_an_unknown_sa_is_a_gap_once() {
    let mut tracker = one();
    let gap = |client| vec![Notice::Gap { ike: id(9).spis(), client }];
    assert_eq!(tracker.handle(update(id(9)), session(2)), gap(Some(client(10))));
    assert_eq!(tracker.handle(child(id(9), 300), session(2)), []);
    tracker.report_gaps_again();
    assert_eq!(tracker.handle(mid(id(9), Kind::IkeMidResponder, 1), session(2)), gap(None));
    assert_eq!(tracker.handle(delete_child(id(9), 300), session(2)), []);
    // Healed by what charon repeats.
    tracker.handle(add(id(9), None), session(2));
    assert!(matches!(
        tracker.handle(update(id(9)), session(2))[..],
        [Notice::Event(GatewayEvent::Up(_))]
    ));
}

#[test]
fn strangers_and_crowds_take_bounded_room() {
    let mut tracker = Tracker::new(Limits { sessions: 2, half_open: 8 });
    for number in 0..1000 {
        tracker.handle(add(id(number * 2), None), session(1));
    }
    assert_eq!(tracker.half_open.len(), 8);
    for number in 997..1000_u64 {
        let fresh = session(u8::try_from(number - 990).unwrap());
        let notices = tracker.handle(update(id(number * 2)), fresh);
        let refused = matches!(notices[..], [Notice::Refused { .. }]);
        assert_eq!(refused, number == 999, "{notices:?}");
    }
    assert_eq!(tracker.sessions().count(), 2);
    for inbound in 1..2000 {
        tracker.handle(child(id(1994), inbound * 2), session(1));
    }
    assert_eq!(tracker.describe(session(7)).unwrap().children.len(), MAX_CHILDREN);
}

#[test]
fn the_list_corrects_what_was_not_told() {
    let mut tracker = one();
    let now = tracker.mark();
    let mut list = [listed(id(1).spis(), &[(100, true)])];
    assert_eq!(tracker.reconcile(now, &list), []);
    // The peer moved; a child was rekeyed unheard and the old one is on its way out.
    list[0].remote = client(77);
    list[0].children = listed((0, 0), &[(100, false), (500, true)]).children;
    assert_eq!(tracker.reconcile(now, &list), changed(4));
    let told = tracker.describe(session(1)).unwrap();
    assert_eq!(told.ike.remote, client(77));
    let [child] = &told.children[..] else { panic!("one child") };
    assert_eq!((child.inbound, child.outbound, child.seed.is_none()), (500, 501, true));
    // A list that is older than what was heard since says nothing.
    list[0].remote = client(10);
    assert_eq!(tracker.reconcile(now, &list), []);
    // Parked: the address is a stand-in.
    list[0].state = ListedState::Passive;
    list[0].remote = "127.0.1.8:4500".parse().unwrap();
    assert_eq!(tracker.reconcile(tracker.mark(), &list), []);
    assert_eq!(tracker.describe(session(1)).unwrap().ike.remote, client(77));
    assert_eq!(tracker.reconcile(tracker.mark(), &[]), down(1));
    let unheard = [listed(id(9).spis(), &[])];
    let gap = vec![Notice::Gap { ike: id(9).spis(), client: Some(client(10)) }];
    assert_eq!(tracker.reconcile(tracker.mark(), &unheard), gap);
}

#[test]
fn what_a_session_has_is_found() {
    let mut tracker = one();
    let spis = id(1).spis();
    assert!(tracker.has_child(spis, 100));
    assert!(!tracker.has_child(spis, 102) && !tracker.has_child(id(9).spis(), 100));
    let address: IpAddr = "10.9.0.7".parse().unwrap();
    assert_eq!(tracker.holder(address, session(2)), None);
    let mut list = [listed(spis, &[(100, true)])];
    list[0].virtual_ips = vec![address];
    tracker.reconcile(tracker.mark(), &list);
    assert_eq!(tracker.holder(address, session(2)), Some(spis));
    assert_eq!(tracker.holder(address, session(1)), None, "it is its own");
}

#[test]
fn a_session_that_came_up_after_the_list_stays() {
    let mut tracker = one();
    let before = tracker.mark();
    tracker.handle(add(id(9), None), session(2));
    assert_eq!(tracker.reconcile(before, &[listed(id(9).spis(), &[])]), down(1), "begun, no gap");
    tracker.handle(update(id(9)), session(2));
    assert_eq!(tracker.reconcile(before, &[]), []);
    assert_eq!(tracker.sessions().count(), 1);
}

#[test]
fn what_ha_messages_leave_out_is_said() {
    let mut tracker = Tracker::new(Limits::default());
    tracker.handle(add(id(1), None), session(1));
    let mut message = update(id(1));
    message.attributes.retain(|attribute| !matches!(attribute, Attribute::LocalId(_)));
    tracker.handle(message, session(1));
    assert_eq!(tracker.describe(session(1)), Err(NotWhole::Missing("the local identity")));
    let ppk = vec![Attribute::IkeId(id(1)), Attribute::Conditions(0x6000)];
    tracker.handle(Message { kind: Kind::IkeUpdate, attributes: ppk }, session(1));
    assert!(matches!(tracker.describe(session(1)), Err(NotWhole::NotTold(_))));
    assert_eq!(tracker.describe(session(3)), Err(NotWhole::Unknown));
}

#[test]
fn a_session_keeps_its_name_over_our_restart() {
    let mut tracker = Tracker::new(Limits::default());
    tracker.remember(id(1).spis(), session(9), Generation(40));
    assert_eq!(tracker.remembered(id(1).spis()), Some((session(9), Generation(40))));
    tracker.handle(add(id(1), Some(id(3))), session(1));
    let notices = tracker.handle(update(id(1)), session(1));
    assert_eq!(tracker.remembered(id(1).spis()), None, "it is one of its sessions");
    let [Notice::Event(GatewayEvent::Up(status))] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((status.session, status.generation), (session(9), Generation(41)));
    assert!(tracker.describe(session(9)).is_ok(), "its predecessor need not be known");
}

/// What the target's charon is told is what the source's charon told: put into
/// another tracker it is the same session, and the keys that come of it are too.
#[test]
fn a_put_says_what_was_heard() {
    for (version, text) in [(Version::V3, CAPTURED_3), (Version::V5, CAPTURED_5)] {
        let mut tracker = Tracker::new(Limits::default());
        messages(text).into_iter().for_each(|m| drop(tracker.handle(m, session(1))));
        round_trip(&tracker, version);
    }
    let mut tracker = one();
    for message in [add(id(5), Some(id(1))), delete(id(1)), update(id(5)), inner(id(5))] {
        tracker.handle(message, session(1));
    }
    round_trip(&tracker, Version::V3);
}

fn round_trip(tracker: &Tracker, version: Version) {
    let told = tracker.describe(session(1)).unwrap();
    let context = Context {
        session: session(1),
        generation: told.generation,
        ike: Some(told.ike),
        children: Vec::new(),
        load: Load::default(),
    };
    let read = |datagram: &Datagram| Message::decode(datagram.expose()).unwrap();
    let sent = put::ike_messages(&context, None, version).unwrap();
    let mut target = Tracker::new(Limits::default());
    for datagram in &sent {
        let (as_said, message) = read(datagram);
        assert_eq!(as_said, version);
        assert!(!message.attributes.iter().any(|a| matches!(a, Attribute::IkeRekeyId(_))));
        target.handle(message, session(1));
    }
    let there = target.describe(session(1)).unwrap();
    assert_eq!(Some(&there.ike), context.ike.as_ref());
    assert!(there.ike.sk_d().is_some());
    assert_eq!(there.ike.sk_d(), context.ike.as_ref().unwrap().sk_d());
    // And an adopted one is the same again.
    let mut adopted = Tracker::new(Limits::default());
    adopted.adopt(&context).unwrap();
    assert_eq!(adopted.describe(session(1)).unwrap().ike, there.ike);
    assert_eq!(adopted.find(there.ike_spis()), Some(session(1)));
}

impl Description {
    fn ike_spis(&self) -> IkeSpis {
        (self.ike.spi_initiator, self.ike.spi_responder)
    }
}
