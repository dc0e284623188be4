#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

fn name(number: usize) -> Name {
    ["b", "c", "d"][number].parse().unwrap()
}

#[test]
fn the_next_block_is_asked_for_at_half_of_the_last_and_once() {
    let mut blocks = Blocks::new(10, 100);
    assert_eq!((blocks.limit(), blocks.used(50)), (None, None));
    let end = blocks.join();
    assert_eq!(end, 150);
    assert!(blocks.granted(&name(0), end));
    assert_eq!(blocks.used(99), None);
    assert_eq!(blocks.used(100), Some(250));
    assert_eq!(blocks.used(101), None, "it was asked");
    assert_eq!((blocks.limit(), blocks.missing(&name(0))), (Some(150), Some(250)));
    assert!(blocks.granted(&name(0), 250));
    assert_eq!((blocks.left(), blocks.missing(&name(0))), (Some(149), None));
}

#[test]
fn a_standby_that_grants_too_little_does_not_stand_by() {
    let mut blocks = Blocks::new(0, 100);
    assert!(!{
        blocks.used(500);
        blocks.granted(&name(0), 499)
    });
    assert_eq!(blocks.limit(), None);
    assert_eq!(blocks.missing(&name(0)), Some(0));
    assert_eq!(blocks.join(), 600);
}

#[test]
fn the_slowest_standby_decides_until_it_leaves() {
    let mut blocks = Blocks::new(0, 100);
    let first = blocks.join();
    assert!(blocks.granted(&name(0), first));
    let end = blocks.used(60).unwrap();
    assert!(blocks.granted(&name(0), end));
    let joins = blocks.join();
    assert!(joins >= end, "what is used meanwhile is below it");
    assert!(blocks.granted(&name(1), joins));
    let next = blocks.used(180).unwrap();
    assert!(blocks.granted(&name(0), next));
    assert_eq!(blocks.limit(), Some(joins));
    blocks.leave(&name(1));
    assert_eq!(blocks.limit(), Some(next));
}

#[derive(Clone, Debug)]
enum Step {
    Send(u64),
    Join(usize),
    /// A standby hears the oldest question that it has not heard, and answers.
    Answer(usize),
    /// A question or an answer is lost.
    Lose(usize),
    Leave(usize),
}

proptest! {
    /// Whenever the owner dies, each standby that counts begins above all that left.
    #[test]
    fn no_number_that_left_is_at_or_above_what_a_standby_begins_with(
        steps in proptest::collection::vec(prop_oneof![
            6 => (1..80_u64).prop_map(Step::Send),
            2 => (0..3_usize).prop_map(Step::Join),
            4 => (0..3_usize).prop_map(Step::Answer),
            1 => (0..3_usize).prop_map(Step::Lose),
            1 => (0..3_usize).prop_map(Step::Leave),
        ], 0..300),
    ) {
        let mut blocks = Blocks::new(0, 64);
        let mut sent = 0;
        let mut questions: [Vec<u64>; 3] = Default::default();
        // What each standby would begin with, if it may take over.
        let mut begins: [Option<u64>; 3] = [None; 3];
        for step in steps {
            match step {
                Step::Send(count) => {
                    // The kernel, which drops what is at or above the limit.
                    sent = blocks.limit().map_or(sent + count, |limit| limit.min(sent + count)).max(sent);
                    if let Some(end) = blocks.used(sent) {
                        questions.iter_mut().for_each(|queue| queue.push(end));
                    }
                }
                Step::Join(at) => questions[at].push(blocks.join()),
                Step::Answer(at) => if !questions[at].is_empty() {
                    let end = questions[at].remove(0);
                    if blocks.granted(&name(at), end) {
                        begins[at] = begins[at].max(Some(end));
                    }
                },
                Step::Lose(at) => {
                    questions[at].pop();
                    // Asked again by whoever looks.
                    let standing = begins[at].is_some();
                    questions[at].extend(blocks.missing(&name(at)).filter(|_| standing));
                }
                Step::Leave(at) => {
                    blocks.leave(&name(at));
                    begins[at] = None;
                }
            }
            for begin in begins.into_iter().flatten() {
                prop_assert!(sent <= begin, "{sent} numbers left, a standby begins with {begin}");
            }
        }
    }
}
