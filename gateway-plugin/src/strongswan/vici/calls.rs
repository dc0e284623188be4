//! The commands that the gateway uses, typed.

use std::time::Duration;

use protocol_spec::key::KeyMaterial;

use super::{
    answers::{Algorithms, ConnectionInfo, Pool, Stats, Version},
    client::Client,
    error::{AnswerError, ViciError},
    sa::IkeSaInfo,
    section::{Section, Value},
};

/// Most entries of one list.
const MAX_ENTRIES: usize = 1 << 18;

/// An SA that a command is about, by charon's own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// An IKE SA.
    Ike(u32),
    /// A Child SA.
    Child(u32),
}

impl Which {
    fn argument(self) -> Section {
        match self {
            Self::Ike(id) => Section::new().with("ike-id", id.to_string().as_str()),
            Self::Child(id) => Section::new().with("child-id", id.to_string().as_str()),
        }
    }
}

impl Client {
    /// Who answers, and its version.
    ///
    /// # Errors
    /// See [`ViciError`]; so for all that follow.
    pub fn version(&mut self, timeout: Duration) -> Result<Version, ViciError> {
        let answer = self.call("version", Section::new(), timeout)?;
        Version::read(&answer).map_err(bad("version"))
    }

    /// How charon fares, and its plugins.
    ///
    /// # Errors
    /// See [`ViciError`].
    pub fn stats(&mut self, timeout: Duration) -> Result<Stats, ViciError> {
        let answer = self.call("stats", Section::new(), timeout)?;
        Stats::read(&answer).map_err(bad("stats"))
    }

    /// All IKE SAs with their Child SAs. Waits for an IKE SA at which a thread of
    /// charon is working, so that none is left out.
    ///
    /// # Errors
    /// See [`ViciError`].
    pub fn list_sas(&mut self, timeout: Duration) -> Result<Vec<IkeSaInfo>, ViciError> {
        self.sas(Section::new(), timeout)
    }

    /// One IKE SA with its Child SAs, or `None` if there is none with this
    /// number. Waits for none but this one.
    ///
    /// # Errors
    /// See [`ViciError`].
    pub fn find_sa(
        &mut self,
        unique_id: u32,
        timeout: Duration,
    ) -> Result<Option<IkeSaInfo>, ViciError> {
        let one = || Which::Ike(unique_id).argument();
        // Zero would be no filter at all.
        let this = |sa: &IkeSaInfo| sa.unique_id == unique_id;
        // charon looks through all of them, and would wait for each at which a thread
        // of its is working: of many some always are.
        let free = self.sas(one().with("noblock", "yes"), timeout)?;
        if let Some(found) = free.into_iter().find(this) {
            return Ok(Some(found));
        }
        Ok(self.sas(one(), timeout)?.into_iter().find(this))
    }

    fn sas(&mut self, arguments: Section, timeout: Duration) -> Result<Vec<IkeSaInfo>, ViciError> {
        self.list("list-sas", "list-sa", arguments, timeout, IkeSaInfo::read)
    }

    /// All configured connections, whoever loaded them.
    ///
    /// # Errors
    /// See [`ViciError`].
    pub fn list_conns(&mut self, timeout: Duration) -> Result<Vec<ConnectionInfo>, ViciError> {
        self.list("list-conns", "list-conn", Section::new(), timeout, ConnectionInfo::read)
    }

    fn list<T>(
        &mut self,
        command: &str,
        event: &str,
        arguments: Section,
        timeout: Duration,
        read: impl Fn(&str, &Section) -> Result<T, AnswerError>,
    ) -> Result<Vec<T>, ViciError> {
        let mut list = Vec::new();
        self.stream(command, event, arguments, timeout, |message| {
            if list.len() == MAX_ENTRIES {
                let command = command.to_owned();
                return Err(ViciError::TooMany { command, bound: MAX_ENTRIES });
            }
            let (name, section) = message.only_section().map_err(bad(command))?;
            list.push(read(name, section).map_err(bad(command))?);
            Ok(())
        })?;
        Ok(list)
    }

    /// The pools loaded over vici, with their leases.
    ///
    /// # Errors
    /// See [`ViciError`].
    pub fn pools(&mut self, timeout: Duration) -> Result<Vec<Pool>, ViciError> {
        let answer = self.call("get-pools", Section::new().with("leases", "yes"), timeout)?;
        Pool::read_all(&answer).map_err(bad("get-pools"))
    }

