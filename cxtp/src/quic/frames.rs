//! Messages on QUIC streams: the header is checked before anything is
//! allocated, room is asked for before a body is read, and a frame that was
//! begun must end in time.

use std::{sync::Arc, time::Duration};

use protocol_spec::{
    frame::{HEADER, Header},
    message::{BadFrame, Message},
};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream};
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use zeroize::Zeroizing;

/// Octets of one write; progress is measured by it.
const WRITE_CHUNK: usize = 64 << 10;
/// One permit of [`Room`] stands for so many octets of a body.
const ROOM_UNIT: usize = 1024;

/// Why no message came, or could not be sent.
#[derive(Debug, Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Bad(#[from] BadFrame),
    #[error("a frame did not end in time")]
    Stalled,
    #[error("the stream ended in the middle of a frame")]
    Cut,
    #[error("the stream was reset with code {0}")]
    Reset(u64),
    #[error("the connection is gone: {0}")]
    Gone(String),
}

/// Bounds the octets of bodies that were read from one peer and are not handled
/// yet. While there is no room, nothing is read and the flow control of QUIC
/// stops the peer.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new(octets: usize) -> Self {
        Self(Arc::new(Semaphore::new(octets / ROOM_UNIT)))
    }

    async fn take(&self, octets: u32) -> Result<OwnedSemaphorePermit, StreamError> {
        let units = octets.div_ceil(ROOM_UNIT as u32);
        Arc::clone(&self.0)
            .acquire_many_owned(units)
            .await
            .map_err(|error| StreamError::Gone(error.to_string()))
    }
}

/// The next message of a stream, with the room that it takes until it is
/// handled; `None` where the stream ends. Types that may be skipped are. It must
/// begin within `patience`, if there is one: between frames a stream may
/// otherwise be silent for as long as it likes.
pub(super) async fn read_message(
    stream: &mut RecvStream,
    room: &Room,
    patience: Option<Duration>,
    stall: Duration,
) -> Result<Option<(Message, OwnedSemaphorePermit)>, StreamError> {
    loop {
        let mut header = [0; HEADER];
        let first = stream.read(&mut header);
        let first = match patience {
            None => first.await,
            Some(patience) => timeout(patience, first).await.map_err(|_| StreamError::Stalled)?,
        };
        let Some(begun) = first.map_err(read_error)? else {
            return Ok(None);
        };
        let rest = async {
            if let Some(rest) = header.get_mut(begun..) {
                stream.read_exact(rest).await.map_err(exact_error)?;
            }
            Header::from_octets(header).map_err(BadFrame::from).map_err(StreamError::from)
        };
        let header = timeout(stall, rest).await.map_err(|_| StreamError::Stalled)??;
        //= spec CXTP-2.5-4
        let room = room.take(header.length).await?;
        let mut body = Zeroizing::new(vec![0; header.length as usize]);
        timeout(stall, stream.read_exact(&mut body))
            .await
            .map_err(|_| StreamError::Stalled)?
            .map_err(exact_error)?;
        match Message::from_parts(header, &body)? {
            Some(message) => return Ok(Some((message, room))),
            None => tracing::debug!(kind = header.kind, "skipped a message of an unknown type"),
        }
    }
}

/// Writes a whole frame; fails if the peer takes nothing of it for `stall`.
pub(super) async fn write_frame(
    stream: &mut SendStream,
    frame: &[u8],
    stall: Duration,
) -> Result<(), StreamError> {
    for chunk in frame.chunks(WRITE_CHUNK) {
        timeout(stall, stream.write_all(chunk)).await.map_err(|_| StreamError::Stalled)?.map_err(
            |error| match error {
                quinn::WriteError::Stopped(code) => StreamError::Reset(code.into_inner()),
                error => StreamError::Gone(error.to_string()),
            },
        )?;
    }
    Ok(())
}

fn read_error(error: ReadError) -> StreamError {
    match error {
        ReadError::Reset(code) => StreamError::Reset(code.into_inner()),
        error => StreamError::Gone(error.to_string()),
    }
}

fn exact_error(error: ReadExactError) -> StreamError {
    match error {
        ReadExactError::FinishedEarly(_) => StreamError::Cut,
        ReadExactError::ReadError(error) => read_error(error),
    }
}
