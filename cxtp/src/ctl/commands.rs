//! The commands that ask or tell the daemon.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_spec::id::{BatchId, Name, SessionId};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    args::{Mode, Resolution},
    client,
    files::{self, NewFile},
    order,
    outcome::{Answer, Exit, Problem},
    progress::Bar,
    report::{by_state, failures_table, not_listed, session_row, summed_up},
    text,
};
use crate::{
    engine::Standing,
    service::{
        api::{self, Line, PreflightReport, Request, Sealed, Summary},
        client::MAX_LINE,
        seal,
    },
};

/// How long a question may take, and what moves sessions.
const QUESTION: Duration = Duration::from_secs(30);
const WORK: Duration = Duration::from_secs(600);

/// Longest file with a sealed session: one line of the control API.
const MAX_SEALED: usize = MAX_LINE;

/// Where the daemon is and how long it may take.
pub(super) struct Daemon {
    pub(super) socket: PathBuf,
    pub(super) timeout: Option<Duration>,
    pub(super) json: bool,
}

impl Daemon {
    fn question<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Problem> {
        let timeout = self.timeout.unwrap_or(QUESTION);
        client::ask(&self.socket, timeout, request, |_| ())
    }

    fn work<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        request: &Request,
    ) -> Result<T, Problem> {
        let bar = Bar::new(verb);
        let timeout = self.timeout.unwrap_or(WORK);
        client::ask(&self.socket, timeout, request, |line| bar.take(&line))
    }

    pub(super) fn status(&self, wait: bool) -> Result<Answer, Problem> {
        let status = if wait { self.status_when_up() } else { self.question(&Request::Status) }?;
        let sessions = by_state(&status.sessions);
        let mut rows = vec![
            ["gateway", &status.name].map(str::to_owned),
            [
                "daemon".to_owned(),
                format!(
                    "cxtpd {}, process {}, life {}",
                    status.version, status.pid, status.gateway_epoch
                ),
            ],
            ["plugin", &status.gateway].map(str::to_owned),
            ["sessions", &sessions].map(str::to_owned),
            ["batches".to_owned(), format!("{} running", status.batches)],
        ];
        for (place, (peer, state)) in status.peers.iter().enumerate() {
            let head = if place == 0 { "peers" } else { "" };
            rows.push([head.to_owned(), format!("{peer}: {state}")]);
        }
        if status.peers.is_empty() {
            rows.push(["peers", "none"].map(str::to_owned));
        }
        Ok(Answer::done(text::columns(&rows), &status))
    }

    fn status_when_up(&self) -> Result<api::Status, Problem> {
        let timeout = self.timeout.unwrap_or(QUESTION);
        let up = |status: &api::Status| not_up(status).is_empty();
        let asked = client::ask_until(&self.socket, timeout, &Request::Status, up);
        asked.map_err(|(mut problem, last)| {
            if let Some(last) = last {
                problem.detail = format!(
                    "within {} s this did not come up: {}",
                    timeout.as_secs_f64(),
                    not_up(&last).join(", ")
                );
            }
            problem
        })
    }

    pub(super) fn sessions(&self, state: Option<Standing>) -> Result<Answer, Problem> {
        let timeout = self.timeout.unwrap_or(QUESTION);
        let wanted =
            |session: &api::Session| state.is_none_or(|state| session.state == state.as_str());
        let mut sessions = Vec::new();
        let last: Value = client::ask(&self.socket, timeout, &Request::Sessions, |line| {
            if let Line::Sessions(chunk) = line {
                sessions.extend(chunk.into_iter().filter(wanted));
            }
        })?;
        // A short list may also come whole, in the last line.
        if let Ok(chunk) = serde_json::from_value::<Vec<api::Session>>(last) {
            sessions.extend(chunk.into_iter().filter(wanted));
        }
        sessions.sort_by(|a, b| a.session.cmp(&b.session));

        let mut states = BTreeMap::new();
        for session in &sessions {
            *states.entry(session.state.clone()).or_insert(0) += 1;
        }
        let rows: Vec<_> = sessions.iter().map(session_row).collect();
        let mut text = String::new();
        if !rows.is_empty() {
            text =
                text::table(["SESSION", "STATE", "EPOCH", "GENERATION", "WITH", "REASON"], &rows);
        }
        text.push_str(&format!("{}\n", by_state(&states)));
        let count = sessions.len();
        Ok(Answer::done(text, &json!({"sessions": sessions, "count": count, "states": states})))
    }

    pub(super) fn show(&self, session: SessionId) -> Result<Answer, Problem> {
        let shown: Value = self.question(&Request::Show { session: session.to_string() })?;
        Ok(Answer::done(text::outline(&shown), &shown))
    }

    pub(super) fn transfer(
        &self,
        sessions: Option<Vec<String>>,
        to: &Name,
        mode: Mode,
    ) -> Result<Answer, Problem> {
        let request = Request::Transfer { sessions, to: to.to_string(), mode: mode.into() };
        let summary: Summary = self.work("moving", &request)?;
        Ok(summed_up(&summary))
    }

    pub(super) fn pull(&self, file: &Path) -> Result<Answer, Problem> {
        let order = order::read(file)?;
        let summary: Summary = self.work("taking", &Request::Pull { order })?;
        Ok(summed_up(&summary))
    }

    pub(super) fn cancel(&self, batch: BatchId) -> Result<Answer, Problem> {
        let _: Value = self.question(&Request::Cancel { batch: batch.to_string() })?;
        let text = format!("batch {batch} stops: what is not committed goes on here");
        Ok(Answer::done(text, &json!({"batch": batch.to_string()})))
    }

    pub(super) fn preflight(
        &self,
        sessions: Option<Vec<String>>,
        to: &Name,
    ) -> Result<Answer, Problem> {
        let request = Request::Preflight { sessions, to: to.to_string() };
        let report: PreflightReport = self.work("asking about", &request)?;
        let refused = report.sessions.saturating_sub(report.accepted);
        let mut text = failures_table(&report.refused);
        text.push_str(&format!(
            "{to} would take {} of {}\n",
            report.accepted,
            text::sessions(report.sessions)
        ));
        text.push_str(&not_listed(refused, report.refused.len()));
        Ok(Answer::new(Exit::of_parts(report.accepted, report.sessions), text, &report))
    }

    pub(super) fn resolve(
        &self,
        session: SessionId,
        resolution: Resolution,
        yes: bool,
    ) -> Result<Answer, Problem> {
        let risk = risk(resolution);
        if !yes {
            if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
                return Err(Problem::usage(format!("{risk} If that is understood, say --yes")));
            }
            confirm(risk, &mut io::stdin().lock(), &mut io::stderr())?;
        }
        let request =
            Request::Resolve { session: session.to_string(), resolution: resolution.into() };
        let _: Value = self.question(&request)?;
        let (word, text) = match resolution {
            Resolution::ResumeHere => ("resume-here", "goes on here"),
            Resolution::ReleaseHere => ("release-here", "is released here"),
        };
        let facts = json!({"session": session.to_string(), "resolution": word});
        Ok(Answer::done(format!("session {session} {text}"), &facts))
    }

    pub(super) fn get(&self, session: SessionId, to: &Name, out: &Path) -> Result<Answer, Problem> {
        // The file is made first: a session that is handed out and cannot be
        // written down would be in doubt for nothing.
        let mut file = NewFile::create(out, files::PRIVATE)?;
        let request = Request::Get { session: session.to_string(), to: to.to_string() };
        let sealed: Sealed = self.work("handing out", &request).map_err(|mut problem| {
            if matches!(problem.exit, Exit::TimedOut | Exit::Unreachable) {
                problem.detail.push_str(
                    "; if it is listed as in doubt it was handed out to nobody: end that with \
                     `cxtpctl resolve SESSION resume-here`",
                );
            }
            problem
        })?;
        let octets = serde_json::to_string(&sealed).map_err(|error| {
            Problem::file(format!("the sealed session has no JSON form: {error}"))
        })?;
        if let Err(mut problem) = file.write(format!("{octets}\n").as_bytes()) {
            // It works once, and it is sealed: better on a screen than nowhere.
            let _ = writeln!(io::stderr(), "{octets}");
            problem.detail.push_str(
                "; the sealed session is the line above: put it into a file by hand, or end the \
                 doubt with `cxtpctl resolve SESSION resume-here`",
            );
            return Err(problem);
        }
        file.keep();
        let at = out.display().to_string();
        let text = format!(
            "session {session} is in {at}, sealed to {to}; it is paused and in doubt here until \
             {to} has taken it (there: cxtpctl put {at})"
        );
        let facts = json!({
            "session": session.to_string(),
            "source": sealed.source,
            "target": sealed.target,
            "file": at,
        });
        Ok(Answer::done(text, &facts))
    }

    pub(super) fn put(&self, path: &Path) -> Result<Answer, Problem> {
        let octets = files::read(path, MAX_SEALED)?;
        let sealed: Sealed = serde_json::from_slice(&octets).map_err(|error| {
            Problem::file(format!(
                "{} is not a sealed session ({error}): give a file that `cxtpctl get` wrote",
                path.display()
            ))
        })?;
        if sealed.format != seal::FORMAT {
            return Err(Problem::file(format!(
                "{} has the format `{}`; this cxtpctl reads `{}`",
                path.display(),
                sealed.format,
                seal::FORMAT
            )));
        }
        let facts = json!({
            "session": sealed.session,
            "source": sealed.source,
            "target": sealed.target,
        });
        let text = text::clean(&format!(
            "session {} was taken over from {} and is active here",
            sealed.session, sealed.source
        ));
        let _: Value = self.work("taking", &Request::Put { sealed })?;
        Ok(Answer::done(text, &facts))
    }
}

