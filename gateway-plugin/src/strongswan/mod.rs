//! strongSwan's IKE daemon, charon, unmodified.

pub mod vici;
