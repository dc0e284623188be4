//! Running a program with a deadline.

use std::{
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a program may take before it is killed.
const DEADLINE: Duration = Duration::from_secs(3);
/// What is kept of its complaints.
const COMPLAINTS: u64 = 4096;

/// Runs a program to its end, with `input` as its standard input. The error is
/// what it complained of, or why there is nothing to hear.
pub(super) fn run(command: Command, input: String) -> Result<(), String> {
    run_within(DEADLINE, command, input)
}

/// The same with a deadline of its own.
pub(super) fn run_within(
    deadline: Duration,
    mut command: Command,
    input: String,
) -> Result<(), String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let id = Pid::from_raw(child.id().try_into().map_err(|_| "no process id".to_owned())?);
    let (done, ended) = channel();
    thread::spawn(move || done.send(attend(&mut child, &input)));
    match ended.recv_timeout(deadline) {
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, complaints))) if complaints.is_empty() => Err(status.to_string()),
        Ok(Ok((_, complaints))) => Err(complaints),
        Ok(Err(error)) => Err(error.to_string()),
        Err(RecvTimeoutError::Timeout) => {
            // Nobody has waited for it yet, so the id is still its own.
            let _ = kill(id, Signal::SIGKILL);
            Err(format!("it took longer than {deadline:?}"))
        }
        Err(RecvTimeoutError::Disconnected) => Err("the thread that waited ended".to_owned()),
    }
}

fn attend(child: &mut Child, input: &str) -> std::io::Result<(ExitStatus, String)> {
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read has its say by its status.
        let _ = pipe.write_all(input.as_bytes());
    }
    let mut complaints = String::new();
    if let Some(pipe) = child.stderr.take() {
        let _ = pipe.take(COMPLAINTS).read_to_string(&mut complaints);
    }
    Ok((child.wait()?, complaints.trim().to_owned()))
}
