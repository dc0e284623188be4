//! One request to the daemon, with a deadline over all that it waits for.

use std::{io, ops::ControlFlow, path::Path, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime;

use super::outcome::{Exit, Problem};
use crate::service::{
    api::{Line, Request},
    client::{ClientError, ControlClient},
};

/// Sends a request and gives each line before the answer to `on_line`, which may
/// say that it has seen enough; then there is no answer.
pub(super) fn follow(
    socket: &Path,
    timeout: Option<Duration>,
    request: &Request,
    on_line: impl FnMut(Line) -> ControlFlow<()>,
) -> Result<Option<Value>, Problem> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::file(format!("the system gives no means to wait: {error}")))?;
    runtime.block_on(async {
        let exchange = exchange(socket, request, on_line);
        match timeout {
            None => exchange.await.map_err(|error| problem(socket, error)),
            Some(timeout) => match tokio::time::timeout(timeout, exchange).await {
                Ok(ended) => ended.map_err(|error| problem(socket, error)),
                Err(_) => Err(too_late(timeout)),
            },
        }
    })
}

/// Sends a request and reads to its answer.
pub(super) fn ask<T: DeserializeOwned>(
    socket: &Path,
    timeout: Duration,
    request: &Request,
    mut on_line: impl FnMut(Line),
) -> Result<T, Problem> {
    let answer = follow(socket, Some(timeout), request, |line| {
        on_line(line);
        ControlFlow::Continue(())
    })?;
    serde_json::from_value(answer.unwrap_or_default())
        .map_err(|error| not_understood(socket, &error.to_string()))
}

async fn exchange(
    socket: &Path,
    request: &Request,
    mut on_line: impl FnMut(Line) -> ControlFlow<()>,
) -> Result<Option<Value>, ClientError> {
    let mut client = ControlClient::connect(socket).await?;
    let mut lines = client.request(request).await?;
    while let Some(line) = lines.next().await? {
        match line {
            Line::Done(answer) => return Ok(Some(answer)),
            Line::Error(refused) => return Err(ClientError::Refused(refused)),
            line => {
                if on_line(line).is_break() {
                    return Ok(None);
                }
            }
        }
    }
    Err(ClientError::Closed)
}

fn problem(socket: &Path, error: ClientError) -> Problem {
    let at = socket.display();
    match error {
        ClientError::Refused(refused) => refused.into(),
        ClientError::NotUnderstood(what) => not_understood(socket, &what),
        ClientError::Closed | ClientError::Broken(_) => Problem::new(
            Exit::Unreachable,
            "daemon-ended",
            format!(
                "the daemon closed {at} before its answer: it has ended or was restarted; look at \
                 its log, then at `cxtpctl sessions`"
            ),
        ),
        ClientError::Connect { ref error, .. } if error.kind() == io::ErrorKind::WouldBlock => {
            let detail = format!("the daemon takes no calls at {at}: it hangs or is overloaded");
            Problem::new(Exit::Unreachable, "unreachable", detail)
        }
        error @ ClientError::Connect { .. } => {
            let detail = format!("{error} (name another with --socket or CXTP_SOCKET)");
            Problem::new(Exit::Unreachable, "unreachable", detail)
        }
    }
}

fn not_understood(socket: &Path, what: &str) -> Problem {
    Problem::new(
        Exit::Unreachable,
        "not-understood",
        format!(
            "{} does not answer as the control API does ({what}): is it cxtpd's control socket, \
             and of the same version as this cxtpctl ({})?",
            socket.display(),
            env!("CARGO_PKG_VERSION"),
        ),
    )
}

fn too_late(timeout: Duration) -> Problem {
    Problem::new(
        Exit::TimedOut,
        "no-answer",
        format!(
            "the answer did not come within {} s; the daemon may still be at work: look with \
             `cxtpctl sessions` and `cxtpctl watch`, or wait longer with --timeout",
            timeout.as_secs_f64()
        ),
    )
}
