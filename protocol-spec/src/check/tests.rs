use super::BadContext;
use crate::{
    context::{ChildSa, Context, IkeSecrets, Protocol, ReplacedSa, ReplayWindow},
    id::SessionEpoch,
    limits::{MAX_CHILDREN, MAX_LIST, MAX_REPLAY_WINDOW, MAX_TEXT},
    message::PctdEntry,
    samples::{child, context, finals, grants, key, smallest},
    status::{Refusal, Status},
    transfer::SaRef,
};

const SA: SaRef = SaRef { protocol: Protocol::Esp, inbound_spi: 0xc000_0001 };

fn changed(change: impl FnOnce(&mut Context)) -> Result<(), BadContext> {
    let mut context = context(7);
    change(&mut context);
    context.check()
}

fn child_changed(change: impl FnOnce(&mut ChildSa)) -> Result<(), BadContext> {
    changed(|context| change(&mut context.children[0]))
}

#[test]
fn a_sound_context_passes() {
    let context = context(7);
    let grants = grants(&context);
    assert_eq!(finals(&context).check(), Ok(()));
    assert_eq!(PctdEntry { epoch: SessionEpoch(1), grants, context }.check(), Ok(()));
    assert_eq!(changed(|context| context.ike = None), Ok(()));
    assert_eq!(changed(|context| context.children.clear()), Ok(()));
}

#[test]
fn a_session_has_at_least_one_sa() {
    assert_eq!(smallest().check(), Err(BadContext::Empty));
}

// proves CXTP-5.3-1
#[test]
fn too_many_child_sas_are_refused() {
    let with = |count: usize| {
        changed(|context| {
            context.children = (0..count).map(|i| child(7, 1 + i as u32)).collect();
        })
    };
    assert_eq!(with(MAX_CHILDREN), Ok(()));
    assert_eq!(with(MAX_CHILDREN + 1), Err(BadContext::TooLong("the list of Child SAs")));
}

// proves CXTP-5.3-2
#[test]
fn an_inbound_spi_stands_once() {
    let twice = changed(|context| context.children.push(child(7, SA.inbound_spi)));
    assert_eq!(twice, Err(BadContext::DuplicateSa(SA)));
    let other_protocol = changed(|context| {
        context.children.push(ChildSa { protocol: Protocol::Ah, ..child(7, SA.inbound_spi) });
    });
    assert_eq!(other_protocol, Ok(()));
}

// proves CXTP-5.3-3
#[test]
fn a_replay_window_is_as_wide_as_it_says() {
    let window = |size: u32, bitmap: Vec<u32>| {
        child_changed(|child| child.inbound.window = ReplayWindow { size, highest: 9, bitmap })
    };
    for (size, words) in [(0, 0), (1, 1), (32, 1), (33, 2), (MAX_REPLAY_WINDOW, 128)] {
        assert_eq!(window(size, vec![0; words]), Ok(()), "{size}");
        assert_eq!(window(size, vec![0; words + 1]), Err(BadContext::Window(SA)), "{size}");
    }
    assert_eq!(window(33, vec![u32::MAX, 1]), Ok(()));
    assert_eq!(window(33, vec![u32::MAX, 2]), Err(BadContext::Window(SA)));
    assert_eq!(window(33, vec![0]), Err(BadContext::Window(SA)));
    assert_eq!(window(4097, vec![0; 129]), Err(BadContext::Window(SA)));
    assert_eq!(window(u32::MAX, vec![]), Err(BadContext::Window(SA)));
}

// proves CXTP-5.4-1
#[test]
fn the_windows_of_finals_are_checked_alike() {
    let sound = finals(&context(7));
    let mut wide = sound.clone();
    wide.children[0].window.size = 4097;
    assert_eq!(wide.check(), Err(BadContext::Window(SA)));
    let mut twice = sound.clone();
    twice.children.push(twice.children[0].clone());
    assert_eq!(twice.check(), Err(BadContext::DuplicateSa(SA)));
    let mut long = sound;
    long.ike.as_mut().unwrap().last_response = Some(vec![0; 65_536]);
    assert_eq!(long.check(), Err(BadContext::TooLong("the last response")));
}

// proves CXTP-5.3-4
#[test]
fn numbers_without_esn_have_32_bits() {
    let numbers = |sequence: u64, highest: u64| {
        child_changed(|child| {
            child.esn = false;
            child.outbound.sequence = sequence;
            child.inbound.window.highest = highest;
        })
    };
    let last = u64::from(u32::MAX);
    assert_eq!(numbers(last, last), Ok(()));
    assert_eq!(numbers(last + 1, 0), Err(BadContext::Sequence(SA)));
    assert_eq!(numbers(0, last + 1), Err(BadContext::Sequence(SA)));
}

