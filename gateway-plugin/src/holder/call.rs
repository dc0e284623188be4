//! What is said on the gateway's socket. Every call is a list of orders and its
//! answer a list of results, so that one way of cutting long lists serves all:
//!
//! ```text
//! | length 4, big-endian | call 1 | more 1 | list, as protocol_spec::codec has it |
//! ```
//!
//! `length` counts what follows it. A client cuts its orders into several calls;
//! the gateway cuts its results into several frames, all but the last with
//! `more` = 1.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use bincode::{Decode, Encode};
use protocol_spec::codec;
use zeroize::Zeroizing;

/// Changes with every change of this protocol.
pub(crate) const VERSION: u32 = 3;
/// Most octets of one frame.
const MAX_FRAME: usize = 1 << 20;
/// Most orders or results in one frame.
pub(crate) const MAX_ITEMS: usize = 512;
/// Within a frame nothing may take longer.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call(pub(crate) u8);

impl Call {
    pub(crate) const HELLO: Self = Self(1);
    pub(crate) const CAPABILITIES: Self = Self(2);
    pub(crate) const SUBSCRIBE: Self = Self(3);
    pub(crate) const LIST: Self = Self(4);
    pub(crate) const SNAPSHOT: Self = Self(5);
    pub(crate) const ADMIT: Self = Self(6);
    pub(crate) const STAGE: Self = Self(7);
    pub(crate) const PAUSE: Self = Self(8);
    pub(crate) const RESUME: Self = Self(9);
    pub(crate) const ACTIVATE: Self = Self(10);
    pub(crate) const RELEASE: Self = Self(11);
    pub(crate) const DISCARD: Self = Self(12);
    pub(crate) const EXTEND: Self = Self(13);
    /// From here to 127: a body's own, beside the trait.
    pub(crate) const FIRST_OWN: u8 = 64;
    /// From the gateway: events, without being asked.
    pub(crate) const EVENT: Self = Self(128);
    /// From the gateway: it cannot do this call at all; one text.
    pub(crate) const FAULT: Self = Self(255);
}

/// What a gateway answers to a call: a list, encoded.
pub(crate) struct Answer(Vec<(Zeroizing<Vec<u8>>, bool)>);

impl Answer {
    /// The frames of a list of results.
    pub(crate) fn of<T: Encode>(mut items: &[T]) -> io::Result<Self> {
        let mut frames = Vec::new();
        loop {
            let (octets, count) = fit(items)?;
            items = &items[count..];
            frames.push((octets, !items.is_empty()));
            if items.is_empty() {
                return Ok(Self(frames));
            }
        }
    }

    pub(crate) fn write(&self, stream: &mut UnixStream, call: Call) -> io::Result<()> {
        self.0.iter().try_for_each(|(octets, more)| write(stream, call, *more, octets))
    }
}

/// What the gateway says of itself first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    /// Which life of the gateway this is: with another one all sessions are gone.
    pub(crate) life: [u8; 16],
    /// Whether sessions outlive the process that we speak to.
    pub(crate) outlives: bool,
}

/// A frame that was read. Its octets may hold keys and are wiped.
pub(crate) struct Frame {
    pub(crate) call: Call,
    pub(crate) more: bool,
    body: Zeroizing<Vec<u8>>,
}

impl Frame {
    pub(crate) fn items<T: Encode + Decode<()>>(&self) -> io::Result<Vec<T>> {
        codec::decode(&self.body).map_err(|error| invalid(&error.to_string()))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// The frame with the longest head of `items` that fits, and how many it holds.
pub(crate) fn fit<T: Encode>(items: &[T]) -> io::Result<(Zeroizing<Vec<u8>>, usize)> {
    let mut count = items.len().min(MAX_ITEMS);
    loop {
        match codec::encode(&&items[..count]) {
            Ok(octets) if octets.len() <= MAX_FRAME => return Ok((octets, count)),
            _ if count > 1 => count /= 2,
            _ => return Err(invalid("one item is larger than a message may be")),
        }
    }
}

/// Writes one frame.
pub(crate) fn write(
    stream: &mut UnixStream,
    call: Call,
    more: bool,
    body: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(body.len() + 2).map_err(|_| invalid("too long"))?;
    stream.set_write_timeout(Some(FRAME_TIMEOUT))?;
    let mut head = [0; 6];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4..].copy_from_slice(&[call.0, u8::from(more)]);
    if body.len() <= 4096 {
        // One write for the short ones, which are most.
        let mut octets = Zeroizing::new(Vec::with_capacity(head.len() + body.len()));
        octets.extend(head);
        octets.extend(body);
        return stream.write_all(&octets);
    }
    stream.write_all(&head)?;
    stream.write_all(body)
}

/// Reads one frame; `None` if nothing began within `patience`.
pub(crate) fn read(stream: &mut UnixStream, patience: Duration) -> io::Result<Option<Frame>> {
    let mut head = [0; 6];
    stream.set_read_timeout(Some(patience))?;
    let began = match stream.read(&mut head) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(n) => n,
        Err(error) if timed_out(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(FRAME_TIMEOUT))?;
    stream.read_exact(&mut head[began..])?;
    let [l0, l1, l2, l3, call, more] = head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let length = length.checked_sub(2).filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or_else(|| invalid("a frame with a length that none may have"))?;
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body)?;
    Ok(Some(Frame { call: Call(call), more: more != 0, body }))
}

pub(crate) fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
