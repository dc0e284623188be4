//! The responder on sockets.

use std::{
    io::{self, ErrorKind},
    net::UdpSocket,
    time::Duration,
};

use super::{Established, Handshake, Path, Step, Terms};

/// How long one socket is listened on before the other's turn.
const TURN: Duration = Duration::from_millis(20);
/// The non-ESP marker on port 4500 (RFC 3948 section 2.2).
const MARKER: [u8; 4] = [0; 4];
/// The longest message that is taken.
const LONGEST: usize = 4096;

/// Takes one end user in who connects within `patience`. The sockets are bound to the
/// gateway's address, the first to port 500 and the second to 4500; `now` is the time
/// by any clock that only goes forward.
///
/// # Errors
/// The system's; [`ErrorKind::TimedOut`] if nobody was taken in, with what was wrong
/// last.
pub fn take_in(
    terms: Terms,
    ports: &[UdpSocket; 2],
    patience: Duration,
    now: impl Fn() -> Duration,
) -> io::Result<Established> {
    for port in ports {
        port.set_read_timeout(Some(TURN))?;
    }
    let mut handshake = Handshake::new(terms);
    let (begun, mut wrong) = (now(), None);
    let mut buffer = [0; LONGEST];
    while now().saturating_sub(begun) < patience {
        for (port, marker) in ports.iter().zip([&MARKER[..0], &MARKER]) {
            let (length, source) = match port.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            let Some(message) = buffer.get(..length).and_then(|m| m.strip_prefix(marker)) else {
                continue;
            };
            let path = Path { source, destination: port.local_addr()? };
            let step = match handshake.handle_datagram(message, path) {
                Ok(step) => step,
                Err(error) => {
                    wrong = Some(error);
                    continue;
                }
            };
            let answer = match &step {
                Step::Send(answer) => answer,
                Step::Established(established) => &established.datagram,
            };
            port.send_to(&[marker, answer].concat(), source)?;
            if let Step::Established(established) = step {
                return Ok(*established);
            }
        }
    }
    let why = wrong.map(|error| format!(": {error}")).unwrap_or_default();
    Err(io::Error::new(ErrorKind::TimedOut, format!("no end user was taken in{why}")))
}
