//! SAs to the kernel's messages.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_xfrm::{
    Address, AsyncEventId, EncapTmpl, Id, Mark as KernelMark, Replay, ReplayEsn, UserSaId,
    UserSaInfo, XFRM_MSG_DELSA, XFRM_MSG_GETAE, XFRM_MSG_GETSA, XFRM_MSG_NEWAE, XFRM_MSG_NEWSA,
    XFRM_STATE_ESN, XFRMA_ALG_AEAD, XFRMA_ALG_AUTH_TRUNC, XFRMA_ALG_CRYPT, XFRMA_ENCAP,
    XFRMA_IF_ID, XFRMA_LTIME_VAL, XFRMA_MARK, XFRMA_REPLAY_ESN_VAL, XFRMA_REPLAY_VAL,
    XFRMA_SA_EXTRA_FLAGS, XFRMA_SET_MARK, XFRMA_SET_MARK_MASK,
};
use protocol_spec::{
    context::{Mark, ReplayWindow},
    limits::MAX_REPLAY_WINDOW,
};

use super::{
    algorithm::Suite,
    convert::{family_of, limits_to, mode_number, protocol_number, selector_to, used_to},
    decode::ReplayForm,
    netlink::Message,
    sa::{Counters, KernelSa, SaId},
    window,
};

/// `UDP_ENCAP_ESPINUDP`, RFC 3948.
pub(super) const ESP_IN_UDP: u16 = 2;
/// Largest window that the legacy word holds.
const LEGACY_WINDOW: u32 = 32;
/// Octets of an algorithm's name.
const NAME_LEN: usize = 64;

