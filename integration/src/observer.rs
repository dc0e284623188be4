//! A passive observer of the outer side: it sees every datagram between end users
//! and gateways and judges from the packets alone who owns a session and whether a
//! sequence number is used twice. It holds no key and asks nobody.
//!
//! What it reads of an ESP packet in UDP (RFC 3948, RFC 4303) are the SPI and the low
//! 32 bits of the sequence number. The high bits, which ESN does not send, follow from
//! the numbers seen before, as at a receiver.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

mod ranges;
#[cfg(test)]
mod tests;

pub use ranges::Ranges;

/// SAs that are tracked at most; packets of further ones are counted as untracked.
const MAX_SAS: usize = 4 << 20;

/// An end user on the wire: the number of its address.
pub type UserId = u32;
/// A gateway on the wire: its place in the list with which the wire was started.
pub type GatewayId = usize;

/// The SA towards an end user. The end user chose the SPI, so it is unique only
/// together with the end user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaOnWire {
    /// Whose.
    pub user: UserId,
    /// The SPI on the wire.
    pub spi: u32,
}

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// ESP packets from gateways to end users.
    pub to_users: u64,
    /// ESP packets from end users to gateways.
    pub to_gateways: u64,
    /// Datagrams that are no ESP: IKE, keepalives, anything else.
    pub not_esp: u64,
    /// Sequence numbers that any gateway sent more than once under one SA (I2).
    pub seq_reuse: u64,
    /// Packets that a gateway sent after another gateway had sent a higher number
    /// under the same SA: it still spoke for a session that it had given away (I1).
    pub owner_violations: u64,
    /// How often another gateway went on with an SA, above all numbers used before.
    pub handovers: u64,
    /// Packets that could not be judged since too many SAs were there.
    pub untracked: u64,
    /// Holes in the numbers of an SA that were taken as used to keep memory bounded.
    /// A late packet in such a hole counts as reuse: the figure may be too high,
    /// never too low.
    pub merged_holes: u64,
}

/// The longest silence at a change of owner, of one SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Which SA.
    pub sa: SaOnWire,
    /// Who sent before.
    pub from: GatewayId,
    /// Who sends now.
    pub to: GatewayId,
    /// From the last packet of the one to the first of the other.
    pub silence: Duration,
}

struct Track {
    owner: GatewayId,
    highest: u64,
    seen_at: Duration,
    used: Ranges,
}

/// The observer.
#[derive(Default)]
pub struct Observer {
    tracks: HashMap<SaOnWire, Track>,
    handovers: Vec<Handover>,
    figures: Figures,
}

/// SPI and low half of the sequence number, or `None` for what is no ESP.
fn esp_header(datagram: &[u8]) -> Option<(u32, u32)> {
    let (spi, rest) = datagram.split_first_chunk::<4>()?;
    let (sequence, _) = rest.split_first_chunk::<4>()?;
    let spi = u32::from_be_bytes(*spi);
    // SPI 0 is the non-ESP marker in front of an IKE message.
    (spi != 0).then_some((spi, u32::from_be_bytes(*sequence)))
}

/// The number with these low 32 bits that lies nearest to `highest`.
fn extend(low: u32, highest: u64) -> u64 {
    const HALF: u64 = 1 << 31;
    let near = (highest & !u64::from(u32::MAX)) | u64::from(low);
    if near + HALF < highest {
        near + (1 << 32)
    } else if near > highest + HALF && near >> 32 > 0 {
        near - (1 << 32)
    } else {
        near
    }
}

impl Observer {
    /// Bound of the list that [`Observer::take_handovers`] empties.
    const MAX_HANDOVERS: usize = 1 << 20;

    /// A datagram on its way from a gateway to an end user.
    pub fn to_user(&mut self, user: UserId, gateway: GatewayId, datagram: &[u8], at: Duration) {
        let Some((spi, low)) = esp_header(datagram) else {
            self.figures.not_esp += 1;
            return;
        };
        self.figures.to_users += 1;
        let full = self.tracks.len() >= MAX_SAS;
        let sa = SaOnWire { user, spi };
        let track = match self.tracks.entry(sa) {
            Entry::Occupied(track) => track.into_mut(),
            Entry::Vacant(_) if full => {
                self.figures.untracked += 1;
                return;
            }
            Entry::Vacant(place) => {
                let highest = u64::from(low);
                let used = Ranges::starting_with(highest);
                place.insert(Track { owner: gateway, highest, seen_at: at, used });
                return;
            }
        };
        let number = extend(low, track.highest);
        let inserted = track.used.insert(number);
        self.figures.seq_reuse += u64::from(!inserted.new);
        self.figures.merged_holes += u64::from(inserted.merged_hole);
        if number > track.highest {
            if gateway != track.owner {
                self.figures.handovers += 1;
                if self.handovers.len() < Self::MAX_HANDOVERS {
                    let silence = at.saturating_sub(track.seen_at);
                    self.handovers.push(Handover { sa, from: track.owner, to: gateway, silence });
                }
            }
            track.owner = gateway;
            track.highest = number;
            track.seen_at = at;
        } else if gateway != track.owner {
            self.figures.owner_violations += 1;
        }
    }

    /// A datagram on its way from an end user to a gateway.
    pub fn to_gateway(&mut self, datagram: &[u8]) {
        match esp_header(datagram) {
            Some(_) => self.figures.to_gateways += 1,
            None => self.figures.not_esp += 1,
        }
    }

    /// What was seen so far.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Who sent the highest number of each SA.
    pub fn owners(&self) -> impl Iterator<Item = (SaOnWire, GatewayId)> + '_ {
        self.tracks.iter().map(|(sa, track)| (*sa, track.owner))
    }

    /// The changes of owner since the last call.
    pub fn take_handovers(&mut self) -> Vec<Handover> {
        std::mem::take(&mut self.handovers)
    }
}

impl Figures {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            to_users: self.to_users - earlier.to_users,
            to_gateways: self.to_gateways - earlier.to_gateways,
            not_esp: self.not_esp - earlier.not_esp,
            seq_reuse: self.seq_reuse - earlier.seq_reuse,
            owner_violations: self.owner_violations - earlier.owner_violations,
            handovers: self.handovers - earlier.handovers,
            untracked: self.untracked - earlier.untracked,
            merged_holes: self.merged_holes - earlier.merged_holes,
        }
    }
}
