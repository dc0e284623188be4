//! What a target says of a session before anything is done: whether it takes it, and if
//! not why, and what to do.

use protocol_spec::{
    context::SideEffects,
    profile::{Feature, FeatureSet, Profile},
    status::{Refusal, Status},
};

use super::{gateway::Inner, session::Session};

/// Why a session without these is not taken.
fn required(lacking: FeatureSet) -> String {
    let mut detail = format!("this gateway takes only sessions with: {lacking} (its `require`)");
    if lacking.contains(Feature::MessageIdSync) {
        detail += "; RFC 6311 is in force where both ends announce it, and a strongSwan gateway \
                   never does";
    }
    detail
}

impl Inner {
    pub(super) fn admit(&mut self, profile: &Profile) -> Result<(), Refusal> {
        let no = |status, detail| Err(Refusal::new(status, detail));
        let capabilities = self.capabilities()?;
        let missing = profile.features.without(capabilities.features);
        if !missing.is_empty() {
            return no(Status::NoFeature, format!("this gateway cannot carry: {missing}"));
        }
        let lacking = self.place.require.without(profile.features);
        if !lacking.is_empty() {
            return no(Status::NoFeature, required(lacking));
        }
        for child in &profile.children {
            let (t, sa) = (&child.transforms, child.usage.sa);
            let transforms = (t.encryption, t.key_bits, t.integrity);
            if !capabilities.child_transforms.contains(&transforms) {
                let detail = format!(
                    "SPI {:#010x} wants encryption {} with {} bits and integrity {}, which this \
                     kernel does not have: load its crypto module or choose another proposal",
                    sa.inbound_spi, t.encryption, t.key_bits, t.integrity
                );
                return no(Status::NoTransform, detail);
            }
            if child.replay_window > capabilities.max_replay_window {
                let detail = format!(
                    "SPI {:#010x} has a replay window of {}; {} is the widest here",
                    sa.inbound_spi, child.replay_window, capabilities.max_replay_window
                );
                return no(Status::NoFeature, detail);
            }
        }
        let held = |session: &&Session| session.status().is_some();
        let others =
            self.sessions.values().filter(held).filter(|other| other.id != profile.session);
        let others = others.count();
        if others as u64 >= self.place.max_sessions {
            let detail = format!("this gateway holds its {others} sessions; raise max_sessions");
            return no(Status::NoRoom, detail);
        }
        self.admit_steering(profile)?;
        // Of one that is here the SPIs and addresses are its own.
        if self.sessions.get(&profile.session).filter(held).is_none() {
            self.admit_spis(profile)?;
        }
        self.daemon.admit(profile)?;
        // The daemon knows better words for its own.
        if profile.side_effects != SideEffects::default() {
            let detail = "its hooks or accounting would end: stop them at the source first";
            return no(Status::SideEffects, detail.to_owned());
        }
        Ok(())
    }

    /// Inbound SPIs and inner addresses must be free here.
    fn admit_spis(&mut self, profile: &Profile) -> Result<(), Refusal> {
        for child in &profile.children {
            let sa = child.usage.sa;
            let named = self.tables.named(sa.inbound_spi)?;
            let taken = named.iter().find(|known| {
                known.protocol == sa.protocol && self.place.is_local(known.destination)
            });
            if let Some(known) = taken {
                let detail = format!(
                    "the inbound {known} is in use here: rekey the Child SA at the source first"
                );
                return Err(Refusal::new(Status::SpiCollision, detail));
            }
        }
        for selector in profile.children.iter().flat_map(|child| &child.destinations) {
            if self.tables.lead_to(selector)? {
                let prefix = selector.prefix;
                let detail = format!(
                    "packets to {}/{} go to another session here: end that one first",
                    prefix.address, prefix.bits
                );
                return Err(Refusal::new(Status::AddressCollision, detail));
            }
        }
        Ok(())
    }
}
