//! The mind: the [`engine`] that moves sessions, the [`cluster`] that decides who
//! may speak for them when a gateway dies, and (feature `service`) the QUIC
//! transport and the service around both.

pub mod cluster;
#[cfg(feature = "service")]
pub mod ctl;
pub mod engine;
#[cfg(feature = "service")]
pub mod quic;
#[cfg(feature = "service")]
pub mod service;
