//! The keys of an IKE SA and of its Child SAs (RFC 7296 sections 2.13, 2.14,
//! 2.17, 2.18; RFC 9370 section 2.2.2), from the secrets in a context.

use protocol_spec::{
    KeyMaterial,
    context::{ChildTransforms, IkeKeys, IkeSa, IkeSecrets, IkeTransforms, SaKeys},
    ike_keys::Prf,
};

use super::IkeError;

/// Cipher of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// ENCR_AES_CBC (12) with a key of so many octets.
    AesCbc(usize),
    /// ENCR_AES_GCM_16 (20) with a key of so many octets and a 4-octet salt. Of
    /// 24 octets there is none here, and none with the shorter ICVs (18, 19).
    AesGcm16(usize),
    /// ENCR_CHACHA20_POLY1305 (28) with a 4-octet salt.
    ChaCha20Poly1305,
}

/// Integrity function of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// AUTH_HMAC_SHA1_96 (2).
    HmacSha1,
    /// AUTH_HMAC_SHA2_256_128 (12).
    HmacSha256,
    /// AUTH_HMAC_SHA2_384_192 (13).
    HmacSha384,
    /// AUTH_HMAC_SHA2_512_256 (14).
    HmacSha512,
}

/// How the messages of an IKE SA are protected: a valid combination of transforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    pub(super) prf: Prf,
    pub(super) cipher: Cipher,
    /// Present exactly if the cipher is no AEAD.
    pub(super) integrity: Option<Integrity>,
}

impl Suite {
    /// The suite of these transforms.
    ///
    /// # Errors
    /// [`IkeError::UnsupportedCipher`], [`IkeError::UnsupportedIntegrity`] or
    /// [`IkeError::UnsupportedPrf`] names what cannot be spoken here; a session
    /// with it can be moved, but not talked to by us.
    pub fn new(transforms: &IkeTransforms) -> Result<Self, IkeError> {
        let prf =
            Prf::from_number(transforms.prf).ok_or(IkeError::UnsupportedPrf(transforms.prf))?;
        let cipher = match (transforms.encryption, transforms.key_bits) {
            (12, bits @ (128 | 192 | 256)) => Cipher::AesCbc(usize::from(bits / 8)),
            (20, bits @ (128 | 256)) => Cipher::AesGcm16(usize::from(bits / 8)),
            (28, 0 | 256) => Cipher::ChaCha20Poly1305,
            (number, key_bits) => return Err(IkeError::UnsupportedCipher { number, key_bits }),
        };
        let integrity = match (cipher, transforms.integrity) {
            (Cipher::AesCbc(_), 2) => Some(Integrity::HmacSha1),
            (Cipher::AesCbc(_), 12) => Some(Integrity::HmacSha256),
            (Cipher::AesCbc(_), 13) => Some(Integrity::HmacSha384),
            (Cipher::AesCbc(_), 14) => Some(Integrity::HmacSha512),
            (Cipher::AesGcm16(_) | Cipher::ChaCha20Poly1305, 0) => None,
            (_, number) => return Err(IkeError::UnsupportedIntegrity(number)),
        };
        Ok(Self { prf, cipher, integrity })
    }

    /// Octets of SK_ei and SK_er, a salt included.
    pub fn encryption_octets(&self) -> usize {
        match self.cipher {
            Cipher::AesCbc(octets) => octets,
            Cipher::AesGcm16(octets) => octets + SALT,
            Cipher::ChaCha20Poly1305 => 32 + SALT,
        }
    }

    /// Octets of SK_ai and SK_ar, 0 with AEAD.
    pub fn integrity_octets(&self) -> usize {
        self.integrity.map_or(0, |integrity| match integrity {
            Integrity::HmacSha1 => 20,
            Integrity::HmacSha256 => 32,
            Integrity::HmacSha384 => 48,
            Integrity::HmacSha512 => 64,
        })
    }

    fn fits(&self, keys: &IkeKeys) -> bool {
        [&keys.sk_ai, &keys.sk_ar].iter().all(|key| key.len() == self.integrity_octets())
            && [&keys.sk_ei, &keys.sk_er].iter().all(|key| key.len() == self.encryption_octets())
            && [&keys.sk_d, &keys.sk_pi, &keys.sk_pr]
                .iter()
                .all(|key| key.len() == self.prf.octets())
    }
}

/// Octets of the salt behind the key of an AEAD cipher (RFC 5282, RFC 7634).
const SALT: usize = 4;

/// The seven keys of an IKE SA, as they stand in the context or derived from its
/// seed.
///
/// # Errors
/// As [`Suite::new`]; [`IkeError::UnsupportedVersion`] for IKEv1;
/// [`IkeError::BadSecrets`] if keys have the wrong length or the seed is empty.
pub fn derive(ike: &IkeSa) -> Result<IkeKeys, IkeError> {
    if ike.version != 2 {
        return Err(IkeError::UnsupportedVersion(ike.version));
    }
    let suite = Suite::new(&ike.transforms)?;
    let keys = match &ike.secrets {
        IkeSecrets::Keys(keys) => duplicate(keys),
        IkeSecrets::Seed { .. } => {
            let replaced = match &ike.secrets {
                IkeSecrets::Seed { replaced: Some(replaced), .. } => Some(replaced.prf),
                _ => None,
            };
            if let Some(number) = replaced.filter(|number| Prf::from_number(*number).is_none()) {
                return Err(IkeError::UnsupportedPrf(number));
            }
            let (d, a, e) =
                (suite.prf.octets(), suite.integrity_octets(), suite.encryption_octets());
            let stream = ike.key_stream(d + 2 * (a + e + d)).ok_or(IkeError::BadSecrets)?;
            let mut rest = Cutter(stream.expose());
            IkeKeys {
                sk_d: rest.cut(d)?,
                sk_ai: rest.cut(a)?,
                sk_ar: rest.cut(a)?,
                sk_ei: rest.cut(e)?,
                sk_er: rest.cut(e)?,
                sk_pi: rest.cut(d)?,
                sk_pr: rest.cut(d)?,
            }
        }
    };
    if suite.fits(&keys) { Ok(keys) } else { Err(IkeError::BadSecrets) }
}

