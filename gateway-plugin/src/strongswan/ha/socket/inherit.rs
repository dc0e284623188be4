//! A socket that systemd opened for us (`sd_listen_fds(3)`).

use std::{io, net::UdpSocket};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use socket2::{Socket, Type};

/// The number of the first descriptor that is passed in.
const FIRST: i32 = 3;

/// The first socket that systemd passed to this process, or `None` if there is
/// none.
pub(super) fn first_socket() -> io::Result<Option<UdpSocket>> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    // Variables that are meant for our parent are none of ours.
    if number("LISTEN_PID") != Some(std::process::id()) || number("LISTEN_FDS").unwrap_or(0) == 0 {
        return Ok(None);
    }
    // To take a bare number for a descriptor is unsafe: it may be closed, or be
    // somebody else's. Asking the kernel for a duplicate out of our own process is
    // checked by the kernel, so it is not. The duplicate closes on exec; number 3
    // itself stays open, which is what keeps the address held while we restart.
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let socket = Socket::from(pidfd_getfd(process, FIRST, PidfdGetfdFlags::empty())?);
    if socket.r#type()? != Type::DGRAM {
        return Err(io::Error::other("it is not a datagram socket"));
    }
    Ok(Some(socket.into()))
}
