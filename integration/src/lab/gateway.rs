//! Our own processes beside a charon: `cxtp-linux`, which holds what the kernel has,
//! and `cxtpd`, which moves sessions. Both run in the gateway's node and write their
//! files below its folder.

#[cfg(test)]
mod tests;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    charon::config::{STRONGSWAN, SWANCTL, VICI},
    net::{GATEWAYS, INNER, Namespace, OUTER, POOLS, SHARED, SYNC},
};
use crate::{
    control::Control,
    process::{Process, Program, Role, tail, wait_for},
    rig::wait_for_peer,
};

/// UDP port where the daemons listen for each other.
const PORT: u16 = 4067;
/// What a process may need from its start until it answers.
const START: Duration = Duration::from_secs(30);

/// The units by which our processes are installed, and what is added to charon's.
const UNITS: [(&str, &str); 3] = [
    ("cxtp-linux", include_str!("../../../packaging/cxtp-linux.service")),
    ("cxtpd", include_str!("../../../packaging/cxtpd.service")),
    ("charon", include_str!("../../../packaging/strongswan.service.d/cxtp.conf")),
];

/// The niceness that its unit gives a process.
pub(super) fn niceness(of: &str) -> Option<i8> {
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == of)?;
    unit.lines().find_map(|line| line.strip_prefix("Nice="))?.parse().ok()
}

/// How the gateways share the outer side: the words of `cxtp-linux`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Each has its own address.
    #[default]
    None,
    /// One address, which moves as a whole.
    Address,
    /// One address, and both receive what is sent to it.
    Multicast,
}

/// What the daemons are told beyond the topology.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How they share the outer side.
    pub sharing: Sharing,
    /// The inner network is told by routes of its own where a user is, and not by the
    /// gateways, which answer for their users' addresses there.
    pub routed: bool,
    /// No IKE daemon: kernel SAs that nobody owns.
    pub kernel_only: bool,
    /// Which gateways are embedded ones instead of the kernel, without an IKE daemon.
    /// They are at the shared address, and take only users that are moved to them.
    pub embedded: [bool; 2],
    /// Further tables for `cxtpd`, for each gateway.
    pub daemon: [String; 2],
    /// Further lines of the table `network` of `cxtp-linux`, for each gateway.
    pub network: [String; 2],
}

/// Where the PKI lies: one for all gateways.
#[derive(Clone, Debug)]
pub struct Pki(PathBuf);

impl Pki {
    /// Makes it below a folder, with a certificate for each gateway.
    ///
    /// # Errors
    /// What `cxtpctl pki` says.
    pub fn make(program: &Program, folder: &Path) -> Result<Self> {
        let dir = folder.join("pki");
        let at = dir.display().to_string();
        program.run(Role::Control, &["pki", "init", "--dir", &at])?;
        for name in GATEWAYS {
            program.run(Role::Control, &["pki", "issue", "--dir", &at, "gateway", name])?;
        }
        Ok(Self(dir))
    }
}

/// The processes of one gateway. They are killed when dropped.
pub struct Site {
    at: usize,
    embedded: bool,
    program: Program,
    folder: PathBuf,
    linux: Option<Process>,
    daemon: Option<Process>,
    /// Its daemon's control socket.
    pub control: Control,
}

impl Site {
    /// Writes the configurations of a gateway, the `at`-th of [`GATEWAYS`], into its
    /// folder, where charon's files lie too.
    ///
    /// # Errors
    /// What `cxtpctl pki config` says.
    pub fn new(
        at: usize,
        program: &Program,
        folder: &Path,
        pki: &Pki,
        set: &Settings,
    ) -> Result<Self> {
        let name = GATEWAYS[at];
        fs::create_dir_all(folder)?;
        fs::write(folder.join("linux.toml"), linux_toml(at, folder, set))?;
        let other = 1 - at;
        let listen = format!("{}:{PORT}", SYNC[at].v4);
        let peer = format!("{}={}:{PORT}", GATEWAYS[other], SYNC[other].v4);
        let [dir, socket, home] =
            [pki.0.as_path(), &socket(folder), folder].map(|path| path.display().to_string());
        let mut args = vec!["pki", "config", "--dir", &dir, name, "--listen", &listen];
        let kind = if set.embedded[at] { "embedded" } else { "linux" };
        args.extend(["--gateway-socket", &socket, "--gateway-kind", kind]);
        args.extend(["--peer", &peer, "--allow-pull", "--home", &home]);
        let text = program.run(Role::Control, &args)?;
        fs::write(folder.join("cxtpd.toml"), format!("{text}\n{}\n", set.daemon[at]))?;
        let control = Control::at(&folder.join("control.sock"))?;
        let (program, folder) = (program.clone(), folder.to_owned());
        let embedded = set.embedded[at];
        Ok(Self { at, embedded, program, folder, linux: None, daemon: None, control })
    }