fn duplicate(keys: &IkeKeys) -> IkeKeys {
    IkeKeys {
        sk_d: keys.sk_d.duplicate(),
        sk_ai: keys.sk_ai.duplicate(),
        sk_ar: keys.sk_ar.duplicate(),
        sk_ei: keys.sk_ei.duplicate(),
        sk_er: keys.sk_er.duplicate(),
        sk_pi: keys.sk_pi.duplicate(),
        sk_pr: keys.sk_pr.duplicate(),
    }
}

/// Takes keys one after the other from a derived stream.
struct Cutter<'a>(&'a [u8]);

impl Cutter<'_> {
    fn cut(&mut self, octets: usize) -> Result<KeyMaterial, IkeError> {
        let (key, rest) = self.0.split_at_checked(octets).ok_or(IkeError::BadSecrets)?;
        self.0 = rest;
        Ok(KeyMaterial::new(key.to_vec()))
    }
}

/// Keys of the two SAs of a Child SA. Initiator and responder are those of the
/// exchange that made it, which need not be the original ones of the IKE SA.
#[derive(Debug, PartialEq)]
pub struct ChildKeys {
    /// Of the SA from that exchange's initiator to its responder.
    pub initiator_to_responder: SaKeys,
    /// Of the SA the other way.
    pub responder_to_initiator: SaKeys,
}

/// What one CREATE_CHILD_SA or IKE_AUTH exchange put into a Child SA's keys.
#[derive(Clone, Copy, Debug)]
pub struct ChildSeedRef<'a> {
    /// Nonce of the exchange's initiator; for the first Child SA that of IKE_SA_INIT.
    pub nonce_initiator: &'a [u8],
    /// Nonce of the exchange's responder.
    pub nonce_responder: &'a [u8],
    /// Key exchange secrets of this exchange: none without PFS, more than one
    /// with RFC 9370.
    pub shared: &'a [KeyMaterial],
}

/// KEYMAT of a Child SA (RFC 7296 section 2.17, RFC 9370 section 2.2.4), cut into
/// its four keys.
///
/// # Errors
/// [`IkeError::UnsupportedPrf`], [`IkeError::UnknownKeyLength`], or
/// [`IkeError::BadSecrets`] if more is asked than `prf+` gives.
pub fn derive_child(
    prf: u16,
    sk_d: &KeyMaterial,
    seed: ChildSeedRef<'_>,
    transforms: &ChildTransforms,
) -> Result<ChildKeys, IkeError> {
    let (encryption, integrity) = child_key_octets(transforms)?;
    let prf = Prf::from_number(prf).ok_or(IkeError::UnsupportedPrf(prf))?;
    let (first, further) = match seed.shared.split_first() {
        Some((first, further)) => (first.expose(), further),
        None => (&[][..], &[][..]),
    };
    let parts: Vec<&[u8]> = [first, seed.nonce_initiator, seed.nonce_responder]
        .into_iter()
        .chain(further.iter().map(KeyMaterial::expose))
        .collect();
    let stream = prf
        .expand(sk_d.expose(), &parts, 2 * (encryption + integrity))
        .ok_or(IkeError::BadSecrets)?;
    let mut rest = Cutter(stream.expose());
    let mut pair = || -> Result<SaKeys, IkeError> {
        Ok(SaKeys { encryption: rest.cut(encryption)?, integrity: rest.cut(integrity)? })
    };
    Ok(ChildKeys { initiator_to_responder: pair()?, responder_to_initiator: pair()? })
}

/// Octets of the encryption and the integrity key of an SA with these transforms,
/// a salt counted to the encryption key.
///
/// # Errors
/// [`IkeError::UnknownKeyLength`] for a number that is not known here.
pub fn child_key_octets(transforms: &ChildTransforms) -> Result<(usize, usize), IkeError> {
    let unknown = |kind, number| IkeError::UnknownKeyLength { kind, number };
    let key = usize::from(transforms.key_bits / 8);
    let sized = matches!(transforms.key_bits, 128 | 192 | 256);
    let encryption = match transforms.encryption {
        // AH, and ENCR_NULL.
        0 | 11 => 0,
        // 3DES.
        3 => 24,
        // AES-CBC, Camellia-CBC.
        12 | 23 if sized => key,
        // AES-CCM: a salt of 3 octets (RFC 4309).
        14..=16 if sized => key + 3,
        // AES-CTR, AES-GCM, GMAC: a salt of 4 octets (RFC 3686, 4106, 4543).
        13 | 18..=20 | 21 if sized => key + SALT,
        28 => 32 + SALT,
        number => return Err(unknown(1, number)),
    };
    let integrity = match transforms.integrity {
        0 => 0,
        // HMAC-MD5-96, AES-XCBC-96, AES-CMAC-96.
        1 | 5 | 8 => 16,
        2 => 20,
        12 => 32,
        13 => 48,
        14 => 64,
        number => return Err(unknown(3, number)),
    };
    Ok((encryption, integrity))
}

#[cfg(test)]
mod tests;
