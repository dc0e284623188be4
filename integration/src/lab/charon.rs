//! strongSwan's charon, unmodified, in a node: its configuration, its process, and what
//! it says of itself.

mod acts;
pub mod authority;
pub mod config;
mod sas;

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use sas::{ChildSa, IkeSa};

use super::{
    gateway::niceness,
    net::{GATEWAYS, Namespace, output},
};
use crate::process::{tail, wait_for};

/// The program.
const CHARON: &str = "/usr/lib/ipsec/charon";
/// What charon may need from its start until it answers.
const START: Duration = Duration::from_secs(20);
/// What an exchange may need on a busy machine: a few retransmissions.
pub const EXCHANGE: Duration = Duration::from_secs(20);

/// A charon in a node. It is killed, without a word to its peers, when dropped.
#[derive(Debug)]
pub struct Charon {
    node: String,
    folder: PathBuf,
    child: Option<Child>,
}

impl Charon {
    /// Writes the files of a node's charon below `folder`, starts it and waits until
    /// it has loaded them.
    ///
    /// # Errors
    /// The end of its log.
    pub fn start(node: &str, folder: &Path, files: &config::Files) -> Result<Self> {
        files.write(folder)?;
        let mut charon = Self { node: node.into(), folder: folder.into(), child: None };
        charon.run()?;
        charon.load()?;
        Ok(charon)
    }

    /// Starts the process (again) and waits until it answers.
    ///
    /// # Errors
    /// The end of its log.
    pub fn run(&mut self) -> Result<()> {
        let said = fs::File::create(self.folder.join("charon.out"))?;
        // Its process id lies in /run, of which each charon has its own.
        let first = GATEWAYS.contains(&self.node.as_str()).then(|| niceness("charon")).flatten();
        let first = first.map(|niceness| format!("nice --adjustment={niceness} "));
        let first = first.unwrap_or_default();
        let script = format!("mount -t tmpfs tmpfs /run && exec {first}{CHARON}");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .env("STRONGSWAN_CONF", self.folder.join(config::STRONGSWAN))
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        let spawn = || command.spawn().context("cannot start charon");
        self.child = Some(Namespace::of(&self.node).enter(spawn)?);
        let (socket, log) = (self.folder.join(config::VICI), self.log());
        wait_for(&format!("charon of {}", self.node), START, || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("charon ended: {status}; {}", tail(&log));
            }
            Ok(UnixStream::connect(&socket).ok().map(drop))
        })
    }

    /// Loads connections, pools and secrets.
    ///
    /// # Errors
    /// What swanctl says.
    pub fn load(&self) -> Result<()> {
        self.swanctl(&["--load-all", "--noprompt"]).map(drop)
    }

    /// Changes what swanctl loads; [`Charon::load`] makes it so.
    ///
    /// # Errors
    /// The system's.
    pub fn change_connections(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.folder.join(config::SWANCTL).join("swanctl.conf");
        let text = fs::read_to_string(&file)?;
        Ok(fs::write(&file, change(text))?)
    }

    /// Changes its own settings, which it reads when it starts.
    ///
    /// # Errors
    /// The system's.
    pub fn change_settings(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.folder.join(config::STRONGSWAN);
        let text = fs::read_to_string(&file)?;
        Ok(fs::write(&file, change(text))?)
    }

    /// The node that it runs in.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its vici socket.
    pub fn vici(&self) -> PathBuf {
        self.folder.join(config::VICI)
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join(config::LOG)
    }

    /// What it has logged so far.
    ///
    /// # Errors
    /// If there is no log.
    pub fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(self.log())?)
    }

    /// Runs swanctl and returns what it prints.
    ///
    /// # Errors
    /// What it says.
    pub fn swanctl(&self, args: &[&str]) -> Result<String> {
        let uri = format!("unix://{}", self.vici().display());
        let result = output(
            Command::new("swanctl")
                .args(args)
                .args(["--uri", &uri])
                .env("STRONGSWAN_CONF", self.folder.join(config::STRONGSWAN))
                .env("SWANCTL_DIR", self.folder.join(config::SWANCTL)),
        );
        result.with_context(|| format!("{}: swanctl {}", self.node, args.join(" ")))
    }

    /// Its IKE SAs.
    ///
    /// # Errors
    /// If it does not answer, or says what nobody understands.
    pub fn sas(&self) -> Result<Vec<IkeSa>> {
        sas::parse(&self.swanctl(&["--list-sas", "--raw"])?)
    }

    /// Sets up a child, and its IKE SA if there is none.
    ///
    /// # Errors
    /// What charon says.
    pub fn initiate(&self, child: &str) -> Result<()> {
        let seconds = EXCHANGE.as_secs().to_string();
        let args = ["--initiate", "--child", child, "--timeout", &seconds];
        self.swanctl(&args).map(drop).with_context(|| tail(&self.log()))
    }

    /// Sets up a child of a connection, and its IKE SA if there is none.
    ///
    /// # Errors
    /// What charon says.
    pub fn initiate_of(&self, connection: &str, child: &str) -> Result<()> {
        let seconds = EXCHANGE.as_secs().to_string();
        let args = ["--initiate", "--ike", connection, "--child", child, "--timeout", &seconds];
        self.swanctl(&args).map(drop).with_context(|| tail(&self.log()))
    }

    /// Waits until its SAs are as wanted and returns what `look` found.
    ///
    /// # Errors
    /// If that does not come, with the end of its log.
    pub fn wait_for_sas<T>(&self, what: &str, look: impl Fn(&[IkeSa]) -> Option<T>) -> Result<T> {
        let what = format!("{what} at {}", self.node);
        wait_for(&what, EXCHANGE, || Ok(look(&self.sas()?))).with_context(|| tail(&self.log()))
    }

    /// Waits until its log, from an octet on, has a line that contains this.
    ///
    /// # Errors
    /// If that does not come.
    pub fn wait_for_line(&self, from: usize, text: &str, patience: Duration) -> Result<()> {
        let what = format!("`{text}` in the log of {}", self.node);
        wait_for(&what, patience, || {
            Ok(self.said()?.get(from..).is_some_and(|said| said.contains(text)).then_some(()))
        })
    }

    /// Asks it to end, which tells its peers, and waits until it has.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let ended = wait_for("the end of charon", EXCHANGE, || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended.map(drop)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.kill();
    }
}