    /// Starts `cxtp-linux`, or the embedded gateway, and waits until it has its socket.
    /// It does not need charon, which may start, end and start again beside it.
    ///
    /// # Errors
    /// The end of its log.
    pub fn start_linux(&mut self) -> Result<()> {
        let socket = socket(&self.folder);
        let config = self.config("linux.toml");
        let mut process = if self.embedded {
            let outer = format!("{}:4500", SHARED.v4);
            let at = socket.display().to_string();
            let args = ["--socket", &at, "--outer", &outer, "--network", &config];
            self.start("cxtp-gateway", Role::Gateway, &args)?
        } else {
            self.start("cxtp-linux", Role::Linux, &["--config", &config])?
        };
        let name = process.name().to_owned();
        wait_for(&name, START, || {
            process.check()?;
            Ok(fs::exists(&socket)?.then_some(()))
        })
        .with_context(|| tail(process.log()))?;
        self.linux = Some(process);
        Ok(())
    }

    /// Starts `cxtpd` and waits until it answers.
    ///
    /// # Errors
    /// The end of its log.
    pub fn start_daemon(&mut self) -> Result<()> {
        let args = ["--config", &self.config("cxtpd.toml")];
        let mut process = self.start("cxtpd", Role::Daemon, &args)?;
        let log = process.log().to_owned();
        let answers = wait_for(&format!("cxtpd of {}", GATEWAYS[self.at]), START, || {
            process.check()?;
            Ok(self.control.status().ok())
        });
        answers.with_context(|| tail(&log))?;
        self.daemon = Some(process);
        Ok(())
    }

    /// Waits until its daemon sees the gateway and the other daemon.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_for_peer(&self) -> Result<()> {
        wait_for_peer(&self.control, GATEWAYS[self.at], GATEWAYS[1 - self.at])
    }

    /// Waits until its daemon counts so many sessions in a state.
    ///
    /// # Errors
    /// If it does not come to that.
    pub fn wait_for_sessions(&self, state: &str, count: usize, patience: Duration) -> Result<()> {
        wait_for(&format!("{count} sessions {state} at {}", GATEWAYS[self.at]), patience, || {
            let status = self.control.status()?;
            Ok((status.sessions.get(state).copied().unwrap_or(0) == count).then_some(()))
        })
    }

    /// Runs `cxtpctl` with its daemon and returns the JSON object that it ends with.
    ///
    /// # Errors
    /// What it says.
    pub fn ctl(&self, args: &[&str]) -> Result<Value> {
        let socket = self.control.path().display().to_string();
        let all = [&["--socket", &socket, "--json"], args].concat();
        let text = self.program.run(Role::Control, &all)?;
        let line = text.lines().last().context("cxtpctl said nothing")?;
        serde_json::from_str(line).with_context(|| format!("cxtpctl said `{line}`"))
    }

    /// The same where the answer may be a no, which `cxtpctl` ends with too.
    ///
    /// # Errors
    /// What it says, if that is no answer.
    pub fn ask(&self, args: &[&str]) -> Result<Value> {
        let socket = self.control.path().display().to_string();
        let all = [&["--socket", &socket, "--json"], args].concat();
        let output = self.program.command(Role::Control, &all).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
        serde_json::from_str(line).with_context(|| format!("cxtpctl said `{line}`: {}", said()))
    }

    /// The SPIs of a session's IKE SA, in hexadecimal, initiator's first.
    ///
    /// # Errors
    /// If there is no such session any more.
    pub fn ike_spis(&self, session: &str) -> Result<Option<[String; 2]>> {
        let details = self.ctl(&["show", session])?;
        Ok(serde_json::from_value(details["gateway"]["ike_spis"].clone())?)
    }

    /// Changes the settings of its `cxtp-linux`, which reads them when it starts.
    ///
    /// # Errors
    /// The system's.
    pub fn change_settings(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.folder.join("linux.toml");
        let text = fs::read_to_string(&file)?;
        Ok(fs::write(&file, change(text))?)
    }

    /// `kill -9` of its `cxtpd`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_daemon(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(mut daemon) => Ok(daemon.kill()?),
            None => bail!("cxtpd of {} does not run", GATEWAYS[self.at]),
        }
    }

    /// `kill -9` of its `cxtp-linux`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_linux(&mut self) -> Result<()> {
        match self.linux.take() {
            Some(mut linux) => {
                linux.kill()?;
                // By this file the next one is seen to be ready.
                Ok(fs::remove_file(socket(&self.folder))?)
            }
            None => bail!("cxtp-linux of {} does not run", GATEWAYS[self.at]),
        }
    }

    /// Stops its `cxtp-linux` in the middle of whatever it does, or lets it go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze_linux(&self, frozen: bool) -> Result<()> {
        freeze(self.linux.as_ref().context("cxtp-linux does not run")?, frozen)
    }

    /// The same of its `cxtpd`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze_daemon(&self, frozen: bool) -> Result<()> {
        freeze(self.daemon.as_ref().context("cxtpd does not run")?, frozen)
    }

    /// Lets go on whichever of them run.
    ///
    /// # Errors
    /// The system's.
    pub fn thaw(&self) -> Result<()> {
        let running = [&self.linux, &self.daemon];
        running.into_iter().flatten().try_for_each(|process| freeze(process, false))
    }

    /// Whether the thread of its `cxtpd` that speaks with `cxtp-linux` waits for it (or
    /// for something to say).
    ///
    /// # Errors
    /// If there is no such thread.
    pub fn daemon_is_waiting(&self) -> Result<bool> {
        let daemon = self.daemon.as_ref().context("cxtpd does not run")?;
        for task in fs::read_dir(format!("/proc/{}/task", daemon.id()))? {
            // Number, name in brackets, state, …
            let stat = fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
            if let Some((_, after)) = stat.split_once("(gateway) ") {
                return Ok(after.starts_with('S'));
            }
        }
        bail!("cxtpd of {} has no thread for its gateway", GATEWAYS[self.at])
    }

    /// Fails if a process ended that should run.
    ///
    /// # Errors
    /// Which one, and the end of its log.
    pub fn check(&mut self) -> Result<()> {
        let processes = [&mut self.linux, &mut self.daemon];
        processes.into_iter().flatten().try_for_each(Process::check)
    }

    fn config(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    fn start(&self, what: &str, role: Role, args: &[&str]) -> Result<Process> {
        let name = format!("{what} of {}", GATEWAYS[self.at]);
        let log = self.folder.join(format!("{what}.log"));
        let program = self.program.with_niceness(niceness(what));
        Namespace::of(GATEWAYS[self.at]).enter(|| program.start(&name, role, args, &log))
    }
}

