use thiserror::Error;

/// Why keys cannot be made, or a message cannot be read or written. Says nothing
/// about key material.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IkeError {
    /// An IKE SA with a cipher that we cannot speak.
    #[error(
        "encryption transform {number} with {key_bits}-bit keys is not one that we speak IKE with: \
         use AES-CBC, AES-GCM-16 with 128 or 256 bits, or ChaCha20-Poly1305"
    )]
    UnsupportedCipher {
        /// Transform type 1.
        number: u16,
        /// Its key length attribute.
        key_bits: u16,
    },
    /// An IKE SA with an integrity function that we cannot speak, or one missing
    /// beside a cipher that needs it.
    #[error(
        "integrity transform {0} does not go with this cipher here: use HMAC-SHA1-96, \
         HMAC-SHA2-256-128, 384-192 or 512-256 with AES-CBC and none with an AEAD cipher"
    )]
    UnsupportedIntegrity(u16),
    /// An IKE SA with a pseudo-random function that we do not have.
    #[error("pseudo-random function {0} is not one of HMAC-SHA1, -SHA2-256, -384, -512")]
    UnsupportedPrf(u16),
    /// A Child SA's transform whose key length we do not know.
    #[error("transform {number} of type {kind} has no key length that we know")]
    UnknownKeyLength {
        /// 1 encryption, 3 integrity.
        kind: u8,
        /// IANA number.
        number: u16,
    },
    /// IKEv1, whose derivation and messages are others.
    #[error("IKE version {0}: only version 2 is spoken here")]
    UnsupportedVersion(u8),
    /// The context has no Diffie-Hellman secret or a key of the wrong length.
    #[error(
        "the context's secrets do not fit its transforms: the source sent an incomplete IKE SA"
    )]
    BadSecrets,
    /// Not an IKE message, or a truncated one.
    #[error("malformed IKE message: {0}")]
    Malformed(&'static str),
    /// It belongs to another IKE SA or comes from the wrong side.
    #[error("the message belongs to another IKE SA")]
    NotOurs,
    /// The integrity check failed.
    #[error("the message is not authentic")]
    Forged,
    /// The message has no encrypted payload.
    #[error("the message is not protected")]
    Unprotected,
    /// A payload or message that would not fit its length field.
    #[error("the message would be too long")]
    TooLong,
    /// RFC 6311 is not in force.
    #[error(
        "Message IDs cannot be agreed on: not both ends announced RFC 6311 (no strongSwan does as \
         a gateway)"
    )]
    NoMessageIdSync,
    /// The operating system gives no random octets.
    #[error("the operating system gives no random octets")]
    NoRandomness,
}
