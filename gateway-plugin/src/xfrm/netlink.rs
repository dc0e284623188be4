//! A small blocking netlink socket for any protocol: requests with one result
//! each, many in one send, dumps and events; every wait has an end.
//!
//! The kernel works a request off inside `send`, so that its answers lie in the
//! receive queue when `send` returns. What bounds that queue is therefore how
//! much is sent at once.

mod answer;
mod message;
#[cfg(test)]
mod tests;

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR};
use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, setsockopt, sockopt},
};
use zeroize::{Zeroize, Zeroizing};

pub use self::answer::{Answered, NetlinkError};
pub use self::message::{Attributes, HEADER_LEN, Malformed, Message, Received};
use self::{
    answer::{NLMSG_DONE, NLMSG_ERROR, result},
    message::Messages,
};
use super::clock::Deadline;

/// Receive queue that is asked of the kernel, in octets.
const RECEIVE_QUEUE: usize = 8 << 20;
/// Send queue that is asked of the kernel: one send has to fit.
const SEND_QUEUE: usize = 1 << 20;
/// A datagram of a dump has at most 32 KiB; nothing else is longer.
const DATAGRAM: usize = 128 << 10;
/// Messages in flight: their answers take far less than the receive queue, even
/// where the kernel refuses a large one.
pub const IN_FLIGHT: usize = 96;
/// Octets in one send.
const SEND: usize = 64 << 10;

const NLMSG_NOOP: u16 = 1;
const NLMSG_OVERRUN: u16 = 4;

/// What one receive brought.
enum Datagram {
    Octets(usize),
    Nothing,
    Overflow,
}

/// A netlink socket of one protocol, bound to a port of its own, in the network
/// namespace of the thread that opened it.
pub struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
    patience: Duration,
    buffer: Zeroizing<Vec<u8>>,
}

