//! `watch`: events as they happen.

use std::io::{self, Write};

use super::{
    client::Client,
    commands::Daemon,
    outcome::{Answer, Exit, Problem},
    text,
};
use crate::service::api::{Event, Line, Request};

/// Prints events, one a line, until `count` have come, the time given with
/// `--timeout` is over, or the reader goes away.
pub(super) fn watch(daemon: &Daemon, count: Option<u64>) -> Result<Answer, Problem> {
    let mut client = Client::send(&daemon.socket, daemon.timeout, &Request::Watch)?;
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        let event = match client.next() {
            Ok(Line::Event(event)) => event,
            Ok(Line::Done(_)) => break,
            Ok(_) => continue,
            // To watch for some time is a whim, not a failure; to wait for
            // events that did not come is one.
            Err(problem) if problem.exit == Exit::TimedOut && count.is_none() => break,
            Err(problem) => return Err(problem),
        };
        seen += 1;
        let line = if daemon.json { json_line(&event) } else { human_line(&event) };
        match writeln!(io::stdout().lock(), "{line}") {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => {
                return Err(Problem::file(format!("stdout cannot be written: {error}")));
            }
        }
    }
    Ok(Answer::said())
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
