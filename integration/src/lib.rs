//! The proof: what shows that the rest does what it says.

pub mod args;
pub mod clock;
pub mod control;
pub mod crash;
pub mod demo;
pub mod fleet;
pub mod homes;
pub mod lab;
pub mod measure;
pub mod observer;
pub mod process;
pub mod random;
pub mod rig;
pub mod stats;
pub mod verify;
pub mod wire;
pub mod world;
