//! The Encrypted and Authenticated payload: CBC with HMAC (RFC 7296 section 3.14)
//! and AEAD (RFC 5282, RFC 7634).
//!
//! ```text
//! | IKE header 28 | SK header 4 | IV 16 | encrypted { payloads, padding, pad length } | ICV |
//! |<--------------------------- HMAC covers ---------------------------------------->|
//! | IKE header 28 | SK header 4 | IV 8  | encrypted { payloads, padding, pad length } | tag 16 |
//! |<-- associated data -------->|
//! ```

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit,
    block_padding::NoPadding,
};
use protocol_spec::{
    KeyMaterial,
    context::{IkeKeys, IkeSa},
};
use ring::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};

use super::{
    IkeError,
    keys::{Cipher, Integrity, Suite, derive},
    message::{
        HEADER, Header, PAYLOAD_HEADER, Payload, next_payload, payload, read_chain, write_chain,
    },
};

/// Block of AES, and the IV of CBC.
const BLOCK: usize = 16;
/// Explicit IV of an AEAD cipher.
const AEAD_IV: usize = 8;
/// Tag of an AEAD cipher.
const TAG: usize = 16;

/// Random octets for one message: 16 for CBC, of which AEAD uses the first 8.
/// They must be fresh from the operating system for every message: the daemon
/// that has these keys counts its IVs from a salt of its own, so chance is what
/// keeps ours apart from its.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iv(pub [u8; BLOCK]);

/// Seals and opens the messages of one IKE SA, of either side.
#[derive(Debug)]
pub struct Crypt {
    suite: Suite,
    keys: IkeKeys,
}

impl Crypt {
    /// The protection of this IKE SA.
    ///
    /// # Errors
    /// As [`derive()`]: what the context's transforms or secrets lack.
    pub fn new(ike: &IkeSa) -> Result<Self, IkeError> {
        Ok(Self { suite: Suite::new(&ike.transforms)?, keys: derive(ike)? })
    }

    /// A whole message of these payloads inside an SK payload. `header.next` is
    /// set here; which side's keys are used, `header.from_initiator` says.
    ///
    /// # Errors
    /// [`IkeError::TooLong`] if it fits no UDP datagram.
    pub fn seal(&self, header: Header, payloads: &[Payload], iv: &Iv) -> Result<Vec<u8>, IkeError> {
        let mut inner = Vec::new();
        write_chain(payloads, &mut inner)?;
        let (iv, icv, block) = match self.suite.integrity {
            Some(integrity) => (&iv.0[..], integrity.icv_octets(), BLOCK),
            None => (&iv.0[..AEAD_IV], TAG, 1),
        };
        // The length octet always stands there, the padding fills the block.
        let padding = (block - (inner.len() + 1) % block) % block;
        inner.resize(inner.len() + padding, 0);
        inner.push(u8::try_from(padding).map_err(|_| IkeError::TooLong)?);

        let body = PAYLOAD_HEADER + iv.len() + inner.len() + icv;
        let header = Header { next: payload::ENCRYPTED, ..header };
        let mut message = header.write(HEADER + body)?.to_vec();
        let first = payloads.first().map_or(payload::NONE, |payload| payload.kind);
        message.extend_from_slice(&[first, 0]);
        message
            .extend_from_slice(&u16::try_from(body).map_err(|_| IkeError::TooLong)?.to_be_bytes());
        let (encryption, authentication) = self.keys_of(header.from_initiator);
        match self.suite.integrity {
            Some(integrity) => {
                cbc_encrypt(encryption.expose(), iv, &mut inner)?;
                message.extend_from_slice(iv);
                message.extend_from_slice(&inner);
                let icv = integrity.icv(authentication, &message);
                message.extend_from_slice(icv.expose());
            }
            None => {
                let (key, nonce) = self.aead(encryption, iv)?;
                let tag = key
                    .seal_in_place_separate_tag(nonce, Aad::from(&message), &mut inner)
                    .map_err(|_| IkeError::TooLong)?;
                message.extend_from_slice(iv);
                message.extend_from_slice(&inner);
                message.extend_from_slice(tag.as_ref());
            }
        }
        Ok(message)
    }

