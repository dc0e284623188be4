//! The proof: what moves real sessions between real processes, watches them from
//! outside and says what it saw.

pub mod args;
pub mod clock;
pub mod control;
pub mod observer;
pub mod process;
pub mod rig;
pub mod stats;
pub mod wire;
