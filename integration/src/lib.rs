//! The proof: what shows that the rest does what it says.

pub mod verify;