/// NEWSA: the whole SA with its numbers and what is used of its lifetime. `now`
/// in seconds since 1970. `Err` says what the kernel cannot hold.
pub(super) fn new_sa(sa: &KernelSa, now: u64) -> Result<Message, String> {
    let mut message = Message::new(XFRM_MSG_NEWSA, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    message.body(&info(sa)?);
    algorithms(sa, &mut message)?;
    if let Some(ports) = &sa.encapsulation {
        message.structure(
            XFRMA_ENCAP,
            &EncapTmpl {
                encap_type: ESP_IN_UDP,
                encap_sport: ports.source,
                encap_dport: ports.destination,
                encap_oa: ports.original.as_ref().map(Address::from_ip).unwrap_or_default(),
            },
        );
    }
    mark(sa.id.mark, &mut message);
    if let Some(mark) = sa.output_mark {
        message.number(XFRMA_SET_MARK, mark.value).number(XFRMA_SET_MARK_MASK, mark.mask);
    }
    if let Some(id) = sa.if_id.filter(|id| *id != 0) {
        message.number(XFRMA_IF_ID, id);
    }
    if sa.flags.extra != 0 {
        message.number(XFRMA_SA_EXTRA_FLAGS, sa.flags.extra);
    }
    message.structure(XFRMA_LTIME_VAL, &used_to(&sa.counters, now));
    replay(&sa.counters, form(sa), &mut message)?;
    Ok(message)
}

/// DELSA.
pub(super) fn delete_sa(id: &SaId) -> Message {
    let mut message = Message::new(XFRM_MSG_DELSA, NLM_F_ACK);
    message.body(&user_sa_id(id));
    mark(id.mark, &mut message);
    message
}

/// GETSA.
pub(super) fn get_sa(id: &SaId) -> Message {
    let mut message = Message::new(XFRM_MSG_GETSA, NLM_F_ACK);
    message.body(&user_sa_id(id));
    mark(id.mark, &mut message);
    message
}

/// GETAE. Built by hand: the library's message has no attributes, and without
/// its mark a marked SA is not found.
pub(super) fn get_counters(id: &SaId) -> Message {
    let mut message = Message::new(XFRM_MSG_GETAE, NLM_F_ACK);
    message.body(&AsyncEventId { sa_id: user_sa_id(id), ..AsyncEventId::default() });
    mark(id.mark, &mut message);
    message
}

/// NEWAE for an SA that the kernel holds in this form.
pub(super) fn set_counters(
    id: &SaId,
    counters: &Counters,
    form: ReplayForm,
    now: u64,
) -> Result<Message, String> {
    let mut message = Message::new(XFRM_MSG_NEWAE, NLM_F_ACK | NLM_F_REPLACE);
    message.body(&AsyncEventId { sa_id: user_sa_id(id), ..AsyncEventId::default() });
    mark(id.mark, &mut message);
    replay(counters, form, &mut message)?;
    message.structure(XFRMA_LTIME_VAL, &used_to(counters, now));
    Ok(message)
}

pub(super) fn user_sa_id(id: &SaId) -> UserSaId {
    UserSaId {
        daddr: Address::from_ip(&id.destination),
        spi: id.spi,
        family: family_of(&id.destination),
        proto: protocol_number(id.protocol),
    }
}

pub(super) fn mark(mark: Option<Mark>, message: &mut Message) {
    if let Some(Mark { value, mask }) = mark {
        message.structure(XFRMA_MARK, &KernelMark { value, mask });
    }
}

/// In which of the two forms the kernel will hold this SA's window.
fn form(sa: &KernelSa) -> ReplayForm {
    if sa.esn || sa.window_size > LEGACY_WINDOW {
        ReplayForm::Ring { size: sa.window_size, words: window::words(sa.window_size), esn: sa.esn }
    } else {
        ReplayForm::Legacy { size: Some(sa.window_size) }
    }
}

fn info(sa: &KernelSa) -> Result<UserSaInfo, String> {
    let family = family_of(&sa.id.destination);
    if family != family_of(&sa.source) {
        return Err("an SA from one address family to the other".into());
    }
    // Without a selector its family is open: the kernel takes the SA's own, or
    // leaves it open with AF_UNSPEC.
    let selector = match &sa.selector {
        None => Default::default(),
        Some(only) => selector_to(&only.source, &only.destination, only.protocol, only.interface)?,
    };
    let ring = matches!(form(sa), ReplayForm::Ring { .. });
    Ok(UserSaInfo {
        selector,
        id: Id {
            daddr: Address::from_ip(&sa.id.destination),
            spi: sa.id.spi,
            proto: protocol_number(sa.id.protocol),
        },
        saddr: Address::from_ip(&sa.source),
        lifetime_cfg: limits_to(&sa.lifetime),
        reqid: sa.reqid,
        family,
        mode: mode_number(sa.mode),
        // The kernel refuses a legacy window beside a ring.
        replay_window: if ring { 0 } else { sa.window_size as u8 },
        flags: sa.flags.bits & !XFRM_STATE_ESN | if sa.esn { XFRM_STATE_ESN } else { 0 },
        ..UserSaInfo::default()
    })
}

/// The algorithms with their keys, written straight into the message's own
/// buffer, which is wiped.
fn algorithms(sa: &KernelSa, message: &mut Message) -> Result<(), String> {
    let transforms = &sa.transforms;
    let unknown = |what: &str| {
        format!(
            "{what} (encryption {}, key bits {}, integrity {})",
            transforms.encryption, transforms.key_bits, transforms.integrity
        )
    };
    let suite = Suite::of(sa.id.protocol, transforms).map_err(unknown)?;
    let (encryption, integrity) = suite.key_lengths(transforms.key_bits).map_err(unknown)?;
    if (sa.keys.encryption.len(), sa.keys.integrity.len()) != (encryption, integrity) {
        return Err(format!(
            "keys of {} and {} octets where its transforms have {encryption} and {integrity}",
            sa.keys.encryption.len(),
            sa.keys.integrity.len()
        ));
    }
    match suite {
        Suite::Aead(aead) => {
            let key = sa.keys.encryption.expose();
            message.attribute_of(
                XFRMA_ALG_AEAD,
                &[&name(aead.name), &bits(key), &aead.icv_bits.to_ne_bytes(), key],
            );
        }
        Suite::Pair(cipher, hash) => {
            if let Some(hash) = hash {
                let key = sa.keys.integrity.expose();
                let truncated = hash.truncated_bits.to_ne_bytes();
                message.attribute_of(
                    XFRMA_ALG_AUTH_TRUNC,
                    &[&name(hash.name), &bits(key), &truncated, key],
                );
            }
            if let Some(cipher) = cipher {
                let key = sa.keys.encryption.expose();
                message.attribute_of(XFRMA_ALG_CRYPT, &[&name(cipher.name), &bits(key), key]);
            }
        }
    }
    Ok(())
}

/// The numbers in the form that the kernel holds.
fn replay(counters: &Counters, form: ReplayForm, message: &mut Message) -> Result<(), String> {
    let highest = counters.window.highest.max(counters.sequence);
    match form {
        ReplayForm::Legacy { size } => {
            if highest > u64::from(u32::MAX) {
                return Err(format!("number {highest} in an SA without ESN"));
            }
            let size = size.unwrap_or(LEGACY_WINDOW);
            let window = fitted(&counters.window, size)?;
            message.structure(
                XFRMA_REPLAY_VAL,
                &Replay {
                    oseq: counters.sequence as u32,
                    seq: window.highest as u32,
                    bitmap: window::to_legacy(&window),
                },
            );
        }
        ReplayForm::Ring { size, words, esn } => {
            if size == 0 {
                return Err("ESN without a replay window: give it 32 packets or more".into());
            }
            if size > MAX_REPLAY_WINDOW {
                return Err(format!("a replay window of {size} packets: 4096 is the most"));
            }
            if !esn && highest > u64::from(u32::MAX) {
                return Err(format!("number {highest} in an SA without ESN"));
            }
            let window = fitted(&counters.window, size)?;
            let (seq_hi, seq) = halves(window.highest);
            let (oseq_hi, oseq) = halves(counters.sequence);
            message.structure(
                XFRMA_REPLAY_ESN_VAL,
                &ReplayEsn {
                    bmp_len: words as u32,
                    oseq,
                    seq,
                    oseq_hi,
                    seq_hi,
                    replay_window: size,
                    bmp: window::to_ring(&window, words),
                },
            );
        }
    }
    Ok(())
}

fn fitted(from: &ReplayWindow, size: u32) -> Result<ReplayWindow, String> {
    if from.bitmap.len() != window::words(from.size) {
        return Err(format!(
            "a replay window of {} packets with a bitmap of {} words",
            from.size,
            from.bitmap.len()
        ));
    }
    Ok(if from.size == size { from.clone() } else { window::resized(from, size) })
}

fn halves(number: u64) -> (u32, u32) {
    ((number >> 32) as u32, number as u32)
}

fn name(name: &str) -> [u8; NAME_LEN] {
    let mut octets = [0; NAME_LEN];
    octets[..name.len()].copy_from_slice(name.as_bytes());
    octets
}

fn bits(key: &[u8]) -> [u8; 4] {
    (key.len() as u32 * 8).to_ne_bytes()
}
