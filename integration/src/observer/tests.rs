use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const A: GatewayId = 0;
const B: GatewayId = 1;

fn esp(spi: u32, sequence: u32) -> Vec<u8> {
    let mut packet = spi.to_be_bytes().to_vec();
    packet.extend(sequence.to_be_bytes());
    packet.extend([0xee; 40]);
    packet
}

/// Sends `numbers` from a gateway to user 7 under SPI 0x1000, one a millisecond.
fn send(observer: &mut Observer, gateway: GatewayId, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let at = Duration::from_millis(u64::from(number));
        observer.to_user(7, gateway, &esp(0x1000, number), at);
    }
}

#[test]
fn a_move_and_a_move_back_are_in_order() {
    let mut observer = Observer::default();
    send(&mut observer, A, 1..=100);
    send(&mut observer, B, 65_637..=65_700);
    send(&mut observer, A, 131_300..=131_400);
    let figures = observer.figures();
    assert_eq!((figures.seq_reuse, figures.owner_violations), (0, 0));
    assert_eq!(figures.handovers, 2);
    assert_eq!(figures.to_users, 265);
    let handovers = observer.take_handovers();
    assert_eq!(handovers[0].silence, Duration::from_millis(65_537));
    assert_eq!((handovers[1].from, handovers[1].to), (B, A));
    assert_eq!(observer.owners().collect::<Vec<_>>(), [(SaOnWire { user: 7, spi: 0x1000 }, A)]);
}

#[test]
fn a_number_that_one_gateway_uses_twice_is_reuse() {
    let mut observer = Observer::default();
    send(&mut observer, A, [1, 2, 3, 3, 4, 2]);
    assert_eq!(observer.figures().seq_reuse, 2);
    assert_eq!(observer.figures().owner_violations, 0);
}

#[test]
fn a_number_that_two_gateways_use_is_reuse() {
    let mut observer = Observer::default();
    send(&mut observer, A, 1..=10);
    // The target begins at the source's last number instead of the granted base.
    send(&mut observer, B, 10..=12);
    assert_eq!(observer.figures().seq_reuse, 1);
}

#[test]
fn a_gateway_that_goes_on_after_its_successor_is_a_violation() {
    let mut observer = Observer::default();
    send(&mut observer, A, 1..=10);
    send(&mut observer, B, 65_547..=65_550);
    send(&mut observer, A, 11..=13);
    assert_eq!(observer.figures().owner_violations, 3);
    assert_eq!(observer.figures().seq_reuse, 0);
}

#[test]
fn two_gateways_that_speak_in_turn_are_a_violation_in_each_turn() {
    let mut observer = Observer::default();
    for step in 0..20 {
        send(&mut observer, A, [step + 1]);
        send(&mut observer, B, [70_000 + step]);
    }
    // A's first packet was before B's first; each later one was not.
    assert_eq!(observer.figures().owner_violations, 19);
    assert_eq!(observer.figures().handovers, 1);
}

#[test]
fn late_packets_of_one_gateway_are_neither() {
    let mut observer = Observer::default();
    send(&mut observer, A, [1, 3, 2, 6, 5, 4, 7]);
    assert_eq!((observer.figures().seq_reuse, observer.figures().owner_violations), (0, 0));
}

#[test]
fn the_same_spi_of_two_end_users_is_two_sas() {
    let mut observer = Observer::default();
    observer.to_user(1, A, &esp(9, 5), Duration::ZERO);
    observer.to_user(2, B, &esp(9, 5), Duration::ZERO);
    assert_eq!((observer.figures().seq_reuse, observer.figures().owner_violations), (0, 0));
}

#[test]
fn what_is_no_esp_is_counted_apart() {
    let mut observer = Observer::default();
    observer.to_user(1, A, &[0xff], Duration::ZERO);
    observer.to_gateway(&[0, 0, 0, 0, 1, 2, 3, 4, 5, 6]);
    observer.to_gateway(&esp(3, 1));
    let figures = observer.figures();
    assert_eq!((figures.not_esp, figures.to_users, figures.to_gateways), (2, 0, 1));
}

#[test]
fn extended_numbers_run_on_across_32_bits() {
    let mut observer = Observer::default();
    send(&mut observer, A, [u32::MAX - 1, u32::MAX, 0, 1]);
    send(&mut observer, B, [65_540]);
    // The same low half a round later is another number; within a round it is not.
    send(&mut observer, B, [65_540]);
    let figures = observer.figures();
    assert_eq!((figures.seq_reuse, figures.owner_violations, figures.handovers), (1, 0, 1));
    assert_eq!(extend(0, u64::from(u32::MAX)), 1 << 32);
    assert_eq!(extend(u32::MAX, 1 << 32), u64::from(u32::MAX));
    assert_eq!(extend(5, 3), 5);
}

#[test]
fn memory_of_an_sa_is_bounded_and_reuse_is_never_missed() {
    let mut observer = Observer::default();
    // Every second number: a hole after each.
    send(&mut observer, A, (0..10_000).map(|n| n * 2 + 1));
    let track = observer.tracks.values().next().unwrap();
    assert!(track.used.len() <= 64, "{} ranges", track.used.len());
    assert_eq!(observer.figures().seq_reuse, 0);
    assert!(observer.figures().merged_holes > 9_000);
    send(&mut observer, A, (0..10_000).map(|n| n * 2 + 1));
    assert_eq!(observer.figures().seq_reuse, 10_000);
}

proptest! {
    #[test]
    fn ranges_agree_with_a_set(numbers in proptest::collection::vec(0_u64..80, 0..200)) {
        let mut ranges = Ranges::default();
        let mut set = BTreeSet::new();
        for number in numbers {
            prop_assert_eq!(ranges.contains(number), set.contains(&number));
            prop_assert_eq!(ranges.insert(number).new, set.insert(number));
        }
        for number in 0..80 {
            prop_assert_eq!(ranges.contains(number), set.contains(&number));
        }
    }
}
