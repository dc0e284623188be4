//! The kernel's messages to SAs. Nothing here is longer than what came: each
//! structure is read from its own octets, and a key is copied once, into a buffer
//! that is wiped.

use std::net::IpAddr;

use netlink_packet_xfrm::{
    AsyncEventId, EncapTmpl, Lifetime as KernelLifetime, Mark as KernelMark, Replay, ReplayEsn,
    Selector as KernelSelector, UserSaInfo, XFRM_ASYNC_EVENT_ID_LEN, XFRM_STATE_ESN,
    XFRM_USER_SA_INFO_LEN, XFRMA_ALG_AEAD, XFRMA_ALG_AUTH, XFRMA_ALG_AUTH_TRUNC, XFRMA_ALG_COMP,
    XFRMA_ALG_CRYPT, XFRMA_COADDR, XFRMA_ENCAP, XFRMA_IF_ID, XFRMA_LTIME_VAL, XFRMA_MARK,
    XFRMA_MTIMER_THRESH, XFRMA_OFFLOAD_DEV, XFRMA_REPLAY_ESN_VAL, XFRMA_REPLAY_VAL,
    XFRMA_SA_EXTRA_FLAGS, XFRMA_SEC_CTX, XFRMA_SET_MARK, XFRMA_SET_MARK_MASK, XFRMA_TFCPAD,
};
use protocol_spec::{
    context::{ChildTransforms, Mark, SaKeys},
    key::KeyMaterial,
};

use super::{
    algorithm::{AEADS, CIPHERS, INTEGRITIES, key_bits},
    convert::{
        address_from, ages_from, is_any, limits_from, mark_from, mode_from, protocol_from,
        selector_from,
    },
    encode::ESP_IN_UDP,
    netlink::{Attributes, Malformed},
    sa::{Counters, Encapsulation, KernelSa, SaFlags, SaId},
    window,
};

/// How the kernel holds an SA's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayForm {
    /// One word; the size is not told by the events.
    Legacy {
        /// Packets in the window, where known.
        size: Option<u32>,
    },
    /// A ring, with or without ESN.
    Ring {
        /// Packets in the window.
        size: u32,
        /// Words of the ring, which may be more than the window needs.
        words: usize,
        /// Whether the SA has, or may have, ESN: events do not tell.
        esn: bool,
    },
}

/// An entry of the kernel's table that is not ours to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its SPI, 0 where it has none.
    pub spi: u32,
    /// Its destination, where it is an IP address.
    pub destination: Option<IpAddr>,
    /// Why not.
    pub reason: &'static str,
}

/// Why a message is no SA of ours.
pub(crate) enum NotOurs {
    Foreign(Foreign),
    Malformed(Malformed),
}

impl From<Malformed> for NotOurs {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What stands in the attributes of an SA's message.
#[derive(Default)]
struct Parts<'a> {
    aead: Option<&'a [u8]>,
    cipher: Option<&'a [u8]>,
    hash: Option<&'a [u8]>,
    hash_truncated: Option<&'a [u8]>,
    encapsulation: Option<EncapTmpl>,
    mark: Option<Mark>,
    set_mark: Option<u32>,
    set_mark_mask: Option<u32>,
    if_id: Option<u32>,
    extra_flags: u32,
    used: Option<KernelLifetime>,
    replay: Option<Replay>,
    ring: Option<ReplayEsn>,
    compressed: bool,
    not_carried: Vec<&'static str>,
}

/// The name and interface of an SA beside its body: mark and `if_id`.
pub(super) fn mark_and_interface(
    attributes: Attributes<'_>,
) -> Result<(Option<Mark>, Option<u32>), Malformed> {
    let mut parts = Parts::default();
    for one in attributes {
        let (kind, value) = one?;
        if matches!(kind, XFRMA_MARK | XFRMA_IF_ID) {
            parts.take(kind, value)?;
        }
    }
    Ok((parts.mark, parts.if_id))
}

/// NEWSA: an SA.
pub(super) fn sa(payload: &[u8], now: u64) -> Result<KernelSa, NotOurs> {
    let info = sa_info(payload)?;
    let parts = Parts::of(Attributes::after(payload, XFRM_USER_SA_INFO_LEN)?)?;
    let destination = address_from(info.family, &info.id.daddr);
    let foreign = |reason| Foreign { spi: info.id.spi, destination, reason };
    build(&info, parts, now).map_err(|reason| NotOurs::Foreign(foreign(reason)))
}

