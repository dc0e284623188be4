//! The mind: the [`engine`] that moves sessions, and (feature `service`) the
//! QUIC transport and the service around it.

#[cfg(feature = "service")]
pub mod ctl;
pub mod engine;
#[cfg(feature = "service")]
pub mod quic;
#[cfg(feature = "service")]
pub mod service;
