//! Tables that agree with themselves.

use super::*;

#[test]
fn every_name_and_number_stands_once_and_leads_back() {
    for table in [ENCRYPTION, PRF, INTEGRITY, KEY_EXCHANGE] {
        for (charons, iana) in table {
            assert_eq!(number(table, charons), Some(*iana), "{charons}");
            assert_eq!(name(table, *iana), Some(*charons), "{iana}");
        }
        assert_eq!(number(table, "NOT_ONE"), None);
        assert_eq!(name(table, 0), None);
    }
}

#[test]
fn what_the_lab_negotiates_has_its_number() {
    assert_eq!(encryption("AES_GCM_16"), Some(protocol_spec::context::ENCR_AES_GCM_16));
    assert_eq!(integrity("HMAC_SHA2_256_128"), Some(12));
    assert_eq!(prf("PRF_HMAC_SHA2_256"), Some(5));
    assert_eq!(key_exchange("CURVE_25519"), Some(31));
    assert_eq!(key_exchange_name(36), Some("ML_KEM_768"));
    assert!(is_aead(20) && is_aead(28) && !is_aead(12) && !is_aead(13) && !is_aead(23));
}
