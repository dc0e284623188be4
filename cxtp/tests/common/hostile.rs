//! A peer that keeps no rule: it shows any certificate, says hello or not, and
//! writes whatever octets it likes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use protocol_spec::{
    frame::{HEADER, Header},
    message::{ALPN, Hello, Lane, Message},
};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig,
    VarInt, crypto::rustls::QuicClientConfig,
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Paper, say, within};

/// A peer, with the certificate that it shows.
pub(crate) struct Hostile {
    endpoint: Endpoint,
    crypto: Arc<QuicClientConfig>,
    to: SocketAddr,
}

/// One connection after both hellos, with its first stream.
pub(crate) struct Talk {
    pub(crate) connection: Connection,
    pub(crate) shared: Stream,
    /// What the daemon said of itself.
    pub(crate) hello: Hello,
}

/// Both connections of a pair.
pub(crate) struct Link {
    pub(crate) control: Talk,
    pub(crate) bulk: Talk,
}

/// A stream both ways.
pub(crate) struct Stream {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
}

/// How the daemon closed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// By the protocol, with its code.
    Told { code: u64, reason: String },
    /// By TLS or QUIC.
    Refused(String),
}

impl From<ConnectionError> for Closed {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Told {
                code: close.error_code.into_inner(),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            error => Self::Refused(error.to_string()),
        }
    }
}

impl Hostile {
    /// A peer with this certificate, and who it will go for.
    pub(crate) fn new(paper: &Paper, to: SocketAddr) -> Self {
        Self::speaking(paper, ALPN, to)
    }

    /// The same, with another application protocol; it would send early data.
    pub(crate) fn speaking(paper: &Paper, protocol: &[u8], to: SocketAddr) -> Self {
        let provider = Arc::new(ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Whoever(provider)))
            .with_client_auth_cert(paper.chain.clone(), paper.key())
            .unwrap();
        tls.alpn_protocols = vec![protocol.to_vec()];
        tls.enable_early_data = true;
        Self::with_tls(tls, to)
    }

    /// Whether it could send data before the handshake is done.
    pub(crate) fn may_send_early(&self) -> bool {
        self.endpoint.connect(self.to, "gateway").unwrap().into_0rtt().is_ok()
    }

    /// A peer that shows no certificate at all.
    pub(crate) fn nobody(to: SocketAddr) -> Self {
        let provider = Arc::new(ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Whoever(provider)))
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Self::with_tls(tls, to)
    }

    fn with_tls(tls: rustls::ClientConfig, to: SocketAddr) -> Self {
        let crypto = Arc::new(QuicClientConfig::try_from(tls).unwrap());
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let mut hostile = Self { endpoint, crypto, to };
        hostile.behave(transport());
        hostile
    }

    fn behave(&mut self, transport: TransportConfig) {
        let mut config = ClientConfig::new(Arc::clone(&self.crypto) as Arc<_>);
        config.transport_config(Arc::new(transport));
        self.endpoint.set_default_client_config(config);
    }

    /// The same, with room for so many octets that it does not read.
    pub(crate) fn reading_only(mut self, octets: u32) -> Self {
        let mut transport = transport();
        transport.receive_window(octets.into()).stream_receive_window(octets.into());
        self.behave(transport);
        self
    }

    /// Says the first word of a handshake and goes away without another.
    pub(crate) async fn begin_and_leave(&self) {
        let connecting = self.endpoint.connect(self.to, "gateway").unwrap();
        // Long enough for the first datagram to leave.
        let _ = tokio::time::timeout(Duration::from_millis(1), connecting).await;
    }

    /// Connects, as far as QUIC and TLS go for now: the daemon has perhaps not
    /// looked at the certificate yet.
    pub(crate) async fn connect(&self) -> Result<Connection, Closed> {
        let connecting = self.endpoint.connect(self.to, "gateway").unwrap();
        within("a QUIC handshake", connecting).await.map_err(Closed::from)
    }

    /// Connects and says these first octets on the first stream; returns how the
    /// daemon ended it.
    pub(crate) async fn is_closed_after(&self, first: &[u8]) -> Closed {
        let connection = match self.connect().await {
            Ok(connection) => connection,
            Err(closed) => return closed,
        };
        if let Ok((mut send, _receive)) = connection.open_bi().await {
            // It may be closed already, which is what is asked about.
            let _ = send.write_all(first).await;
            return closed(&connection).await;
        }
        closed(&connection).await
    }

    /// Connects and says `hello`.
    pub(crate) async fn greet(&self, hello: Hello) -> Result<Talk, Closed> {
        let connection = self.connect().await?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(Closed::from)?;
        let frame = Message::Hello(hello).to_frame().unwrap();
        let _ = send.write_all(&frame).await;
        let hello = tokio::select! {
            heard = hear(&mut receive) => match heard {
                Some(Message::Hello(hello)) => hello,
                other => match connection.close_reason() {
                    Some(error) => return Err(error.into()),
                    None => panic!("no hello but {other:?}"),
                },
            },
            error = connection.closed() => return Err(error.into()),
        };
        Ok(Talk { connection, shared: Stream { send, receive }, hello })
    }

    /// Connects twice as an honest gateway does.
    pub(crate) async fn link(&self, name: &str) -> Link {
        let control = self.greet(say::hello(name, Lane::Control)).await.unwrap();
        let bulk = self.greet(say::hello(name, Lane::Bulk)).await.unwrap();
        Link { control, bulk }
    }
}