// proves CXTP-5.3-7
#[test]
fn the_seed_of_a_child_sa_is_bounded() {
    let seed = |nonce: usize, shared: usize| {
        child_changed(|child| {
            let seed = child.seed.as_mut().unwrap();
            seed.nonce_responder = vec![0; nonce];
            seed.shared = (0..shared).map(|_| key(7, 32)).collect();
        })
    };
    assert_eq!(seed(256, 8), Ok(()));
    assert_eq!(seed(257, 8), Err(BadContext::TooLong("a nonce")));
    assert_eq!(seed(256, 9), Err(BadContext::OutOfRange("the key exchanges")));
}

// proves CXTP-5.3-5
#[test]
fn a_prefix_is_no_longer_than_its_address() {
    let bits = |bits: u8, address: &str| {
        child_changed(|child| {
            child.policies[0].source.prefix.bits = bits;
            child.policies[0].source.prefix.address = address.parse().unwrap();
        })
    };
    assert_eq!(bits(32, "10.0.0.1"), Ok(()));
    assert_eq!(bits(128, "2001:db8::1"), Ok(()));
    assert!(matches!(bits(33, "10.0.0.1"), Err(BadContext::Prefix(_))));
    assert!(matches!(bits(129, "2001:db8::1"), Err(BadContext::Prefix(_))));
}

// proves CXTP-5.3-6
#[test]
fn a_child_key_is_as_long_as_its_algorithm_wants() {
    let keys = |encryption: u16, bits: u16, integrity: u16, octets: (usize, usize)| {
        child_changed(|child| {
            child.transforms.encryption = encryption;
            child.transforms.key_bits = bits;
            child.transforms.integrity = integrity;
            for keys in [&mut child.inbound.keys, &mut child.outbound.keys] {
                keys.encryption = key(7, octets.0);
                keys.integrity = key(7, octets.1);
            }
        })
    };
    let sound = [
        (20, 128, 0, (20, 0)),
        (20, 256, 0, (36, 0)),
        (28, 0, 0, (36, 0)),
        (15, 128, 0, (19, 0)),
        (12, 256, 12, (32, 32)),
        (12, 128, 2, (16, 20)),
        (11, 0, 14, (0, 64)),
        (0, 0, 13, (0, 48)),
    ];
    for (encryption, bits, integrity, octets) in sound {
        assert_eq!(keys(encryption, bits, integrity, octets), Ok(()), "{encryption} {integrity}");
        let longer = keys(encryption, bits, integrity, (octets.0 + 1, octets.1));
        let wrong = BadContext::KeyLength("the encryption key of a Child SA");
        assert_eq!(longer, Err(wrong), "{encryption}");
        let longer = keys(encryption, bits, integrity, (octets.0, octets.1 + 1));
        let wrong = BadContext::KeyLength("the integrity key of a Child SA");
        assert_eq!(longer, Err(wrong), "{integrity}");
    }
    assert_eq!(
        keys(1234, 0, 1234, (5, 5)),
        Ok(()),
        "an unknown algorithm is the target's to judge"
    );
}

// proves CXTP-5.2-2
#[test]
fn ike_keys_are_as_long_as_their_algorithms_want() {
    let secrets =
        |secrets: IkeSecrets| changed(|context| context.ike.as_mut().unwrap().secrets = secrets);
    assert_eq!(
        changed(|context| {
            if let IkeSecrets::Keys(keys) = &mut context.ike.as_mut().unwrap().secrets {
                keys.sk_d = key(7, 20);
            }
        }),
        Err(BadContext::KeyLength("SK_d"))
    );
    let seed = |exchanges: usize, nonce: usize, replaced| IkeSecrets::Seed {
        nonce_initiator: vec![1; nonce],
        nonce_responder: vec![2; 32],
        shared: (0..exchanges).map(|_| key(7, 32)).collect(),
        replaced,
    };
    assert_eq!(secrets(seed(1, 32, None)), Ok(()));
    assert_eq!(secrets(seed(8, 256, None)), Ok(()));
    let exchanges = Err(BadContext::OutOfRange("the key exchanges"));
    assert_eq!(secrets(seed(0, 32, None)), exchanges);
    assert_eq!(secrets(seed(9, 32, None)), exchanges);
    assert_eq!(secrets(seed(1, 257, None)), Err(BadContext::TooLong("a nonce")));
    let replaced = |octets| Some(ReplacedSa { prf: 2, sk_d: key(7, octets) });
    assert_eq!(secrets(seed(1, 32, replaced(20))), Ok(()));
    assert_eq!(secrets(seed(1, 32, replaced(32))), Err(BadContext::KeyLength("the replaced SK_d")));
}

