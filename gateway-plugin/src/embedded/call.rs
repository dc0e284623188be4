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

use super::Addresses;

/// Changes with every change of this protocol.
pub(crate) const VERSION: u32 = 1;
/// Most octets of one frame.
const MAX_FRAME: usize = 1 << 20;
/// Most orders or results in one frame.
pub(crate) const MAX_ITEMS: usize = 512;
/// Within a frame nothing may take longer.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

macro_rules! calls {
    ($($(#[$doc:meta])* $call:ident = $code:literal,)*) => {
        /// The numbers of the calls.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Call { $($(#[$doc])* $call = $code,)* }

        impl Call {
            fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$call),)*
                    _ => None,
                }
            }
        }
    };
}

calls! {
    Hello = 1,
    Capabilities = 2,
    Subscribe = 3,
    List = 4,
    Snapshot = 5,
    Admit = 6,
    Stage = 7,
    Pause = 8,
    Resume = 9,
    Activate = 10,
    Release = 11,
    Discard = 12,
    Extend = 13,
    Provision = 64,
    AddChild = 65,
    RemoveChild = 66,
    Remove = 67,
    Counters = 68,
    SetNeighbour = 69,
    SetInnerHost = 70,
    /// From the gateway: events, without being asked.
    Event = 128,
    /// From the gateway: it cannot do this call at all; one text.
    Fault = 255,
}

/// What the gateway says of itself first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    /// Random for each life of the gateway.
    pub(crate) instance: [u8; 16],
    pub(crate) addresses: Addresses,
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
    head[4..].copy_from_slice(&[call as u8, u8::from(more)]);
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

/// Writes a list, in as many frames as it takes.
pub(crate) fn write_list<T: Encode>(
    stream: &mut UnixStream,
    call: Call,
    mut items: &[T],
) -> io::Result<()> {
    loop {
        let (octets, count) = fit(items)?;
        items = &items[count..];
        write(stream, call, !items.is_empty(), &octets)?;
        if items.is_empty() {
            return Ok(());
        }
    }
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
    let call = Call::from_code(call).ok_or_else(|| invalid("a call that is not known"))?;
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body)?;
    Ok(Some(Frame { call, more: more != 0, body }))
}

pub(crate) fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