impl Talk {
    /// Opens a stream for a batch.
    pub(crate) async fn stream(&self) -> Stream {
        let (send, receive) = within("a stream", self.connection.open_bi()).await.unwrap();
        Stream { send, receive }
    }

    /// Waits until the daemon closes the connection.
    pub(crate) async fn closed(&self) -> Closed {
        closed(&self.connection).await
    }

    /// Whether the daemon still has it.
    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

impl Stream {
    pub(crate) async fn say(&mut self, message: &Message) {
        self.write(&message.to_frame().unwrap()).await.unwrap();
    }

    /// Writes octets as they are; fails where the daemon does not take them.
    pub(crate) async fn write(&mut self, octets: &[u8]) -> Result<(), quinn::WriteError> {
        within("the daemon to read", self.send.write_all(octets)).await
    }

    /// The next message, or `None` if the stream ends.
    pub(crate) async fn hear(&mut self) -> Option<Message> {
        hear(&mut self.receive).await
    }

    /// Leaves the stream in the middle of whatever was said.
    pub(crate) fn reset(&mut self) {
        let _ = self.send.reset(VarInt::from_u32(0));
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // It stays for as long as it is let.
    transport.keep_alive_interval(Some(Duration::from_millis(200)));
    transport.max_idle_timeout(Some(Duration::from_secs(20).try_into().unwrap()));
    transport
}

async fn closed(connection: &Connection) -> Closed {
    within("the daemon to close the connection", connection.closed()).await.into()
}

/// The next message of a stream, `None` where it ends in whatever way. A caller
/// that gives up in the middle of a message has lost its place.
pub(crate) async fn heard(receive: &mut RecvStream) -> Option<Message> {
    loop {
        let mut header = [0; HEADER];
        receive.read_exact(&mut header).await.ok()?;
        let header = Header::from_octets(header).unwrap();
        let mut body = vec![0; header.length as usize];
        receive.read_exact(&mut body).await.ok()?;
        if let Some(message) = Message::from_parts(header, &body).unwrap() {
            return Some(message);
        }
    }
}

async fn hear(receive: &mut RecvStream) -> Option<Message> {
    within("the daemon to answer", heard(receive)).await
}

/// Talks to whoever answers.
#[derive(Debug)]
struct Whoever(Arc<CryptoProvider>);

impl ServerCertVerifier for Whoever {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
