//! The proof: what moves real sessions between real processes, watches them from
//! outside and says what it saw.

pub mod clock;
pub mod observer;
pub mod wire;