// proves CXTP-5.2-1
#[test]
fn an_ike_version_is_one_or_two() {
    for (version, holds) in [(0, false), (1, true), (2, true), (3, false)] {
        let checked = changed(|context| context.ike.as_mut().unwrap().version = version);
        assert_eq!(checked.is_ok(), holds, "{version}");
    }
}

#[test]
fn texts_and_lists_have_bounds() {
    let long = "x".repeat(MAX_TEXT + 1);
    let checked = changed(|context| context.ike.as_mut().unwrap().configuration = long.clone());
    assert_eq!(checked, Err(BadContext::TooLong("the configuration's name")));
    let checked = child_changed(|child| child.configuration = long);
    assert_eq!(checked, Err(BadContext::TooLong("the name of a Child SA's configuration")));
    let checked = child_changed(|child| {
        child.policies = vec![child.policies[0].clone(); MAX_LIST + 1];
    });
    assert_eq!(checked, Err(BadContext::TooLong("the list of policies")));
    let checked = changed(|context| {
        context.ike.as_mut().unwrap().peer_addresses = vec!["192.0.2.1".parse().unwrap(); 257];
    });
    assert_eq!(checked, Err(BadContext::TooLong("a list of addresses")));
}

// proves CXTP-6.6-1
#[test]
fn each_child_sa_has_one_granted_range_that_it_may_use() {
    let context = context(7);
    let used = context.children[0].outbound.sequence;
    let sound = grants(&context);
    let [range] = sound.as_slice() else { panic!("one Child SA") };
    let with =
        |base, end| context.check_grants(&[crate::transfer::GrantedRange { base, end, ..*range }]);
    assert_eq!(context.check_grants(&sound), Ok(()));
    assert_eq!(context.check_grants(&[]), Err(BadContext::Grant(SA)));
    assert_eq!(context.check_grants(&[*range, *range]), Err(BadContext::Grant(SA)));
    let stray = SaRef { protocol: Protocol::Ah, ..SA };
    let strays = [*range, crate::transfer::GrantedRange { sa: stray, ..*range }];
    assert_eq!(context.check_grants(&strays), Err(BadContext::StrayGrant(stray)));
    // Above what was used, not empty, and not so far ahead that a receiver with
    // ESN would guess the wrong upper half.
    assert_eq!(with(used + 1, used + 2), Ok(()));
    assert_eq!(with(used, used + 2), Err(BadContext::Grant(SA)));
    assert_eq!(with(used + 2, used + 2), Err(BadContext::Grant(SA)));
    let reach = (1 << 32) - u64::from(MAX_REPLAY_WINDOW);
    assert_eq!(with(used + 1 + reach, u64::MAX), Ok(()));
    assert_eq!(with(used + 2 + reach, u64::MAX), Err(BadContext::Grant(SA)));
}

// proves CXTP-6.6-1
#[test]
fn without_esn_a_range_ends_with_32_bits() {
    let mut context = context(7);
    context.children[0].esn = false;
    context.children[0].outbound.sequence = 100;
    let range = |end| crate::transfer::GrantedRange { sa: SA, base: 101, end };
    assert_eq!(context.check_grants(&[range(1 << 32)]), Ok(()));
    assert_eq!(context.check_grants(&[range((1 << 32) + 1)]), Err(BadContext::Grant(SA)));
}

#[test]
fn what_the_source_computes_as_a_grant_passes() {
    for esn in [false, true] {
        let mut context = context(7);
        context.children[0].esn = esn;
        context.children[0].outbound.sequence = 4_000_000_000;
        let usage = context.profile().children[0].usage;
        let grant = usage.grant(std::time::Duration::from_secs(1), 1 << 24).unwrap();
        assert_eq!(context.check_grants(&[grant]), Ok(()), "esn {esn}");
    }
}

#[test]
fn a_faulty_context_is_refused_by_name() {
    let refusal = Refusal::from(BadContext::Window(SA));
    assert_eq!(refusal.status, Status::BadContext);
    assert!(refusal.detail.contains("0xc0000001"), "{}", refusal.detail);
}