    /// The algorithms that charon has.
    ///
    /// # Errors
    /// See [`ViciError`].
    pub fn algorithms(&mut self, timeout: Duration) -> Result<Algorithms, ViciError> {
        let answer = self.call("get-algorithms", Section::new(), timeout)?;
        Algorithms::read(&answer).map_err(bad("get-algorithms"))
    }

    /// Has an SA rekeyed, and returns how many were found. Does not wait for the
    /// rekeying.
    ///
    /// # Errors
    /// See [`ViciError`]; `Refused` if there is none with this number.
    pub fn rekey(&mut self, which: Which, timeout: Duration) -> Result<u32, ViciError> {
        let answer = self.act("rekey", which.argument(), timeout)?;
        answer.number("matches").map_err(bad("rekey"))
    }

    /// Ends an SA and waits for its end at most as long as `wait` says, which must
    /// be less than `timeout`. The peer gets a Delete; with `force` charon does
    /// not wait for its answer longer than that.
    ///
    /// # Errors
    /// See [`ViciError`]; `Refused` if there is none with this number, or it did
    /// not end in time.
    pub fn terminate(
        &mut self,
        which: Which,
        force: bool,
        wait: Duration,
        timeout: Duration,
    ) -> Result<(), ViciError> {
        let mut arguments = which.argument().with("timeout", milliseconds(wait).as_str());
        if force {
            arguments = arguments.with("force", "yes");
        }
        self.act("terminate", arguments, timeout).map(drop)
    }

    /// Sets up a Child SA, and the IKE SA where there is none, and waits for it
    /// at most as long as `wait` says, which must be less than `timeout`.
    ///
    /// # Errors
    /// See [`ViciError`]; `Refused` if it did not come up in time.
    pub fn initiate(
        &mut self,
        connection: &str,
        child: &str,
        wait: Duration,
        timeout: Duration,
    ) -> Result<(), ViciError> {
        let arguments = Section::new()
            .with("ike", connection)
            .with("child", child)
            .with("timeout", milliseconds(wait).as_str());
        self.act("initiate", arguments, timeout).map(drop)
    }

    /// Loads or replaces a connection, written as in swanctl.conf(5).
    ///
    /// # Errors
    /// See [`ViciError`]; `Refused` with what charon finds wrong.
    pub fn load_conn(
        &mut self,
        name: &str,
        connection: Section,
        timeout: Duration,
    ) -> Result<(), ViciError> {
        let arguments = Section::new().with_section(name, connection);
        self.act("load-conn", arguments, timeout).map(drop)
    }

    /// Loads a shared secret of the kind `IKE` or `EAP`, for these identities.
    ///
    /// # Errors
    /// See [`ViciError`]; none of them holds the secret.
    pub fn load_shared(
        &mut self,
        kind: &str,
        secret: &KeyMaterial,
        owners: &[&str],
        timeout: Duration,
    ) -> Result<(), ViciError> {
        let arguments = Section::new()
            .with("type", kind)
            .with("data", Value::from(secret.expose()))
            .with_list("owners", owners.iter().copied());
        self.act("load-shared", arguments, timeout).map(drop)
    }

    /// Loads or replaces a pool of virtual IPs: a prefix, or `FIRST-LAST`.
    ///
    /// # Errors
    /// See [`ViciError`]; `Refused` if the pool is in use and cannot be changed.
    pub fn load_pool(
        &mut self,
        name: &str,
        addresses: &str,
        timeout: Duration,
    ) -> Result<(), ViciError> {
        let pool = Section::new().with("addrs", addresses);
        self.act("load-pool", Section::new().with_section(name, pool), timeout).map(drop)
    }
}

/// charon's timeouts: milliseconds, where 0 means for ever and -1 not at all.
fn milliseconds(wait: Duration) -> String {
    match wait.as_millis() {
        0 => "-1".to_owned(),
        some => some.min(u128::from(u32::MAX / 2)).to_string(),
    }
}

fn bad(command: &str) -> impl Fn(AnswerError) -> ViciError {
    move |reason| ViciError::Answer { command: command.to_owned(), reason }
}

#[cfg(test)]
mod tests;
