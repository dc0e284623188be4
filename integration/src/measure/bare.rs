//! What the same bytes cost on a QUIC stream without our protocol: the same TLS
//! settings, the same two processes on loopback, nothing done with the bytes.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use cxtp::{quic::tls::Credentials, service::config::TlsFiles};
use protocol_spec::id::{Identity, Name, Role};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, VarInt};
use rustls::pki_types::UnixTime;
use tokio::time::timeout;

use crate::clock;

/// Octets that are written at one time.
const CHUNK: usize = 256 << 10;
/// For a handshake.
const GREETING: Duration = Duration::from_secs(10);
/// For all bytes.
const PATIENCE: Duration = Duration::from_secs(300);

/// One end of the stream.
#[derive(Clone, Debug)]
pub struct End {
    /// Where `cxtpctl pki` put its files.
    pub pki: PathBuf,
    /// Name of the gateway whose certificate it has.
    pub name: Name,
}

impl End {
    fn credentials(&self) -> Result<Credentials> {
        let file = |end: &str| self.pki.join(format!("{}.{end}", self.name));
        let files =
            TlsFiles { ca: self.pki.join("ca.pem"), certificate: file("pem"), key: file("key") };
        Ok(Credentials::load(&files, &self.name, UnixTime::now())?)
    }
}

/// Takes connections and their streams, and answers each stream with its length.
///
/// # Errors
/// If the address is taken or the credentials are none.
pub async fn serve(end: &End, listen: SocketAddr) -> Result<()> {
    let config = ServerConfig::with_crypto(Arc::new(end.credentials()?.server()?));
    let endpoint = Endpoint::server(config, listen)?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            // Whoever measures sees on its own end what went wrong.
            let Ok(connection) = incoming.await else { return };
            while answer(&connection).await.is_ok() {}
        });
    }
    Ok(())
}

async fn answer(connection: &Connection) -> Result<()> {
    let mut stream = connection.accept_uni().await?;
    let mut length = 0_u64;
    while let Some(chunk) = stream.read_chunk(CHUNK, true).await? {
        length += chunk.bytes.len() as u64;
    }
    let mut reply = connection.open_uni().await?;
    reply.write_all(&length.to_be_bytes()).await?;
    reply.finish()?;
    Ok(())
}

/// Sends `bytes` octets and returns the time until the other end has them all.
///
/// # Errors
/// If it does not get through in time.
pub async fn send(from: &End, to: &Name, at: SocketAddr, bytes: u64) -> Result<Duration> {
    let peer = Identity { role: Role::Gateway, name: to.clone() };
    let mut endpoint = Endpoint::client(SocketAddr::new(at.ip(), 0))?;
    let crypto = from.credentials()?.client(peer)?;
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    let connecting = endpoint.connect(at, to.as_str())?;
    let connection = timeout(GREETING, connecting).await.context("no handshake in time")??;
    let took = timeout(PATIENCE, push(&connection, bytes)).await.context("no end in time")?;
    connection.close(VarInt::from_u32(0), b"");
    endpoint.close(VarInt::from_u32(0), b"");
    took
}

async fn push(connection: &Connection, bytes: u64) -> Result<Duration> {
    let chunk = vec![0xa5; CHUNK];
    let began = clock::now();
    let mut stream = connection.open_uni().await?;
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left.min(CHUNK as u64))?;
        stream.write_all(&chunk[..now]).await?;
        left -= now as u64;
    }
    stream.finish()?;
    let mut reply = connection.accept_uni().await?;
    let reply = reply.read_to_end(8).await?;
    let took = clock::now().saturating_duration_since(began);
    ensure!(reply == bytes.to_be_bytes(), "the other end has not all bytes");
    Ok(took)
}
