//! The connection for commands.

use std::{path::PathBuf, time::Duration};

use super::{
    clock::Deadline,
    codec::Packet,
    connection::Connection,
    error::{AnswerError, ViciError},
    section::Section,
};

/// Asks charon, one command at a time.
///
/// Every call returns within its timeout; one that is answered by events, within its
/// timeout after the last of them, for how long a list is nobody knows before. vici has no numbers that tie an answer
/// to its request, so an answer that comes late could be taken for that of the
/// next request: after any failure in the middle of a call the connection is
/// closed, and before each call a kept one is looked at; the next call opens a
/// new one where necessary. So a restart of charon costs at most the call during
/// which it happens. A call that failed may have been carried out: ask again
/// what is the case before repeating one that changes something.
///
/// To be shared between threads it needs a lock around it; charon works at one
/// command of a connection at a time.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    connection: Option<Connection>,
}

impl Client {
    /// A client of the charon at this socket ([`super::DEFAULT_SOCKET`], or what
    /// `charon.plugins.vici.socket` says). Connects with the first call.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), connection: None }
    }

    /// The socket.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Sends a command and returns its answer.
    ///
    /// # Errors
    /// Every [`ViciError`] but `Refused` and `Answer`, which are found in what an
    /// answer says.
    pub fn call(
        &mut self,
        command: &str,
        arguments: Section,
        timeout: Duration,
    ) -> Result<Section, ViciError> {
        self.exchange(command, None, arguments, Deadline::after(timeout), &mut |_| Ok(()))
    }

    /// Sends a command that answers by events, and gives each of them to `each`.
    /// An error of `each` ends the call.
    ///
    /// # Errors
    /// As [`Client::call`], and those of `each`.
    pub fn stream(
        &mut self,
        command: &str,
        event: &str,
        arguments: Section,
        timeout: Duration,
        mut each: impl FnMut(Section) -> Result<(), ViciError>,
    ) -> Result<Section, ViciError> {
        let deadline = Deadline::after(timeout);
        self.exchange(command, Some(event), arguments, deadline, &mut each)
    }

    /// Sends a command whose answer says whether it succeeded.
    ///
    /// # Errors
    /// As [`Client::call`], and [`ViciError::Refused`] with charon's own words.
    pub fn act(
        &mut self,
        command: &str,
        arguments: Section,
        timeout: Duration,
    ) -> Result<Section, ViciError> {
        let answer = self.call(command, arguments, timeout)?;
        let bad = |reason| ViciError::Answer { command: command.to_owned(), reason };
        match answer.text("success").map_err(bad)?.as_str() {
            "yes" => Ok(answer),
            "no" => {
                let said = answer.optional_text("errmsg").map_err(bad)?;
                let reason = said.unwrap_or_else(|| "it does not say why".to_owned());
                Err(ViciError::Refused { command: command.to_owned(), reason })
            }
            other => Err(bad(AnswerError::bad_value("success", other, "yes or no"))),
        }
    }

    fn exchange(
        &mut self,
        command: &str,
        event: Option<&str>,
        arguments: Section,
        deadline: Deadline,
        each: &mut dyn FnMut(Section) -> Result<(), ViciError>,
    ) -> Result<Section, ViciError> {
        // Out of `self` while the call runs: whatever ends it early closes it.
        let mut connection = match self.connection.take().filter(Connection::is_in_step) {
            Some(connection) => connection,
            None => Connection::open(&self.path, deadline)?,
        };
        let talk = Talk { connection: &mut connection, command, deadline };
        let answer = talk.run(event, arguments, each);
        if matches!(
            answer,
            Ok(_) | Err(ViciError::UnknownCommand { .. } | ViciError::UnknownEvent { .. })
        ) {
            self.connection = Some(connection);
        }
        answer
    }
}

/// One call on a connection.
struct Talk<'a> {
    connection: &'a mut Connection,
    command: &'a str,
    deadline: Deadline,
}

impl Talk<'_> {
    fn run(
        mut self,
        event: Option<&str>,
        message: Section,
        each: &mut dyn FnMut(Section) -> Result<(), ViciError>,
    ) -> Result<Section, ViciError> {
        if let Some(event) = event {
            self.register(event)?;
        }
        self.send(&Packet::Request { name: self.command.to_owned(), message })?;
        loop {
            match self.receive()? {
                Packet::Response(answer) => return Ok(answer),
                Packet::Event { name, message } if Some(name.as_str()) == event => {
                    each(message)?;
                    self.deadline = self.deadline.again();
                }
                Packet::UnknownCommand => {
                    return Err(ViciError::UnknownCommand { command: self.command.to_owned() });
                }
                other => return Err(self.unexpected(&other)),
            }
        }
    }

    /// Registers for an event, once for each connection: charon sends events of
    /// a command to the connection that gave the command alone.
    fn register(&mut self, event: &str) -> Result<(), ViciError> {
        if self.connection.registered.contains(event) {
            return Ok(());
        }
        self.send(&Packet::Register(event.to_owned()))?;
        match self.receive()? {
            Packet::Confirm => {
                self.connection.registered.insert(event.to_owned());
                Ok(())
            }
            Packet::UnknownEvent => Err(ViciError::UnknownEvent { event: event.to_owned() }),
            other => Err(self.unexpected(&other)),
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<(), ViciError> {
        let sent = self.connection.send(packet, self.deadline);
        sent.map_err(|broken| broken.during(self.command, self.deadline))
    }

    fn receive(&mut self) -> Result<Packet, ViciError> {
        let received = self.connection.receive(self.deadline);
        received.map_err(|broken| broken.during(self.command, self.deadline))
    }

    fn unexpected(&self, packet: &Packet) -> ViciError {
        ViciError::Unexpected { command: self.command.to_owned(), kind: packet.kind() }
    }
}

#[cfg(test)]
mod tests;
