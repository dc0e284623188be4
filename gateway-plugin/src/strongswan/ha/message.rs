//! The message and its outer form.

use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    attribute::Attribute,
    value::{IkeId, Reader, Writer},
};

/// Most octets in a message: what a UDP length field can say.
pub const MAX_OCTETS: usize = 65_535;
/// Most attributes in a message. The longest that charon sends are CHILD_ADD with
/// many traffic selectors (255 at most each way, RFC 7296 section 3.13).
pub const MAX_ATTRIBUTES: usize = 1024;

/// A version of the message format. charon refuses every other than its own.
///
/// 6.0.0 still speaks 3 and 6.0.1 speaks a short-lived 4, which is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Of strongSwan 5.
    V3,
    /// Of strongSwan 6.0.2 and later.
    V5,
}

impl Version {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::V3 => 3,
            Self::V5 => 5,
        }
    }

    /// The version that a strongSwan of this release speaks, such as `5.9.8` or
    /// `6.0.6` (vici's `version` command has it), or `None` for one that is not
    /// known here.
    pub fn of_release(release: &str) -> Option<Self> {
        let mut parts = release.split('.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part.get(..digits).and_then(|digits| digits.parse::<u32>().ok())
        });
        let mut next = || parts.next().flatten();
        match (next()?, next().unwrap_or(0), next().unwrap_or(0)) {
            (5, ..) | (6, 0, 0) => Some(Self::V3),
            (6, 0, 1) => None,
            (6, ..) => Some(Self::V5),
            _ => None,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::V3, Self::V5].into_iter().find(|version| version.number() == number)
    }
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An IKE SA has keys.
    IkeAdd = 1,
    /// An IKE SA has identities, addresses, a configuration.
    IkeUpdate,
    /// The next Message ID of a request that the sender sends.
    IkeMidInitiator,
    /// The next Message ID of a request that the sender expects.
    IkeMidResponder,
    /// An IKE SA is gone. To a charon: forget it silently.
    IkeDelete,
    /// A Child SA has keys.
    ChildAdd,
    /// A Child SA is gone.
    ChildDelete,
    /// The sender gives segments up: the receiver's passive SAs in them become
    /// active.
    SegmentDrop,
    /// The sender takes segments: the receiver's active SAs in them become passive.
    SegmentTake,
    /// Heartbeat. Never sent to a charon: it would start its watchdog.
    Status,
    /// Asks for everything about segments once more. charon repeats its IKE
    /// messages and *rekeys* the Child SAs.
    Resync,
    /// IKEv1 only.
    IkeIv,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::IkeAdd,
        Self::IkeUpdate,
        Self::IkeMidInitiator,
        Self::IkeMidResponder,
        Self::IkeDelete,
        Self::ChildAdd,
        Self::ChildDelete,
        Self::SegmentDrop,
        Self::SegmentTake,
        Self::Status,
        Self::Resync,
        Self::IkeIv,
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A message: its kind and its attributes in their order.
///
/// The order carries meaning: charon ignores an IKE_UPDATE whose first attribute
/// is not the IKE id, and reads the IKE version of an IKE_ADD only if it stands
/// before the id.
#[derive(Debug, PartialEq)]
pub struct Message {
    /// What it is about.
    pub kind: Kind,
    /// What it says.
    pub attributes: Vec<Attribute>,
}

impl Message {
    /// Reads a datagram. Never panics, whatever is in it.
    ///
    /// # Errors
    /// [`HaError`] says what is wrong and at which octet.
    pub fn decode(octets: &[u8]) -> Result<(Version, Self), HaError> {
        if octets.len() > MAX_OCTETS {
            return Err(HaError::TooLong { octets: octets.len() });
        }
        let mut reader = Reader::new(octets);
        let version = reader.octet()?;
        let version = Version::from_number(version).ok_or(HaError::UnknownVersion(version))?;
        let kind = reader.octet()?;
        let kind = Kind::from_number(kind).ok_or(HaError::UnknownKind(kind))?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            if attributes.len() == MAX_ATTRIBUTES {
                return Err(HaError::TooManyAttributes);
            }
            attributes.push(Attribute::read(version, &mut reader)?);
        }
        Ok((version, Self { kind, attributes }))
    }

    /// The datagram for a charon of this version.
    ///
    /// # Errors
    /// [`HaError`] for an attribute that the version does not have, and for a
    /// value that is too long for its field.
    pub fn encode(&self, version: Version) -> Result<Datagram, HaError> {
        if self.attributes.len() > MAX_ATTRIBUTES {
            return Err(HaError::TooManyAttributes);
        }
        let mut writer = Writer::new();
        writer.put(&[version.number(), self.kind as u8])?;
        for attribute in &self.attributes {
            attribute.write(version, &mut writer)?;
        }
        Ok(Datagram(writer.into_octets()))
    }

    /// The IKE SA that it is about.
    pub fn ike_id(&self) -> Option<&IkeId> {
        self.attributes.iter().find_map(|attribute| match attribute {
            Attribute::IkeId(id) => Some(id),
            _ => None,
        })
    }
}

/// An encoded message. It may hold secrets: wiped when dropped, never printed.
#[derive(PartialEq, Eq)]
pub struct Datagram(Zeroizing<Vec<u8>>);

impl Datagram {
    /// The octets, for the socket to charon.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Datagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.0.get(1).copied().and_then(Kind::from_number);
        write!(f, "Datagram({kind:?}, {} octets, redacted)", self.0.len())
    }
}

/// A message that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HaError {
    /// Longer than a datagram can be, or a value longer than its field.
    #[error("an HA message or value of {octets} octets is too long")]
    TooLong {
        /// Its length.
        octets: usize,
    },
    /// It ends in the middle of a value.
    #[error("the HA message ends at octet {at}, in the middle of a value")]
    Truncated {
        /// Octets that there are.
        at: usize,
    },
    /// Another version of charon.
    #[error(
        "HA message version {0} is not known: strongSwan 5 (version 3) and 6.0.2 or later (version 5) are"
    )]
    UnknownVersion(u8),
    /// A kind of message that no known charon sends.
    #[error("HA message kind {0} is not known")]
    UnknownKind(u8),
    /// An attribute that the version does not have.
    #[error("HA attribute {number} at octet {at} is not known in this version")]
    UnknownAttribute {
        /// Its number.
        number: u8,
        /// Where it stands.
        at: usize,
    },
    /// A value that makes no sense.
    #[error("the HA message has {what} at octet {at} that cannot be")]
    BadValue {
        /// What it is.
        what: &'static str,
        /// Where it stands.
        at: usize,
    },
    /// More attributes than any charon sends.
    #[error("the HA message has more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    /// An attribute that charon of the version to write for does not know.
    #[error("HA message version {version} has no attribute for {what}")]
    NotInVersion {
        /// The version.
        version: u8,
        /// What cannot be said.
        what: &'static str,
    },
}
