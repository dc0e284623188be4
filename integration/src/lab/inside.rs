//! The guest from the inside: the first process, which mounts and reaps, and its one
//! child, which runs the scenario.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Pid, sync},
};
use serde_json::{Value, json};

use super::guest::{JOB, Job, RESULT};
use super::scenarios;
use crate::measure::get_put;

/// Where everything of the lab is in the guest.
pub const LAB: &str = "/mnt/lab";
/// The folder of our programs, from the host.
const PROGRAMS: &str = "/mnt/lab/bin";
/// The guest's own folder on the host.
const OUT: &str = "/mnt/lab/out";
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Above that of the traffic's own threads.
const NETWORK_PRIORITY: &str = "20";

/// Modules of Debian's user-mode Linux that a topology needs.
const MODULES: &[&str] = &[
    "esp4",
    "esp6",
    "ah4",
    "xfrm_user",
    "veth",
    "bridge",
    "tun",
    "af_packet",
    "gcm",
    "seqiv",
    "echainiv",
    "ctr",
    "hmac",
    "sha256_generic",
    "cbc",
    "authenc",
    "cryptomgr",
    "sch_netem",
];

/// The first process of the guest. Ends the guest when the scenario has ended.
pub fn init(programs: &Path, folder: &Path) -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("only the lab's kernel runs this");
        return ExitCode::FAILURE;
    }
    if let Err(error) = live(programs, folder) {
        println!("the guest failed: {error:#}");
    }
    sync();
    if let Err(error) = fs::write("/proc/sysrq-trigger", "o") {
        println!("cannot switch the guest off: {error}");
    }
    // The kernel ends this process with all others.
    std::thread::sleep(Duration::from_secs(10));
    ExitCode::FAILURE
}

fn live(programs: &Path, folder: &Path) -> Result<()> {
    let none = MsFlags::empty();
    let mounts = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/mnt"),
    ];
    for (kind, place) in mounts {
        match mount(Some(kind), place, Some(kind), none, None::<&str>) {
            // The kernel mounts /dev by itself.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => bail!("cannot mount {place}: {error}"),
        }
    }
    for place in ["/run/netns", "/run/lock", PROGRAMS, OUT] {
        fs::create_dir_all(place)?;
    }
    let hostfs = |from: &Path, place: &str, flags: MsFlags| {
        mount(Some("none"), place, Some("hostfs"), flags, Some(from))
            .with_context(|| format!("cannot mount {} at {place}", from.display()))
    };
    hostfs(programs, PROGRAMS, MsFlags::MS_RDONLY)?;
    hostfs(folder, OUT, none)?;
    let job = job()?;
    if job.modules {
        load_modules()?;
    }
    network_first()?;
    let name = std::env::current_exe()?;
    let name = name.file_name().context("this program has no name")?.to_owned();
    let level = if job.keep { "debug" } else { "info" };
    let child = Command::new(Path::new(PROGRAMS).join(name))
        .arg("guest")
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/tmp")
        .env("CXTP_LOG", level)
        .env("CXTP__LOG__FILTER", level)
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .spawn()?;
    let id = Pid::from_raw(i32::try_from(child.id())?);
    let limit = Duration::from_secs(job.limit);
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        println!("the scenario did not end within {limit:?}");
        let _ = kill(id, Signal::SIGKILL);
    });
    // Whatever loses its parent becomes a child of this process.
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(id) => {
                println!("the scenario ended: {status:?}");
                return Ok(());
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => bail!("cannot wait: {error}"),
        }
    }
}

/// The guest is all machines of a scenario at once, and has one processor: what its
/// kernel does for the network of all of them waits for no program of one of them.
fn network_first() -> Result<()> {
    let named = |path: &Path| fs::read_to_string(path.join("comm")).unwrap_or_default();
    let threads = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    let thread = threads.into_iter().find(|path| named(path).trim() == "ksoftirqd/0");
    let thread = thread.context("the kernel has no ksoftirqd/0")?;
    let id = thread.file_name().context("a path without a name")?;
    let mut chrt = Command::new("chrt");
    let set = chrt.env("PATH", PATH).args(["--fifo", "--pid", NETWORK_PRIORITY]).arg(id).status();
    let set = set.context("chrt, of util-linux")?;
    if !set.success() {
        bail!("chrt: {set}");
    }
    Ok(())
}

fn load_modules() -> Result<()> {
    let place = Path::new(LAB).join("modules/lib/modules");
    fs::create_dir_all(&place)?;
    for version in fs::read_dir("/usr/lib/uml/modules").context("no modules of the kernel")? {
        let version = version?;
        std::os::unix::fs::symlink(version.path(), place.join(version.file_name()))?;
    }
    for module in MODULES {
        // What is built in has no module.
        let _ = Command::new("modprobe")
            .args(["-q", "-d", "/mnt/lab/modules", module])
            .env("PATH", PATH)
            .status();
    }
    Ok(())
}

fn job() -> Result<Job> {
    let text = fs::read(Path::new(OUT).join(JOB)).context("the guest has no job")?;
    Ok(serde_json::from_slice(&text)?)
}

/// The child of the first process: runs the scenario and leaves its result.
pub fn scenario() -> ExitCode {
    let (result, keep) = match job() {
        Ok(job) => (run(&job), job.keep),
        Err(error) => (Err(error), true),
    };
    let result =
        result.unwrap_or_else(|error| json!({ "passed": false, "error": format!("{error:#}") }));
    let passed = result["passed"] == true;
    if (keep || !passed)
        && let Err(error) = keep_logs()
    {
        println!("cannot keep the logs: {error:#}");
    }
    let written = serde_json::to_vec_pretty(&result).map_err(anyhow::Error::from);
    let written = written.and_then(|text| Ok(fs::write(Path::new(OUT).join(RESULT), text)?));
    if let Err(error) = written {
        println!("cannot write the result: {error:#}");
        return ExitCode::FAILURE;
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(job: &Job) -> Result<Value> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if !up.success() {
        bail!("cannot set lo up");
    }
    let begin = fs::read_to_string("/proc/uptime")?;
    println!("{} begins {} s after boot", job.scenario, begin.trim());
    let programs: Vec<PathBuf> =
        job.programs.iter().map(|path| Path::new(PROGRAMS).join(path)).collect();
    if !job.sizes.is_empty() {
        return get_put::guest::run(&programs, &job.sizes);
    }
    let scenario = scenarios::find(&job.scenario).context("this program has no such scenario")?;
    (scenario.run)(&programs)
}

/// Copies the files of the nodes to the host.
fn keep_logs() -> Result<()> {
    let from = Path::new(LAB).join("run");
    if from.exists() {
        let to = Path::new(OUT).join("run");
        let copied =
            Command::new("cp").args(["-r", "--no-preserve=all"]).args([&from, &to]).status()?;
        if !copied.success() {
            bail!("cp: {copied}");
        }
    }
    Ok(())
}
