//! Two sites with real processes: at each a gateway and its daemon, in one temporary
//! directory, with a PKI of their own and ports that were free.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use gateway_plugin::embedded::{Addresses, GatewayAdmin as _, RemoteGateway};

use crate::{
    control::Control,
    process::{Process, Program, Role, wait_for},
    wire::free_address,
};

/// A place among the sites: the first or the second.
pub type At = usize;
/// The first site.
pub const A: At = 0;
/// The second site.
pub const B: At = 1;

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// What a process may need from its start until it answers, on a busy machine.
const START: Duration = Duration::from_secs(20);

/// What is not as `cxtpctl pki config` writes it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Further tables for the daemons' configuration, for each site.
    pub daemon: [String; 2],
    /// Further arguments of the gateways, for each site.
    pub gateway: [Vec<String>; 2],
}

/// A gateway and its daemon.
pub struct Site {
    /// Name of the gateway.
    pub name: &'static str,
    /// Where its gateway listens; known once that runs.
    pub addresses: Addresses,
    /// Its socket for the daemon, and for whoever provisions sessions.
    pub plugin: PathBuf,
    /// Its daemon.
    pub control: Control,
    config: PathBuf,
    gateway_args: Vec<String>,
    gateway: Option<Process>,
    daemon: Option<Process>,
}

/// Both sites. Everything ends, and the directory goes, with this value.
pub struct Rig {
    /// The sites, by [`A`] and [`B`].
    pub sites: [Site; 2],
    program: Program,
    dir: Option<TempDir>,
}

