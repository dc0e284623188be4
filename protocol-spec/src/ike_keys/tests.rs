//! Inputs and SHA-1 outputs: NIST CAVP, "800-135testvectors/ikev2", first case.
//! SHA-256 outputs for the same inputs: OpenSSL's evpkdf_ikev2 test data.

use super::Prf;
use crate::{
    context::{IkeSecrets, ReplacedSa},
    key::KeyMaterial,
    samples::{hex, ike},
};

const NI: &str = "3651fef5c9c35e93";
const NR: &str = "c09a8b90a3f04d59";
const SPI_I: u64 = 0x8e5c_3ae5_0722_1684;
const SPI_R: u64 = 0xb1f2_01bb_155c_3acd;
const GIR: &str = "d084a30166a50fb7325c3960874a839449ef9741c2f4f947d0201dd8c1269273\
    d79509f37e3ca3eb4fa2fe2a28254e289cd3f34dad4eb4df1a07685a4b8a94fa61e2491f7598b3ce65547ff1\
    33b3f63d1ac4175eaa695033f3cedb026a6873a36455172a8540b8a5d23a0143bed0390ee49b168269d75fff\
    ee9fb62be965993c";
const GIR_NEW: &str = "52f00ab174c25d5b7139ae5ff4e8e9eddee5992d2e36adf8a559ffd90dab1442\
    e4fbe429d320c0f33552a17d1557fa41ea70e8fb916c4fa27ed52b5f8ebd8461afa78f1159159a64055ac5f6\
    319e29c28eae58cbc6847770f32c3fed1d04750484f854790f95e9ec01bc5bc461f24966462e359511329305\
    038e94deb6dd42c2";
const SK_D_SHA1: &str = "6f1b12cad3cbe097b35430356d869d54cddb0198";
/// All keys of the first case: SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr.
const STREAM_SHA1: &str = "6f1b12cad3cbe097b35430356d869d54cddb0198ec859174d53ceb92dddedbe2436db69f\
    60977c58fa63bbb667f8d36920b109baae8f6c61a9ac49feda01843225d080ec5539d5881a25521ffb2a0a91\
    874a9c0a27fcc2d717eb8963a9e3a89c7ab264757284c28cf8c3ca40576f4220b052b1fb8e9ad60ba3c80557\
    323331a8cbb89f20";
const SK_D_SHA256: &str = "462b9dd525d4fd71169174272779e704baf62c6231779ae9efe8c58b21916b42";

fn key(text: &str) -> KeyMaterial {
    KeyMaterial::new(hex(text))
}

fn seed(shared: &[&str], replaced: Option<ReplacedSa>) -> IkeSecrets {
    IkeSecrets::Seed {
        nonce_initiator: hex(NI),
        nonce_responder: hex(NR),
        shared: shared.iter().map(|secret| key(secret)).collect(),
        replaced,
    }
}

fn sk_d(prf: u16, secrets: IkeSecrets) -> Option<KeyMaterial> {
    let mut ike = ike(1);
    ike.spi_initiator = SPI_I;
    ike.spi_responder = SPI_R;
    ike.transforms.prf = prf;
    ike.secrets = secrets;
    ike.sk_d()
}

#[test]
fn sk_d_of_a_first_ike_sa_is_the_published_one() {
    assert_eq!(sk_d(2, seed(&[GIR], None)), Some(key(SK_D_SHA1)));
    assert_eq!(sk_d(5, seed(&[GIR], None)), Some(key(SK_D_SHA256)));
}

#[test]
fn prf_plus_is_the_published_one_over_several_blocks() {
    let prf = Prf::from_number(2).unwrap();
    let seed = [hex(NI), hex(NR), SPI_I.to_be_bytes().to_vec(), SPI_R.to_be_bytes().to_vec()];
    let seed: Vec<&[u8]> = seed.iter().map(Vec::as_slice).collect();
    let keys = prf.expand(&hex("cd2e8050137832245f1dbacc6e4f0a92f94d45d6"), &seed, 132);
    assert_eq!(keys, Some(key(STREAM_SHA1)));
    assert_eq!(prf.expand(b"key", &seed, 255 * 20 + 1), None);
}

#[test]
fn all_keys_of_a_first_ike_sa_are_cut_from_the_published_stream() {
    let mut ike = ike(1);
    (ike.spi_initiator, ike.spi_responder, ike.transforms.prf) = (SPI_I, SPI_R, 2);
    assert_eq!(ike.key_stream(20), None, "ready keys are not cut from anything");
    ike.secrets = seed(&[GIR], None);
    assert_eq!(ike.key_stream(132), Some(key(STREAM_SHA1)));
    assert_eq!(ike.key_stream(255 * 20 + 1), None);
}

#[test]
fn the_seed_of_a_rekeyed_sa_is_the_published_one() {
    // Published: SKEYSEED of the rekeying; SK_d is its first block of prf+.
    let prf = Prf::from_number(2).unwrap();
    let skeyseed = hex("3b03bce748c96d5e8306918d2ff89b68f0648da3");
    let spis = [SPI_I.to_be_bytes(), SPI_R.to_be_bytes()];
    let (ni, nr) = (hex(NI), hex(NR));
    let [spi_i, spi_r] = &spis;
    let wanted = prf.expand(&skeyseed, &[&ni, &nr, spi_i, spi_r], 20);
    let replaced = Some(ReplacedSa { prf: 2, sk_d: key(SK_D_SHA1) });
    assert_eq!(sk_d(2, seed(&[GIR_NEW], replaced)), wanted);
    assert_ne!(wanted, Some(key(SK_D_SHA1)));
}

#[test]
fn a_rekeying_uses_the_old_function_for_its_seed() {
    let with = |old: u16| {
        let replaced = Some(ReplacedSa { prf: old, sk_d: key(SK_D_SHA1) });
        sk_d(5, seed(&[GIR_NEW], replaced)).unwrap()
    };
    assert_ne!(with(2), with(5));
    assert_eq!(with(2).len(), 32);
}

#[test]
fn each_further_key_exchange_changes_the_keys() {
    let once = sk_d(5, seed(&[GIR], None)).unwrap();
    let twice = sk_d(5, seed(&[GIR, GIR_NEW], None)).unwrap();
    // By hand: SKEYSEED(1) = prf(SK_d(0), SK(1) | Ni | Nr), then prf+ as before.
    let prf = Prf::from_number(5).unwrap();
    let (ni, nr) = (hex(NI), hex(NR));
    let skeyseed = prf.apply(once.expose(), &[&hex(GIR_NEW), &ni, &nr]);
    let spis = [SPI_I.to_be_bytes(), SPI_R.to_be_bytes()].concat();
    assert_eq!(prf.expand(skeyseed.expose(), &[&ni, &nr, &spis], 32), Some(twice));
}

#[test]
fn what_cannot_be_derived_is_none() {
    assert_eq!(sk_d(4, seed(&[GIR], None)), None, "AES-XCBC is not built on HMAC");
    assert_eq!(sk_d(5, seed(&[], None)), None);
    let mut ike = ike(1);
    ike.version = 1;
    ike.secrets = seed(&[GIR], None);
    assert_eq!(ike.sk_d(), None);
}
