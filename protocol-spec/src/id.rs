//! Identifiers: what a session, a transfer and a gateway are called.

use std::{fmt, str::FromStr, sync::Arc};

use bincode::{
    BorrowDecode, Decode, Encode,
    de::{BorrowDecoder, Decoder},
    enc::Encoder,
    error::{DecodeError, EncodeError},
};
use thiserror::Error;

use crate::limits::MAX_NAME;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_hex(text).map(Self).ok_or_else(|| BadId(text.to_owned()))
            }
        }
    };
}

/// Text that is not 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not an identifier: write 32 hexadecimal digits")]
pub struct BadId(pub String);

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut octets = [0; 16];
    for (octet, digits) in octets.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        if digits.starts_with('+') {
            return None;
        }
        *octet = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(octets)
}

random_id! {
    /// Names a session for all its life: through rekeys and through moves.
    /// Random, given by the gateway on which the session is first seen.
    SessionId
}
random_id! {
    /// Names a batch of transfers between the same two gateways. Random.
    BatchId
}
random_id! {
    /// Names a request (CTAR, CT-Req, query, preflight, order), so that its
    /// answer is recognised and a repetition is not taken for a new one. Random.
    RequestId
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this one; saturates, so it never runs backwards.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter! {
    /// Which ownership of a session is newest. Each attempt to move a session
    /// takes a number above all that were ever given out for it.
    SessionEpoch
}
counter! {
    /// Which life of a gateway is newest: counts the starts of its daemon.
    GatewayEpoch
}
counter! {
    /// Counts the changes of a session's SPIs, keys, selectors or addresses.
    Generation
}

/// The name of a gateway, controller or client: 1 to 64 octets of `a-z`, `0-9`,
/// `-`, `.`. Cheap to copy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Text that is not a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a name: write 1 to 64 of a-z, 0-9, `-` and `.`")]
pub struct BadName(pub String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits = (1..=MAX_NAME).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(BadName(text.chars().take(MAX_NAME).collect()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Encode for Name {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_str().encode(encoder)
    }
}

impl<C> Decode<C> for Name {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        String::decode(decoder)?
            .parse()
            .map_err(|_| DecodeError::Other("a name with characters that names do not have"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Name {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        Decode::decode(decoder)
    }
}

/// What a peer may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Role {
    /// Owns sessions; may move them and take them.
    Gateway,
    /// Orders moves; never holds a session.
    Controller,
    /// An end user's agent; may ask for its own session only.
    Client,
}

impl Role {
    /// The word for it in a certificate's URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Controller => "controller",
            Self::Client => "client",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a peer is, as its certificate's URI subject alternative name says:
/// `cxtp://ROLE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Identity {
    /// What it may ask for.
    pub role: Role,
    /// What it is called.
    pub name: Name,
}

/// Text that is not `cxtp://ROLE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a peer identity: write cxtp://gateway/NAME, cxtp://controller/NAME or cxtp://client/NAME"
)]
pub struct BadIdentity(pub String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cxtp://{}/{}", self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = BadIdentity;
    //= spec CXTP-2.2-2
    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        let bad = || BadIdentity(text.chars().take(160).collect());
        let (role, name) =
            text.strip_prefix("cxtp://").and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        let role = match role {
            "gateway" => Role::Gateway,
            "controller" => Role::Controller,
            "client" => Role::Client,
            _ => return Err(bad()),
        };
        let name = name.parse().map_err(|_| bad())?;
        Ok(Self { role, name })
    }
}
