//! What a decoded context must still fulfil: the codec sees to octets and types,
//! this sees to bounds and to what belongs together.
//!
//! A target calls [`PctdEntry::check`] for each entry of a PCTD, and
//! [`Finals::check`] for each of a CTD, before anything else looks at them; one
//! that fails is refused with [`Status::BadContext`] and the others go on.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::{
    context::{
        ChildSa, ChildTransforms, Context, IkeKeys, IkeSa, IkeSecrets, Prefix, ReplayWindow, SaKeys,
    },
    ike_keys::Prf,
    key::KeyMaterial,
    limits::{
        MAX_CHILDREN, MAX_IDENTIFICATION, MAX_LIST, MAX_NONCE, MAX_REPLAY_WINDOW, MAX_RESPONSE,
        MAX_TEXT,
    },
    message::PctdEntry,
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, SaRef},
};

/// Why a context or its finals are not what a gateway can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadContext {
    /// Neither an IKE SA nor a Child SA.
    #[error("the session has neither an IKE SA nor a Child SA")]
    Empty,
    /// A list, a text or octets above their bound.
    #[error("{0} is longer than allowed")]
    TooLong(&'static str),
    /// A number outside its range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// Two Child SAs share protocol and inbound SPI.
    #[error("inbound SPI {:#010x} stands twice", .0.inbound_spi)]
    DuplicateSa(SaRef),
    /// The bitmap does not fit the window's size.
    #[error("the replay window of inbound SPI {:#010x} is inconsistent", .0.inbound_spi)]
    Window(SaRef),
    /// An SA without ESN has a number above 32 bits.
    #[error("inbound SPI {:#010x} has a number above 32 bits and no ESN", .0.inbound_spi)]
    Sequence(SaRef),
    /// More prefix bits than the address has.
    #[error("{}/{} has more bits than its address", .0.address, .0.bits)]
    Prefix(Prefix),
    /// A key that is not as long as its algorithm wants it.
    #[error("{0} has another length than its algorithm wants")]
    KeyLength(&'static str),
    /// Not exactly one usable granted range for the SA.
    #[error("the granted range of inbound SPI {:#010x} is missing or unusable", .0.inbound_spi)]
    Grant(SaRef),
    /// A granted range for an SA that the session does not have.
    #[error("a granted range for inbound SPI {:#010x}, which is not in the context", .0.inbound_spi)]
    StrayGrant(SaRef),
}

impl From<BadContext> for Refusal {
    fn from(bad: BadContext) -> Self {
        Self::new(Status::BadContext, format!("{bad}; the source wrote a faulty context"))
    }
}

type Checked = Result<(), BadContext>;

fn ensure(holds: bool, otherwise: BadContext) -> Checked {
    if holds { Ok(()) } else { Err(otherwise) }
}

impl PctdEntry {
    /// Whether the context is sound and the grants are those of its Child SAs.
    ///
    /// # Errors
    /// [`BadContext`] says what is not.
    pub fn check(&self) -> Checked {
        self.context.check()?;
        self.context.check_grants(&self.grants)
    }
}

impl Context {
    /// Whether bounds are kept and the parts fit together.
    ///
    /// # Errors
    /// [`BadContext`] says what is not.
    pub fn check(&self) -> Checked {
        ensure(self.ike.is_some() || !self.children.is_empty(), BadContext::Empty)?;
        //= spec CXTP-5.3-1
        ensure(self.children.len() <= MAX_CHILDREN, BadContext::TooLong("the list of Child SAs"))?;
        self.ike.as_ref().map_or(Ok(()), IkeSa::check)?;
        let mut seen = BTreeSet::new();
        for child in &self.children {
            //= spec CXTP-5.3-2
            ensure(seen.insert(child.sa()), BadContext::DuplicateSa(child.sa()))?;
            child.check()?;
        }
        Ok(())
    }

    /// Whether there is exactly one granted range for each Child SA, above what
    /// was used and not further away than a receiver follows.
    ///
    /// # Errors
    /// [`BadContext`] says for which SA not.
    pub fn check_grants(&self, grants: &[GrantedRange]) -> Checked {
        //= spec CXTP-6.6-1
        for child in &self.children {
            let mut own = grants.iter().filter(|grant| grant.sa == child.sa());
            let (Some(grant), None) = (own.next(), own.next()) else {
                return Err(BadContext::Grant(child.sa()));
            };
            ensure(child.may_use(grant), BadContext::Grant(child.sa()))?;
        }
        let stray = |grant: &&GrantedRange| !self.children.iter().any(|c| c.sa() == grant.sa);
        grants.iter().find(stray).map_or(Ok(()), |grant| Err(BadContext::StrayGrant(grant.sa)))
    }
}

impl IkeSa {
    fn check(&self) -> Checked {
        //= spec CXTP-5.2-1
        ensure(matches!(self.version, 1 | 2), BadContext::OutOfRange("the IKE version"))?;
        for (text, name) in [
            (self.configuration.as_str(), "the configuration's name"),
            (self.eap_identity.as_deref().unwrap_or_default(), "the EAP identity"),
        ] {
            ensure(text.len() <= MAX_TEXT, BadContext::TooLong(name))?;
        }
        ensure(
            self.native.as_ref().is_none_or(|native| native.dialect.len() <= MAX_TEXT),
            BadContext::TooLong("the name of a dialect"),
        )?;
        for id in [&self.local_id, &self.remote_id] {
            ensure(
                id.data.len() <= MAX_IDENTIFICATION,
                BadContext::TooLong("an identification payload"),
            )?;
        }
        ensure(
            self.virtual_ips.len() <= MAX_LIST && self.peer_addresses.len() <= MAX_LIST,
            BadContext::TooLong("a list of addresses"),
        )?;
        for ip in &self.virtual_ips {
            ensure(ip.pool.len() <= MAX_TEXT, BadContext::TooLong("a pool's name"))?;
        }
        self.check_secrets()
    }

    //= spec CXTP-5.2-2
    fn check_secrets(&self) -> Checked {
        match &self.secrets {
            IkeSecrets::Seed { nonce_initiator, nonce_responder, shared, replaced } => {
                ensure(
                    nonce_initiator.len() <= MAX_NONCE && nonce_responder.len() <= MAX_NONCE,
                    BadContext::TooLong("a nonce"),
                )?;
                // RFC 9370 has one key exchange and at most seven further ones.
                ensure(
                    (1..=8).contains(&shared.len()),
                    BadContext::OutOfRange("the key exchanges"),
                )?;
                let old = replaced.as_ref();
                old.map_or(Ok(()), |old| prf_key(old.prf, &old.sk_d, "the replaced SK_d"))
            }
            IkeSecrets::Keys(keys) => self.check_keys(keys),
        }
    }

    fn check_keys(&self, keys: &IkeKeys) -> Checked {
        let t = &self.transforms;
        prf_key(t.prf, &keys.sk_d, "SK_d")?;
        prf_key(t.prf, &keys.sk_pi, "SK_pi")?;
        prf_key(t.prf, &keys.sk_pr, "SK_pr")?;
        for (encryption, integrity) in [(&keys.sk_ei, &keys.sk_ai), (&keys.sk_er, &keys.sk_ar)] {
            encryption_key(t.encryption, t.key_bits, encryption, "SK_e")?;
            integrity_key(t.integrity, integrity, "SK_a")?;
        }
        Ok(())
    }
}

impl ChildSa {
    /// What names this pair of SAs.
    pub fn sa(&self) -> SaRef {
        SaRef { protocol: self.protocol, inbound_spi: self.inbound.spi }
    }

    fn check(&self) -> Checked {
        let sa = self.sa();
        ensure(
            self.inbound.spi != 0 && self.outbound.spi != 0,
            BadContext::OutOfRange("an SPI of a Child SA"),
        )?;
        ensure(
            self.configuration.len() <= MAX_TEXT,
            BadContext::TooLong("the name of a Child SA's configuration"),
        )?;
        //= spec CXTP-5.3-3
        ensure(self.inbound.window.is_sound(), BadContext::Window(sa))?;
        let widest = self.inbound.window.highest.max(self.outbound.sequence);
        //= spec CXTP-5.3-4
        ensure(self.esn || u32::try_from(widest).is_ok(), BadContext::Sequence(sa))?;
        ensure(self.policies.len() <= MAX_LIST, BadContext::TooLong("the list of policies"))?;
        for selector in self.policies.iter().flat_map(|p| [&p.source, &p.destination]) {
            //= spec CXTP-5.3-5
            ensure(selector.prefix.is_sound(), BadContext::Prefix(selector.prefix))?;
            ensure(
                selector.ports.0 <= selector.ports.1,
                BadContext::OutOfRange("a selector's range of ports"),
            )?;
        }
        if let Some(seed) = &self.seed {
            //= spec CXTP-5.3-7
            ensure(
                seed.nonce_initiator.len() <= MAX_NONCE && seed.nonce_responder.len() <= MAX_NONCE,
                BadContext::TooLong("a nonce"),
            )?;
            ensure(seed.shared.len() <= 8, BadContext::OutOfRange("the key exchanges"))?;
        }
        //= spec CXTP-5.3-6
        [&self.inbound.keys, &self.outbound.keys]
            .into_iter()
            .try_for_each(|keys| keys.check(&self.transforms))
    }

    /// Whether a range lies above what was used, below the end of the numbers and
    /// no further ahead than the end user's window follows.
    fn may_use(&self, grant: &GrantedRange) -> bool {
        let used = self.outbound.sequence;
        let reach = (1 << 32) - u64::from(MAX_REPLAY_WINDOW);
        grant.base > used
            && grant.end > grant.base
            && if self.esn { grant.base - used - 1 <= reach } else { grant.end <= 1 << 32 }
    }
}

impl Prefix {
    fn is_sound(self) -> bool {
        self.bits <= if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl ReplayWindow {
    /// Whether the bitmap has the words that the size wants, no bit beyond the
    /// size, and the size is not above [`MAX_REPLAY_WINDOW`].
    pub fn is_sound(&self) -> bool {
        let words = usize::try_from(self.size.div_ceil(32)).unwrap_or(usize::MAX);
        let spare = match self.size % 32 {
            0 => 0,
            bits => u32::MAX << bits,
        };
        self.size <= MAX_REPLAY_WINDOW
            && self.bitmap.len() == words
            && self.bitmap.last().is_none_or(|word| word & spare == 0)
    }
}

impl SaKeys {
    fn check(&self, transforms: &ChildTransforms) -> Checked {
        let ChildTransforms { encryption, key_bits, integrity } = *transforms;
        encryption_key(encryption, key_bits, &self.encryption, "the encryption key of a Child SA")?;
        integrity_key(integrity, &self.integrity, "the integrity key of a Child SA")
    }
}

impl Finals {
    /// Whether the counters are ones that a gateway can have.
    ///
    /// # Errors
    /// [`BadContext`] says what is not.
    pub fn check(&self) -> Checked {
        ensure(self.children.len() <= MAX_CHILDREN, BadContext::TooLong("the list of Child SAs"))?;
        let response = self.ike.as_ref().and_then(|ike| ike.last_response.as_ref());
        ensure(
            response.is_none_or(|octets| octets.len() <= MAX_RESPONSE),
            BadContext::TooLong("the last response"),
        )?;
        let mut seen = BTreeSet::new();
        for child in &self.children {
            ensure(seen.insert(child.sa), BadContext::DuplicateSa(child.sa))?;
            //= spec CXTP-5.4-1
            ensure(child.window.is_sound(), BadContext::Window(child.sa))?;
        }
        Ok(())
    }
}

fn octets(key: &KeyMaterial, wanted: Option<usize>, name: &'static str) -> Checked {
    ensure(wanted.is_none_or(|wanted| wanted == key.len()), BadContext::KeyLength(name))
}

fn prf_key(prf: u16, key: &KeyMaterial, name: &'static str) -> Checked {
    octets(key, Prf::from_number(prf).map(Prf::octets), name)
}

/// Checks a key with its salt against its transform (IKEv2 parameters, type 1);
/// an algorithm that is not in the list is the target's to judge.
fn encryption_key(transform: u16, bits: u16, key: &KeyMaterial, name: &'static str) -> Checked {
    let of = |salt: usize| usize::from(bits).div_ceil(8) + salt;
    let wanted = match transform {
        0 | 11 => 0,           // none, NULL
        3 => 24,               // 3DES
        12 => of(0),           // AES-CBC
        13 | 18..=21 => of(4), // AES-CTR, AES-GCM, AES-GMAC
        14..=16 => of(3),      // AES-CCM
        28 => 36,              // ChaCha20-Poly1305
        _ => return Ok(()),
    };
    octets(key, Some(wanted), name)
}

/// Checks a key against its transform (IKEv2 parameters, type 3).
fn integrity_key(transform: u16, key: &KeyMaterial, name: &'static str) -> Checked {
    let wanted = match transform {
        0 => 0,          // none, or part of the cipher
        1 | 5 | 8 => 16, // HMAC-MD5, AES-XCBC, AES-CMAC
        2 => 20,         // HMAC-SHA1
        12 => 32,        // HMAC-SHA2-256
        13 => 48,        // HMAC-SHA2-384
        14 => 64,        // HMAC-SHA2-512
        _ => return Ok(()),
    };
    octets(key, Some(wanted), name)
}

#[cfg(test)]
mod tests;
