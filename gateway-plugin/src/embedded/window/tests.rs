use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What the RFC says, without any bitmap.
struct Naive {
    size: u64,
    highest: u64,
    seen: BTreeSet<u64>,
}

impl Naive {
    fn check(&self, number: u64) -> Verdict {
        if number > self.highest {
            Verdict::Fresh
        } else if number == 0 || number + self.size <= self.highest {
            Verdict::TooOld
        } else if self.seen.contains(&number) {
            Verdict::Replayed
        } else {
            Verdict::Fresh
        }
    }

    fn accept(&mut self, number: u64) {
        self.seen.insert(number);
        self.highest = self.highest.max(number);
    }
}

proptest! {
    #[test]
    fn the_bitmap_agrees_with_a_set(
        size in 32u32..=4096,
        start in prop_oneof![Just(0u64), 0..10_000u64, (1u64 << 32) - 5000..(1u64 << 32) + 5000],
        steps in prop::collection::vec(-5000i64..5000, 1..300),
    ) {
        let mut window = empty(size);
        let mut naive = Naive { size: u64::from(size), highest: 0, seen: BTreeSet::new() };
        if start > 0 {
            accept(&mut window, start);
            naive.accept(start);
        }
        for step in steps {
            let number = window.highest.saturating_add_signed(step % (1 + step.abs() / 2 + 7));
            prop_assert_eq!(check(&window, number), naive.check(number), "number {}", number);
            if check(&window, number) == Verdict::Fresh {
                accept(&mut window, number);
                naive.accept(number);
            }
            prop_assert!(is_sound(&window));
        }
        for back in 0..u64::from(size) {
            let Some(number) = window.highest.checked_sub(back).filter(|n| *n > 0) else { break };
            let marked = window.bitmap[(back / 32) as usize] & 1 << (back % 32) != 0;
            prop_assert_eq!(marked, naive.seen.contains(&number), "bit {}", back);
        }
    }

    #[test]
    fn the_high_half_is_inferred_across_two_to_the_32(
        size in 32u32..=4096,
        high in 0u64..4,
        around in -9000i64..9000,
        back in 0u64..4096,
        ahead in 1u64..(1 << 32) - 4096,
    ) {
        let mut window = empty(size);
        let highest = (high << 32).saturating_add_signed(around).max(1);
        accept(&mut window, highest);
        // Anything inside the window, and anything ahead of it by 2^32 - W at most.
        if back < u64::from(size) && highest > back {
            let number = highest - back;
            prop_assert_eq!(infer(&window, true, low_half(number)), Some(number));
        }
        let number = highest + ahead.min((1 << 32) - u64::from(size));
        prop_assert_eq!(infer(&window, true, low_half(number)), Some(number));
    }
}

#[test]
fn the_largest_jump_is_two_to_the_32_less_the_window() {
    let mut window = empty(128);
    accept(&mut window, 1 << 33);
    let last = (1u64 << 33) + (1 << 32) - 128;
    assert_eq!(infer(&window, true, low_half(last)), Some(last));
    assert_ne!(infer(&window, true, low_half(last + 1)), Some(last + 1));
}

#[test]
fn nothing_lies_before_the_first_number_or_after_the_last() {
    assert_eq!(infer(&empty(64), true, u32::MAX), None);
    assert_eq!(check(&empty(64), 0), Verdict::TooOld);
    let mut window = empty(64);
    accept(&mut window, u64::MAX);
    assert_eq!(infer(&window, true, 0), None);
    assert_eq!(check(&window, u64::MAX), Verdict::Replayed);
}

#[test]
fn without_esn_a_number_is_what_the_packet_shows() {
    let mut window = empty(64);
    accept(&mut window, 1 << 31);
    assert_eq!(infer(&window, false, 5), Some(5));
    assert_eq!(check(&window, 5), Verdict::TooOld);
}

#[test]
fn unsound_windows_are_recognised() {
    assert!(is_sound(&empty(32)) && is_sound(&empty(33)) && is_sound(&empty(4096)));
    assert!(!is_sound(&empty(0)) && !is_sound(&empty(31)) && !is_sound(&empty(4097)));
    let mut window = empty(40);
    window.bitmap[1] = 1 << 8;
    assert!(!is_sound(&window), "a bit beyond the size");
    window.bitmap[1] = 1 << 7;
    assert!(is_sound(&window));
    window.bitmap.push(0);
    assert!(!is_sound(&window), "a word too many");
}
