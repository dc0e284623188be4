//! `watch`: events as they happen.

use std::{
    io::{self, Write},
    ops::ControlFlow,
};

use super::{
    client,
    commands::Daemon,
    outcome::{Answer, Exit, Problem},
    text,
};
use crate::service::api::{Event, Line, Request};

/// Prints events, one a line, until `count` have come, the time given with
/// `--timeout` is over, or the reader goes away.
pub(super) fn watch(daemon: &Daemon, count: Option<u64>) -> Result<Answer, Problem> {
    let mut left = count;
    let mut written = Ok(());
    let watched = client::follow(&daemon.socket, daemon.timeout, &Request::Watch, |line| {
        let Line::Event(event) = line else { return ControlFlow::Continue(()) };
        let line = if daemon.json { json_line(&event) } else { human_line(&event) };
        written = writeln!(io::stdout().lock(), "{line}");
        left = left.map(|left| left.saturating_sub(1));
        if written.is_err() || left == Some(0) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Problem::file(format!("stdout cannot be written: {error}")));
        }
        _ => (),
    }
    match watched {
        // To watch for some time is a wish fulfilled; to wait for events that do
        // not come is a failure.
        Err(problem) if problem.exit == Exit::TimedOut && count.is_none() => Ok(Answer::said()),
        Err(problem) => Err(problem),
        Ok(_) => Ok(Answer::said()),
    }
}

fn json_line(event: &Event) -> String {
    // An event came as JSON, so it has a form in it.
    serde_json::to_string(event).unwrap_or_default()
}

fn human_line(event: &Event) -> String {
    let mut line = format!("{} {}", text::timestamp(event.unix_ms), text::clean(&event.event));
    for (name, value) in &event.fields {
        let value = text::scalar(value);
        let quoted = if value.contains(' ') { format!("{value:?}") } else { value };
        line.push_str(&format!(" {}={quoted}", text::clean(name)));
    }
    line
}