fn freeze(process: &Process, frozen: bool) -> Result<()> {
    let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
    Ok(kill(Pid::from_raw(i32::try_from(process.id())?), signal)?)
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("gateway.sock")
}

/// A list of TOML strings.
fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

/// The settings of `cxtp-linux`.
fn linux_toml(at: usize, folder: &Path, set: &Settings) -> String {
    let (name, other) = (GATEWAYS[at], 1 - at);
    let place = folder.display();
    let both = |pair: super::net::Pair| -> [IpAddr; 2] { [pair.of(false), pair.of(true)] };
    let daemon = if set.kernel_only || set.embedded[at] { "none" } else { "strongswan" };
    let members = GATEWAYS.iter().zip(set.embedded).filter(|(_, embedded)| !embedded);
    let reach = if set.routed { "routed" } else { "proxy" };
    let sharing = match set.sharing {
        Sharing::None => "mode = \"none\"".to_owned(),
        Sharing::Address => format!("mode = \"address\"\nshared = {}", list(both(SHARED))),
        Sharing::Multicast => format!(
            "mode = \"multicast\"\nshared_mac = \"03:00:5e:00:40:67\"\nshared = {}\nmembers = {}",
            list(both(SHARED)),
            list(members.map(|(name, _)| name))
        ),
    };
    format!(
        "name = \"{name}\"\nsocket = \"{}\"\ndaemon = \"{daemon}\"\n\n\
         [network]\nouter = [\"wan\"]\ninner = \"lan\"\nown = {}\ninner_reach = \"{reach}\"\n\
         {sharing}\n{}\n\n\
         [strongswan]\nvici = \"{place}/{VICI}\"\nhands_out = {}\n\
         strongswan_conf = \"{place}/{STRONGSWAN}\"\n\
         swanctl_conf = \"{place}/{SWANCTL}/swanctl.conf\"\n\n\
         [neighbours.{}]\ninner = {}\nouter = \"{}\"\n",
        socket(folder).display(),
        list(both(OUTER[at])),
        set.network[at],
        list(POOLS[at]),
        GATEWAYS[other],
        list(both(INNER[other])),
        OUTER[other].v4,
    )
}
