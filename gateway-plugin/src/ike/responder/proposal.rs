//! The SA payload (RFC 7296 section 3.3): reading what is offered, choosing one.

use crate::ike::IkeError;

/// Most proposals and transforms that are read.
const MAX_ENTRIES: usize = 255;
/// The Key Length attribute, short form.
const KEY_LENGTH: [u8; 2] = [0x80, 0x0e];

/// A transform by its IANA numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transform {
    /// 1 encryption, 2 PRF, 3 integrity, 4 key exchange, 5 sequence numbers.
    pub(super) kind: u8,
    pub(super) id: u16,
    /// Key length attribute, 0 if there is none.
    pub(super) key_bits: u16,
}

impl Transform {
    pub(super) const fn new(kind: u8, id: u16, key_bits: u16) -> Self {
        Self { kind, id, key_bits }
    }
}

/// One proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) number: u8,
    /// 1 IKE, 3 ESP.
    pub(super) protocol: u8,
    pub(super) spi: Vec<u8>,
    pub(super) transforms: Vec<Transform>,
}

/// All proposals in the body of an SA payload.
pub(super) fn read(body: &[u8]) -> Result<Vec<Proposal>, IkeError> {
    let short = IkeError::Malformed("an SA payload is too short");
    let (mut proposals, mut rest) = (Vec::new(), body);
    while !rest.is_empty() && proposals.len() < MAX_ENTRIES {
        let (entry, after) = cut(rest)?;
        let (&[_, _, _, _, number, protocol, spi, _], inner) =
            entry.split_first_chunk::<8>().ok_or(short)?;
        let (spi, inner) = inner.split_at_checked(usize::from(spi)).ok_or(short)?;
        let transforms = read_transforms(inner)?;
        proposals.push(Proposal { number, protocol, spi: spi.to_vec(), transforms });
        rest = after;
    }
    Ok(proposals)
}

fn read_transforms(octets: &[u8]) -> Result<Vec<Transform>, IkeError> {
    let short = IkeError::Malformed("a transform is too short");
    let (mut transforms, mut rest) = (Vec::new(), octets);
    while !rest.is_empty() && transforms.len() < MAX_ENTRIES {
        let (entry, after) = cut(rest)?;
        let (&[_, _, _, _, kind, _, high, low], attributes) =
            entry.split_first_chunk::<8>().ok_or(short)?;
        // No other attribute is in use, so none stands before it.
        let key_bits = match attributes {
            [a, b, high, low, ..] if [*a, *b] == KEY_LENGTH => u16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        transforms.push(Transform { kind, id: u16::from_be_bytes([high, low]), key_bits });
        rest = after;
    }
    Ok(transforms)
}

/// Proposals and transforms both have their length in octets 2 and 3.
fn cut(octets: &[u8]) -> Result<(&[u8], &[u8]), IkeError> {
    let short = IkeError::Malformed("a length in an SA payload");
    let &[_, _, high, low] = octets.first_chunk::<4>().ok_or(short)?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < 8 {
        return Err(short);
    }
    octets.split_at_checked(length).ok_or(short)
}

/// The first of our `wanted` sets that a proposal offers, with that proposal's
/// number. A proposal that wants a further kind of transform does not fit.
pub(super) fn choose(offered: &[Proposal], wanted: &[&[Transform]]) -> Option<Proposal> {
    wanted.iter().find_map(|set| {
        let fits = |proposal: &&Proposal| {
            set.iter().all(|transform| proposal.transforms.contains(transform))
                && proposal
                    .transforms
                    .iter()
                    .all(|offered| set.iter().any(|transform| transform.kind == offered.kind))
        };
        offered
            .iter()
            .find(fits)
            .map(|found| Proposal { transforms: set.to_vec(), ..found.clone() })
    })
}

/// The body of an SA payload with this one proposal.
pub(super) fn write(proposal: &Proposal) -> Vec<u8> {
    let mut transforms = Vec::new();
    for (index, transform) in proposal.transforms.iter().enumerate() {
        let more = if index + 1 < proposal.transforms.len() { 3 } else { 0 };
        let attribute = if transform.key_bits == 0 { 0 } else { 4 };
        transforms.extend_from_slice(&[more, 0, 0, 8 + attribute, transform.kind, 0]);
        transforms.extend_from_slice(&transform.id.to_be_bytes());
        if transform.key_bits != 0 {
            transforms.extend_from_slice(&KEY_LENGTH);
            transforms.extend_from_slice(&transform.key_bits.to_be_bytes());
        }
    }
    // We choose at most five transforms and SPIs of 4 octets: no length overflows.
    let length = (8 + proposal.spi.len() + transforms.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let (spi, count) = (proposal.spi.len() as u8, proposal.transforms.len() as u8);
    let mut body = vec![0, 0, high, low, proposal.number, proposal.protocol, spi, count];
    body.extend_from_slice(&proposal.spi);
    body.extend_from_slice(&transforms);
    body
}

#[cfg(test)]
mod tests;
