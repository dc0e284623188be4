//! A temporary directory with what two daemons need: a PKI of their own and a
//! configuration each, as `cxtpctl pki` makes them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{
    process::{Program, Role},
    wire::free_address,
};

/// The names of the two gateways.
pub const NAMES: [&str; 2] = ["gateway-a", "gateway-b"];

/// Where one gateway and its daemon have their files.
#[derive(Clone, Debug)]
pub struct Home {
    /// Name of the gateway.
    pub name: &'static str,
    /// The daemon's configuration.
    pub config: PathBuf,
    /// The gateway's socket.
    pub plugin: PathBuf,
    /// The daemon's control socket.
    pub control: PathBuf,
}

/// Both, and the PKI. The directory goes with this value.
pub struct Homes {
    /// The homes.
    pub each: [Home; 2],
    /// What `cxtpctl pki` made.
    pub pki: PathBuf,
    dir: TempDir,
}

impl Homes {
    /// Makes directory, PKI and configurations. `tables` are further tables for the
    /// configurations.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn make(program: &Program, tables: &[String; 2]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cxtp-").tempdir()?;
        let pki = dir.path().join("pki");
        let at = pki.to_str().context("the temporary directory's name is not UTF-8")?;
        program.run(Role::Control, &["pki", "init", "--dir", at])?;
        for name in NAMES {
            program.run(Role::Control, &["pki", "issue", "--dir", at, "gateway", name])?;
        }
        let peers = [free_address()?, free_address()?];
        let home = |which: usize| -> Result<Home> {
            let (name, other) = (NAMES[which], 1 - which);
            let home = dir.path().join(name);
            fs::create_dir(&home)?;
            let [config, plugin, control] =
                ["cxtpd.toml", "gateway.sock", "control.sock"].map(|file| home.join(file));
            let (listen, peer) = (peers[which].to_string(), peers[other]);
            let (socket, home) = (plugin.display().to_string(), home.display().to_string());
            let peer = format!("{}={peer}", NAMES[other]);
            let mut args = vec!["pki", "config", "--dir", at, name, "--listen", &listen];
            args.extend(["--gateway-socket", &socket, "--peer", &peer, "--allow-pull"]);
            args.extend(["--home", &home]);
            let text = program.run(Role::Control, &args)?;
            fs::write(&config, format!("{text}\n{}\n", tables[which]))?;
            Ok(Home { name, config, plugin, control })
        };
        Ok(Self { each: [home(0)?, home(1)?], pki, dir })
    }

    /// Where everything lies.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where a process of a gateway writes its log.
    pub fn log(&self, which: usize, what: &str) -> PathBuf {
        self.path().join(format!("{}-{what}.log", NAMES[which]))
    }

    /// Keeps the directory for whoever looks for a reason, without the keys.
    pub fn keep(self) -> PathBuf {
        // Nobody trusts these keys; they are of no use for finding a reason either.
        let _ = fs::remove_dir_all(&self.pki);
        self.dir.keep()
    }
}
