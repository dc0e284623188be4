//! Processes that this crate starts: one program that is everything, so that one
//! build is enough and nothing has to be found or installed.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, getppid},
};

use crate::clock::Deadline;

#[cfg(test)]
mod tests;

/// How often a condition is looked at that nobody reports.
pub const LOOK: Duration = Duration::from_millis(10);

/// Tells a child the process id of its parent.
const PARENT: &str = "CXTP_PROOF_PARENT";

/// What the one program can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `cxtp-gateway`, the embedded gateway.
    Gateway,
    /// `cxtpd`.
    Daemon,
    /// `cxtpctl`.
    Control,
    /// One of the two processes of a measurement: a daemon with its gateway inside.
    Measured,
    /// `cxtp-linux`, the gateway of the Linux kernel.
    Linux,
    /// The kernel of a guest of the lab.
    Kernel,
}

impl Role {
    const ALL: [Self; 6] =
        [Self::Gateway, Self::Daemon, Self::Control, Self::Measured, Self::Linux, Self::Kernel];

    fn word(self) -> &'static str {
        match self {
            Self::Gateway => "__gateway",
            Self::Daemon => "__daemon",
            Self::Control => "__ctl",
            Self::Measured => "__measured",
            Self::Linux => "__linux",
            Self::Kernel => "__kernel",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Gateway => "cxtp-gateway",
            Self::Daemon => "cxtpd",
            Self::Control => "cxtpctl",
            Self::Measured => "measured",
            Self::Linux => "cxtp-linux",
            Self::Kernel => "linux",
        }
    }

    fn run(self, args: Vec<OsString>) -> ExitCode {
        match self {
            Self::Gateway => gateway_plugin::embedded::gateway_main(args),
            Self::Daemon => cxtp::service::daemon_main(args),
            Self::Control => cxtp::ctl::main(args),
            Self::Measured => crate::measure::measured_main(args),
            Self::Linux => gateway_plugin::linux::linux_main(args),
            Self::Kernel => crate::lab::keep_kernel(args.get(1..).unwrap_or_default()),
        }
    }
}

/// Becomes what the first argument says, if it names a role: the first thing that
/// each `main` of this crate does.
pub fn become_role(args: &[OsString]) -> Option<ExitCode> {
    let (word, rest) = args.get(1..)?.split_first()?;
    let role = Role::ALL.into_iter().find(|role| OsStr::new(role.word()) == word)?;
    if let Err(error) = die_with_parent() {
        eprintln!("cannot tie this process to its parent: {error}");
        return Some(ExitCode::FAILURE);
    }
    let program = OsString::from(role.program());
    let args = std::iter::once(program).chain(rest.iter().cloned()).collect();
    Some(role.run(args))
}

/// The kernel kills this process once the thread that started it is gone.
fn die_with_parent() -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have gone before the call.
    let parent = std::env::var(PARENT).ok().and_then(|id| id.parse().ok()).map(Pid::from_raw);
    if parent.is_some_and(|parent| parent != getppid()) {
        return Err(nix::errno::Errno::ESRCH);
    }
    Ok(())
}

/// The program that can be everything.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    /// As of `nice`, if it is not ours.
    niceness: Option<i8>,
}

impl Program {
    /// The program that runs now.
    ///
    /// # Errors
    /// The system's, when it does not say which one that is.
    pub fn current() -> io::Result<Self> {
        std::env::current_exe().map(Self::at)
    }

    /// The program at a path, which must call [`become_role`] first.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), niceness: None }
    }

    /// The same, run before or after other processes; below zero only root may ask.
    #[must_use]
    pub fn with_niceness(&self, niceness: Option<i8>) -> Self {
        Self { niceness, ..self.clone() }
    }

    pub(crate) fn command<A: AsRef<OsStr>>(&self, role: Role, args: &[A]) -> Command {
        let mut command = match self.niceness {
            None => Command::new(&self.path),
            Some(niceness) => {
                let mut command = Command::new("nice");
                command.arg(format!("--adjustment={niceness}")).arg(&self.path);
                command
            }
        };
        command.arg(role.word()).args(args).stdin(Stdio::null());
        command.env(PARENT, std::process::id().to_string());
        command
    }

    /// Starts a process whose output goes to the end of a log. The thread that calls
    /// this must live as long as the process.
    ///
    /// # Errors
    /// The system's.
    pub fn start<A: AsRef<OsStr>>(
        &self,
        name: &str,
        role: Role,
        args: &[A],
        log: &Path,
    ) -> Result<Process> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write the log {}", log.display()))?;
        let child = self
            .command(role, args)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", self.path.display()))?;
        Ok(Process { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Runs a process to its end and returns what it wrote to stdout.
    ///
    /// # Errors
    /// What it wrote to stderr, when it fails.
    pub fn run<A: AsRef<OsStr>>(&self, role: Role, args: &[A]) -> Result<String> {
        let output = self.command(role, args).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let shown: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
            bail!("`{}` failed: {}", shown.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A process that runs; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks it to end and waits until it does.
    ///
    /// # Errors
    /// If it does not end in time; it is killed then.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            let id = Pid::from_raw(i32::try_from(self.child.id())?);
            nix::sys::signal::kill(id, Signal::SIGTERM)?;
        }
        let deadline = Deadline::after(patience);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if deadline.passed() {
                self.kill()?;
                bail!("{} did not end within {patience:?} of SIGTERM", self.name);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Fails with the end of its log once it has ended by itself.
    ///
    /// # Errors
    /// How it ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}\n{}", self.name, tail(&self.log)),
        }
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn rss_kib(&self) -> Result<u64> {
        rss_kib(self.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.kill();
    }
}

/// Resident memory of a process in KiB.
///
/// # Errors
/// If the process is gone.
pub fn rss_kib(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    Ok(kib.context("no VmRSS in /proc")?.trim().parse()?)
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(20));
    let shown: Vec<_> = shown.map(|line| format!("    {line}")).collect();
    format!("the end of {}:\n{}", log.display(), shown.join("\n"))
}

/// Looks again and again until `condition` is there.
///
/// # Errors
/// Those of the condition, or that it was not there in time.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Deadline::after(patience);
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if deadline.passed() {
            bail!("{what}: not within {patience:?}");
        }
        std::thread::sleep(LOOK);
    }
}
