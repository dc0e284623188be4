//! Two sites with real processes: at each a gateway and its daemon.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Result, bail};
use gateway_plugin::embedded::{Addresses, GatewayAdmin as _, RemoteGateway};

use crate::{
    control::Control,
    homes::{Home, Homes},
    process::{Process, Program, Role, wait_for},
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
    /// Its files.
    pub home: Home,
    /// Its daemon.
    pub control: Control,
    gateway_args: Vec<String>,
    gateway: Option<Process>,
    daemon: Option<Process>,
}

/// Both sites. Everything ends, and the directory goes, with this value.
pub struct Rig {
    /// The sites, by [`A`] and [`B`].
    pub sites: [Site; 2],
    program: Program,
    homes: Option<Homes>,
}

impl Site {
    fn new(home: &Home, gateway_args: &[String]) -> Result<Self> {
        Ok(Self {
            name: home.name,
            addresses: Addresses { outer: NOWHERE, inner: NOWHERE, relay: NOWHERE },
            home: home.clone(),
            control: Control::at(&home.control)?,
            gateway_args: gateway_args.to_vec(),
            gateway: None,
            daemon: None,
        })
    }
}

impl Rig {
    /// Makes directory, PKI and configurations, and starts the gateways.
    ///
    /// # Errors
    /// What could not be made or started, with the end of the log.
    pub fn new(program: &Program, settings: &Settings) -> Result<Self> {
        let homes = Homes::make(program, &settings.daemon)?;
        let site = |at: At| Site::new(&homes.each[at], &settings.gateway[at]);
        let sites = [site(A)?, site(B)?];
        let mut rig = Self { sites, program: program.clone(), homes: Some(homes) };
        rig.start_gateway(A)?;
        rig.start_gateway(B)?;
        Ok(rig)
    }

    fn log(&self, at: At, what: &str) -> PathBuf {
        self.homes.as_ref().map_or_else(|| "/dev/null".into(), |homes| homes.log(at, what))
    }

    /// Starts a site's gateway and waits until it answers.
    ///
    /// # Errors
    /// The end of its log.
    pub fn start_gateway(&mut self, at: At) -> Result<()> {
        let log = self.log(at, "gateway");
        let site = &mut self.sites[at];
        let socket = ["--socket".to_owned(), site.home.plugin.display().to_string()];
        let args = [socket.as_slice(), &site.gateway_args].concat();
        let name = format!("the gateway of {}", site.name);
        let mut process = self.program.start(&name, Role::Gateway, &args, &log)?;
        site.addresses = wait_for(&format!("the socket of {name}"), START, || {
            process.check()?;
            let gateway = RemoteGateway::connect(&site.home.plugin);
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
            let mut gateway = RemoteGateway::connect(&site.home.plugin)?;
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
        let args = ["--config".into(), site.home.config.clone()];
        let name = format!("cxtpd of {}", site.name);
        let mut process = self.program.start(&name, Role::Daemon, &args, &log)?;
        wait_for(&format!("the socket of {name}"), START, || {
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
            wait_for_peer(&site.control, site.name, self.sites[1 - at].name)?;
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
        let Some(mut gateway) = site.gateway.take() else {
            bail!("the gateway of {} is not there", site.name)
        };
        Ok(gateway.kill()?)
    }

    /// Fails if a process ended that should run.
    ///
    /// # Errors
    /// Which one, and the end of its log.
    pub fn check(&mut self) -> Result<()> {
        for site in &mut self.sites {
            let processes = [&mut site.gateway, &mut site.daemon];
            processes.into_iter().flatten().try_for_each(Process::check)?;
        }
        Ok(())
    }

    /// Keeps the directory with the logs when everything has ended, and says where
    /// it is.
    pub fn keep_logs(&mut self) -> PathBuf {
        self.homes.take().map(Homes::keep).unwrap_or_default()
    }
}

/// Waits until a daemon sees its gateway and a peer.
///
/// # Errors
/// If it does not.
pub fn wait_for_peer(control: &Control, name: &str, peer: &str) -> Result<()> {
    wait_for(&format!("{peer} up at {name}"), START, || {
        let status = control.status()?;
        let up = status.gateway == "up" && status.peers.get(peer).is_some_and(|s| s == "up");
        Ok(up.then_some(()))
    })
}
