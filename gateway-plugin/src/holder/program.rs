//! What the programs of gateways have in common.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::{Parser, error::ErrorKind};
use nix::sys::{
    mman::{MlockAllFlags, mlockall},
    signal::{SigSet, Signal},
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Exit code for arguments that make no sense, as clap uses it.
const USAGE: u8 = 2;

/// A line for whoever started us; nobody may be reading it any more.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        tracing::debug!("nobody reads the output");
    }
}

/// Reads the arguments and begins to log.
pub(crate) fn parse<A: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<A, ExitCode> {
    let arguments = A::try_parse_from(args).map_err(|error| {
        let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if error.print().is_err() || !asked { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
    })?;
    let wanted = std::env::var("CXTP_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter: Targets = wanted.parse().map_err(|error| {
        let problem = format!("CXTP_LOG={wanted}: {error}; write for example `debug`\n");
        // Nobody may be reading the errors.
        let _ = A::command().error(ErrorKind::InvalidValue, problem).print();
        ExitCode::from(USAGE)
    })?;
    // A program that became us may have its own log already.
    let logging = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .finish()
        .with(filter)
        .try_init();
    if let Err(error) = logging {
        tracing::debug!(%error, "logging as before");
    }
    Ok(arguments)
}

pub(crate) fn finish(program: &str, result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut out = std::io::stderr().lock();
            if writeln!(out, "{program}: {error}").is_err() {
                tracing::debug!("nobody reads the errors");
            }
            ExitCode::FAILURE
        }
    }
}

/// Has this program in memory before it is needed: the first move would else wait for
/// each page of it while packets wait for the move. Where it is not allowed (it takes
/// CAP_IPC_LOCK, or a limit of locked memory above the size of the program) nothing
/// else changes.
pub fn stay_in_memory() {
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT) {
        tracing::info!(%error, "the program is not kept in memory: see LimitMEMLOCK");
    }
}

/// Takes SIGTERM and SIGINT out of the hands of the threads that follow.
pub(crate) fn end_signals() -> Result<SigSet, String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|error| format!("cannot wait for signals: {error}"))?;
    Ok(signals)
}
