//! Who stands by for a session.

use protocol_spec::id::{Name, SessionId};

/// The standbys of a session, best first: `count` of the live members other than
/// its owner, by rendezvous hashing (highest random weight). A member that comes
/// or goes changes the choice only for the sessions that it wins or held, and the
/// sessions of one lost gateway spread over all others.
///
/// All members must agree on the outcome, whatever version they run, so the hash
/// is written out here and its values are pinned by a test.
pub fn standbys<'a>(
    session: SessionId,
    owner: &Name,
    members: impl IntoIterator<Item = &'a Name>,
    count: usize,
) -> Vec<&'a Name> {
    let others = members.into_iter().filter(|member| *member != owner);
    let mut ranked: Vec<_> = others.map(|member| (weight(session, member), member)).collect();
    ranked.sort_unstable_by(|one, other| other.cmp(one));
    ranked.dedup();
    ranked.into_iter().take(count).map(|(_, member)| member).collect()
}

/// FNV-1a (64 bits) over the session's octets and the member's name, then the
/// finalizer of SplitMix64: FNV alone spreads its last octets badly.
fn weight(session: SessionId, member: &Name) -> u64 {
    let octets = session.0.iter().chain(member.as_str().as_bytes());
    let mut hash = octets.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;

    use super::*;

    fn names(texts: &[&str]) -> Vec<Name> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn session(number: u32) -> SessionId {
        let mut octets = [0; 16];
        octets[..4].copy_from_slice(&number.to_be_bytes());
        SessionId(octets)
    }

    #[test]
    fn members_of_every_version_choose_alike() {
        let members = names(&["a", "b", "c", "d"]);
        let chosen = |number| {
            let all = standbys(session(number), &members[0], &members, 3);
            all.iter().map(|name| name.as_str()).collect::<String>()
        };
        assert_eq!([chosen(0), chosen(1), chosen(2), chosen(3)].join(" "), PINNED);
    }

    /// What the first version chose.
    const PINNED: &str = "cdb cbd cdb bcd";

    #[test]
    fn neither_the_owner_nor_a_member_twice_stands_by() {
        let members = names(&["a", "b", "b", "a"]);
        assert_eq!(standbys(session(7), &members[0], &members, 5), [&members[1]]);
        assert!(standbys(session(7), &members[0], &members[..1], 1).is_empty());
    }

    #[test]
    fn the_sessions_of_a_lost_gateway_spread_and_the_others_stay() {
        let members = names(&["a", "b", "c", "d", "e"]);
        let best = |members: &[Name], number| {
            standbys(session(number), &"a".parse().unwrap(), members, 1)[0].clone()
        };
        let mut spread = BTreeMap::<Name, usize>::new();
        let without_e = &members[..4];
        for number in 0..10_000 {
            let with = best(&members, number);
            *spread.entry(with.clone()).or_default() += 1;
            if with.as_str() != "e" {
                assert_eq!(with, best(without_e, number));
            }
        }
        // A fair share is 2500; five standard deviations are 217.
        assert!(spread.values().all(|count| (2283..=2717).contains(count)), "{spread:?}");
    }
}
