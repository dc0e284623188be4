//! The one codec: bincode with a size limit, canonical only, no trailing octets.
//!
//! No other module of any crate configures bincode; a lint sees to it.

use bincode::{
    Decode, Encode,
    config::{Configuration, Limit, LittleEndian, Varint},
    enc::write::{SizeWriter, Writer},
    error::{DecodeError, EncodeError},
};
use thiserror::Error;
use zeroize::Zeroizing;

/// Most memory that decoding may claim for a value, in octets.
///
/// An octet on the wire becomes at most 8 in memory (a small number in a u64), so
/// the numbers of the largest body claim 8 MiB; a list claims what its elements
/// take in memory before it reads them, and gives it back as it does, so that a
/// length from the wire is refused before anything is allocated for it. Half as
/// much again is room for the lists that are open at a time.
const CLAIM: usize = 12 * crate::limits::MAX_BODY;

//= spec CXTP-3.2-1
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
pub fn encode<T: Encode>(value: &T) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    encode_after(0, value)
}

/// Encodes a value behind `room` zero octets, for what stands before it.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_after<T: Encode>(
    room: usize,
    value: &T,
) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    // Bincode grows its buffer as it goes and leaves the old ones behind
    // unwiped, so the size is computed first.
    let mut size = SizeWriter::default();
    bincode::encode_into_writer(value, &mut size, CONFIG).map_err(|_| Malformed::Oversized)?;
    if size.bytes_written > CLAIM {
        return Err(Malformed::Oversized);
    }
    let mut octets = Zeroizing::new(vec![0; room + size.bytes_written]);
    let (_, body) = octets.split_at_mut(room);
    bincode::encode_into_slice(value, body, CONFIG).map_err(|_| Malformed::Oversized)?;
    Ok(octets)
}

/// Decodes exactly one value from all of `octets`.
///
/// # Errors
/// [`Malformed`] says what is wrong with the octets.
pub fn decode<T: Encode + Decode<()>>(octets: &[u8]) -> Result<T, Malformed> {
    let (value, used) =
        bincode::decode_from_slice::<T, _>(octets, CONFIG).map_err(|e| match e {
            DecodeError::UnexpectedEnd { .. } => Malformed::Truncated,
            //= spec CXTP-3.4-1
            DecodeError::LimitExceeded => Malformed::Oversized,
            //= spec CXTP-3.3-3
            _ => Malformed::BadValue,
        })?;
    //= spec CXTP-3.4-3
    if used != octets.len() {
        return Err(Malformed::Trailing);
    }
    // Integers have longer encodings that bincode also reads, and a set may
    // come unordered; a signature or a vector must not depend on that choice.
    //= spec CXTP-3.4-2
    bincode::encode_into_writer(&value, Matching(octets), CONFIG)
        .map_err(|_| Malformed::NotCanonical)?;
    Ok(value)
}

/// Takes octets that are those expected, and nothing else.
struct Matching<'a>(&'a [u8]);

impl Writer for Matching<'_> {
    fn write(&mut self, octets: &[u8]) -> Result<(), EncodeError> {
        let rest = self.0.strip_prefix(octets).ok_or(EncodeError::Other("not canonical"))?;
        self.0 = rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
