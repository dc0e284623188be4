//! The guest as the host sees it: a process of user-mode Linux whose root is the
//! host's, read-only. It writes on the host into one folder of its own only, from
//! which its result comes back.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, killpg},
    },
    unistd::{Pid, setsid},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kernel::Kernel;
use crate::{
    clock::Deadline,
    process::{LOOK, Program, Role, tail},
};

/// Memory of a guest.
const MEMORY: &str = "mem=1024M";
/// What a guest may need beside its scenario: boot, evaluation, end.
const SLACK: Duration = Duration::from_secs(40);

/// Of a guest on this machine: what else runs here would be measured too. Only root may
/// set it; the guest of anybody else shares the machine.
const NICENESS: i8 = -15;

/// File in the guest's folder: what it shall do.
pub(super) const JOB: &str = "job.json";
/// File in the guest's folder: what came of it.
pub(super) const RESULT: &str = "result.json";
const CONSOLE: &str = "console.log";

/// What a guest shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The scenario, or what is measured.
    pub scenario: String,
    /// Sizes, if something is measured.
    pub sizes: Vec<usize>,
    /// Seconds after which the scenario is ended.
    pub limit: u64,
    /// Whether logs and captures are kept even if it passes.
    pub keep: bool,
    /// Whether the kernel is Debian's, whose modules must be loaded.
    pub modules: bool,
    /// Programs that the scenario runs, by paths relative to the folder of ours.
    pub programs: Vec<PathBuf>,
}

/// What a guest answered.
#[derive(Debug)]
pub struct Outcome {
    /// The scenario's JSON object.
    pub result: Value,
    /// Where the logs and captures are, kept if the scenario did not pass.
    pub kept: Option<PathBuf>,
}

/// Boots a guest, lets it do its job and waits until it has ended.
///
/// # Errors
/// If it does not boot, does not end in time or leaves no result; the end of its
/// console is in the error.
pub fn run(kernel: &Kernel, job: &Job) -> Result<Outcome> {
    let program = std::env::current_exe()?;
    let programs = program.parent().context("this program lies in no folder")?;
    let folder = folder(programs, &job.scenario)?;
    fs::write(folder.join(JOB), serde_json::to_vec(job)?)?;
    let mut guest = Guest::boot(kernel, &program, programs, &folder)?;
    let ended = guest.wait(Duration::from_secs(job.limit) + SLACK);
    let console = folder.join(CONSOLE);
    let ended = ended.with_context(|| tail(&console))?;
    let answer = fs::read(folder.join(RESULT));
    let answer = answer.with_context(|| format!("no result ({ended}); {}", tail(&console)))?;
    let result: Value = serde_json::from_slice(&answer)
        .with_context(|| format!("the result is no JSON; {}", tail(&console)))?;
    if result["passed"] == true && !job.keep {
        fs::remove_dir_all(&folder)?;
        return Ok(Outcome { result, kept: None });
    }
    Ok(Outcome { result, kept: Some(folder) })
}

/// A new folder of the guest's own, below the folder of our programs.
fn folder(programs: &Path, scenario: &str) -> Result<PathBuf> {
    let base = programs.join("lab-runs");
    fs::create_dir_all(&base)?;
    let prefix = format!("{scenario}-");
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&base)?.keep();
    for path in [programs, &folder] {
        if path.to_string_lossy().contains([' ', '"', ',']) {
            bail!("the kernel's command line cannot name {}: move the clone", path.display());
        }
    }
    Ok(folder)
}

/// A running guest, by its keeper; it is killed when dropped.
struct Guest {
    child: Child,
}

impl Guest {
    fn boot(kernel: &Kernel, program: &Path, programs: &Path, folder: &Path) -> Result<Self> {
        let console = File::create(folder.join(CONSOLE))?;
        let args = [
            kernel.path.display().to_string(),
            MEMORY.into(),
            "root=/dev/root rootfstype=hostfs rootflags=/ ro".into(),
            format!("init={}", program.display()),
            "con=null con0=null,fd:1 quiet panic=-1".into(),
            format!("uml_dir={}", folder.display()),
            "umid=uml".into(),
            "--".into(),
            "guest-init".into(),
            programs.display().to_string(),
            folder.display().to_string(),
        ];
        let args: Vec<_> = args.iter().flat_map(|arg| arg.split(' ')).collect();
        let child = Program::current()?
            .with_niceness(Some(NICENESS))
            .command(Role::Kernel, &args)
            .env("HOME", folder)
            .stdin(Stdio::piped())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .with_context(|| format!("cannot start {}", kernel.path.display()))?;
        Ok(Self { child })
    }

    fn wait(&mut self, patience: Duration) -> Result<String> {
        let deadline = Deadline::after(patience);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(match status.signal() {
                    Some(signal) => format!("killed by signal {signal}"),
                    None => status.to_string(),
                });
            }
            if deadline.passed() {
                bail!("the guest did not end within {patience:?}");
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Its keeper ends what is left of it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Keeps a kernel: runs it in a group of its own, and kills the whole group when it has
/// ended or the lab is gone, which is when stdin ends. The kernel traces a process for
/// each of the guest's, and leaves helpers behind when it is killed alone.
pub fn keep_kernel(args: &[std::ffi::OsString]) -> ExitCode {
    match run_kernel(args) {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("the kernel ended: {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_kernel(args: &[std::ffi::OsString]) -> Result<ExitStatus> {
    // It must live longer than the lab, if only for a moment.
    prctl::set_pdeathsig(None)?;
    let (kernel, rest) = args.split_first().context("no kernel named")?;
    // Where the scheduler shares the machine by sessions (sched(7), autogroup), niceness
    // counts within one only.
    if setsid().is_ok() {
        // Not everybody may, and not every kernel has it.
        let _ = fs::write("/proc/self/autogroup", NICENESS.to_string());
    }
    let mut child = Command::new(kernel)
        .args(rest)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", kernel.to_string_lossy()))?;
    let group = Pid::from_raw(i32::try_from(child.id())?);
    std::thread::spawn(move || {
        // Nobody writes: this returns when the lab's end of the pipe is closed.
        let _ = std::io::stdin().read(&mut [0]);
        let _ = killpg(group, Signal::SIGKILL);
    });
    let status = child.wait()?;
    // Usually nobody is left.
    let _ = killpg(group, Signal::SIGKILL);
    Ok(status)
}
