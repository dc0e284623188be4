//! strongSwan's IKE daemon, charon, unmodified.

pub mod checks;
pub mod vici;
