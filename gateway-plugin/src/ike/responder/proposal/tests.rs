use proptest::prelude::*;
use protocol_spec::samples::hex;

use super::*;

const GCM: Transform = Transform::new(1, 20, 128);
const CBC: Transform = Transform::new(1, 12, 256);
const HMAC: Transform = Transform::new(3, 12, 0);
const PLAIN: Transform = Transform::new(5, 0, 0);

fn proposal(number: u8, transforms: &[Transform]) -> Proposal {
    Proposal { number, protocol: 3, spi: vec![1, 2, 3, 4], transforms: transforms.to_vec() }
}

#[test]
fn an_offer_of_a_stock_daemon_is_read() {
    // From a recorded IKE_SA_INIT: aes256-sha256-x25519.
    let body =
        hex("0000002c 01010004 0300000c 0100000c 800e0100 03000008 0300000c 03000008 02000005 \
         00000008 0400001f");
    let wanted = [CBC, HMAC, Transform::new(2, 5, 0), Transform::new(4, 31, 0)];
    let read = read(&body).unwrap();
    assert_eq!(read, [Proposal { number: 1, protocol: 1, spi: vec![], transforms: wanted.into() }]);
    assert_eq!(write(&read[0]), body);
}

#[test]
fn our_first_choice_wins_and_every_kind_must_be_ours() {
    let offered = [proposal(1, &[CBC, HMAC, PLAIN]), proposal(2, &[GCM, CBC, PLAIN])];
    let wanted: [&[Transform]; 2] = [&[GCM, PLAIN], &[CBC, HMAC, PLAIN]];
    assert_eq!(choose(&offered, &wanted), Some(proposal(2, &[GCM, PLAIN])));
    assert_eq!(choose(&offered[..1], &wanted), Some(offered[0].clone()));
    assert_eq!(choose(&offered[..1], &wanted[..1]), None);
    let more = [proposal(1, &[GCM, PLAIN, Transform::new(4, 31, 0)])];
    assert_eq!(choose(&more, &wanted), None);
}

proptest! {
    #[test]
    fn no_octets_panic(body in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = read(&body);
    }

    #[test]
    fn truncations_are_refused(cut in 1_usize..48) {
        let body = write(&proposal(1, &[GCM, CBC, HMAC, PLAIN]));
        let cut = cut.min(body.len() - 1);
        prop_assert!(read(&body[..cut]).is_err());
    }
}