    /// Reads a whole datagram (without non-ESP marker): its header and the
    /// payloads inside its SK payload. Clear payloads before that are skipped,
    /// authenticated all the same.
    ///
    /// # Errors
    /// [`IkeError::Forged`] if the integrity check fails, which is made before
    /// anything is decrypted or read; [`IkeError::Unprotected`] without SK payload;
    /// [`IkeError::Malformed`] for what no honest sender sends, a fragment
    /// (RFC 7383) among it, since none is reassembled here.
    pub fn open(&self, datagram: &[u8]) -> Result<(Header, Vec<Payload>), IkeError> {
        let header = Header::parse(datagram)?;
        let (mut kind, mut rest) = (header.next, datagram.get(HEADER..).unwrap_or_default());
        let sealed = loop {
            match kind {
                payload::NONE => return Err(IkeError::Unprotected),
                payload::FRAGMENT => return Err(IkeError::Malformed("a fragment")),
                _ => {}
            }
            let found = next_payload(kind, rest)?;
            if found.kind == payload::ENCRYPTED {
                if !found.rest.is_empty() {
                    return Err(IkeError::Malformed("octets behind the encrypted payload"));
                }
                break found;
            }
            (kind, rest) = (found.next, found.rest);
        };
        let clear = datagram.len() - sealed.body.len();
        let (associated, body) =
            datagram.split_at_checked(clear).ok_or(IkeError::Malformed("no room for its parts"))?;
        let (encryption, authentication) = self.keys_of(header.from_initiator);
        let mut inner = match self.suite.integrity {
            Some(integrity) => {
                let short = IkeError::Malformed("shorter than IV and integrity check value");
                let covered = datagram.len().checked_sub(integrity.icv_octets()).ok_or(short)?;
                let cut = covered.checked_sub(clear).ok_or(short)?;
                let (text, icv) = body.split_at_checked(cut).ok_or(short)?;
                let (iv, text) = text.split_at_checked(BLOCK).ok_or(short)?;
                // Compared in constant time.
                let expected = integrity.icv(authentication, &datagram[..covered]);
                if expected != KeyMaterial::new(icv.to_vec()) {
                    return Err(IkeError::Forged);
                }
                let mut inner = text.to_vec();
                cbc_decrypt(encryption.expose(), iv, &mut inner)?;
                inner
            }
            None => {
                let short = IkeError::Malformed("shorter than its IV");
                let (iv, text) = body.split_at_checked(AEAD_IV).ok_or(short)?;
                let (key, nonce) = self.aead(encryption, iv)?;
                let mut inner = text.to_vec();
                let length = key
                    .open_in_place(nonce, Aad::from(associated), &mut inner)
                    .map_err(|_| IkeError::Forged)?
                    .len();
                inner.truncate(length);
                inner
            }
        };
        let padding = inner.pop().ok_or(IkeError::Malformed("no pad length"))?;
        let length = inner
            .len()
            .checked_sub(usize::from(padding))
            .ok_or(IkeError::Malformed("more padding than octets"))?;
        inner.truncate(length);
        Ok((header, read_chain(sealed.next, &inner)?))
    }

    fn keys_of(&self, from_initiator: bool) -> (&KeyMaterial, &KeyMaterial) {
        if from_initiator {
            (&self.keys.sk_ei, &self.keys.sk_ai)
        } else {
            (&self.keys.sk_er, &self.keys.sk_ar)
        }
    }

    /// Key and nonce: the salt stands behind the key, the IV behind the salt.
    fn aead(&self, key: &KeyMaterial, iv: &[u8]) -> Result<(LessSafeKey, Nonce), IkeError> {
        let algorithm = match self.suite.cipher {
            Cipher::AesGcm16(16) => &aead::AES_128_GCM,
            Cipher::AesGcm16(_) => &aead::AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
            Cipher::AesCbc(_) => return Err(IkeError::BadSecrets),
        };
        let (key, salt) =
            key.expose().split_at_checked(algorithm.key_len()).ok_or(IkeError::BadSecrets)?;
        let key = UnboundKey::new(algorithm, key).map_err(|_| IkeError::BadSecrets)?;
        let mut nonce = [0; aead::NONCE_LEN];
        for (octet, value) in nonce.iter_mut().zip(salt.iter().chain(iv)) {
            *octet = *value;
        }
        Ok((LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce)))
    }
}

impl Integrity {
    /// Octets of the integrity check value on the wire.
    fn icv_octets(self) -> usize {
        match self {
            Self::HmacSha1 => 12,
            Self::HmacSha256 => 16,
            Self::HmacSha384 => 24,
            Self::HmacSha512 => 32,
        }
    }

    fn icv(self, key: &KeyMaterial, octets: &[u8]) -> KeyMaterial {
        let algorithm = match self {
            Self::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        };
        let tag = hmac::sign(&hmac::Key::new(algorithm, key.expose()), octets);
        KeyMaterial::new(tag.as_ref().iter().copied().take(self.icv_octets()).collect())
    }
}

fn cbc_encrypt(key: &[u8], iv: &[u8], text: &mut [u8]) -> Result<(), IkeError> {
    fn run<C>(key: &[u8], iv: &[u8], text: &mut [u8]) -> Result<(), IkeError>
    where
        C: BlockCipherEncrypt + KeyInit,
        cbc::Encryptor<C>: KeyIvInit + BlockModeEncrypt,
    {
        let length = text.len();
        cbc::Encryptor::<C>::new_from_slices(key, iv)
            .map_err(|_| IkeError::BadSecrets)?
            .encrypt_padded::<NoPadding>(text, length)
            .map(|_| ())
            .map_err(|_| IkeError::Malformed("not a whole number of blocks"))
    }
    match key.len() {
        16 => run::<Aes128>(key, iv, text),
        24 => run::<Aes192>(key, iv, text),
        _ => run::<Aes256>(key, iv, text),
    }
}

fn cbc_decrypt(key: &[u8], iv: &[u8], text: &mut [u8]) -> Result<(), IkeError> {
    fn run<C>(key: &[u8], iv: &[u8], text: &mut [u8]) -> Result<(), IkeError>
    where
        C: BlockCipherDecrypt + KeyInit,
        cbc::Decryptor<C>: KeyIvInit + BlockModeDecrypt,
    {
        cbc::Decryptor::<C>::new_from_slices(key, iv)
            .map_err(|_| IkeError::BadSecrets)?
            .decrypt_padded::<NoPadding>(text)
            .map(|_| ())
            .map_err(|_| IkeError::Malformed("not a whole number of blocks"))
    }
    match key.len() {
        16 => run::<Aes128>(key, iv, text),
        24 => run::<Aes192>(key, iv, text),
        _ => run::<Aes256>(key, iv, text),
    }
}

#[cfg(test)]
mod tests;