impl NetlinkSocket {
    /// Opens a socket of a protocol (`NETLINK_XFRM` is 6); no single wait takes
    /// longer than `patience`.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`] if the kernel has no such protocol or allows none.
    pub fn open(protocol: isize, patience: Duration) -> Result<Self, NetlinkError> {
        let failed = |doing| {
            move |error: std::io::Error| NetlinkError::Socket { doing, errno: errno_of(&error) }
        };
        let mut socket = Socket::new(protocol).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket.set_non_blocking(true).map_err(failed("make non-blocking"))?;
        // Without cap_ack the kernel sends the whole refused request back, keys
        // included.
        socket.set_cap_ack(true).map_err(failed("switch cap_ack on"))?;
        socket.set_ext_ack(true).map_err(failed("switch ext_ack on"))?;
        // Beyond the system's limit needs CAP_NET_ADMIN; without it take what
        // there is: batches are bounded and an overflow is seen.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_QUEUE).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_QUEUE);
        }
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_QUEUE).is_err() {
            let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_QUEUE);
        }
        Ok(Self { socket, sequence: 1, patience, buffer: Zeroizing::new(vec![0; DATAGRAM]) })
    }

    /// Listens to a multicast group, by its number.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`] if there is no such group.
    pub fn join(&mut self, group: u32) -> Result<(), NetlinkError> {
        self.socket.add_membership(group).map_err(|error| NetlinkError::Socket {
            doing: "join a multicast group",
            errno: errno_of(&error),
        })
    }

    /// Sends one request and waits for its result.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn request(&mut self, message: Message) -> Answered {
        self.ask(message, |_| {})
    }

    /// Sends one request, hands what answers it to `each`, and waits for its
    /// result. The message must carry `NLM_F_ACK`.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn ask(&mut self, message: Message, mut each: impl FnMut(Received<'_>)) -> Answered {
        let mut results = self.ask_all(&[message], |_, received| each(received));
        results.pop().unwrap_or(Err(NetlinkError::Silent(self.patience)))
    }

    /// Sends many requests in as few sends as the queues bear, and gives one
    /// result for each, in their order; `Ok` for those that do not ask for one
    /// ([`ACKNOWLEDGED`]).
    pub fn batch(&mut self, messages: &[Message]) -> Vec<Answered> {
        self.ask_all(messages, |_, _| {})
    }

    /// As [`NetlinkSocket::batch`]; what answers request `i` beside its result is
    /// handed to `each` with `i`.
    pub fn ask_all(
        &mut self,
        messages: &[Message],
        mut each: impl FnMut(usize, Received<'_>),
    ) -> Vec<Answered> {
        let mut results = Vec::with_capacity(messages.len());
        while results.len() < messages.len() {
            let start = results.len();
            let mut octets = 0;
            let count = messages[start..]
                .iter()
                .take(IN_FLIGHT)
                .take_while(|message| {
                    octets += message.len();
                    octets <= SEND
                })
                .count()
                .max(1);
            let flight = &messages[start..start + count];
            results.extend(self.fly(flight, &mut |i, received| each(start + i, received)));
        }
        results
    }

    /// Lists a table: sends a dump request and hands each entry to `each`.
    /// `restart` is called when the table changed and the list begins anew.
    ///
    /// # Errors
    /// [`NetlinkError`]; entries handed over before are incomplete then.
    pub fn dump(
        &mut self,
        build: impl Fn(u16) -> Message,
        mut restart: impl FnMut(),
        mut each: impl FnMut(Received<'_>),
    ) -> Result<(), NetlinkError> {
        for _ in 0..4 {
            restart();
            match self.dump_once(&build(NLM_F_DUMP), &mut each) {
                Err(NetlinkError::Interrupted) => {}
                other => return other,
            }
        }
        Err(NetlinkError::Interrupted)
    }

    /// Waits for what comes by itself (events), at most `wait`, and hands each
    /// message to `each`. Returns whether anything came.
    ///
    /// # Errors
    /// [`NetlinkError::Lost`] when events were thrown away; others as usual.
    pub fn listen(
        &mut self,
        wait: Duration,
        mut each: impl FnMut(Received<'_>),
    ) -> Result<bool, NetlinkError> {
        match self.receive(Deadline::after(wait))? {
            Datagram::Nothing => Ok(false),
            Datagram::Overflow => Err(NetlinkError::Lost),
            Datagram::Octets(len) => {
                let outcome =
                    Messages::of(&self.buffer[..len]).try_for_each(|one| one.map(&mut each));
                self.buffer[..len].zeroize();
                outcome?;
                Ok(true)
            }
        }
    }

    fn dump_once(
        &mut self,
        message: &Message,
        each: &mut impl FnMut(Received<'_>),
    ) -> Result<(), NetlinkError> {
        let sequence = self.send(std::slice::from_ref(message))?;
        let mut interrupted = false;
        loop {
            let len = match self.receive(Deadline::after(self.patience))? {
                Datagram::Octets(len) => len,
                Datagram::Nothing => return Err(NetlinkError::Silent(self.patience)),
                Datagram::Overflow => return Err(NetlinkError::Lost),
            };
            let mut end = None;
            for one in Messages::of(&self.buffer[..len]) {
                let one = match one {
                    Ok(one) if one.sequence == sequence => one,
                    Ok(_) => continue,
                    Err(malformed) => {
                        end = Some(Err(malformed.into()));
                        break;
                    }
                };
                interrupted |= one.flags & NLM_F_DUMP_INTR != 0;
                match one.kind {
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => end = Some(Err(NetlinkError::Lost)),
                    NLMSG_ERROR | NLMSG_DONE => {
                        end = Some(result(one));
                        break;
                    }
                    _ => each(one),
                }
            }
            self.buffer[..len].zeroize();
            match end {
                Some(Ok(())) if interrupted => return Err(NetlinkError::Interrupted),
                Some(end) => return end,
                None => {}
            }
        }
    }

    /// Sends messages in one send and collects what answers them.
    fn fly(
        &mut self,
        messages: &[Message],
        each: &mut dyn FnMut(usize, Received<'_>),
    ) -> Vec<Answered> {
        let first = match self.send(messages) {
            Ok(first) => first,
            Err(error) => return vec![Err(error); messages.len()],
        };
        let mut results: Vec<Option<Answered>> =
            messages.iter().map(|message| (!message.wants_ack()).then_some(Ok(()))).collect();
        let deadline = Deadline::after(self.patience);
        let mut open = results.iter().filter(|result| result.is_none()).count();
        let mut missing = NetlinkError::Silent(self.patience);
        while open > 0 {
            // What the kernel had to say it has said: once something was lost,
            // only what lies in the queue will come.
            let lost = missing == NetlinkError::Lost;
            let wait = if lost { Deadline::after(Duration::ZERO) } else { deadline };
            let len = match self.receive(wait) {
                Ok(Datagram::Octets(len)) => len,
                Ok(Datagram::Nothing) => break,
                Ok(Datagram::Overflow) => {
                    missing = NetlinkError::Lost;
                    continue;
                }
                Err(error) => {
                    missing = error;
                    break;
                }
            };
            for one in Messages::of(&self.buffer[..len]) {
                let one = match one {
                    Ok(one) => one,
                    Err(malformed) => {
                        missing = malformed.into();
                        break;
                    }
                };
                let index = one.sequence.wrapping_sub(first) as usize;
                let Some(slot) = results.get_mut(index) else { continue };
                match one.kind {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR | NLMSG_DONE => {
                        open -= usize::from(slot.is_none());
                        *slot = Some(result(one));
                    }
                    _ => each(index, one),
                }
            }
            self.buffer[..len].zeroize();
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(missing.clone()))).collect()
    }

    /// Sends messages in one send and returns the first one's sequence number.
    fn send(&mut self, messages: &[Message]) -> Result<u32, NetlinkError> {
        if messages.iter().any(Message::is_oversized) {
            return Err(NetlinkError::TooLong);
        }
        let first = self.sequence;
        let len = messages.iter().map(Message::len).sum();
        let mut octets = Zeroizing::new(Vec::with_capacity(len));
        for message in messages {
            message.finish(self.sequence, &mut octets);
            self.sequence = self.sequence.wrapping_add(1);
        }
        let kernel = SocketAddr::new(0, 0);
        let deadline = Deadline::after(self.patience);
        loop {
            match self.socket.send_to(&octets, &kernel, 0) {
                Ok(_) => return Ok(first),
                Err(error) => match errno_of(&error) {
                    Errno::EINTR => {}
                    Errno::EAGAIN => {
                        if !self.wait(PollFlags::POLLOUT, deadline)? {
                            return Err(NetlinkError::Silent(self.patience));
                        }
                    }
                    Errno::EMSGSIZE => return Err(NetlinkError::TooLong),
                    errno => return Err(NetlinkError::Socket { doing: "send", errno }),
                },
            }
        }
    }

    fn receive(&mut self, deadline: Deadline) -> Result<Datagram, NetlinkError> {
        loop {
            let room = &mut &mut self.buffer[..];
            match self.socket.recv_from(room, MsgFlags::MSG_TRUNC.bits()) {
                // Only the kernel has port 0.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((len, _)) if len > self.buffer.len() => {
                    self.buffer.zeroize();
                    self.buffer.resize(DATAGRAM, 0);
                    return Err(Malformed("a datagram that is longer than any").into());
                }
                Ok((len, _)) => return Ok(Datagram::Octets(len)),
                Err(error) => match errno_of(&error) {
                    Errno::EINTR => {}
                    Errno::ENOBUFS => return Ok(Datagram::Overflow),
                    Errno::EAGAIN => {
                        if !self.wait(PollFlags::POLLIN, deadline)? {
                            return Ok(Datagram::Nothing);
                        }
                    }
                    errno => return Err(NetlinkError::Socket { doing: "receive", errno }),
                },
            }
        }
    }

    /// Waits until the socket is ready; `false` once the deadline has passed.
    fn wait(&self, events: PollFlags, deadline: Deadline) -> Result<bool, NetlinkError> {
        loop {
            let left = deadline.left();
            let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), events)];
            match poll(&mut fds, PollTimeout::from(millis)) {
                Ok(0) if deadline.left().is_zero() => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(NetlinkError::Socket { doing: "poll", errno }),
            }
        }
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

/// Flags of a request that changes something: the kernel says how it went.
pub const ACKNOWLEDGED: u16 = NLM_F_ACK;
