//! Pseudo-random functions of IKEv2 and the stream of keys that comes out of
//! them: SK_d, from which the key of an authorization token is derived, and after
//! it the keys that protect the IKE SA's messages.

use ring::hmac;
use zeroize::Zeroizing;

use crate::{
    context::{IkeSa, IkeSecrets, ReplacedSa},
    key::KeyMaterial,
};

/// A pseudo-random function by its IANA number (IKEv2 parameters, transform
/// type 2). Only those built on HMAC; their preferred key is as long as their
/// output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prf(hmac::Algorithm);

impl Prf {
    /// The function with this number, or `None` for one that is not built on
    /// HMAC-SHA1 (2), HMAC-SHA2-256 (5), -384 (6) or -512 (7).
    pub fn from_number(number: u16) -> Option<Self> {
        //= spec CXTP-7.1-3
        Some(Self(match number {
            2 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            5 => hmac::HMAC_SHA256,
            6 => hmac::HMAC_SHA384,
            7 => hmac::HMAC_SHA512,
            _ => return None,
        }))
    }

    /// Octets of its output and of its preferred key.
    pub fn octets(self) -> usize {
        self.0.digest_algorithm().output_len()
    }

    /// `prf(key, data)`, with the data given in parts.
    pub fn apply(self, key: &[u8], parts: &[&[u8]]) -> KeyMaterial {
        let mut context = hmac::Context::with_key(&hmac::Key::new(self.0, key));
        parts.iter().for_each(|part| context.update(part));
        KeyMaterial::new(context.sign().as_ref().to_vec())
    }

    /// The first `octets` of `prf+(key, seed)` (RFC 7296 section 2.13), or `None`
    /// for more than its 255 blocks hold.
    pub fn expand(self, key: &[u8], seed: &[&[u8]], octets: usize) -> Option<KeyMaterial> {
        // Full size from the start: a growing buffer would leave copies behind.
        let blocks = octets.div_ceil(self.octets());
        let mut stream = Zeroizing::new(Vec::with_capacity(blocks * self.octets()));
        let mut block = KeyMaterial::new(Vec::new());
        for number in 1..=blocks {
            let number = [u8::try_from(number).ok()?];
            let parts: Vec<&[u8]> = [block.expose()]
                .into_iter()
                .chain(seed.iter().copied())
                .chain([number.as_slice()])
                .collect();
            block = self.apply(key, &parts);
            stream.extend_from_slice(block.expose());
        }
        stream.truncate(octets);
        Some(KeyMaterial::new(std::mem::take(&mut *stream)))
    }
}

impl IkeSa {
    /// SK_d, from which Child SAs' keys and the token key are made: as it stands
    /// in the context, or derived from the seed (RFC 7296 sections 2.14 and 2.18,
    /// RFC 9370 section 2.2.2). `None` for a pseudo-random function that this
    /// crate does not have, for a seed without shared secret, and for the seed of
    /// an IKEv1 SA, whose derivation is another one.
    pub fn sk_d(&self) -> Option<KeyMaterial> {
        match &self.secrets {
            IkeSecrets::Keys(keys) => Some(keys.sk_d.duplicate()),
            IkeSecrets::Seed { .. } => {
                self.key_stream(Prf::from_number(self.transforms.prf)?.octets())
            }
        }
    }

    /// The first `octets` of the stream that all keys of the SA are cut from, in
    /// the order SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr. `None` where
    /// [`IkeSa::sk_d`] is, for a context with ready keys, and for more octets than
    /// the stream has.
    pub fn key_stream(&self, octets: usize) -> Option<KeyMaterial> {
        let IkeSecrets::Seed { nonce_initiator, nonce_responder, shared, replaced } = &self.secrets
        else {
            return None;
        };
        if self.version != 2 {
            return None;
        }
        let prf = Prf::from_number(self.transforms.prf)?;
        let (initiator, responder) = (nonce_initiator.as_slice(), nonce_responder.as_slice());
        let (first, further) = shared.split_first()?;
        let spis = [self.spi_initiator.to_be_bytes(), self.spi_responder.to_be_bytes()];
        let [spi_initiator, spi_responder] = &spis;
        let expand = |seed: &KeyMaterial, octets| {
            let parts = [initiator, responder, spi_initiator.as_slice(), spi_responder.as_slice()];
            prf.expand(seed.expose(), &parts, octets)
        };
        let skeyseed = if let Some(replaced) = replaced {
            rekeyed_seed(replaced, first, [initiator, responder], further)?
        } else {
            let both = Zeroizing::new([initiator, responder].concat());
            let mut seed = prf.apply(&both, &[first.expose()]);
            // Each further exchange makes all keys anew from the SK_d before it.
            for secret in further {
                let sk_d = expand(&seed, prf.octets())?;
                seed = prf.apply(sk_d.expose(), &[secret.expose(), initiator, responder]);
            }
            seed
        };
        expand(&skeyseed, octets)
    }
}

/// A rekeying belongs to the old SA, so the old SA's function makes the seed; the
/// further exchanges of a rekeying go into that one seed.
fn rekeyed_seed(
    replaced: &ReplacedSa,
    first: &KeyMaterial,
    [initiator, responder]: [&[u8]; 2],
    further: &[KeyMaterial],
) -> Option<KeyMaterial> {
    let parts: Vec<&[u8]> = [first.expose(), initiator, responder]
        .into_iter()
        .chain(further.iter().map(KeyMaterial::expose))
        .collect();
    Some(Prf::from_number(replaced.prf)?.apply(replaced.sk_d.expose(), &parts))
}

#[cfg(test)]
mod tests;
