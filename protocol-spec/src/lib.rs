//! The words of the session transfer protocol.
//!
//! This crate holds the wire types, the outer [`frame`], the one [`codec`] and
//! the type for key material. It does no IO, reads no clock and knows no async
//! runtime, so that a second implementation can be checked against it byte by
//! byte. The normative text is in `spec/`, golden bytes are in `vectors/`.
//!
//! Read in this order: [`id`] (who and what), [`context`] (a session written
//! down), [`transfer`] (what a move adds to it), [`message`] (what gateways say
//! to each other), [`check`] (what a receiver looks at first), [`token`] (who may
//! pull), [`status`] (how they refuse).

pub mod check;
pub mod codec;
pub mod context;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod id;
pub mod ike_keys;
pub mod key;
pub mod limits;
pub mod message;
pub mod profile;
#[doc(hidden)]
pub mod samples;
pub mod status;
pub mod token;
pub mod transfer;

pub use key::KeyMaterial;
