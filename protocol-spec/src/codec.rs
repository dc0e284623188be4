//! The one codec: bincode with a size limit, canonical only, no trailing octets.
//!
//! No other module of any crate configures bincode; a lint sees to it.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use thiserror::Error;
use zeroize::Zeroizing;

/// Most memory that decoding may claim for a body, in octets. Above the limit
/// of a frame, because a value is larger in memory than on the wire.
const CLAIM: usize = 8 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<CLAIM>> = config();

#[expect(clippy::disallowed_methods, reason = "this is the one place that configures bincode")]
const fn config() -> Configuration<LittleEndian, Varint, Limit<CLAIM>> {
    bincode::config::standard().with_limit::<CLAIM>()
}

/// Why octets are not a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// They end too early.
    #[error("ends in the middle of a value")]
    Truncated,
    /// A length on the wire asks for more than is allowed.
    #[error("a length is above the limit")]
    Oversized,
    /// Octets follow the value.
    #[error("octets follow the value")]
    Trailing,
    /// The same value has a shorter or an ordered encoding, which is the only one allowed.
    #[error("is not the canonical encoding")]
    NotCanonical,
    /// A discriminant, character or number that the type does not have.
    #[error("holds a value that its type does not have")]
    BadValue,
}

/// Encodes a value. The octets are wiped when dropped, since they may hold keys.
///
/// # Errors
/// [`Malformed::Oversized`] if the value is larger than any message may be.
pub fn encode<T: bincode::Encode>(value: &T) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    // Bincode grows its buffer as it goes and leaves the old ones behind
    // unwiped, so the size is computed first.
    let mut size = bincode::enc::write::SizeWriter::default();
    bincode::encode_into_writer(value, &mut size, CONFIG).map_err(|_| Malformed::Oversized)?;
    if size.bytes_written > CLAIM {
        return Err(Malformed::Oversized);
    }
    let mut octets = Zeroizing::new(vec![0; size.bytes_written]);
    bincode::encode_into_slice(value, &mut octets, CONFIG).map_err(|_| Malformed::Oversized)?;
    Ok(octets)
}

/// Decodes exactly one value from all of `octets`.
///
/// # Errors
/// [`Malformed`] says what is wrong with the octets.
pub fn decode<T: bincode::Encode + bincode::Decode<()>>(octets: &[u8]) -> Result<T, Malformed> {
    let (value, used) =
        bincode::decode_from_slice::<T, _>(octets, CONFIG).map_err(|e| match e {
            bincode::error::DecodeError::UnexpectedEnd { .. } => Malformed::Truncated,
            bincode::error::DecodeError::LimitExceeded => Malformed::Oversized,
            _ => Malformed::BadValue,
        })?;
    if used != octets.len() {
        return Err(Malformed::Trailing);
    }
    // Integers have longer encodings that bincode also reads, and a set may
    // come unordered; a signature or a vector must not depend on that choice.
    if encode(&value)?.as_slice() != octets {
        return Err(Malformed::NotCanonical);
    }
    Ok(value)
}
