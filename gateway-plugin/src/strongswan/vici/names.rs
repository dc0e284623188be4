//! charon's names of algorithms and their numbers (IANA "IKEv2 Parameters",
//! transform types 1 to 4). A name that is not here is one that IANA does not
//! number, or a newer one.

const ENCRYPTION: &[(&str, u16)] = &[
    ("3DES_CBC", 3),
    ("NULL", 11),
    ("AES_CBC", 12),
    ("AES_CTR", 13),
    ("AES_CCM_8", 14),
    ("AES_CCM_12", 15),
    ("AES_CCM_16", 16),
    ("AES_GCM_8", 18),
    ("AES_GCM_12", 19),
    ("AES_GCM_16", 20),
    ("NULL_AES_GMAC", 21),
    ("CAMELLIA_CBC", 23),
    ("CAMELLIA_CTR", 24),
    ("CAMELLIA_CCM_8", 25),
    ("CAMELLIA_CCM_12", 26),
    ("CAMELLIA_CCM_16", 27),
    ("CHACHA20_POLY1305", 28),
];

const PRF: &[(&str, u16)] = &[
    ("PRF_HMAC_MD5", 1),
    ("PRF_HMAC_SHA1", 2),
    ("PRF_AES128_XCBC", 4),
    ("PRF_HMAC_SHA2_256", 5),
    ("PRF_HMAC_SHA2_384", 6),
    ("PRF_HMAC_SHA2_512", 7),
    ("PRF_AES128_CMAC", 8),
];

const INTEGRITY: &[(&str, u16)] = &[
    ("HMAC_MD5_96", 1),
    ("HMAC_SHA1_96", 2),
    ("AES_XCBC_96", 5),
    ("HMAC_MD5_128", 6),
    ("HMAC_SHA1_160", 7),
    ("AES_CMAC_96", 8),
    ("AES_128_GMAC", 9),
    ("AES_192_GMAC", 10),
    ("AES_256_GMAC", 11),
    ("HMAC_SHA2_256_128", 12),
    ("HMAC_SHA2_384_192", 13),
    ("HMAC_SHA2_512_256", 14),
];

const KEY_EXCHANGE: &[(&str, u16)] = &[
    ("MODP_768", 1),
    ("MODP_1024", 2),
    ("MODP_1536", 5),
    ("MODP_2048", 14),
    ("MODP_3072", 15),
    ("MODP_4096", 16),
    ("MODP_6144", 17),
    ("MODP_8192", 18),
    ("ECP_256", 19),
    ("ECP_384", 20),
    ("ECP_521", 21),
    ("MODP_1024_160", 22),
    ("MODP_2048_224", 23),
    ("MODP_2048_256", 24),
    ("ECP_192", 25),
    ("ECP_224", 26),
    ("ECP_224_BP", 27),
    ("ECP_256_BP", 28),
    ("ECP_384_BP", 29),
    ("ECP_512_BP", 30),
    ("CURVE_25519", 31),
    ("CURVE_448", 32),
    ("ML_KEM_512", 35),
    ("ML_KEM_768", 36),
    ("ML_KEM_1024", 37),
];

fn number(table: &[(&str, u16)], name: &str) -> Option<u16> {
    table.iter().find(|(n, _)| *n == name).map(|(_, number)| *number)
}

fn name(table: &[(&'static str, u16)], number: u16) -> Option<&'static str> {
    table.iter().find(|(_, n)| *n == number).map(|(name, _)| *name)
}

macro_rules! both_ways {
    ($($what:literal $table:ident $number:ident $name:ident;)*) => {$(
        #[doc = concat!("The number of ", $what, ", from charon's name.")]
        pub fn $number(charons: &str) -> Option<u16> {
            number($table, charons)
        }

        #[doc = concat!("charon's name of ", $what, ", from its number.")]
        pub fn $name(iana: u16) -> Option<&'static str> {
            name($table, iana)
        }
    )*};
}

both_ways! {
    "an encryption algorithm (transform type 1)" ENCRYPTION encryption encryption_name;
    "a pseudo-random function (transform type 2)" PRF prf prf_name;
    "an integrity algorithm (transform type 3)" INTEGRITY integrity integrity_name;
    "a key exchange method (transform type 4)" KEY_EXCHANGE key_exchange key_exchange_name;
}

/// Whether the encryption algorithm protects integrity as well, so that charon
/// lists it among the `aead` algorithms.
pub fn is_aead(encryption: u16) -> bool {
    matches!(encryption, 14..=16 | 18..=21 | 25..=28)
}

#[cfg(test)]
mod tests;
