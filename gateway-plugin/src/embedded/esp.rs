//! ESP (RFC 4303) in tunnel mode with AES-GCM-16 (RFC 4106), in place and
//! without allocation.
//!
//! ```text
//! | SPI 4 | sequence number 4 | IV 8 | payload | padding | pad length 1 | next header 1 | ICV 16 |
//!                                    |<------------------ encrypted ------------------>|
//! ```

use std::ops::Range;

use protocol_spec::KeyMaterial;
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use thiserror::Error;

/// SPI, sequence number and IV.
pub const HEADER: usize = 16;
/// The integrity check value.
pub const ICV: usize = 16;
/// Octets that sealing may add behind a payload: padding, trailer, ICV.
pub const TAILROOM: usize = 3 + 2 + ICV;
/// Next header of an inner IPv4 packet.
pub const NEXT_IPV4: u8 = 4;
/// Next header of an inner IPv6 packet.
pub const NEXT_IPV6: u8 = 41;
/// Next header of a dummy packet (RFC 4303 section 2.6).
pub const NEXT_NONE: u8 = 59;

/// Octets of the salt behind an AES key (RFC 4106 section 8.1).
const SALT: usize = 4;

/// Why a packet cannot be opened or sealed. Says nothing about keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EspError {
    /// The key has not the length of AES-128 or AES-256 with its salt.
    #[error("the key is not 20 or 36 octets long")]
    BadKey,
    /// Too short, not aligned, or padding that does not fit.
    #[error("the packet is not an ESP packet")]
    Malformed,
    /// The integrity check failed.
    #[error("the integrity check failed")]
    Forged,
    /// The buffer ends before the packet does.
    #[error("no room for the packet")]
    NoRoom,
}

/// One SA's key made ready, with what makes its nonces.
pub struct Cipher {
    key: LessSafeKey,
    algorithm: &'static Algorithm,
    salt: [u8; SALT],
    /// XORed to the sequence number to give the IV, as Linux does it: numbers
    /// are unique, so IVs are; another instance of the SA has another mask.
    iv_mask: u64,
}

