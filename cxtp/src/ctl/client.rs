//! The client of the control API: blocking, since one command asks one question,
//! and with a deadline over all that it waits for.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::outcome::{Exit, Problem};
use crate::service::api::{Line, Request};

/// Longest line that a daemon may send, so that a wrong socket cannot fill the
/// memory.
const MAX_LINE: usize = 16 << 20;

/// A connection with one request on it.
pub(super) struct Client {
    reader: BufReader<UnixStream>,
    socket: PathBuf,
    deadline: Deadline,
}

impl Client {
    /// Connects and sends the request. All further waits count against `timeout`
    /// as well.
    pub(super) fn send(
        socket: &Path,
        timeout: Option<Duration>,
        request: &Request,
    ) -> Result<Self, Problem> {
        let deadline = Deadline::after(timeout);
        let stream = connect(socket, deadline.left()?)?;
        let client = Self { reader: BufReader::new(stream), socket: socket.to_owned(), deadline };
        let mut line = serde_json::to_vec(request)
            .map_err(|error| Problem::usage(format!("the request has no JSON form: {error}")))?;
        line.push(b'\n');
        let left = client.deadline.left()?;
        client
            .stream()
            .set_write_timeout(left)
            .and_then(|()| client.stream().write_all(&line))
            .map_err(|error| client.broken(&error))?;
        Ok(client)
    }

    /// The next line that is neither an error nor something unreadable.
    pub(super) fn next(&mut self) -> Result<Line, Problem> {
        let line = self.read_line()?;
        match serde_json::from_slice(&line) {
            Ok(Line::Error(refused)) => Err(refused.into()),
            Ok(line) => Ok(line),
            Err(error) => Err(Problem::foreign(format!(
                "{} answers a line that is none of the control API ({error}): is it cxtpd's \
                 control socket, and of the same version as this cxtpctl ({})?",
                self.socket.display(),
                env!("CARGO_PKG_VERSION"),
            ))),
        }
    }

    /// Reads to the answer; every line before it goes to `on_line`.
    pub(super) fn answer<T: DeserializeOwned>(
        mut self,
        mut on_line: impl FnMut(Line),
    ) -> Result<T, Problem> {
        loop {
            match self.next()? {
                Line::Done(answer) => return self.read_answer(answer),
                line => on_line(line),
            }
        }
    }

    fn read_answer<T: DeserializeOwned>(&self, answer: Value) -> Result<T, Problem> {
        serde_json::from_value(answer).map_err(|error| {
            Problem::foreign(format!(
                "the daemon at {} gives an answer of another form ({error}): is it of the same \
                 version as this cxtpctl ({})?",
                self.socket.display(),
                env!("CARGO_PKG_VERSION"),
            ))
        })
    }

    fn stream(&self) -> &UnixStream {
        self.reader.get_ref()
    }

    fn read_line(&mut self) -> Result<Vec<u8>, Problem> {
        let mut line = Vec::new();
        loop {
            let left = self.deadline.left()?;
            self.stream().set_read_timeout(left).map_err(|error| self.broken(&error))?;
            let part = match self.reader.fill_buf() {
                Ok(part) => part,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(&error)),
            };
            if part.is_empty() {
                return Err(self.ended());
            }
            let end = part.iter().position(|octet| *octet == b'\n');
            let used = end.map_or(part.len(), |end| end + 1);
            line.extend_from_slice(&part[..end.unwrap_or(used)]);
            self.reader.consume(used);
            if end.is_some() {
                return Ok(line);
            }
            if line.len() > MAX_LINE {
                return Err(Problem::foreign(format!(
                    "{} sends a line of more than {} MiB: it is not cxtpd's control socket",
                    self.socket.display(),
                    MAX_LINE >> 20,
                )));
            }
        }
    }

    fn ended(&self) -> Problem {
        Problem::new(
            Exit::Unreachable,
            "daemon-ended",
            format!(
                "the daemon closed {} before its answer: it has ended or was restarted; look at \
                 its log, then ask again with `cxtpctl sessions`",
                self.socket.display()
            ),
        )
    }

    fn broken(&self, error: &io::Error) -> Problem {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.deadline.passed(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.ended(),
            _ => Problem::new(
                Exit::Unreachable,
                "unreachable",
                format!("{}: {error}", self.socket.display()),
            ),
        }
    }
}

fn connect(path: &Path, left: Option<Duration>) -> Result<UnixStream, Problem> {
    let attempt = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Where the daemon's queue of callers is full, this bounds the wait.
        socket.set_write_timeout(left)?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(UnixStream::from(socket))
    };
    attempt().map_err(|error: io::Error| not_connected(path, &error))
}

fn not_connected(path: &Path, error: &io::Error) -> Problem {
    let at = path.display();
    let detail = match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no socket {at}: start cxtpd, or name its control_socket with --socket or \
             CXTP_SOCKET"
        ),
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens at {at}: cxtpd has ended; start it again")
        }
        io::ErrorKind::PermissionDenied => format!(
            "this user may not use {at}: become the user or join the group of the socket \
             (control_mode in the daemon's configuration)"
        ),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the daemon does not take calls at {at}: it hangs or is overloaded")
        }
        _ => format!("{at} cannot be used as a control socket: {error}"),
    };
    Problem::new(Exit::Unreachable, "unreachable", detail)
}

/// The end of all waiting, if there is one.
struct Deadline {
    at: Option<Instant>,
    timeout: Duration,
}

impl Deadline {
    fn after(timeout: Option<Duration>) -> Self {
        // A time beyond what the clock can say is as good as none.
        let at = timeout.and_then(|timeout| now().checked_add(timeout));
        Self { at, timeout: timeout.unwrap_or_default() }
    }

    /// How long is left; `None` without a deadline.
    fn left(&self) -> Result<Option<Duration>, Problem> {
        let Some(at) = self.at else { return Ok(None) };
        match at.saturating_duration_since(now()) {
            Duration::ZERO => Err(self.passed()),
            left => Ok(Some(left)),
        }
    }

    fn passed(&self) -> Problem {
        Problem::new(
            Exit::TimedOut,
            "no-answer",
            format!(
                "the answer did not come within {} s; the daemon may still be at work: look with \
                 `cxtpctl sessions` and `cxtpctl watch`, or wait longer with --timeout",
                self.timeout.as_secs_f64()
            ),
        )
    }
}

#[expect(clippy::disallowed_methods, reason = "the tool drives itself: its waits need a clock")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
#[path = "client/tests.rs"]
mod tests;
