//! The client's end of the control API: `cxtpctl`, the demo and the tests speak
//! to a daemon through this.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::api::{Line, Refused, Request};

/// Octets that one line may have, in either direction. A sealed session of the
/// greatest allowed size fits.
pub const MAX_LINE: usize = 8 << 20;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The socket cannot be reached.
    #[error(
        "cannot reach the daemon at {}: {error}{}",
        path.display(),
        cure(error)
    )]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the daemon broke: {0}")]
    Broken(#[from] io::Error),
    /// The daemon closed the connection before its last line.
    #[error("the daemon closed the connection in the middle of an answer")]
    Closed,
    /// What came is not a line of the API.
    #[error("the daemon answers what this program does not understand: {0}")]
    NotUnderstood(String),
    /// The daemon did not do it.
    #[error("{}: {}", .0.status, .0.detail)]
    Refused(Refused),
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; is cxtpd running, and is this its `control_socket`?",
        io::ErrorKind::ConnectionRefused => {
            "; cxtpd is not running: it left this socket behind when it ended"
        }
        io::ErrorKind::PermissionDenied => {
            "; run as the user of cxtpd, or set `control_mode` so that your group may connect"
        }
        _ => "",
    }
}

/// A connection to a daemon. It carries one request at a time.
pub struct ControlClient {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    line: Vec<u8>,
}

impl ControlClient {
    /// Connects to the daemon's control socket.
    ///
    /// # Errors
    /// [`ClientError::Connect`], with what would cure it.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| ClientError::Connect { path: path.to_owned(), error })?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: BufReader::new(reader), writer, line: Vec::new() })
    }

    /// Sends a request and returns its answer, line by line.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if it cannot be sent.
    pub async fn request(&mut self, request: &Request) -> Result<Lines<'_>, ClientError> {
        let mut text = serde_json::to_vec(request).map_err(io::Error::from)?;
        text.push(b'\n');
        self.writer.write_all(&text).await?;
        Ok(Lines { client: self, ended: false })
    }

    /// Sends a request and waits for its end; lines before the last are dropped.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the daemon did not do it, or what broke.
    pub async fn call(&mut self, request: &Request) -> Result<Value, ClientError> {
        let mut lines = self.request(request).await?;
        while let Some(line) = lines.next().await? {
            match line {
                Line::Done(value) => return Ok(value),
                Line::Error(refused) => return Err(ClientError::Refused(refused)),
                Line::Progress(_) | Line::Sessions(_) | Line::Event(_) => {}
            }
        }
        Err(ClientError::Closed)
    }
}

/// The answer to one request.
pub struct Lines<'a> {
    client: &'a mut ControlClient,
    ended: bool,
}

impl Lines<'_> {
    /// The next line; `None` after [`Line::Done`] or [`Line::Error`].
    ///
    /// # Errors
    /// [`ClientError`] if the connection breaks or the line is not understood.
    pub async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        // What was read of a line stays in the client's buffer, so that a caller
        // may give up waiting and ask again.
        let ControlClient { reader, line, .. } = &mut *self.client;
        let room = (MAX_LINE + 1).saturating_sub(line.len()) as u64;
        (&mut *reader).take(room).read_until(b'\n', line).await?;
        if line.last() != Some(&b'\n') {
            self.ended = true;
            return Err(if line.len() > MAX_LINE {
                ClientError::NotUnderstood(format!("a line of more than {MAX_LINE} octets"))
            } else {
                ClientError::Closed
            });
        }
        let parsed = serde_json::from_slice(line);
        line.clear();
        let parsed = parsed.map_err(|error| {
            self.ended = true;
            ClientError::NotUnderstood(error.to_string())
        })?;
        self.ended = matches!(parsed, Line::Done(_) | Line::Error(_));
        Ok(Some(parsed))
    }
}
