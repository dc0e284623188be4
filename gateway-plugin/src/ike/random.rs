//! Random octets of the operating system for the arguments that want them.

use ring::rand::{SecureRandom, SystemRandom};

use super::{IkeError, crypt::Iv, exchange::Draw};

/// A fresh IV.
///
/// # Errors
/// [`IkeError::NoRandomness`]: then nothing may be sealed.
pub fn iv() -> Result<Iv, IkeError> {
    octets().map(Iv)
}

/// A fresh COOKIE2.
///
/// # Errors
/// [`IkeError::NoRandomness`].
pub fn cookie() -> Result<[u8; 16], IkeError> {
    octets()
}

/// What so many attempts of a Message ID synchronisation need.
///
/// # Errors
/// [`IkeError::NoRandomness`].
pub fn draws(attempts: usize) -> Result<Vec<Draw>, IkeError> {
    (0..attempts).map(|_| Ok(Draw { iv: iv()?, nonce: octets()? })).collect()
}

fn octets<const N: usize>() -> Result<[u8; N], IkeError> {
    let mut octets = [0; N];
    SystemRandom::new().fill(&mut octets).map_err(|_| IkeError::NoRandomness)?;
    Ok(octets)
}