impl Cipher {
    /// Makes a key ready. `keys` is the AES key with its salt behind it;
    /// `iv_mask` is random for each instance of an SA.
    ///
    /// # Errors
    /// [`EspError::BadKey`] for any other length.
    pub fn new(keys: &KeyMaterial, iv_mask: u64) -> Result<Self, EspError> {
        let (key, salt) = keys.expose().split_last_chunk::<SALT>().ok_or(EspError::BadKey)?;
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return Err(EspError::BadKey),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| EspError::BadKey)?;
        Ok(Self { key: LessSafeKey::new(key), algorithm, salt: *salt, iv_mask })
    }

    /// Whether keys of this length can be used.
    pub fn takes(octets: usize) -> bool {
        matches!(octets, 20 | 36)
    }

    /// Seals the `payload` octets that stand at `buffer[HEADER..]` and writes the
    /// rest of the packet around them. Returns the length of the packet. The
    /// caller sees to it that no number is used twice.
    ///
    /// # Errors
    /// [`EspError::NoRoom`] if the buffer is too short.
    pub fn seal(
        &self,
        spi: u32,
        number: u64,
        esn: bool,
        next_header: u8,
        buffer: &mut [u8],
        payload: usize,
    ) -> Result<usize, EspError> {
        let iv = (number ^ self.iv_mask).to_be_bytes();
        self.seal_with(iv, spi, number, esn, next_header, buffer, payload)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the packet")]
    fn seal_with(
        &self,
        iv: [u8; 8],
        spi: u32,
        number: u64,
        esn: bool,
        next_header: u8,
        buffer: &mut [u8],
        payload: usize,
    ) -> Result<usize, EspError> {
        // Pad length and next header end on a multiple of 4 (RFC 4303 section 2.4).
        let plain = (payload + 2).next_multiple_of(4);
        let padding = plain - payload - 2;
        let total = HEADER + plain + ICV;
        let packet = buffer.get_mut(..total).ok_or(EspError::NoRoom)?;
        let (header, rest) = packet.split_at_mut(HEADER);
        let (plain, icv) = rest.split_at_mut(plain);
        header[..4].copy_from_slice(&spi.to_be_bytes());
        header[4..8].copy_from_slice(&number.to_be_bytes()[4..]);
        header[8..].copy_from_slice(&iv);
        for (i, octet) in (1u8..).zip(&mut plain[payload..payload + padding]) {
            *octet = i;
        }
        plain[payload + padding] = padding as u8;
        plain[payload + padding + 1] = next_header;
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(iv), aad(spi, number, esn), plain)
            .map_err(|_| EspError::NoRoom)?;
        icv.copy_from_slice(tag.as_ref());
        Ok(total)
    }

    /// Opens a packet in place. Returns where its payload stands and what it is.
    ///
    /// # Errors
    /// [`EspError::Malformed`] or [`EspError::Forged`]; the packet is unusable then.
    pub fn open(
        &self,
        number: u64,
        esn: bool,
        packet: &mut [u8],
    ) -> Result<(Range<usize>, u8), EspError> {
        if packet.len() < HEADER + 4 + ICV || !(packet.len() - HEADER - ICV).is_multiple_of(4) {
            return Err(EspError::Malformed);
        }
        let (header, sealed) =
            packet.split_first_chunk_mut::<HEADER>().ok_or(EspError::Malformed)?;
        let [s0, s1, s2, s3, _, _, _, _, iv @ ..] = *header;
        let spi = u32::from_be_bytes([s0, s1, s2, s3]);
        let plain = self
            .key
            .open_in_place(self.nonce(iv), aad(spi, number, esn), sealed)
            .map_err(|_| EspError::Forged)?;
        let [payload @ .., padding, next_header] = &*plain else {
            return Err(EspError::Malformed);
        };
        let length = payload.len().checked_sub(usize::from(*padding)).ok_or(EspError::Malformed)?;
        // RFC 4303 section 2.4: the receiver SHOULD inspect the padding.
        if payload[length..].iter().zip(1u8..).any(|(octet, i)| *octet != i) {
            return Err(EspError::Malformed);
        }
        Ok((HEADER..HEADER + length, *next_header))
    }

    fn nonce(&self, iv: [u8; 8]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..SALT].copy_from_slice(&self.salt);
        nonce[SALT..].copy_from_slice(&iv);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        // The library does not wipe its key schedule, so another is written over it.
        let zero = [0; 32];
        if let Ok(key) = UnboundKey::new(self.algorithm, &zero[..self.algorithm.key_len()]) {
            self.key = LessSafeKey::new(key);
            self.salt = [0; SALT];
            std::hint::black_box(&mut *self);
        }
    }
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cipher(AES-{}, redacted)", self.algorithm.key_len() * 8)
    }
}

/// SPI and sequence number, whole with ESN (RFC 4106 section 5).
fn aad(spi: u32, number: u64, esn: bool) -> Aad<AadOctets> {
    let mut octets = [0; 12];
    octets[..4].copy_from_slice(&spi.to_be_bytes());
    let number = number.to_be_bytes();
    let length = if esn {
        octets[4..].copy_from_slice(&number);
        12
    } else {
        octets[4..8].copy_from_slice(&number[4..]);
        8
    };
    Aad::from(AadOctets { octets, length })
}

struct AadOctets {
    octets: [u8; 12],
    length: usize,
}

impl AsRef<[u8]> for AadOctets {
    fn as_ref(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// SPI and low half of the sequence number of a packet.
pub fn peek(packet: &[u8]) -> Option<(u32, u32)> {
    match packet {
        [a, b, c, d, e, f, g, h, ..] => {
            Some((u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h])))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
