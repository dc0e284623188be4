//! Each detector is tripped once by hand: a world in which all is well, and one
//! thing that is not.

use protocol_spec::transfer::{SessionState, TransferMode};

use super::Invariant;
use crate::world::{
    World,
    gateway_model::{Held, Window},
    search::begin,
    setup::{gateway_name, session_id, small},
    traffic::BURST,
};

/// A world in which session 0 is used at gateway 0 and has seen traffic.
fn busy() -> World {
    let mut world = begin(small::one(TransferMode::Predictive)).unwrap();
    let session = session_id(0);
    world.send(0, session, 3);
    world.receive(0, session, 0);
    world.request(0, session);
    world.respond(0, session);
    assert_eq!(world.check(session), Ok(()));
    assert_eq!(world.check_at_rest(), Ok(()));
    world
}

fn held(world: &mut World) -> &mut Held {
    world.nodes[0].edit().gateway.active_mut(session_id(0)).unwrap()
}

fn broken(world: &World) -> Option<Invariant> {
    world.check(session_id(0)).err().map(|violation| violation.invariant)
}

fn broken_at_rest(world: &World) -> Option<Invariant> {
    world.check_at_rest().err().map(|violation| violation.invariant)
}

#[test]
fn two_owners() {
    let mut world = busy();
    let twin = held(&mut world).clone();
    world.nodes[1].edit().gateway.sessions.insert(session_id(0), twin);
    assert_eq!(broken(&world), Some(Invariant::I1));
}

#[test]
fn a_number_that_was_used() {
    let mut world = busy();
    held(&mut world).sa.sequence = 2;
    assert_eq!(broken(&world), Some(Invariant::I2));
}

#[test]
fn a_number_that_will_be_used_if_packets_go_on() {
    let mut world = busy();
    let facts = world.facts.get_mut(&session_id(0)).unwrap();
    facts.use_numbers(1, BURST, BURST);
    assert_eq!(broken(&world), Some(Invariant::I2));
    // Unless the range that was granted ends before it.
    held(&mut world).sa.end = BURST;
    assert_eq!(broken(&world), None);
}

#[test]
fn keys_that_the_end_user_has_no_longer() {
    let mut world = busy();
    let old = held(&mut world).clone();
    world.rekey(0, session_id(0));
    assert_eq!(broken(&world), None);
    *held(&mut world) = old;
    assert_eq!(broken(&world), Some(Invariant::I3));
}

#[test]
fn nobody_has_it_and_nobody_says_so() {
    let mut world = busy();
    world.nodes[0].edit().gateway.sessions.clear();
    assert_eq!(broken_at_rest(&world), Some(Invariant::I3));
}

#[test]
fn it_stays_paused() {
    let mut world = busy();
    held(&mut world).state = SessionState::Paused { target: gateway_name(1) };
    assert_eq!(broken_at_rest(&world), Some(Invariant::I3));
}

#[test]
fn a_message_id_that_was_used() {
    let mut world = busy();
    held(&mut world).ike.next_send = 0;
    assert_eq!(broken(&world), Some(Invariant::I4));
}

#[test]
fn a_response_that_is_forgotten() {
    let mut world = busy();
    held(&mut world).ike.last_response = None;
    assert_eq!(broken(&world), Some(Invariant::I4));
}

#[test]
fn a_refused_session_whose_packets_are_refused() {
    let mut world = busy();
    let facts = world.facts.get_mut(&session_id(0)).unwrap();
    facts.stays_at = Some(0);
    facts.received.mark(BURST);
    assert_eq!(broken(&world), Some(Invariant::I5));
}

#[test]
fn a_refused_session_that_went_away() {
    let mut world = busy();
    world.facts.get_mut(&session_id(0)).unwrap().stays_at = Some(1);
    assert_eq!(broken_at_rest(&world), Some(Invariant::I5));
}

#[test]
fn a_packet_that_was_delivered() {
    let mut world = busy();
    held(&mut world).sa.window = Window::default();
    assert_eq!(broken(&world), Some(Invariant::I7));
}