/// The fixed part of NEWSA.
pub(super) fn sa_info(payload: &[u8]) -> Result<UserSaInfo, Malformed> {
    UserSaInfo::parse(payload).map_err(|_| Malformed("an SA that is too short"))
}

/// The name of an SA from the fixed part and its mark.
pub(super) fn id_of(info: &UserSaInfo, mark: Option<Mark>) -> Option<SaId> {
    Some(SaId {
        destination: address_from(info.family, &info.id.daddr)?,
        spi: info.id.spi,
        protocol: protocol_from(info.id.proto)?,
        mark,
    })
}

/// Whether a NEWSA is a larval SA: an SPI that is reserved and no more.
pub(super) fn is_larval(payload: &[u8]) -> Result<bool, Malformed> {
    let parts = Parts::of(Attributes::after(payload, XFRM_USER_SA_INFO_LEN)?)?;
    Ok(parts.aead.is_none()
        && parts.cipher.is_none()
        && parts.hash.is_none()
        && parts.hash_truncated.is_none()
        && !parts.compressed)
}

/// Whether a NEWSA has extended sequence numbers.
pub(super) fn has_esn(payload: &[u8]) -> Result<bool, Malformed> {
    Ok(sa_info(payload)?.flags & XFRM_STATE_ESN != 0)
}

/// What a NEWAE says.
pub(super) struct Event {
    /// Which SA; `None` for one that is neither ESP nor AH.
    pub id: Option<SaId>,
    pub reqid: u32,
    pub flags: u32,
    pub form: ReplayForm,
    pub counters: Counters,
}

/// NEWAE: the counters of an SA.
pub(super) fn event(payload: &[u8], now: u64) -> Result<Event, Malformed> {
    let head =
        AsyncEventId::parse(payload).map_err(|_| Malformed("counters that are too short"))?;
    let parts = Parts::of(Attributes::after(payload, XFRM_ASYNC_EVENT_ID_LEN)?)?;
    let (form, mut counters) = parts.counters(None)?;
    let used = parts.used.unwrap_or_default();
    (counters.octets, counters.packets) = (used.bytes, used.packets);
    (counters.age, counters.since_first_use) = ages_from(&used, now);
    Ok(Event {
        id: sa_id(&head.sa_id, parts.mark),
        reqid: head.reqid,
        flags: head.flags,
        form,
        counters,
    })
}

/// A name in the kernel's form.
pub(super) fn sa_id(id: &netlink_packet_xfrm::UserSaId, mark: Option<Mark>) -> Option<SaId> {
    Some(SaId {
        destination: address_from(id.family, &id.daddr)?,
        spi: id.spi,
        protocol: protocol_from(id.proto)?,
        mark,
    })
}

