//! The attributes and their numbers: one table.

use std::net::SocketAddr;

use protocol_spec::{context::Identification, key::KeyMaterial};

use super::{
    message::{HaError, Version},
    value::{IkeId, Reader, Spi, TrafficSelector, Value, Writer},
};

/// Makes the type of attributes and what reads and writes it from one table:
/// name, type of the value, number in version 3, number in version 5; `0` where a
/// version does not have it.
macro_rules! attributes {
    ($($(#[$doc:meta])* $name:ident($value:ty) = $three:literal, $five:literal;)*) => {
        /// What a message says, one fact each.
        #[derive(Debug, PartialEq)]
        pub enum Attribute {
            $($(#[$doc])* $name($value),)*
        }

        impl Attribute {
            /// Its number, or `None` if the version does not have it.
            pub fn number(&self, version: Version) -> Option<u8> {
                match self {
                    $(Self::$name(_) => pick(version, $three, $five),)*
                }
            }

            /// Its name in this table.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }

            /// Reads a number and its value.
            pub(super) fn read(version: Version, reader: &mut Reader<'_>) -> Result<Self, HaError> {
                let at = reader.at();
                let number = reader.octet()?;
                $(if pick(version, $three, $five) == Some(number) {
                    return Ok(Self::$name(<$value as Value>::read(reader)?));
                })*
                Err(HaError::UnknownAttribute { number, at })
            }

            /// Writes a number and its value.
            pub(super) fn write(&self, version: Version, writer: &mut Writer) -> Result<(), HaError> {
                let number = self.number(version).ok_or(HaError::NotInVersion {
                    version: version.number(),
                    what: self.name(),
                })?;
                writer.put(&[number])?;
                match self {
                    $(Self::$name(value) => value.write(writer),)*
                }
            }
        }
    };
}

attributes! {
    /// The IKE SA that the message is about.
    IkeId(IkeId) = 1, 1;
    /// The IKE SA that it replaces. Never sent to a charon: it would move what
    /// that SA has to the new one and destroy it.
    IkeRekeyId(IkeId) = 2, 2;
    /// Who the sender is to the peer.
    LocalId(Identification) = 3, 3;
    /// Who the peer is.
    RemoteId(Identification) = 4, 4;
    /// Who the peer is by EAP, where that is another.
    RemoteEapId(Identification) = 5, 5;
    /// The sender's address and port.
    LocalAddress(SocketAddr) = 6, 6;
    /// The peer's address and port.
    RemoteAddress(SocketAddr) = 7, 7;
    /// Name of the connection, or of the Child SA's configuration.
    Configuration(String) = 8, 8;
    /// charon's own bits of an IKE SA. Version 5 sends two words: one with bit 31
    /// clear, one with bit 31 set for bits that plugins of other makers use.
    Conditions(u32) = 9, 9;
    /// charon's own bits of what the peer announced; two words as above.
    Extensions(u32) = 10, 10;
    /// An inner address of the sender; the port means nothing.
    LocalVirtualIp(SocketAddr) = 11, 11;
    /// An inner address of the peer; the port means nothing.
    RemoteVirtualIp(SocketAddr) = 12, 12;
    /// A further outer address of the peer.
    PeerAddress(SocketAddr) = 13, 13;
    /// Whether the sender began the exchange that made the Child SA: 1 or 0.
    Initiator(u8) = 14, 14;
    /// Nonce of the exchange's initiator.
    NonceInitiator(Vec<u8>) = 15, 15;
    /// Nonce of the exchange's responder.
    NonceResponder(Vec<u8>) = 16, 16;
    /// The shared secret of the key exchange.
    Secret(KeyMaterial) = 17, 17;
    /// The shared secrets of the further key exchanges of one rekeying, behind one
    /// another.
    AdditionalSecret(KeyMaterial) = 0, 18;
    /// SK_d of the SA that was replaced.
    OldSkD(KeyMaterial) = 18, 19;
    /// Pseudo-random function (transform type 2).
    Prf(u16) = 19, 20;
    /// Pseudo-random function of the SA that was replaced.
    OldPrf(u16) = 20, 21;
    /// Cipher (transform type 1).
    Encryption(u16) = 21, 22;
    /// Bits of the cipher's key, where it has several lengths.
    KeyBits(u16) = 22, 23;
    /// Integrity (transform type 3).
    Integrity(u16) = 23, 24;
    /// Key exchange method (transform type 4).
    KeyExchange(u16) = 24, 25;
    /// Further key exchange methods (transform types 6 to 12).
    AdditionalKeyExchanges(Vec<u16>) = 0, 26;
    /// 1 transport, 2 tunnel, 3 BEET.
    Mode(u8) = 25, 27;
    /// IPComp transform, 0 for none.
    IpComp(u8) = 26, 28;
    /// SPI on which the sender receives.
    InboundSpi(Spi) = 27, 29;
    /// SPI on which the sender sends.
    OutboundSpi(Spi) = 28, 30;
    /// CPI on which the sender receives, 0 for none.
    InboundCpi(u16) = 29, 31;
    /// CPI on which the sender sends, 0 for none.
    OutboundCpi(u16) = 30, 32;
    /// A traffic selector of the sender's side.
    LocalSelector(TrafficSelector) = 31, 33;
    /// A traffic selector of the peer's side.
    RemoteSelector(TrafficSelector) = 32, 34;
    /// The next Message ID.
    MessageId(u32) = 33, 35;
    /// A segment, from 1.
    Segment(u16) = 34, 36;
    /// Extended sequence numbers (transform type 5): 1 or 0.
    ExtendedNumbers(u16) = 35, 37;
    /// IKE version: 1 or 2.
    IkeVersion(u8) = 36, 38;
    /// IKEv1: the sender's public value.
    LocalPublic(Vec<u8>) = 37, 39;
    /// IKEv1: the peer's public value.
    RemotePublic(Vec<u8>) = 38, 40;
    /// IKEv1: the pre-shared key.
    PreSharedKey(KeyMaterial) = 39, 41;
    /// IKEv1: the next initialisation vector.
    Iv(Vec<u8>) = 40, 42;
    /// IKEv1: authentication method.
    Authentication(u16) = 41, 43;
}

fn pick(version: Version, three: u8, five: u8) -> Option<u8> {
    let number = match version {
        Version::V3 => three,
        Version::V5 => five,
    };
    (number != 0).then_some(number)
}
