use proptest::prelude::*;
use protocol_spec::context::ReplayWindow;

use super::*;

/// Any sound window: size, highest number, what was received.
fn windows() -> impl Strategy<Value = ReplayWindow> {
    let highest = prop_oneof![0..5000u64, (1 << 32) - 3000..(1 << 32) + 3000u64, any::<u64>()];
    (0..=4096u32, highest).prop_flat_map(|(size, highest)| {
        prop::collection::vec(any::<u32>(), words(size)).prop_map(move |bitmap| {
            let mut window = ReplayWindow { size, highest, bitmap: vec![0; words(size)] };
            for back in (0..size).filter(|back| u64::from(*back) < highest) {
                if bit(&bitmap, back) {
                    set(&mut window.bitmap, back);
                }
            }
            window
        })
    })
}

/// The numbers that a window holds as received.
fn numbers(window: &ReplayWindow) -> Vec<u64> {
    (0..window.size)
        .filter(|back| bit(&window.bitmap, *back))
        .map(|back| window.highest - u64::from(back))
        .collect()
}

proptest! {
    #[test]
    fn a_ring_holds_a_window(window in windows(), more in 0..4usize) {
        let ring = to_ring(&window, words(window.size) + more);
        prop_assert_eq!(ring.len(), words(window.size) + more);
        prop_assert_eq!(from_ring(window.size, window.highest, &ring), window);
    }

    #[test]
    fn a_number_has_its_place_in_the_ring(window in windows()) {
        // As Linux has it: number n at (n - 1) mod size, which holds for numbers
        // of 32 bits, and for all where the size divides 2^32.
        prop_assume!(window.size > 0);
        prop_assume!(window.highest < 1 << 32 || window.size.is_power_of_two());
        let ring = to_ring(&window, words(window.size));
        let set: u32 = ring.iter().map(|word| word.count_ones()).sum();
        let numbers = numbers(&window);
        prop_assert_eq!(set as usize, numbers.len());
        for number in numbers {
            let place = ((number - 1) % u64::from(window.size)) as u32;
            prop_assert!(bit(&ring, place), "{}", number);
        }
    }

    #[test]
    fn a_legacy_word_holds_a_window(size in 0..=32u32, highest in any::<u32>(), word in any::<u32>()) {
        let window = from_legacy(size, highest, word);
        prop_assert_eq!(window.bitmap.len(), words(size));
        prop_assert_eq!(to_legacy(&window), word & mask(size));
        prop_assert_eq!(from_legacy(size, highest, to_legacy(&window)), window);
    }

    #[test]
    fn another_size_never_lets_a_replay_in(window in windows(), size in 0..=4096u32) {
        let other = resized(&window, size);
        prop_assert_eq!((other.size, other.highest), (size, window.highest));
        prop_assert_eq!(other.bitmap.len(), words(size));
        for back in (0..size).filter(|back| u64::from(*back) < window.highest) {
            let seen = bit(&window.bitmap, back) || back >= window.size;
            prop_assert_eq!(bit(&other.bitmap, back), seen);
        }
        prop_assert_eq!(resized(&window, window.size), window);
    }

    #[test]
    fn nonsense_does_not_panic(size in 0..=4096u32, highest: u64, ring in prop::collection::vec(any::<u32>(), 0..130)) {
        let window = from_ring(size, highest, &ring);
        to_ring(&window, ring.len());
        to_legacy(&window);
        resized(&window, 64);
    }
}

#[test]
fn a_ring_by_hand() {
    // 32 packets, numbers 40, 39 and 33 received: places 7, 6 and 0.
    let window = ReplayWindow { size: 32, highest: 40, bitmap: vec![0b1000_0011] };
    assert_eq!(to_ring(&window, 1), [0b1100_0001]);
    // Over the edge of 32 bits: number 2^32 + 1 has place 0, 2^32 place 31.
    let window = ReplayWindow { size: 32, highest: (1 << 32) + 1, bitmap: vec![0b11] };
    assert_eq!(to_ring(&window, 1), [1 << 31 | 1]);
}