fn build(info: &UserSaInfo, mut parts: Parts<'_>, now: u64) -> Result<KernelSa, &'static str> {
    if parts.compressed {
        return Err("an IPComp SA");
    }
    let id = id_of(info, parts.mark).ok_or("neither ESP nor AH")?;
    let mode = mode_from(info.mode).ok_or("a mode that is not tunnel, transport or BEET")?;
    let (transforms, keys) = parts.algorithms()?;
    let esn = info.flags & XFRM_STATE_ESN != 0;
    let legacy_size = u32::from(info.replay_window).min(32);
    let (form, mut counters) =
        parts.counters(Some(legacy_size)).map_err(|_| "a replay window of a wrong length")?;
    let window_size = match form {
        ReplayForm::Ring { size, .. } => size,
        ReplayForm::Legacy { .. } => legacy_size,
    };
    // A dump tells what is used in its fixed part.
    let used = parts.used.unwrap_or(info.lifetime_cur);
    (counters.octets, counters.packets) = (used.bytes, used.packets);
    (counters.age, counters.since_first_use) = ages_from(&used, now);
    let encapsulation = match parts.encapsulation {
        None => None,
        Some(template) if template.encap_type == ESP_IN_UDP => Some(Encapsulation {
            source: template.encap_sport,
            destination: template.encap_dport,
            original: address_from(info.family, &template.encap_oa)
                .filter(|address| !address.is_unspecified()),
        }),
        Some(_) => return Err("an encapsulation that is not ESP in UDP"),
    };
    let output_mark = match (parts.set_mark, parts.set_mark_mask) {
        (None, None) => None,
        (value, mask) => mark_from(value.unwrap_or_default(), mask.unwrap_or(u32::MAX)),
    };
    Ok(KernelSa {
        selector: selector(&info.selector, info.family)?,
        id,
        source: address_from(info.family, &info.saddr).ok_or("no IP source address")?,
        reqid: info.reqid,
        mode,
        transforms,
        keys,
        esn,
        counters,
        window_size,
        encapsulation,
        if_id: parts.if_id.filter(|id| *id != 0),
        output_mark,
        lifetime: limits_from(&info.lifetime_cfg),
        flags: SaFlags { bits: info.flags & !XFRM_STATE_ESN, extra: parts.extra_flags },
        not_carried: std::mem::take(&mut parts.not_carried),
    })
}

/// The SA's selector; `None` where it lets everything of its family (or, with
/// `AF_UNSPEC`, of both) through.
fn selector(
    kernel: &KernelSelector,
    family: u16,
) -> Result<Option<super::sa::SaSelector>, &'static str> {
    if (kernel.family == 0 || kernel.family == family) && is_any(kernel) {
        return Ok(None);
    }
    selector_from(kernel).map(Some)
}

impl<'a> Parts<'a> {
    fn of(attributes: Attributes<'a>) -> Result<Self, Malformed> {
        let mut parts = Self::default();
        for one in attributes {
            let (kind, value) = one?;
            parts.take(kind, value)?;
        }
        Ok(parts)
    }

    fn take(&mut self, kind: u16, value: &'a [u8]) -> Result<(), Malformed> {
        let short = |_| Malformed("an attribute that is too short");
        match kind {
            XFRMA_ALG_AEAD => self.aead = Some(value),
            XFRMA_ALG_CRYPT => self.cipher = Some(value),
            XFRMA_ALG_AUTH => self.hash = Some(value),
            XFRMA_ALG_AUTH_TRUNC => self.hash_truncated = Some(value),
            XFRMA_ALG_COMP => self.compressed = true,
            XFRMA_ENCAP => self.encapsulation = Some(EncapTmpl::parse(value).map_err(short)?),
            XFRMA_MARK => {
                let mark = KernelMark::parse(value).map_err(short)?;
                self.mark = mark_from(mark.value, mark.mask);
            }
            XFRMA_SET_MARK => self.set_mark = Some(number(value)?),
            XFRMA_SET_MARK_MASK => self.set_mark_mask = Some(number(value)?),
            XFRMA_IF_ID => self.if_id = Some(number(value)?),
            XFRMA_SA_EXTRA_FLAGS => self.extra_flags = number(value)?,
            XFRMA_LTIME_VAL => self.used = Some(KernelLifetime::parse(value).map_err(short)?),
            XFRMA_REPLAY_VAL => self.replay = Some(Replay::parse(value).map_err(short)?),
            XFRMA_REPLAY_ESN_VAL => self.ring = Some(ReplayEsn::parse(value).map_err(short)?),
            XFRMA_TFCPAD => self.not_carried.push("traffic flow confidentiality padding"),
            XFRMA_COADDR => self.not_carried.push("a Mobile IPv6 care-of address"),
            XFRMA_SEC_CTX => self.not_carried.push("a security context"),
            XFRMA_OFFLOAD_DEV => self.not_carried.push("hardware offload"),
            XFRMA_MTIMER_THRESH => self.not_carried.push("a mapping threshold"),
            _ => {}
        }
        Ok(())
    }

