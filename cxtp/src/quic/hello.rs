//! The first words on a connection, each way, on its first stream. That stream
//! then carries all that has no stream of its own.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use protocol_spec::{
    id::{GatewayEpoch, Identity, Name, Role},
    message::{Hello, Lane, Message, VERSION, negotiate},
    profile::Capabilities,
    status::{Refusal, Status},
};
use quinn::{Connection, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::{
    close::{Code, Ended},
    frames::{Room, StreamError, read_message, write_frame},
    tls::identity_of,
};

/// Handshake and hello are done within this time.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Octets that a hello may take.
const HELLO_ROOM: usize = 1 << 20;

/// What we say of ourselves, and whom we let in.
pub(super) struct Door {
    pub(super) name: Name,
    pub(super) epoch: GatewayEpoch,
    pub(super) capabilities: Mutex<Option<Capabilities>>,
    pub(super) gateways: BTreeSet<Name>,
    pub(super) controllers: BTreeSet<Name>,
    pub(super) clients: bool,
}

/// A connection whose peer is known and has said hello.
pub(super) struct Greeted {
    pub(super) connection: Connection,
    pub(super) peer: Identity,
    pub(super) hello: Hello,
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
}

impl Door {
    /// Greets as the one who dialled.
    pub(super) async fn dialled(
        &self,
        connection: Connection,
        lane: Lane,
    ) -> Result<Greeted, Ended> {
        let peer = self.admit(&connection)?;
        let greeting = async {
            let (mut send, mut receive) = connection.open_bi().await.map_err(Ended::lost)?;
            self.say(&mut send, lane).await?;
            let hello = hear(&mut receive).await?;
            Ok((hello, send, receive))
        };
        let (hello, send, receive) = in_time(greeting).await?;
        self.check(&hello, &peer)?;
        if hello.lane != lane {
            return Err(Ended::new(Code::Malformed, "the hello answers for another lane"));
        }
        Ok(Greeted { connection, peer, hello, send, receive })
    }

    /// Greets as the one who was dialled.
    pub(super) async fn answered(&self, connection: Connection) -> Result<Greeted, Ended> {
        let peer = self.admit(&connection)?;
        let greeting = async {
            let (send, mut receive) = connection.accept_bi().await.map_err(Ended::lost)?;
            let hello = hear(&mut receive).await?;
            Ok((hello, send, receive))
        };
        let (hello, mut send, receive) = in_time(greeting).await?;
        self.check(&hello, &peer)?;
        in_time(self.say(&mut send, hello.lane)).await?;
        Ok(Greeted { connection, peer, hello, send, receive })
    }

    /// Who the peer is, if its role and name may connect.
    fn admit(&self, connection: &Connection) -> Result<Identity, Ended> {
        let certificates = connection
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let certificate = certificates.as_deref().and_then(|chain| chain.first());
        let peer = certificate
            .ok_or_else(|| Ended::new(Code::NotAuthorized, "no certificate"))
            .and_then(|certificate| {
                identity_of(certificate)
                    .map_err(|error| Ended::new(Code::NotAuthorized, error.to_string()))
            })?;
        let known = match peer.role {
            Role::Gateway => self.gateways.contains(&peer.name),
            Role::Controller => self.controllers.contains(&peer.name),
            Role::Client => self.clients,
        };
        //= spec CXTP-2.2-4
        if known {
            return Ok(peer);
        }
        let refusal = Refusal::new(
            Status::NotAuthorized,
            format!("{peer} is not in the configuration of `{}`", self.name),
        );
        Err(Ended::refused(Code::NotAuthorized, &refusal))
    }

    fn check(&self, hello: &Hello, peer: &Identity) -> Result<(), Ended> {
        //= spec CXTP-2.3-2
        if hello.name != peer.name {
            let reason = format!("the hello says `{}` and the certificate {peer}", hello.name);
            return Err(Ended::new(Code::WrongName, reason));
        }
        //= spec CXTP-9.1-2
        let (lowest, highest) = hello.versions;
        if negotiate((VERSION, VERSION), hello.versions).is_none() {
            let refusal = Refusal::new(
                Status::NoVersion,
                format!(
                    "`{}` speaks versions {lowest} to {highest}, we speak {VERSION}",
                    peer.name
                ),
            );
            return Err(Ended::refused(Code::NoVersion, &refusal));
        }
        match (peer.role, hello.lane) {
            (Role::Gateway, _) | (_, Lane::Control) => Ok(()),
            //= spec CXTP-2.4-4
            (_, Lane::Bulk) => {
                let reason = format!("{peer} has no batches to send: only gateways do");
                Err(Ended::new(Code::NotAuthorized, reason))
            }
        }
    }

    async fn say(&self, send: &mut SendStream, lane: Lane) -> Result<(), Ended> {
        let capabilities = self.capabilities.lock().ok().and_then(|known| known.clone());
        let hello = Hello {
            versions: (VERSION, VERSION),
            name: self.name.clone(),
            epoch: self.epoch,
            lane,
            capabilities,
        };
        let frame = Message::Hello(hello).to_frame().map_err(Ended::lost)?;
        write_frame(send, &frame, PATIENCE).await.map_err(Ended::lost)
    }
}

async fn in_time<T>(greeting: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    timeout(PATIENCE, greeting)
        .await
        .unwrap_or_else(|_| Err(Ended::new(Code::Stalled, "no hello came in time")))
}

async fn hear(receive: &mut RecvStream) -> Result<Hello, Ended> {
    match read_message(receive, &Room::new(HELLO_ROOM), None, PATIENCE).await {
        Ok(Some((Message::Hello(hello), _))) => Ok(hello),
        //= spec CXTP-2.3-1
        Ok(Some((other, _))) => Err(Ended::new(
            Code::Malformed,
            format!("{} came before the hello", other.kind().name()),
        )),
        Ok(None) => Err(Ended::new(Code::Malformed, "the first stream ended before the hello")),
        Err(StreamError::Bad(error)) => Err(Ended::bad_frame(&error)),
        Err(StreamError::Stalled) => Err(Ended::new(Code::Stalled, "the hello did not end")),
        Err(StreamError::Cut) => Err(Ended::new(Code::Malformed, "the hello was cut")),
        Err(error) => Err(Ended::lost(error)),
    }
}
