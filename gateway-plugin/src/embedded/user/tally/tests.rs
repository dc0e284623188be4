use super::*;

const MS: Duration = Duration::from_millis(1);

fn tally(sent: u64, arrivals: &[u64]) -> Counts {
    let mut tally = Tally::default();
    (1..=sent).for_each(|number| assert_eq!(tally.next(), number));
    for (i, number) in (1..).zip(arrivals) {
        tally.arrived(*number, MS * i, MS * (i + 1), 10 * MS);
    }
    tally.counts()
}

#[test]
fn loss_duplicates_and_disorder_are_told_apart() {
    let counts = tally(6, &[1, 3, 2, 3, 5]);
    assert_eq!((counts.sent, counts.received, counts.lost), (6, 4, 2));
    assert_eq!((counts.duplicated, counts.reordered), (1, 1));
    assert_eq!((counts.longest_gap_us, counts.longest_delay_us), (1000 + 1000, 1000));
}

#[test]
fn long_runs_keep_little_and_still_see_every_duplicate() {
    let mut tally = Tally::default();
    for number in 1..=200_000 {
        tally.next();
        tally.arrived(number, MS, MS, MS);
        if number % 1000 == 0 {
            tally.arrived(number - 500, MS, MS, MS);
        }
    }
    assert!(tally.all_in());
    assert_eq!(tally.counts().duplicated, 200);
    assert!(tally.seen.words.len() <= 2);
}

#[test]
fn a_lost_packet_is_remembered_for_a_while_and_not_for_ever() {
    let mut tally = Tally::default();
    for number in 2..=1_000_000 {
        tally.next();
        tally.arrived(number, MS, MS, MS);
    }
    assert!(tally.seen.words.len() as u64 * 64 <= 2 * REMEMBERED);
    assert_eq!(tally.counts().duplicated, 0);
}

#[test]
fn phases_have_their_own_longest_times_and_gaps_are_listed() {
    let mut tally = Tally::default();
    tally.arrived(1, Duration::ZERO, MS, MS);
    tally.arrived(2, Duration::ZERO, 50 * MS, MS);
    assert_eq!(tally.counts().longest_gap_us, 49_000);
    assert_eq!(tally.gaps(), [Gap { at_us: 50_000, length_us: 49_000 }]);
    tally.begin_phase(60 * MS);
    tally.arrived(3, 60 * MS, 61 * MS, MS);
    assert_eq!((tally.counts().longest_gap_us, tally.counts().longest_delay_us), (1000, 1000));
    tally.rest();
    tally.arrived(4, 900 * MS, 901 * MS, MS);
    assert_eq!(tally.counts().longest_gap_us, 1000, "a rest is no gap");
}
