//! Random numbers from the operating system.

use ring::rand::{SecureRandom, SystemRandom};

/// Random octets, or nothing where the operating system has none: then nothing
/// that needs them may go on.
pub(crate) fn octets<const N: usize>() -> Option<[u8; N]> {
    let mut octets = [0; N];
    SystemRandom::new().fill(&mut octets).ok().map(|()| octets)
}