/// Gateway and peers that are not up, and why.
fn not_up(status: &api::Status) -> Vec<String> {
    let gateway = ("the gateway", &status.gateway);
    let peers = status.peers.iter().map(|(name, state)| (name.as_str(), state));
    let all = std::iter::once(gateway).chain(peers);
    all.filter(|(_, state)| *state != "up")
        .map(|(name, state)| format!("{name}: {state}"))
        .collect()
}

/// What a resolution risks, in words for the operator.
fn risk(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::ResumeHere => {
            "resume-here: this gateway goes on with the session, with numbers above all that the \
             target was granted. If the target has it, or comes back and takes it, two gateways \
             use one session: be sure that the target is stopped for good or says that it does \
             not have it."
        }
        Resolution::ReleaseHere => {
            "release-here: this gateway forgets the session and its keys. If the target does not \
             have it, nobody has, and the end user's tunnel is dead until it connects anew: be \
             sure that the target lists it as active."
        }
    }
}

/// Asks a person; anything but `yes` is a no.
fn confirm(
    risk: &str,
    answers: &mut dyn BufRead,
    questions: &mut dyn Write,
) -> Result<(), Problem> {
    let mut answer = String::new();
    let asked = write!(questions, "{risk}\nType yes to go on: ")
        .and_then(|()| questions.flush())
        .and_then(|()| answers.read_line(&mut answer));
    match asked {
        Ok(_) if answer.trim() == "yes" => Ok(()),
        Ok(_) => Err(Problem::new(Exit::NotDone, "not-confirmed", "nothing was changed")),
        Err(error) => Err(Problem::usage(format!("the terminal does not answer: {error}"))),
    }
}

#[cfg(test)]
#[path = "commands/tests.rs"]
mod tests;
