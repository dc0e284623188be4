use protocol_spec::{
    context::{IkeSecrets, IkeTransforms},
    samples,
};

use super::*;
use crate::ike::golden;

#[test]
fn keys_of_an_ike_sa_and_of_the_one_that_replaced_it_are_the_daemons() {
    let sessions = golden::all();
    assert_eq!(sessions.len(), 4);
    for session in sessions {
        for number in [1, 2] {
            let expected = session.ike_keys(number);
            assert!(!expected.sk_d.is_empty());
            assert_eq!(derive(&session.ike(number)), Ok(expected));
        }
    }
}

#[test]
fn keys_of_child_sas_are_the_daemons_with_and_without_pfs() {
    let (mut with, mut without) = (0, 0);
    for session in golden::all() {
        for number in [1, 2] {
            let (transforms, nonce_i, nonce_r, shared) = session.child(number);
            if shared.is_empty() {
                without += 1
            } else {
                with += 1
            }
            let seed = ChildSeedRef {
                nonce_initiator: &nonce_i,
                nonce_responder: &nonce_r,
                shared: &shared,
            };
            let prf = session.ike(1).transforms.prf;
            let keys = derive_child(prf, &session.ike_keys(1).sk_d, seed, &transforms).unwrap();
            let [i, r] = session.child_keys(number);
            assert!(!i.encryption.is_empty());
            assert_eq!(keys, ChildKeys { initiator_to_responder: i, responder_to_initiator: r });
        }
    }
    assert_eq!((with, without), (2, 6));
}

#[test]
fn ready_keys_are_taken_if_their_lengths_fit() {
    let ike = samples::ike(7);
    let IkeSecrets::Keys(expected) = &samples::ike(7).secrets else { panic!("a sample of keys") };
    assert_eq!(derive(&ike).as_ref(), Ok(expected));

    let mut short = samples::ike(7);
    if let IkeSecrets::Keys(keys) = &mut short.secrets {
        keys.sk_er = samples::key(7, 35);
    }
    assert_eq!(derive(&short), Err(IkeError::BadSecrets));
}

#[test]
fn what_cannot_be_spoken_is_named() {
    let suite = |encryption, key_bits, integrity, prf| {
        Suite::new(&IkeTransforms { encryption, key_bits, integrity, prf, key_exchange: 31 })
            .map(|_| ())
    };
    assert_eq!(suite(12, 128, 2, 2), Ok(()));
    assert_eq!(suite(12, 192, 13, 6), Ok(()));
    assert_eq!(suite(12, 256, 14, 7), Ok(()));
    assert_eq!(suite(20, 128, 0, 5), Ok(()));
    for number in [18, 19] {
        let error = IkeError::UnsupportedCipher { number, key_bits: 256 };
        assert_eq!(suite(number, 256, 0, 5), Err(error));
    }
    assert_eq!(
        suite(20, 192, 0, 5),
        Err(IkeError::UnsupportedCipher { number: 20, key_bits: 192 })
    );
    assert_eq!(suite(12, 256, 0, 5), Err(IkeError::UnsupportedIntegrity(0)));
    assert_eq!(suite(20, 256, 12, 5), Err(IkeError::UnsupportedIntegrity(12)));
    assert_eq!(suite(12, 256, 12, 8), Err(IkeError::UnsupportedPrf(8)));
    let mut old = samples::ike(1);
    old.version = 1;
    assert_eq!(derive(&old), Err(IkeError::UnsupportedVersion(1)));
}

#[test]
fn a_seed_without_secret_or_with_an_unknown_old_function_is_refused() {
    let mut ike = golden::all().remove(0).ike(2);
    if let IkeSecrets::Seed { replaced: Some(replaced), .. } = &mut ike.secrets {
        replaced.prf = 4;
    }
    assert_eq!(derive(&ike), Err(IkeError::UnsupportedPrf(4)));
    if let IkeSecrets::Seed { shared, replaced, .. } = &mut ike.secrets {
        (*shared, *replaced) = (Vec::new(), None);
    }
    assert_eq!(derive(&ike), Err(IkeError::BadSecrets));
}

#[test]
fn child_key_lengths_follow_the_transforms() {
    let octets = |encryption, key_bits, integrity| {
        child_key_octets(&ChildTransforms { encryption, key_bits, integrity })
    };
    assert_eq!(octets(20, 256, 0), Ok((36, 0)));
    assert_eq!(octets(16, 128, 0), Ok((19, 0)));
    assert_eq!(octets(28, 0, 0), Ok((36, 0)));
    assert_eq!(octets(0, 0, 14), Ok((0, 64)));
    assert_eq!(octets(20, 0, 0), Err(IkeError::UnknownKeyLength { kind: 1, number: 20 }));
    assert_eq!(octets(12, 128, 99), Err(IkeError::UnknownKeyLength { kind: 3, number: 99 }));
}
