//! The hands: what a security gateway must be able to do so that its sessions
//! can be moved, as one trait, and the bodies that do it.
//!
//! Who wants to attach another gateway product implements [`GatewayPlugin`],
//! runs [`conformance`] against it, and needs nothing else of this project but
//! `protocol-spec`.

pub mod conformance;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod holder;
#[cfg(feature = "linux")]
pub mod ike;
#[cfg(feature = "linux")]
pub mod linux;
pub mod plugin;
#[cfg(feature = "linux")]
pub mod steering;
#[cfg(feature = "linux")]
pub mod strongswan;
#[cfg(feature = "linux")]
pub mod xfrm;

pub use plugin::{
    Activate, Discard, EventSink, EventSource, Extend, Fault, GatewayEvent, GatewayPlugin, Pause,
    PerSession, Release, Resume, Stage,
};