impl Rig {
    /// Makes directory, PKI and configurations, and starts the gateways.
    ///
    /// # Errors
    /// What could not be made or started, with the end of the log.
    pub fn new(program: &Program, settings: &Settings) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cxtp-").tempdir()?;
        let pki = dir.path().join("pki");
        let pki = pki.to_str().context("the temporary directory's name is not UTF-8")?;
        let control = |args: &[&str]| program.run(Role::Control, args);
        control(&["pki", "init", "--dir", pki])?;
        let names = ["gateway-a", "gateway-b"];
        for name in names {
            control(&["pki", "issue", "--dir", pki, "gateway", name])?;
        }
        let peers = [free_address()?, free_address()?];
        let site = |at: At| -> Result<Site> {
            let (name, other) = (names[at], 1 - at);
            let home = dir.path().join(name);
            fs::create_dir(&home)?;
            let path = |end: &str| home.join(end).display().to_string();
            let plugin = home.join("gateway.sock");
            let text = control(
                &[
                    ["pki", "config", "--dir", pki, name].as_slice(),
                    &[
                        "--listen",
                        &peers[at].to_string(),
                        "--gateway-socket",
                        &path("gateway.sock"),
                    ],
                    &["--peer", &format!("{}={}", names[other], peers[other]), "--allow-pull"],
                    &["--home", &path("")],
                ]
                .concat(),
            )?;
            let config = home.join("cxtpd.toml");
            fs::write(&config, format!("{text}\n{}\n", settings.daemon[at]))?;
            Ok(Site {
                name,
                addresses: Addresses { outer: NOWHERE, inner: NOWHERE, relay: NOWHERE },
                plugin,
                control: Control::at(&home.join("control.sock"))?,
                config,
                gateway_args: settings.gateway[at].clone(),
                gateway: None,
                daemon: None,
            })
        };
        let sites = [site(A)?, site(B)?];
        let mut rig = Self { sites, program: program.clone(), dir: Some(dir) };
        rig.start_gateway(A)?;
        rig.start_gateway(B)?;
        Ok(rig)
    }

    /// Where everything lies.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().map_or(Path::new("."), TempDir::path)
    }

    fn log(&self, at: At, what: &str) -> PathBuf {
        self.dir().join(format!("{}-{what}.log", self.sites[at].name))
    }

    /// Starts a site's gateway and waits until it answers.
    ///
    /// # Errors
    /// The end of its log.
    pub fn start_gateway(&mut self, at: At) -> Result<()> {
        let log = self.log(at, "gateway");
        let site = &mut self.sites[at];
        let socket = ["--socket".to_owned(), site.plugin.display().to_string()];
        let args = [socket.as_slice(), &site.gateway_args].concat();
        let name = format!("the gateway of {}", site.name);
        let mut process = self.program.start(&name, Role::Gateway, &args, &log)?;
        site.addresses = wait_for(&format!("the socket of {name}"), START, || {
            process.check()?;
            let gateway = RemoteGateway::connect(&site.plugin);
            Ok(gateway.and_then(|mut gateway| gateway.addresses()).ok())
        })?;
        site.gateway = Some(process);
        self.introduce()
    }

    /// Tells each gateway where the other takes relayed packets.
    fn introduce(&self) -> Result<()> {
        if self.sites.iter().any(|site| site.gateway.is_none()) {
            return Ok(());
        }
        for (at, site) in self.sites.iter().enumerate() {
            let other = &self.sites[1 - at];
            let mut gateway = RemoteGateway::connect(&site.plugin)?;
            gateway.set_neighbour(other.name.parse()?, other.addresses.relay)?;
        }
        Ok(())
    }

    /// Starts a site's daemon and waits until it answers.
    ///
    /// # Errors
    /// The end of its log.
    pub fn start_daemon(&mut self, at: At) -> Result<()> {
        let log = self.log(at, "daemon");
        let site = &mut self.sites[at];
        let args = ["--config".into(), site.config.clone()];
        let mut process =
            self.program.start(&format!("cxtpd of {}", site.name), Role::Daemon, &args, &log)?;
        wait_for(&format!("the socket of {}", process.name()), START, || {
            process.check()?;
            Ok(site.control.status().ok())
        })?;
        site.daemon = Some(process);
        Ok(())
    }

    /// Starts both daemons and waits until they know each other.
    ///
    /// # Errors
    /// What is missing.
    pub fn start_daemons(&mut self) -> Result<()> {
        self.start_daemon(A)?;
        self.start_daemon(B)?;
        self.wait_for_peers()
    }

    /// Waits until both daemons see each other and their gateways.
    ///
    /// # Errors
    /// What is missing.
    pub fn wait_for_peers(&self) -> Result<()> {
        for (at, site) in self.sites.iter().enumerate() {
            let other = self.sites[1 - at].name;
            wait_for(&format!("{} up at {}", other, site.name), START, || {
                let status = site.control.status()?;
                let up = status.gateway == "up"
                    && status.peers.get(other).is_some_and(|state| state == "up");
                Ok(up.then_some(()))
            })?;
        }
        Ok(())
    }

    /// Waits until a site's daemon counts so many sessions in a state.
    ///
    /// # Errors
    /// If it does not come to that.
    pub fn wait_for_sessions(
        &self,
        at: At,
        state: &str,
        count: usize,
        patience: Duration,
    ) -> Result<()> {
        let site = &self.sites[at];
        wait_for(&format!("{count} sessions {state} at {}", site.name), patience, || {
            let status = site.control.status()?;
            Ok((status.sessions.get(state).copied().unwrap_or(0) == count).then_some(()))
        })
    }

    /// `kill -9` of a site's daemon.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_daemon(&mut self, at: At) -> Result<()> {
        let site = &mut self.sites[at];
        let Some(mut daemon) = site.daemon.take() else {
            bail!("cxtpd of {} is not there", site.name)
        };
        Ok(daemon.kill()?)
    }

    /// `kill -9` of a site's gateway, with all its sessions.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_gateway(&mut self, at: At) -> Result<()> {
        let site = &mut self.sites[at];
        let Some(mut gateway) = site.gateway.take() else { bail!("{} is not there", site.name) };
        Ok(gateway.kill()?)
    }

    /// Fails if a process ended that should run.
    ///
    /// # Errors
    /// Which one, and the end of its log.
    pub fn check(&mut self) -> Result<()> {
        for site in &mut self.sites {
            [&mut site.gateway, &mut site.daemon]
                .into_iter()
                .flatten()
                .try_for_each(Process::check)?;
        }
        Ok(())
    }

    /// Keeps the directory with the logs when everything has ended, and says where
    /// it is.
    pub fn keep_logs(&mut self) -> PathBuf {
        let kept = self.dir.take().map(TempDir::keep);
        let kept = kept.unwrap_or_default();
        // Keys of a PKI that nobody trusts, still: they are of no use in a log.
        let _ = fs::remove_dir_all(kept.join("pki"));
        let _ = std::io::stderr().flush();
        kept
    }
}