    /// The numbers, and in which form they came.
    fn counters(&self, legacy_size: Option<u32>) -> Result<(ReplayForm, Counters), Malformed> {
        let (form, sequence, window) = match (&self.ring, &self.replay) {
            (Some(ring), _) => {
                let (size, words) = (ring.replay_window, ring.bmp_len as usize);
                if words != ring.bmp.len() || window::words(size) > words {
                    return Err(Malformed("a replay window of a wrong length"));
                }
                let highest = u64::from(ring.seq_hi) << 32 | u64::from(ring.seq);
                let sequence = u64::from(ring.oseq_hi) << 32 | u64::from(ring.oseq);
                (
                    ReplayForm::Ring { size, words, esn: true },
                    sequence,
                    window::from_ring(size, highest, &ring.bmp),
                )
            }
            (None, replay) => {
                let replay = replay.unwrap_or_default();
                let size = legacy_size.unwrap_or(32);
                (
                    ReplayForm::Legacy { size: legacy_size },
                    u64::from(replay.oseq),
                    window::from_legacy(size, replay.seq, replay.bitmap),
                )
            }
        };
        Ok((form, Counters { sequence, window, ..Counters::new(0) }))
    }

    fn algorithms(&self) -> Result<(ChildTransforms, SaKeys), &'static str> {
        let none = || KeyMaterial::new(Vec::new());
        if let Some(octets) = self.aead {
            let Algorithm { name, key, bits } = algorithm(octets, true)?;
            let aead = AEADS
                .iter()
                .find(|aead| aead.name.as_bytes() == name && Some(aead.icv_bits) == bits)
                .ok_or("an AEAD cipher that has no number here")?;
            let key_bits = key_bits(aead.key_bits, aead.salt, key.len())
                .ok_or("an AEAD key of a strange length")?;
            let transforms = ChildTransforms { encryption: aead.number, key_bits, integrity: 0 };
            let keys = SaKeys { encryption: KeyMaterial::new(key.to_vec()), integrity: none() };
            return Ok((transforms, keys));
        }
        let mut transforms = ChildTransforms { encryption: 0, key_bits: 0, integrity: 0 };
        let mut keys = SaKeys { encryption: none(), integrity: none() };
        if let Some(octets) = self.cipher {
            let Algorithm { name, key, .. } = algorithm(octets, false)?;
            let cipher = CIPHERS
                .iter()
                .find(|cipher| cipher.name.as_bytes() == name)
                .ok_or("a cipher that has no number here")?;
            transforms.encryption = cipher.number;
            transforms.key_bits = key_bits(cipher.key_bits, cipher.salt, key.len())
                .ok_or("an encryption key of a strange length")?;
            keys.encryption = KeyMaterial::new(key.to_vec());
        }
        if let Some(octets) = self.hash_truncated {
            let Algorithm { name, key, bits } = algorithm(octets, true)?;
            let hash = INTEGRITIES
                .iter()
                .find(|hash| {
                    hash.name.as_bytes() == name
                        && Some(hash.truncated_bits) == bits
                        && hash.key == key.len()
                })
                .ok_or("an integrity algorithm that has no number here")?;
            transforms.integrity = hash.number;
            keys.integrity = KeyMaterial::new(key.to_vec());
        } else if self.hash.is_some() {
            return Err("an integrity algorithm without its truncation");
        }
        if transforms.encryption == 0 && transforms.integrity == 0 {
            return Err("only reserved, without keys");
        }
        Ok((transforms, keys))
    }
}

/// An algorithm as the kernel lays it out.
struct Algorithm<'a> {
    name: &'a [u8],
    key: &'a [u8],
    /// Bits of the ICV or of the truncated hash, where they are told.
    bits: Option<u32>,
}

fn algorithm(octets: &[u8], with_bits: bool) -> Result<Algorithm<'_>, &'static str> {
    const SHORT: &str = "an algorithm that is too short";
    let (name, rest) = octets.split_at_checked(64).ok_or(SHORT)?;
    let name = name.split(|octet| *octet == 0).next().unwrap_or_default();
    let (key_bits, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    let (bits, rest) = if with_bits {
        let (bits, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
        (Some(u32::from_ne_bytes(*bits)), rest)
    } else {
        (None, rest)
    };
    let key = rest.get(..u32::from_ne_bytes(*key_bits).div_ceil(8) as usize).ok_or(SHORT)?;
    Ok(Algorithm { name, key, bits })
}

fn number(value: &[u8]) -> Result<u32, Malformed> {
    value
        .first_chunk::<4>()
        .map(|octets| u32::from_ne_bytes(*octets))
        .ok_or(Malformed("an attribute that is too short"))
}
