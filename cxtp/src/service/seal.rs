//! A session in a file: sealed to one gateway's key by HPKE (RFC 9180,
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode), bound
//! to the session, its source and its target. Never in clear.
//!
//! The private key is a file of 64 hexadecimal digits that only its owner may
//! read; the public key is written as 64 hexadecimal digits in the
//! configuration of the gateways that seal.

use std::{fmt, str::FromStr};

use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305,
    kdf::HkdfSha256, kem::X25519HkdfSha256 as Kem,
};
use protocol_spec::{
    codec,
    id::{Name, SessionId},
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::api::Sealed;
use crate::engine::Exported;

/// The format's name, also the label that everything sealed is bound to.
pub const FORMAT: &str = "cxtp-sealed-session/1";

/// Why a sealed session cannot be made or opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// Text that is not a key.
    #[error("a seal key is 64 hexadecimal digits")]
    BadKey,
    /// A format of another program or version.
    #[error("the format is `{0}`; this program opens `{FORMAT}`")]
    WrongFormat(String),
    /// It was sealed to another gateway.
    #[error("it is sealed to `{sealed_to}`, and this gateway is `{this}`: use it there")]
    WrongTarget {
        /// Who can open it.
        sealed_to: String,
        /// Who tried.
        this: Name,
    },
    /// Altered, or sealed to another key of this gateway.
    #[error(
        "it cannot be opened: it was altered, or sealed to another key than `seal.key` of this gateway"
    )]
    CannotOpen,
    /// The session does not fit or is not one.
    #[error("it does not hold a session: {0}")]
    BadContent(&'static str),
}

/// The public half of a gateway's seal key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicSealKey([u8; 32]);

/// The private half of a gateway's seal key. Wiped when dropped.
pub struct SealKey(Zeroizing<[u8; 32]>);

impl FromStr for PublicSealKey {
    type Err = SealError;
    fn from_str(text: &str) -> Result<Self, SealError> {
        let octets = from_hex(text).ok_or(SealError::BadKey)?;
        Ok(Self(octets.as_slice().try_into().map_err(|_| SealError::BadKey)?))
    }
}

impl fmt::Display for PublicSealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for PublicSealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicSealKey({self})")
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(redacted)")
    }
}

impl SealKey {
    /// A new key from the operating system's random numbers.
    pub fn generate() -> Self {
        let (private, _) = Kem::gen_keypair();
        Self(Zeroizing::new(private.to_bytes().into()))
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub fn from_text(text: &str) -> Result<Self, SealError> {
        let octets = from_hex(text.trim()).ok_or(SealError::BadKey)?;
        let mut key = Zeroizing::new([0; 32]);
        if octets.len() != key.len() {
            return Err(SealError::BadKey);
        }
        key.copy_from_slice(&octets);
        Ok(Self(key))
    }

    /// The text of a key file, for a file that only its owner may read.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = to_hex(self.0.as_slice());
        text.push('\n');
        text
    }

    /// What others seal to.
    ///
    /// # Errors
    /// [`SealError::BadKey`] never for a key of 32 octets.
    pub fn public(&self) -> Result<PublicSealKey, SealError> {
        let private = self.private()?;
        Ok(PublicSealKey(Kem::sk_to_pk(&private).to_bytes().into()))
    }

    fn private(&self) -> Result<<Kem as hpke::Kem>::PrivateKey, SealError> {
        <Kem as hpke::Kem>::PrivateKey::from_bytes(self.0.as_slice()).map_err(|_| SealError::BadKey)
    }

    /// Opens what was sealed to this gateway.
    ///
    /// # Errors
    /// [`SealError`] says why it cannot be used here.
    pub fn open(&self, sealed: &Sealed, this: &Name) -> Result<Exported, SealError> {
        if sealed.format != FORMAT {
            return Err(SealError::WrongFormat(sealed.format.chars().take(64).collect()));
        }
        if sealed.target != this.as_str() {
            let sealed_to = sealed.target.chars().take(64).collect();
            return Err(SealError::WrongTarget { sealed_to, this: this.clone() });
        }
        let source: Name = sealed.source.parse().map_err(|_| SealError::CannotOpen)?;
        let session: SessionId = sealed.session.parse().map_err(|_| SealError::CannotOpen)?;
        let encapsulated = from_hex(&sealed.encapsulated_key).ok_or(SealError::CannotOpen)?;
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(&encapsulated)
            .map_err(|_| SealError::CannotOpen)?;
        let ciphertext = from_hex(&sealed.ciphertext).ok_or(SealError::CannotOpen)?;
        let plaintext = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &self.private()?,
            &encapsulated,
            FORMAT.as_bytes(),
            &ciphertext,
            &binding(session, &source, this),
        )
        .map(Zeroizing::new)
        .map_err(|_| SealError::CannotOpen)?;
        let exported: Exported = codec::decode(&plaintext)
            .map_err(|_| SealError::BadContent("its content is not of this version"))?;
        // What the envelope says and what was sealed inside are one and the same.
        let same = exported.context.session == session
            && exported.source == source
            && exported.target == *this;
        if same { Ok(exported) } else { Err(SealError::CannotOpen) }
    }
}

/// Seals a session to the gateway that it names as its target.
///
/// # Errors
/// [`SealError::BadContent`] if it is larger than a context may be,
/// [`SealError::BadKey`] if the public key is not a point to seal to.
//= spec CXTP-6.8-2
//= spec CXTP-10.1-2
pub fn seal(exported: &Exported, target: &PublicSealKey) -> Result<Sealed, SealError> {
    let session = exported.context.session;
    let public =
        <Kem as hpke::Kem>::PublicKey::from_bytes(&target.0).map_err(|_| SealError::BadKey)?;
    let plaintext =
        codec::encode(exported).map_err(|_| SealError::BadContent("it is too large"))?;
    let (encapsulated, ciphertext) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Base,
        &public,
        FORMAT.as_bytes(),
        &plaintext,
        &binding(session, &exported.source, &exported.target),
    )
    .map_err(|_| SealError::BadKey)?;
    Ok(Sealed {
        format: FORMAT.to_owned(),
        session: session.to_string(),
        source: exported.source.to_string(),
        target: exported.target.to_string(),
        encapsulated_key: to_hex(&encapsulated.to_bytes()).to_string(),
        ciphertext: to_hex(&ciphertext).to_string(),
    })
}

/// The associated data: session, source and target. Names have no NUL, so the
/// three cannot be confused.
fn binding(session: SessionId, source: &Name, target: &Name) -> Vec<u8> {
    let mut octets = session.0.to_vec();
    octets.extend_from_slice(source.as_str().as_bytes());
    octets.push(0);
    octets.extend_from_slice(target.as_str().as_bytes());
    octets
}

pub(crate) fn to_hex(octets: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(String::with_capacity(octets.len() * 2 + 1));
    for octet in octets {
        for digit in [octet >> 4, octet & 15] {
            text.push(char::from(DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0')));
        }
    }
    text
}

pub(crate) fn from_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let mut octets = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for pair in text.as_bytes().chunks_exact(2) {
        let digits = pair.iter().try_fold(0, |value, digit| {
            char::from(*digit).to_digit(16).map(|digit| value << 4 | digit)
        })?;
        octets.push(u8::try_from(digits).ok()?);
    }
    Some(octets)
}

#[cfg(test)]
mod tests;
