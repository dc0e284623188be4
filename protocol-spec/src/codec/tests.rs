use std::collections::BTreeSet;

use super::{Malformed, decode, encode};
use crate::{
    context::{Context, ReplayWindow},
    key::KeyMaterial,
    limits::{MAX_BODY, MAX_KEY_OCTETS},
    message::{Pctd, PctdEntry},
};

// proves CXTP-3.2-1
#[test]
fn integers_take_the_shortest_form() {
    for (value, octets) in [
        (0, &[0][..]),
        (250, &[250]),
        (251, &[251, 251, 0]),
        (65_535, &[251, 255, 255]),
        (65_536, &[252, 0, 0, 1, 0]),
        (1 << 32, &[253, 0, 0, 0, 0, 1, 0, 0, 0]),
    ] {
        assert_eq!(encode::<u64>(&value).unwrap().as_slice(), octets);
        assert_eq!(decode::<u64>(octets), Ok(value));
    }
}

// proves CXTP-3.4-2
#[test]
fn a_longer_form_of_an_integer_is_refused() {
    for octets in [&[251, 250, 0][..], &[252, 5, 0, 0, 0], &[253, 0, 0, 1, 0, 0, 0, 0, 0]] {
        assert_eq!(decode::<u64>(octets), Err(Malformed::NotCanonical), "{octets:?}");
    }
    // A number too large for its type has no form at all.
    assert_eq!(decode::<u16>(&[252, 0, 0, 1, 0]), Err(Malformed::BadValue));
    assert_eq!(decode::<u64>(&[255]), Err(Malformed::BadValue));
}

// proves CXTP-3.4-2
#[test]
fn a_set_is_ordered_and_holds_each_element_once() {
    let set = BTreeSet::from([(1u16, 2u16, 3u16), (4, 5, 6)]);
    let octets = encode(&set).unwrap();
    assert_eq!(octets.as_slice(), [2, 1, 2, 3, 4, 5, 6]);
    assert_eq!(decode::<BTreeSet<(u16, u16, u16)>>(&octets), Ok(set));
    for bad in [[2, 4, 5, 6, 1, 2, 3], [2, 1, 2, 3, 1, 2, 3]] {
        let read = decode::<BTreeSet<(u16, u16, u16)>>(&bad);
        assert_eq!(read, Err(Malformed::NotCanonical), "{bad:?}");
    }
}

// proves CXTP-3.4-2
#[test]
fn a_duration_with_a_whole_second_of_nanoseconds_is_refused() {
    let octets = [1, 252, 0x00, 0xca, 0x9a, 0x3b];
    assert_eq!(decode::<std::time::Duration>(&octets), Err(Malformed::NotCanonical));
}

// proves CXTP-3.4-3
#[test]
fn octets_behind_the_value_are_refused() {
    assert_eq!(decode::<u8>(&[1, 2]), Err(Malformed::Trailing));
    assert_eq!(decode::<u64>(&[251, 255]), Err(Malformed::Truncated));
    assert_eq!(decode::<u64>(&[]), Err(Malformed::Truncated));
}

// proves CXTP-3.3-3
#[test]
fn values_that_a_type_does_not_have_are_refused() {
    assert_eq!(decode::<bool>(&[2]), Err(Malformed::BadValue));
    assert_eq!(decode::<Option<u8>>(&[2, 0]), Err(Malformed::BadValue));
    assert_eq!(decode::<crate::id::Role>(&[3]), Err(Malformed::BadValue));
    assert_eq!(decode::<String>(&[1, 0xff]), Err(Malformed::BadValue));
    assert_eq!(decode::<crate::id::Name>(&[1, b'A']), Err(Malformed::BadValue));
}

// proves CXTP-3.4-1
#[test]
fn a_length_that_claims_gigabytes_is_refused_before_anything_is_allocated() {
    // Were the length believed, each of these would end the process.
    let huge = [253, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1];
    assert_eq!(decode::<Vec<u8>>(&huge), Err(Malformed::Oversized));
    assert_eq!(decode::<String>(&huge), Err(Malformed::Oversized));
    assert_eq!(decode::<Vec<Context>>(&huge), Err(Malformed::Oversized));
    assert_eq!(decode::<Vec<Vec<u64>>>(&huge), Err(Malformed::Oversized));
    assert_eq!(decode::<BTreeSet<u64>>(&huge), Err(Malformed::Oversized));
    // Many lists one in another do not add up to more than the limit either.
    let lists = [252, 0, 0, 4, 0].repeat(1000);
    assert_eq!(decode::<Vec<Vec<Vec<Vec<u64>>>>>(&lists), Err(Malformed::Oversized));
}

// proves CXTP-3.3-4
#[test]
fn key_material_above_its_bound_is_refused() {
    let longest = KeyMaterial::new(vec![7; MAX_KEY_OCTETS]);
    assert_eq!(decode::<KeyMaterial>(&encode(&longest).unwrap()).unwrap(), longest);
    let longer = encode(&vec![7u8; MAX_KEY_OCTETS + 1]).unwrap();
    assert_eq!(decode::<KeyMaterial>(&longer), Err(Malformed::BadValue));
}

#[test]
fn the_largest_legal_batch_of_the_widest_windows_fits() {
    let entry = |octet: u8| {
        let mut context = crate::samples::context(octet);
        for child in &mut context.children {
            child.inbound.window =
                ReplayWindow { size: 4096, highest: u64::MAX, bitmap: vec![u32::MAX; 128] };
        }
        PctdEntry { epoch: Default::default(), grants: Vec::new(), context }
    };
    let one = encode(&entry(1)).unwrap().len();
    let most = (MAX_BODY - 64) / one;
    let batch = Pctd {
        batch: crate::id::BatchId([1; 16]),
        mode: crate::transfer::TransferMode::Predictive,
        entries: (0..most).map(|_| entry(1)).collect(),
    };
    let octets = encode(&batch).unwrap();
    assert!(octets.len() > MAX_BODY - one - 64 && octets.len() <= MAX_BODY);
    assert_eq!(decode::<Pctd>(&octets).unwrap(), batch);
}

#[test]
fn the_most_entries_of_the_smallest_contexts_fit() {
    // Small numbers take the most memory for an octet on the wire.
    let batch = Pctd {
        batch: crate::id::BatchId([1; 16]),
        mode: crate::transfer::TransferMode::Predictive,
        entries: (0..crate::limits::MAX_ENTRIES)
            .map(|_| PctdEntry {
                epoch: Default::default(),
                grants: Vec::new(),
                context: crate::samples::smallest(),
            })
            .collect(),
    };
    let octets = encode(&batch).unwrap();
    assert_eq!(decode::<Pctd>(&octets).unwrap(), batch);
}
