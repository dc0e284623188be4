//! The command line tool `cxtpctl`, as a library so that other programs can be
//! it too.
//!
//! A command becomes an [`Answer`] or a [`Problem`]; both know what a person
//! reads, what a script reads (one JSON object) and the exit code, so nothing
//! else in the tool prints or exits.

mod args;
mod client;
mod commands;
mod files;
mod order;
mod outcome;
mod pages;
mod pki;
mod progress;
mod report;
mod text;
mod watch;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::FromArgMatches;
use serde_json::{Map, Value, json};

use self::{
    args::{Cli, Command, OrderCommand, PkiCommand},
    commands::Daemon,
    outcome::{Answer, Exit, Problem},
};

/// Runs the tool: the first argument is the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = args::command()
        .try_get_matches_from(&args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let exit = match cli {
        Ok(cli) => {
            let json = cli.json;
            report(run(cli), json)
        }
        Err(error) => usage(&error, args.iter().any(|arg| arg == "--json")),
    };
    exit.into()
}

fn run(cli: Cli) -> Result<Answer, Problem> {
    let daemon = Daemon { socket: cli.socket, timeout: cli.timeout, json: cli.json };
    match cli.command {
        Command::Status { wait } => daemon.status(wait),
        Command::Sessions { state } => daemon.sessions(state),
        Command::Show { session } => daemon.show(session),
        Command::Transfer { which, to, mode } => daemon.transfer(which.into_ids(), &to, mode),
        Command::Pull { order } => daemon.pull(&order),
        Command::Cancel { batch } => daemon.cancel(batch),
        Command::Preflight { which, to } => daemon.preflight(which.into_ids(), &to),
        Command::Resolve { session, resolution, yes } => daemon.resolve(session, resolution, yes),
        Command::Get { session, to, out } => daemon.get(session, &to, &out),
        Command::Put { file } => daemon.put(&file),
        Command::Watch { count } => watch::watch(&daemon, count),
        Command::Pki { command: PkiCommand::Init { dir, days } } => pki::init(&dir, days),
        Command::Pki { command: PkiCommand::Issue { dir, role, name, days } } => {
            pki::issue(&dir, role, &name, days)
        }
        Command::Pki { command: PkiCommand::Config(config) } => pki::config::write(&config),
        Command::Order { command: OrderCommand::Issue(issue) } => order::issue(&issue),
        Command::Completions { shell } => Ok(pages::completions(shell)),
        Command::Man { dir } => pages::man(dir.as_deref()),
    }
}

/// Says how it went: the answer on stdout, a problem on stderr, and with
/// `--json` either as one object on stdout.
fn report(result: Result<Answer, Problem>, json: bool) -> Exit {
    let (exit, said) = match result {
        Ok(Answer { exit, json: Some(facts), .. }) if json => (exit, say_object(facts, exit)),
        Ok(Answer { exit, text, .. }) => (exit, say(&text)),
        Err(problem) => {
            // Nobody is left to tell if stderr is closed; the exit code still says it.
            let _ = writeln!(io::stderr(), "cxtpctl: {problem}");
            let said = if json { say_problem(&problem) } else { Ok(()) };
            (problem.exit, said)
        }
    };
    match said {
        Ok(()) => exit,
        // `cxtpctl … | head`: the reader has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit,
        Err(error) => {
            let _ = writeln!(io::stderr(), "cxtpctl: stdout cannot be written: {error}");
            if exit == Exit::Done { Exit::NotDone } else { exit }
        }
    }
}

/// Mistakes in the arguments, and `--help` and `--version`.
fn usage(error: &clap::Error, json: bool) -> Exit {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    // Clap sends help to stdout and mistakes to stderr. As above, whether
    // somebody reads them changes nothing.
    let _ = error.print();
    if matches!(error.kind(), DisplayHelp | DisplayVersion) {
        return Exit::Done;
    }
    if json {
        let detail = error.render().to_string();
        let _ = say_problem(&Problem::usage(detail.trim_start_matches("error: ").trim_end()));
    }
    Exit::Usage
}

fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

fn say_problem(problem: &Problem) -> io::Result<()> {
    let error = json!({"status": problem.status, "detail": problem.detail});
    say_object(Map::from_iter([("error".to_owned(), error)]), problem.exit)
}

fn say_object(mut object: Map<String, Value>, exit: Exit) -> io::Result<()> {
    object.insert("exit".to_owned(), json!(exit.code()));
    say(&Value::Object(object).to_string())
}
