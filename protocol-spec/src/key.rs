//! Key material as a type of its own.

use bincode::{
    de::{BorrowDecoder, Decoder, read::Reader},
    enc::{Encoder, write::Writer},
    error::{DecodeError, EncodeError},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::limits::MAX_KEY_OCTETS;

/// Secret octets: an encryption key with its salt, an SK_* key, a Diffie-Hellman
/// secret.
///
/// It is wiped when dropped, cannot be cloned or printed, and is compared in
/// constant time. Whoever needs the octets says so with [`KeyMaterial::expose`];
/// whoever needs a second copy says so with [`KeyMaterial::duplicate`].
pub struct KeyMaterial(Zeroizing<Vec<u8>>);

impl KeyMaterial {
    /// Takes ownership of secret octets.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The octets themselves, for a cipher, a MAC or a kernel.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// A second copy, for a context that leaves while the session goes on.
    pub fn duplicate(&self) -> Self {
        Self(Zeroizing::new(self.0.to_vec()))
    }

    /// Length in octets; not a secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no octets.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        //= spec CXTP-10.1-1
        write!(f, "KeyMaterial({} octets, redacted)", self.0.len())
    }
}

impl PartialEq for KeyMaterial {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for KeyMaterial {}

impl bincode::Encode for KeyMaterial {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.0.len() as u64).encode(encoder)?;
        encoder.writer().write(&self.0)
    }
}

impl<C> bincode::Decode<C> for KeyMaterial {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        //= spec CXTP-3.3-4
        let len = usize::try_from(u64::decode(decoder)?)
            .ok()
            .filter(|len| *len <= MAX_KEY_OCTETS)
            .ok_or(DecodeError::Other("key material is longer than any key"))?;
        decoder.claim_bytes_read(len)?;
        let mut octets = Zeroizing::new(vec![0; len]);
        decoder.reader().read(&mut octets)?;
        Ok(Self(octets))
    }
}

impl<'de, C> bincode::BorrowDecode<'de, C> for KeyMaterial {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        bincode::Decode::decode(decoder)
    }
}
