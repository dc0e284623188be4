//! Who of several gateways takes the packets of clients that nobody knows:
//! rendezvous hashing, so that a gateway that comes or goes changes the answer
//! only for its own share.

use protocol_spec::id::Name;
use ring::digest::{SHA256, digest};

/// Buckets into which the kernel hashes client addresses.
pub(super) const BUCKETS: u16 = 256;

/// The buckets of one gateway among `members`.
pub(super) fn buckets_of<'a>(
    name: &'a Name,
    members: &'a [Name],
) -> impl Iterator<Item = u16> + 'a {
    (0..BUCKETS).filter(move |bucket| {
        members.iter().max_by_key(|member| (weight(member, *bucket), (*member).clone()))
            == Some(name)
    })
}

/// How much a gateway wants a bucket: the same number on every gateway.
fn weight(member: &Name, bucket: u16) -> u64 {
    let mut octets = bucket.to_be_bytes().to_vec();
    octets.extend_from_slice(member.as_str().as_bytes());
    let hash = digest(&SHA256, &octets);
    hash.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn shares(members: &[Name]) -> Vec<BTreeSet<u16>> {
        members.iter().map(|name| buckets_of(name, members).collect()).collect()
    }

    #[test]
    fn each_bucket_has_one_gateway_and_each_gateway_its_share() {
        let shares = shares(&names(&["a", "b", "c"]));
        assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), 256);
        assert_eq!(shares.iter().flatten().collect::<BTreeSet<_>>().len(), 256);
        assert!(shares.iter().all(|share| (50..130).contains(&share.len())), "{shares:?}");
    }

    #[test]
    fn a_gateway_that_leaves_changes_only_its_own_share() {
        let before = shares(&names(&["a", "b", "c"]));
        let after = shares(&names(&["a", "b"]));
        assert!(before[0].is_subset(&after[0]) && before[1].is_subset(&after[1]));
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let one = shares(&names(&["a", "b", "c"]));
        let other = shares(&names(&["c", "b", "a"]));
        assert_eq!(one[0], other[2]);
    }
}
