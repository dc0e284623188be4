//! Numbers, texts, lists and what the standard library has.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use protocol_spec::{
    KeyMaterial,
    id::{BatchId, GatewayEpoch, Generation, Name, RequestId, SessionEpoch, SessionId},
    profile::FeatureSet,
    status::{Refusal, Status},
};
use serde_json::{Value, json};

use super::{Entropy, Shape};

fn hex(octets: &[u8]) -> Value {
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>().into()
}

impl Shape for u8 {
    fn json(&self) -> Value {
        json!(self)
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        entropy.octet()
    }
    fn list(items: &[Self]) -> Value {
        hex(items)
    }
}

macro_rules! numbers {
    ($($name:ident, $octets:literal;)*) => {$(
        impl Shape for $name {
            fn json(&self) -> Value {
                // What a double holds exactly is a number; more is a text.
                let number = u64::from(*self);
                if number < 1 << 53 { json!(number) } else { json!(number.to_string()) }
            }
            fn draw(entropy: &mut Entropy<'_>) -> Self {
                match entropy.below(4) {
                    0 => $name::from(entropy.octet()),
                    1 => $name::MAX - $name::from(entropy.octet()),
                    // Around the numbers at which the encoding gets longer.
                    2 => [250, 251, 255, 256, $name::MAX >> 8, $name::MAX][usize::from(entropy.below(6))],
                    _ => entropy.number($octets) as $name,
                }
            }
        }
    )*};
}

numbers! { u16, 2; u32, 4; u64, 8; }

impl Shape for bool {
    fn json(&self) -> Value {
        json!(self)
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        entropy.below(2) == 1
    }
}

impl Shape for String {
    fn json(&self) -> Value {
        json!(self)
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        let length = entropy.below(12);
        (0..length)
            .map(|_| ['a', '7', '-', 'ß', '"', '\n', '𝄞'][usize::from(entropy.below(7))])
            .collect()
    }
}

impl Shape for Name {
    fn json(&self) -> Value {
        json!(self.as_str())
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        let length = 1 + entropy.below(64);
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789-.";
        let text: String =
            (0..length).map(|_| char::from(letters[usize::from(entropy.below(38))])).collect();
        text.parse().unwrap_or_else(|_| unreachable!("letters of a name"))
    }
}

macro_rules! wrapped {
    ($($name:ident)*) => {$(
        impl Shape for $name {
            fn json(&self) -> Value {
                self.0.json()
            }
            fn draw(entropy: &mut Entropy<'_>) -> Self {
                Self(Shape::draw(entropy))
            }
        }
    )*};
}

wrapped! { SessionId BatchId RequestId SessionEpoch GatewayEpoch Generation FeatureSet }

impl Shape for Status {
    fn json(&self) -> Value {
        self.code().json()
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        Self::from_code(Shape::draw(entropy))
    }
}

impl Shape for Refusal {
    fn json(&self) -> Value {
        json!({ "status": self.status.json(), "detail": self.detail.json() })
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        Self::new(Shape::draw(entropy), String::draw(entropy))
    }
}

impl Shape for KeyMaterial {
    fn json(&self) -> Value {
        hex(self.expose())
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        let length = entropy.below(70);
        Self::new((0..length).map(|_| entropy.octet()).collect())
    }
}

impl Shape for Duration {
    fn json(&self) -> Value {
        json!({ "seconds": self.as_secs().json(), "nanoseconds": self.subsec_nanos() })
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        Self::new(Shape::draw(entropy), u32::draw(entropy) % 1_000_000_000)
    }
}

impl Shape for IpAddr {
    fn json(&self) -> Value {
        json!(self.to_string())
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        if bool::draw(entropy) {
            Ipv6Addr::from(<[u8; 16]>::draw(entropy)).into()
        } else {
            Ipv4Addr::from(<[u8; 4]>::draw(entropy)).into()
        }
    }
}

impl Shape for SocketAddr {
    fn json(&self) -> Value {
        json!({ "address": self.ip().json(), "port": self.port() })
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        Self::new(Shape::draw(entropy), Shape::draw(entropy))
    }
}

impl<const N: usize> Shape for [u8; N] {
    fn json(&self) -> Value {
        hex(self)
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        std::array::from_fn(|_| entropy.octet())
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn json(&self) -> Value {
        T::list(self)
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        (0..entropy.below(4)).map(|_| T::draw(entropy)).collect()
    }
}

impl<T: Shape + Ord> Shape for BTreeSet<T> {
    fn json(&self) -> Value {
        Value::Array(self.iter().map(Shape::json).collect())
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        Vec::draw(entropy).into_iter().collect()
    }
}

impl<T: Shape> Shape for Option<T> {
    fn json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Shape::json)
    }
    fn draw(entropy: &mut Entropy<'_>) -> Self {
        bool::draw(entropy).then(|| T::draw(entropy))
    }
}

macro_rules! tuples {
    ($(($($name:ident),*))*) => {$(
        #[allow(non_snake_case, reason = "types name their values")]
        impl<$($name: Shape),*> Shape for ($($name,)*) {
            fn json(&self) -> Value {
                let ($($name,)*) = self;
                Value::Array(vec![$($name.json()),*])
            }
            fn draw(entropy: &mut Entropy<'_>) -> Self {
                ($($name::draw(entropy),)*)
            }
        }
    )*};
}

tuples! { (A, B) (A, B, C) (A, B, C, D, E) }
