use super::{Feature, FeatureSet};
use crate::{
    codec::{decode, encode},
    context::{Context, IkeSecrets, Mode, Protocol},
    samples::{child, context, key, smallest},
};

// proves CXTP-8.3-2
#[test]
fn unknown_features_survive() {
    let newer = FeatureSet(1 << 63 | 1 << 40 | 1);
    let mut read: FeatureSet = decode(&encode(&newer).unwrap()).unwrap();
    assert_eq!(read, newer);
    read.insert(Feature::Esp);
    assert_eq!(read.without([Feature::Esp].into_iter().collect()), newer);
    assert!(read.contains(Feature::Ike) && !read.contains(Feature::Ah));
}

#[test]
fn what_a_context_needs_is_what_it_holds() {
    use Feature::*;
    let full: FeatureSet = [
        Ike,
        Eap,
        Mobike,
        Fragmentation,
        MessageIdSync,
        VirtualIp,
        Nat,
        Esp,
        TunnelMode,
        Esn,
        LargeWindow,
        UdpEncapsulation,
        Mark,
        IfId,
        CountedLifetime,
        OuterIpv4,
        InnerIpv4,
    ]
    .into_iter()
    .collect();
    assert_eq!(context(1).features(), full);
    assert!(smallest().features().is_empty());
}

/// Each feature of the registry is needed by some context.
#[test]
fn every_feature_can_be_needed() {
    let mut other = context(1);
    let v6 = "[2001:db8::1]:500".parse().unwrap();
    if let Some(ike) = &mut other.ike {
        ike.version = 1;
        ike.remote = v6;
        ike.secrets = IkeSecrets::Seed {
            nonce_initiator: vec![],
            nonce_responder: vec![],
            shared: vec![key(1, 1), key(1, 1)],
            replaced: None,
        };
    }
    let mut ah = child(1, 2);
    (ah.protocol, ah.mode, ah.cpi) = (Protocol::Ah, Mode::Transport, Some((1, 2)));
    ah.policies[0].protocol = 6;
    ah.policies[0].source.prefix.address = v6.ip();
    let mut beet = child(1, 3);
    beet.mode = Mode::Beet;
    other.children = vec![ah, beet];
    let needed = context(1).features().0 | other.features().0;
    let all: FeatureSet = Feature::ALL.iter().copied().collect();
    assert_eq!(FeatureSet(needed), all, "not needed: {}", all.without(FeatureSet(needed)));
}

// proves CXTP-4.11-1
#[test]
fn a_profile_holds_no_key() {
    let Context { session, .. } = context(0xd7);
    let profile = context(0xd7).profile();
    assert_eq!(profile.session, session);
    let octets = encode(&profile).unwrap();
    assert!(!octets.windows(8).any(|window| window == [0xd7; 8]));
    assert_eq!(profile.children[0].usage.sequence, 5_000_000_000);
    assert_eq!(profile.children[0].destinations.len(), 1);
}
