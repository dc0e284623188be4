use protocol_spec::context::IkeSa;

use super::{
    IkeError,
    crypt::{Crypt, Iv},
    message::{Header, INFORMATIONAL, Payload},
};

/// One end of an IKE SA: its SPIs, our role in it and its keys.
#[derive(Debug)]
pub struct Association {
    spi_initiator: u64,
    spi_responder: u64,
    initiator: bool,
    message_id_sync: bool,
    crypt: Crypt,
}

/// A message that is authentic and from the other end of the IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) header: Header,
    pub(super) payloads: Vec<Payload>,
}

impl Association {
    /// Our end of this IKE SA.
    ///
    /// # Errors
    /// What its transforms or secrets lack for us to speak with its keys.
    pub fn new(ike: &IkeSa) -> Result<Self, IkeError> {
        Ok(Self {
            spi_initiator: ike.spi_initiator,
            spi_responder: ike.spi_responder,
            initiator: ike.initiator,
            message_id_sync: ike.extensions.message_id_sync,
            crypt: Crypt::new(ike)?,
        })
    }

    /// SPI of the original initiator and of the original responder.
    pub fn spis(&self) -> (u64, u64) {
        (self.spi_initiator, self.spi_responder)
    }

    /// Whether we are the original initiator.
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Whether both ends announced that they agree on Message IDs (RFC 6311).
    pub fn has_message_id_sync(&self) -> bool {
        self.message_id_sync
    }

    /// An INFORMATIONAL message of ours.
    pub(super) fn seal(
        &self,
        message_id: u32,
        response: bool,
        payloads: &[Payload],
        iv: &Iv,
    ) -> Result<Vec<u8>, IkeError> {
        let header = Header {
            spi_initiator: self.spi_initiator,
            spi_responder: self.spi_responder,
            next: 0,
            exchange: INFORMATIONAL,
            from_initiator: self.initiator,
            response,
            message_id,
        };
        self.crypt.seal(header, payloads, iv)
    }

    /// Whether a header is of a message from the other end. Costs no cryptography,
    /// proves nothing.
    pub(super) fn is_from_peer(&self, header: &Header) -> bool {
        (header.spi_initiator, header.spi_responder) == self.spis()
            && header.from_initiator != self.initiator
    }

    /// A message of the other end.
    ///
    /// # Errors
    /// [`IkeError::NotOurs`] for other SPIs or our own direction (a reflection);
    /// else as [`Crypt::open`].
    pub(super) fn open(&self, datagram: &[u8]) -> Result<Message, IkeError> {
        if !self.is_from_peer(&Header::parse(datagram)?) {
            return Err(IkeError::NotOurs);
        }
        let (header, payloads) = self.crypt.open(datagram)?;
        Ok(Message { header, payloads })
    }
}
