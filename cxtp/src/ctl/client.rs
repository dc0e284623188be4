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

/// Between two questions about the same.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Sends a request and gives each line before the answer to `on_line`, which may
/// say that it has seen enough; then there is no answer.
pub(super) fn follow(
    socket: &Path,
    timeout: Option<Duration>,
    request: &Request,
    on_line: impl FnMut(Line) -> ControlFlow<()>,
) -> Result<Option<Value>, Problem> {
    in_time(timeout, async {
        exchange(socket, request, on_line).await.map_err(|error| problem(socket, error))
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
    read(socket, answer.unwrap_or_default())
}

fn read<T: DeserializeOwned>(socket: &Path, answer: Value) -> Result<T, Problem> {
    serde_json::from_value(answer).map_err(|error| not_understood(socket, &error.to_string()))
}

/// Asks again and again, also a daemon that is only starting, until `enough` says
/// that an answer is. What comes too late is the last answer, or why there was none.
pub(super) fn ask_until<T: DeserializeOwned>(
    socket: &Path,
    timeout: Duration,
    request: &Request,
    enough: impl Fn(&T) -> bool,
) -> Result<T, (Problem, Option<T>)> {
    let mut last = Err(too_late(timeout));
    let asked = in_time(Some(timeout), async {
        loop {
            let answer = exchange(socket, request, |_| ControlFlow::Continue(())).await;
            last = answer
                .map_err(|error| problem(socket, error))
                .and_then(|answer| read(socket, answer.unwrap_or_default()));
            match &last {
                Ok(answer) if enough(answer) => return Ok(()),
                Err(problem) if problem.exit != Exit::Unreachable => return Ok(()),
                _ => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    });
    match (asked, last) {
        (Ok(()), last) => last.map_err(|problem| (problem, None)),
        (Err(late), Ok(answer)) => Err((late, Some(answer))),
        (Err(_), Err(problem)) => Err((problem, None)),
    }
}

/// Waits for `work`, but not longer than it may take.
fn in_time<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::file(format!("the system gives no means to wait: {error}")))?;
    runtime.block_on(async {
        match timeout {
            None => work.await,
            Some(timeout) => {
                tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(too_late(timeout)))
            }
        }
    })
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
