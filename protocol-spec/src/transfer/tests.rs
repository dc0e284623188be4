use std::time::Duration;

use proptest::prelude::*;

use super::{GrantedRange, SaRef, SaUse};
use crate::{
    context::Protocol,
    limits::{GRANT_SPAN, MAX_REPLAY_WINDOW, MIN_GRANT_HEADROOM},
};

const SA: SaRef = SaRef { protocol: Protocol::Esp, inbound_spi: 1 };

fn usage(sequence: u64, rate: u32, esn: bool) -> SaUse {
    SaUse { sa: SA, sequence, rate, esn }
}

#[test]
fn a_quiet_sa_gets_the_least_headroom() {
    let range = usage(10, 0, true).grant(Duration::from_secs(15), GRANT_SPAN);
    let base = 10 + MIN_GRANT_HEADROOM + 1;
    assert_eq!(range, Some(GrantedRange { sa: SA, base, end: base + GRANT_SPAN }));
}

#[test]
fn a_busy_sa_gets_four_times_what_it_will_use() {
    let range = usage(0, 1_000_000, true).grant(Duration::from_millis(1500), GRANT_SPAN).unwrap();
    assert_eq!(range.base, 6_000_001);
}

// proves CXTP-6.6-4
#[test]
fn an_sa_without_room_gets_nothing() {
    let last = u64::from(u32::MAX);
    let quiet = |sequence, esn| usage(sequence, 0, esn).grant(Duration::ZERO, GRANT_SPAN);
    assert_eq!(quiet(last, false), None);
    assert_eq!(quiet(last - MIN_GRANT_HEADROOM, false), None);
    assert!(quiet(last - 3 * MIN_GRANT_HEADROOM, false).is_some());
    assert!(quiet(last, true).is_some(), "with ESN there is more");
    assert_eq!(quiet(u64::MAX, true), None);
    assert_eq!(quiet(u64::MAX - MIN_GRANT_HEADROOM, true), None);
    // So busy that the receiver's guess of the upper half would fail.
    assert_eq!(usage(0, u32::MAX, true).grant(Duration::from_secs(3600), GRANT_SPAN), None);
}

proptest! {
    // proves CXTP-6.6-4
    #[test]
    fn a_range_is_above_what_was_used_and_within_reach(
        sequence: u64, rate: u32, esn: bool, millis in 0_u64..100_000, span: u64,
    ) {
        let sequence = if esn { sequence } else { sequence & u64::from(u32::MAX) };
        let range = usage(sequence, rate, esn).grant(Duration::from_millis(millis), span);
        if let Some(GrantedRange { base, end, .. }) = range {
            prop_assert!(base > sequence && base - sequence > MIN_GRANT_HEADROOM);
            prop_assert!(base - sequence - 1 <= (1 << 32) - u64::from(MAX_REPLAY_WINDOW));
            prop_assert!(end > base && end - base <= span);
            prop_assert!(esn || end <= 1 << 32);
        }
    }
}
