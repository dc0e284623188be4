//! The shape of every type on the wire, listed once: how it is shown as JSON in a
//! vector, and how one is drawn from random octets.
//!
//! The lists of fields are exhaustive, so a field that is added to a type and
//! forgotten here does not compile.

#![allow(dead_code, reason = "each test uses a part of it")]

mod basic;
mod types;

use serde_json::Value;

/// How a type is shown, and how a value of it is drawn.
pub(crate) trait Shape: Sized {
    /// As a vector shows it; `spec/3-encoding.md` says how.
    fn json(&self) -> Value;

    /// A value made of random octets.
    fn draw(entropy: &mut Entropy<'_>) -> Self;

    /// A list of values; octets are shown as hexadecimal text instead.
    fn list(items: &[Self]) -> Value {
        Value::Array(items.iter().map(Self::json).collect())
    }
}

/// Random octets to draw from; zeros once they are used up, so that fewer octets
/// make a simpler value and proptest can shrink it.
pub(crate) struct Entropy<'a>(pub(crate) &'a [u8]);

impl Entropy<'_> {
    /// The next octet.
    pub(crate) fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.octet() % bound
    }

    /// The next octets as a number.
    pub(crate) fn number(&mut self, octets: u32) -> u64 {
        (0..octets).fold(0, |number, _| number << 8 | u64::from(self.octet()))
    }
}

macro_rules! structs {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl Shape for $name {
            fn json(&self) -> serde_json::Value {
                let Self { $($field),* } = self;
                let mut map = serde_json::Map::new();
                $(map.insert(stringify!($field).to_owned(), $field.json());)*
                serde_json::Value::Object(map)
            }
            fn draw(entropy: &mut Entropy<'_>) -> Self {
                Self { $($field: Shape::draw(entropy)),* }
            }
        }
    )*};
}

/// An enum of variants that are words, one value in brackets, or named fields.
macro_rules! enums {
    ($($name:ident { $($number:literal: $variant:ident
        $(($inner:ident))? $({ $($field:ident),* $(,)? })?),* $(,)? })*) => {$(
        impl Shape for $name {
            fn json(&self) -> serde_json::Value {
                match self {$(
                    Self::$variant $(($inner))? $({ $($field),* })? => {
                        #[allow(unused_mut, unused_assignments, reason = "words hold nothing")]
                        let mut value = serde_json::Value::String(stringify!($variant).to_owned());
                        $(value = serde_json::json!({ stringify!($variant): $inner.json() });)?
                        $(value = serde_json::json!({ stringify!($variant): {
                            $(stringify!($field): $field.json()),*
                        } });)?
                        value
                    }
                )*}
            }
            fn draw(entropy: &mut Entropy<'_>) -> Self {
                let count = [$($number),*].len() as u8;
                match entropy.below(count) {
                    $($number => Self::$variant
                        $(({ let $inner = Shape::draw(entropy); $inner }))?
                        $({ $($field: Shape::draw(entropy)),* })?,)*
                    _ => unreachable!("below the number of variants"),
                }
            }
        }
    )*};
}

pub(crate) use {enums, structs};
