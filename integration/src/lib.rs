//! The proof: what shows that the rest does what it says.

pub mod clock;
pub mod observer;
pub mod verify;
pub mod wire;
pub mod world;
