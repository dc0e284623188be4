//! The proof: what checks the other crates as a whole.

pub mod world;
