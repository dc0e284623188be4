//! IANA transform numbers (IKEv2 parameters) and the kernel's names: one table.

#[cfg(test)]
mod tests;

use protocol_spec::context::{ChildTransforms, Protocol};

/// An AEAD cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aead {
    /// Transform type 1.
    pub number: u16,
    /// The kernel's name.
    pub name: &'static str,
    /// Octets of salt behind the key.
    pub salt: usize,
    /// Bits of the integrity check value.
    pub icv_bits: u32,
    /// Key lengths in bits, without salt. One length means that the transform
    /// has no Key Length attribute.
    pub key_bits: &'static [u16],
}

/// A cipher without integrity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cipher {
    /// Transform type 1.
    pub number: u16,
    /// The kernel's name.
    pub name: &'static str,
    /// Octets of nonce behind the key (RFC 3686).
    pub salt: usize,
    /// Key lengths in bits; more than one needs the Key Length attribute.
    pub key_bits: &'static [u16],
}

/// A keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integrity {
    /// Transform type 3.
    pub number: u16,
    /// The kernel's name.
    pub name: &'static str,
    /// Octets of the key.
    pub key: usize,
    /// Bits that are sent of the hash.
    pub truncated_bits: u32,
}

const AES: &[u16] = &[128, 192, 256];

/// RFC 4106, 4309, 4543, 7634.
pub(crate) const AEADS: &[Aead] = &[
    Aead { number: 18, name: "rfc4106(gcm(aes))", salt: 4, icv_bits: 64, key_bits: AES },
    Aead { number: 19, name: "rfc4106(gcm(aes))", salt: 4, icv_bits: 96, key_bits: AES },
    Aead { number: 20, name: "rfc4106(gcm(aes))", salt: 4, icv_bits: 128, key_bits: AES },
    Aead { number: 14, name: "rfc4309(ccm(aes))", salt: 3, icv_bits: 64, key_bits: AES },
    Aead { number: 15, name: "rfc4309(ccm(aes))", salt: 3, icv_bits: 96, key_bits: AES },
    Aead { number: 16, name: "rfc4309(ccm(aes))", salt: 3, icv_bits: 128, key_bits: AES },
    Aead { number: 21, name: "rfc4543(gcm(aes))", salt: 4, icv_bits: 128, key_bits: AES },
    Aead {
        number: 28,
        name: "rfc7539esp(chacha20,poly1305)",
        salt: 4,
        icv_bits: 128,
        key_bits: &[256],
    },
];

/// RFC 2451, 2410, 3602, 3686.
pub(crate) const CIPHERS: &[Cipher] = &[
    Cipher { number: 3, name: "cbc(des3_ede)", salt: 0, key_bits: &[192] },
    Cipher { number: 11, name: "ecb(cipher_null)", salt: 0, key_bits: &[0] },
    Cipher { number: 12, name: "cbc(aes)", salt: 0, key_bits: AES },
    Cipher { number: 13, name: "rfc3686(ctr(aes))", salt: 4, key_bits: AES },
    Cipher { number: 23, name: "cbc(camellia)", salt: 0, key_bits: AES },
];

/// RFC 2403, 2404, 3566, 4868, 4494. The names of SHA-256 with 96 bits differ only
/// by the truncation; it has no number of its own.
pub(crate) const INTEGRITIES: &[Integrity] = &[
    Integrity { number: 1, name: "hmac(md5)", key: 16, truncated_bits: 96 },
    Integrity { number: 2, name: "hmac(sha1)", key: 20, truncated_bits: 96 },
    Integrity { number: 5, name: "xcbc(aes)", key: 16, truncated_bits: 96 },
    Integrity { number: 8, name: "cmac(aes)", key: 16, truncated_bits: 96 },
    Integrity { number: 12, name: "hmac(sha256)", key: 32, truncated_bits: 128 },
    Integrity { number: 13, name: "hmac(sha384)", key: 48, truncated_bits: 192 },
    Integrity { number: 14, name: "hmac(sha512)", key: 64, truncated_bits: 256 },
];

/// What an SA's transforms are to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// One cipher for both.
    Aead(Aead),
    /// A cipher and a hash; a hash alone for AH.
    Pair(Option<Cipher>, Option<Integrity>),
}

impl Suite {
    /// The suite of these transforms; `Err` says what is unknown.
    pub(crate) fn of(
        protocol: Protocol,
        transforms: &ChildTransforms,
    ) -> Result<Self, &'static str> {
        if let Some(aead) = AEADS.iter().find(|aead| aead.number == transforms.encryption) {
            return match (protocol, transforms.integrity) {
                (Protocol::Ah, _) => Err("AH with an encryption transform"),
                (_, 0) => Ok(Self::Aead(*aead)),
                _ => Err("an AEAD cipher with an integrity transform beside it"),
            };
        }
        let cipher = match transforms.encryption {
            0 => None,
            number => Some(
                *CIPHERS
                    .iter()
                    .find(|cipher| cipher.number == number)
                    .ok_or("this encryption transform")?,
            ),
        };
        let integrity = match transforms.integrity {
            0 => None,
            number => Some(
                *INTEGRITIES
                    .iter()
                    .find(|integrity| integrity.number == number)
                    .ok_or("this integrity transform")?,
            ),
        };
        match (protocol, cipher, integrity) {
            (Protocol::Ah, None, Some(_)) | (Protocol::Esp, Some(_), _) => {
                Ok(Self::Pair(cipher, integrity))
            }
            (Protocol::Ah, Some(_), _) => Err("AH with an encryption transform"),
            (Protocol::Ah, None, None) => Err("AH without integrity transform"),
            (Protocol::Esp, None, _) => Err("ESP without encryption transform (11 is NULL)"),
        }
    }

    /// Octets of the encryption and the integrity key; `Err` where the key length
    /// is none of the transform's.
    pub(crate) fn key_lengths(&self, key_bits: u16) -> Result<(usize, usize), &'static str> {
        let octets = |allowed: &[u16], salt: usize| match allowed {
            [] => Err("this key length"),
            [only] if key_bits == 0 || key_bits == *only => Ok(usize::from(*only / 8) + salt),
            several if several.contains(&key_bits) => Ok(usize::from(key_bits / 8) + salt),
            _ => Err("this key length"),
        };
        match self {
            Self::Aead(aead) => Ok((octets(aead.key_bits, aead.salt)?, 0)),
            Self::Pair(cipher, integrity) => Ok((
                cipher.map_or(Ok(0), |cipher| octets(cipher.key_bits, cipher.salt))?,
                integrity.map_or(0, |integrity| integrity.key),
            )),
        }
    }
}

/// Key Length attribute for a key of so many octets, salt included: 0 where the
/// cipher has one length.
pub(crate) fn key_bits(allowed: &[u16], salt: usize, octets: usize) -> Option<u16> {
    let bits = u16::try_from(octets.checked_sub(salt)? * 8).ok()?;
    match allowed {
        [only] => (bits == *only).then_some(0),
        several => several.contains(&bits).then_some(bits),
    }
}
