//! What transforms the kernel has: found out by installing an SA of each and
//! deleting it. A list such as `/proc/crypto` would not do: it has only what was
//! used before, and says nothing of ESP and AH.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use protocol_spec::{
    context::{ChildTransforms, LifetimeLimit, Mode, Protocol, SaKeys},
    key::KeyMaterial,
};

use super::{
    algorithm::{AEADS, CIPHERS, INTEGRITIES, Suite},
    error::XfrmError,
    kernel::Kernel,
    sa::{KernelSa, Limits, SaFlags, SaId},
};

/// To where the SAs of the probe go: TEST-NET-1 of RFC 5737, which no host has.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);
/// Reserved by IANA and never seen in a packet (RFC 4303 section 2.1), so that no
/// IKE daemon chooses it.
const RESERVED_SPIS: std::ops::RangeInclusive<u32> = 1..=255;
/// After which the kernel deletes what a killed process left.
const LEFTOVER: Duration = Duration::from_secs(2);

/// The transforms that a kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transforms {
    supported: BTreeSet<(Protocol, u16, u16, u16)>,
    missing: BTreeMap<Protocol, XfrmError>,
}

impl Transforms {
    /// Whether the kernel has these.
    pub fn has(&self, protocol: Protocol, transforms: &ChildTransforms) -> bool {
        let bits = normal_bits(protocol, transforms);
        let ChildTransforms { encryption, integrity, .. } = *transforms;
        self.supported.contains(&(protocol, encryption, bits, integrity))
    }

    /// All that it has.
    pub fn iter(&self) -> impl Iterator<Item = (Protocol, ChildTransforms)> + '_ {
        self.supported.iter().map(|(protocol, encryption, key_bits, integrity)| {
            let (encryption, key_bits, integrity) = (*encryption, *key_bits, *integrity);
            (*protocol, ChildTransforms { encryption, key_bits, integrity })
        })
    }

    /// All that it has by number (encryption, key bits, integrity), as a
    /// gateway's capabilities list them. Where a cipher has one key length it
    /// stands there with that length and with 0, for IKE may say either.
    pub fn numbers(&self) -> BTreeSet<(u16, u16, u16)> {
        self.iter()
            .flat_map(|(_, of)| {
                let only = CIPHERS
                    .iter()
                    .map(|cipher| (cipher.number, cipher.key_bits))
                    .chain(AEADS.iter().map(|aead| (aead.number, aead.key_bits)))
                    .find(|(number, _)| *number == of.encryption)
                    .and_then(|(_, bits)| if let [only] = bits { Some(*only) } else { None });
                let with = |bits| (of.encryption, bits, of.integrity);
                [with(of.key_bits), with(only.unwrap_or(of.key_bits))]
            })
            .collect()
    }

    /// What the kernel said where it has nothing at all for this protocol, with
    /// the cure; `None` where it has something.
    pub fn missing(&self, protocol: Protocol) -> Option<&XfrmError> {
        self.missing.get(&protocol)
    }
}

impl Kernel {
    /// Finds out what transforms the kernel has. Takes some milliseconds, and
    /// longer the first time, when modules are loaded: ask once and keep it.
    ///
    /// # Errors
    /// [`XfrmError::NotPermitted`], or that the kernel cannot be asked.
    pub fn transforms(&mut self) -> Result<Transforms, XfrmError> {
        let mut found = Transforms::default();
        let candidates = candidates();
        // The SPIs of the range are enough for some at a time.
        let spis: Vec<u32> = RESERVED_SPIS.collect();
        for some in candidates.chunks(spis.len()) {
            let sas: Vec<KernelSa> = some
                .iter()
                .zip(&spis)
                .filter_map(|((protocol, transforms), spi)| trial(*protocol, transforms, *spi))
                .collect();
            let installed = self.install(&sas);
            let there: Vec<SaId> = sas
                .iter()
                .zip(&installed)
                .filter(|(_, result)| result.is_ok())
                .map(|(sa, _)| sa.id)
                .collect();
            self.remove(&there);
            for (sa, result) in sas.iter().zip(installed) {
                let ChildTransforms { encryption, key_bits, integrity } = sa.transforms;
                match result {
                    // Another process probes at the same moment: it is known then.
                    Ok(()) | Err(XfrmError::Exists(_)) => {
                        found.supported.insert((sa.id.protocol, encryption, key_bits, integrity));
                    }
                    Err(error @ (XfrmError::NotPermitted(_) | XfrmError::NoXfrm(_))) => {
                        return Err(error);
                    }
                    // The kernel looks for algorithms first: that it has no ESP
                    // shows where it has those.
                    Err(error) => {
                        let known = found.missing.entry(sa.id.protocol);
                        let known = known.or_insert_with(|| error.clone());
                        if matches!(known, XfrmError::NoTransform(_)) {
                            *known = error;
                        }
                    }
                }
            }
        }
        let Transforms { supported, missing } = &mut found;
        missing.retain(|protocol, _| !supported.iter().any(|(of, ..)| of == protocol));
        Ok(found)
    }
}

/// Every combination of the table.
pub(super) fn candidates() -> Vec<(Protocol, ChildTransforms)> {
    let bits = |allowed: &'static [u16]| match allowed {
        [_] => &[0],
        several => several,
    };
    let mut all = Vec::new();
    for aead in AEADS {
        for key_bits in bits(aead.key_bits) {
            all.push((Protocol::Esp, aead.number, *key_bits, 0));
        }
    }
    for integrity in INTEGRITIES {
        all.push((Protocol::Ah, 0, 0, integrity.number));
        for cipher in CIPHERS {
            for key_bits in bits(cipher.key_bits) {
                all.push((Protocol::Esp, cipher.number, *key_bits, integrity.number));
            }
        }
    }
    all.into_iter()
        .map(|(protocol, encryption, key_bits, integrity)| {
            (protocol, ChildTransforms { encryption, key_bits, integrity })
        })
        .collect()
}

/// An SA that carries nothing and goes nowhere. Its keys are of use to nobody:
/// they differ only because 3DES wants three that do.
fn trial(protocol: Protocol, transforms: &ChildTransforms, spi: u32) -> Option<KernelSa> {
    let suite = Suite::of(protocol, transforms).ok()?;
    let (encryption, integrity) = suite.key_lengths(transforms.key_bits).ok()?;
    let key = |octets: usize| KeyMaterial::new((0..octets).map(|octet| octet as u8).collect());
    let id = SaId { destination: NOWHERE.into(), spi, protocol, mark: None };
    let keys = SaKeys { encryption: key(encryption), integrity: key(integrity) };
    Some(KernelSa {
        mode: Mode::Transport,
        lifetime: Limits {
            hard: LifetimeLimit { age: Some(LEFTOVER), ..LifetimeLimit::default() },
            ..Limits::default()
        },
        flags: SaFlags::NONE,
        ..KernelSa::new(id, NOWHERE.into(), transforms.clone(), keys)
    })
}

/// Key bits as the table has them: 0 where the cipher has one length.
fn normal_bits(protocol: Protocol, transforms: &ChildTransforms) -> u16 {
    let allowed = match Suite::of(protocol, transforms) {
        Ok(Suite::Aead(aead)) => aead.key_bits,
        Ok(Suite::Pair(Some(cipher), _)) => cipher.key_bits,
        _ => return 0,
    };
    match allowed {
        [only] if transforms.key_bits == *only => 0,
        _ => transforms.key_bits,
    }
}
