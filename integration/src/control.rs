//! A daemon's control socket, for callers that wait. Every wait has an end.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use cxtp::service::{
    api::{Event, Line, Mode, Progress, Request, Session, Status, Summary},
    client::{ClientError, ControlClient},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// For answers that need no work.
const QUICK: Duration = Duration::from_secs(10);

/// One daemon, by its control socket. Each call connects anew, so that it does not
/// matter how often the daemon dies in between.
pub struct Control {
    path: PathBuf,
    runtime: Runtime,
}

impl Control {
    /// The daemon that has, or will have, this socket.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { path: path.to_owned(), runtime })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The daemon, its gateway and its peers.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn status(&self) -> Result<Status> {
        self.call(&Request::Status, QUICK, |_| ())
    }

    /// All sessions.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        let mut sessions = Vec::new();
        let _: Value = self.call(&Request::Sessions, QUICK, |line| {
            if let Line::Sessions(some) = line {
                sessions.extend(some);
            }
        })?;
        Ok(sessions)
    }

    /// Moves sessions (all that are active, without a list) and waits for the end.
    ///
    /// # Errors
    /// If the daemon does not begin, is gone, or does not come to an end in time.
    pub fn transfer(
        &self,
        sessions: Option<Vec<String>>,
        to: &str,
        mode: Mode,
        patience: Duration,
        mut progress: impl FnMut(Progress),
    ) -> Result<Summary> {
        let request = Request::Transfer { sessions, to: to.to_owned(), mode };
        self.call(&request, patience, |line| {
            if let Line::Progress(so_far) = line {
                progress(so_far);
            }
        })
    }

    /// Stops a batch.
    ///
    /// # Errors
    /// If there is none of that name, or the daemon does not answer.
    pub fn cancel(&self, batch: &str) -> Result<()> {
        let _: Value = self.call(&Request::Cancel { batch: batch.to_owned() }, QUICK, |_| ())?;
        Ok(())
    }

    /// Hands each event to `seen` until that returns something. `ready` is called
    /// once the events are asked for.
    ///
    /// # Errors
    /// If the daemon is gone, or what was waited for did not come in time.
    pub fn watch<T>(
        &self,
        patience: Duration,
        ready: impl FnOnce(),
        mut seen: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T> {
        self.within(patience, async {
            let mut client = ControlClient::connect(&self.path).await?;
            let mut lines = client.request(&Request::Watch).await?;
            ready();
            while let Some(line) = lines.next().await? {
                if let Line::Event(event) = line
                    && let Some(found) = seen(&event)
                {
                    return Ok(found);
                }
            }
            Err(ClientError::Closed)
        })
    }

    fn call<T: DeserializeOwned>(
        &self,
        request: &Request,
        patience: Duration,
        mut other: impl FnMut(Line),
    ) -> Result<T> {
        let value = self.within(patience, async {
            let mut client = ControlClient::connect(&self.path).await?;
            let mut lines = client.request(request).await?;
            while let Some(line) = lines.next().await? {
                match line {
                    Line::Done(value) => return Ok(value),
                    Line::Error(refused) => return Err(ClientError::Refused(refused)),
                    line => other(line),
                }
            }
            Err(ClientError::Closed)
        })?;
        serde_json::from_value(value).context("the daemon's answer has another form")
    }

    fn within<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T> {
        self.runtime.block_on(async {
            match tokio::time::timeout(patience, work).await {
                Ok(result) => Ok(result?),
                Err(_) => bail!("{}: no end within {patience:?}", self.path.display()),
            }
        })
    }
}
