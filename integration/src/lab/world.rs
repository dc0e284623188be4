//! What a scenario plays with: the topology, charon in its nodes, the tap on all links.
//!
//! ```ignore
//! let mut world = World::build(Setup::default())?;
//! world.establish()?;
//! let traffic = world.start_traffic(1000)?;
//! world.baseline(&traffic);
//! // … a move …
//! world.stop_traffic(traffic)?;
//! world.still_works(1)?; // in world/verdict.rs
//! world.finish()
//! ```

mod verdict;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use cxtp::service::api::{Mode, Summary};
use serde_json::json;

use super::{
    charon::{
        Charon, EXCHANGE, IkeSa,
        authority::Authority,
        config::{Auth, GATEWAY_ID, Vpn, connection_of, user_id},
    },
    gateway::{Pki, Settings, Site},
    inside::LAB,
    logs::Keys,
    net::{GATEWAYS, Net, Network, OUTER, POOLS, Plan, SERVER, SERVER_INNER, SHARED},
    observer::Observer,
    report::Report,
    tap::Tap,
    traffic::{Flow, Tally, Traffic, tcp::Stream},
};
use crate::process::{Program, wait_for};

/// What a batch may need.
const TRANSFER: Duration = Duration::from_secs(60);
/// How long traffic runs before anything is done.
const BASELINE: Duration = Duration::from_secs(3);
/// Octets per second of a TCP stream, each way.
const TCP_RATE: usize = 100_000;

/// What a scenario is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What users and gateways agree on.
    pub vpn: Vpn,
    /// Nodes of end users.
    pub users: usize,
    /// End users in each node.
    pub each: usize,
    /// Behind a router with NAT.
    pub nat: bool,
    /// IPv6 outside.
    pub ipv6: bool,
    /// Gateways that run; the second may be missing.
    pub gateways: usize,
    /// Mono-LAN: users connect to the shared address, which the first gateway has at
    /// first. Else to the first gateway's own.
    pub shared: bool,
    /// How often one session moves at most.
    pub moves: u64,
    /// Our own processes beside each gateway, where a scenario has them.
    pub daemons: Option<Settings>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            vpn: Vpn::default(),
            users: 1,
            each: 1,
            nat: false,
            ipv6: false,
            gateways: 2,
            shared: false,
            moves: 0,
            daemons: None,
        }
    }
}

impl Setup {
    /// The end users in a node, all from 1.
    pub fn household(&self, node: usize) -> Vec<usize> {
        ((node - 1) * self.each + 1..=node * self.each).collect()
    }
}

/// A scenario's world.
pub struct World {
    /// What it is made of.
    pub setup: Setup,
    /// The topology.
    pub net: Net,
    /// Our processes beside each gateway, if the setup has them. They end before
    /// charon does, which they would miss.
    pub sites: Vec<Site>,
    /// charon of the gateways.
    pub gateways: Vec<Charon>,
    /// charon of the end users.
    pub users: Vec<Charon>,
    /// What was found so far.
    pub report: Report,
    /// Keys that may stand nowhere.
    pub keys: Keys,
    tap: Tap,
    folder: PathBuf,
}

impl World {
    /// Builds the topology, taps its links and starts charon in its nodes.
    ///
    /// # Errors
    /// What could not be made.
    pub fn build(setup: Setup) -> Result<Self> {
        let folder = Path::new(LAB).join("run");
        fs::create_dir_all(&folder)?;
        let net = Net::new(Plan { users: setup.users, nat: setup.nat })?;
        let observer = Observer::new(&net.links, setup.moves);
        let tap = Tap::start(observer, &folder.join("wire.pcap"))?;
        if setup.shared {
            for (address, length) in [(SHARED.of(false), 32), (SHARED.of(true), 128)] {
                net.add_address(GATEWAYS[0], Network::Outer, &format!("{address}/{length}"))?;
            }
        }
        let to = if setup.shared { SHARED } else { OUTER[0] }.of(setup.ipv6);
        let mut sites = Vec::new();
        if let Some(settings) = &setup.daemons {
            if !settings.routed {
                net.users_on_link()?;
            }
            let program = Program::current()?;
            let pki = Pki::make(&program, &folder)?;
            for (at, name) in GATEWAYS.iter().enumerate().take(setup.gateways) {
                let home = folder.join(name);
                sites.push(Site::new(at, &program, &home, &pki, settings)?);
            }
        }
        let alone = setup.daemons.as_ref().is_some_and(|settings| settings.kernel_only);
        // First of all: it holds the address to which charon tells secrets.
        sites.iter_mut().try_for_each(Site::start_linux)?;
        let authority = match setup.vpn.auth {
            Auth::Certificate => Some(Authority::new()?),
            Auth::Psk | Auth::Eap => None,
        };
        let certify = |id: &str, home: &Path| -> Result<()> {
            authority.iter().try_for_each(|authority| authority.certify(id, home))
        };
        let mut gateways = Vec::new();
        let embedded = setup.daemons.as_ref().map(|settings| settings.embedded);
        for at in 0..if alone { 0 } else { setup.gateways } {
            if embedded.is_some_and(|embedded| embedded[at]) {
                continue;
            }
            let local = if setup.shared { SHARED } else { OUTER[at] }.of(setup.ipv6);
            let files = setup.vpn.gateway(&[local], &POOLS[at], setup.users * setup.each);
            certify(GATEWAY_ID, &folder.join(GATEWAYS[at]))?;
            gateways.push(Charon::start(GATEWAYS[at], &folder.join(GATEWAYS[at]), &files)?);
        }
        sites.iter_mut().try_for_each(Site::start_daemon)?;
        for site in &sites {
            site.wait_for_peer()?;
        }
        let mut users = Vec::new();
        for user in 1..=if alone { 0 } else { setup.users } {
            let name = Net::user_name(user);
            for id in setup.household(user) {
                certify(&user_id(id), &folder.join(&name))?;
            }
            if setup.each > 1 {
                net.add_users(&name, &setup.household(user))?;
            }
            let files = setup.vpn.household(&setup.household(user), to);
            users.push(Charon::start(&name, &folder.join(&name), &files)?);
        }
        let (report, keys) = (Report::default(), Keys::default());
        Ok(Self { setup, net, gateways, sites, users, report, keys, tap, folder })
    }

    /// Where the nodes have their files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks at what the observer saw of all that was sent so far.
    ///
    /// # Errors
    /// If it does not get to it.
    pub fn observed<T>(&self, look: impl FnOnce(&mut Observer) -> T) -> Result<T> {
        self.tap.with(look)
    }

    /// Brings up all Child SAs of all users. From then on no new IKE SA may begin.
    ///
    /// # Errors
    /// What does not come up.
    pub fn establish(&mut self) -> Result<()> {
        let children: Vec<_> = self.setup.vpn.children.iter().map(|c| c.name.clone()).collect();
        for (node, charon) in (1..).zip(&self.users) {
            for child in &children {
                if self.setup.each == 1 {
                    charon.initiate(child)?;
                    continue;
                }
                for user in self.setup.household(node) {
                    charon.initiate_of(&connection_of(user), child)?;
                }
            }
        }
        self.note_keys()?;
        self.tap.with(Observer::mark)
    }

    /// The flow of an end user (from 1) over its virtual address.
    ///
    /// # Errors
    /// If it has none.
    pub fn flow(&self, user: usize) -> Result<Flow> {
        let charon = self.users.get(user - 1).context("no such end user")?;
        let sas = charon.sas()?;
        let address = sas.iter().flat_map(|sa| &sa.virtual_ips).next();
        let address: IpAddr = address.context("no virtual address")?.parse()?;
        let server = SERVER_INNER.of(address.is_ipv6());
        let (node, host, number) = (charon.node().into(), SERVER.into(), u16::try_from(user)?);
        Ok(Flow { node, user: address, host, server, number })
    }

    /// The flows of all end users in a node (from 1).
    ///
    /// # Errors
    /// If one has no virtual address.
    pub fn flows(&self, node: usize) -> Result<Vec<Flow>> {
        if self.setup.each == 1 {
            return Ok(vec![self.flow(node)?]);
        }
        let charon = self.users.get(node - 1).context("no such node")?;
        let flow = |(at, sa): (usize, &IkeSa)| {
            let address: IpAddr = sa.virtual_ips.first().context("no virtual address")?.parse()?;
            let server = SERVER_INNER.of(address.is_ipv6());
            let number = u16::try_from((node - 1) * self.setup.each + at + 1)?;
            let (node, host) = (charon.node().into(), SERVER.into());
            Ok(Flow { node, user: address, host, server, number })
        };
        charon.sas()?.iter().enumerate().map(flow).collect()
    }

    /// Starts traffic of all users, this many packets per second each way in all, and
    /// waits until it flows.
    ///
    /// # Errors
    /// If it does not flow.
    pub fn start_traffic(&self, rate: u32) -> Result<Traffic> {
        self.start_traffic_of(1..=self.setup.users, rate)
    }

    /// The same of some users.
    ///
    /// # Errors
    /// If it does not flow.
    pub fn start_traffic_of(
        &self,
        users: impl IntoIterator<Item = usize>,
        rate: u32,
    ) -> Result<Traffic> {
        let flows: Result<Vec<_>> = users.into_iter().map(|node| self.flows(node)).collect();
        let traffic = Traffic::start(&flows?.concat(), rate)?;
        traffic.wait_for_packets(3, EXCHANGE)?;
        Ok(traffic)
    }

    /// Measures the longest gap while nothing happens.
    pub fn baseline(&mut self, traffic: &Traffic) {
        traffic.take_gap();
        traffic.run_for(BASELINE);
        self.report.gap_ms_baseline = traffic.take_gap();
    }

    /// Stops traffic and counts.
    ///
    /// # Errors
    /// If it failed.
    pub fn stop_traffic(&mut self, traffic: Traffic) -> Result<()> {
        self.count_traffic(traffic).map(drop)
    }

    /// The same, and tells the figures of this traffic alone.
    ///
    /// # Errors
    /// If it failed.
    pub fn count_traffic(&mut self, traffic: Traffic) -> Result<Tally> {
        let held = traffic.held();
        let gap = traffic.take_gap();
        let refusals = traffic.refusals();
        if !refusals.is_empty() {
            let all = self.report.more.entry("refused_as".into()).or_insert_with(|| json!([]));
            all.as_array_mut().into_iter().for_each(|all| all.push(json!(refusals)));
        }
        let tally = traffic.stop()?;
        let (gap_ms, held_ms) = (tally.gap_ms.max(gap), tally.held_ms.max(held));
        let tally = Tally { gap_ms, held_ms, ..tally };
        self.report.gap_ms_max = self.report.gap_ms_max.max(tally.gap_ms);
        self.report.held_ms_max = self.report.held_ms_max.max(tally.held_ms);
        self.report.traffic(&tally);
        Ok(tally)
    }

    /// Where the session of a user (from 1) is, and its name: the place among the
    /// gateways of the one that speaks for it.
    ///
    /// # Errors
    /// If no gateway says in time that it is active there.
    pub fn session_of(&self, user: usize) -> Result<(usize, String)> {
        let charon = self.users.get(user - 1).context("no such end user")?;
        let sas = charon.sas()?;
        let spis = &sas.first().context("the end user has no IKE SA")?.spis;
        wait_for(&format!("the session of end user {user}"), EXCHANGE, || {
            for (at, site) in self.sites.iter().enumerate() {
                for session in site.control.sessions()? {
                    let id = session.session;
                    if session.state == "active" && site.ike_spis(&id)? == Some(spis.clone()) {
                        return Ok(Some((at, id)));
                    }
                }
            }
            Ok(None)
        })
    }

    /// Runs a TCP stream of a user (from 1) both ways for some time.
    ///
    /// # Errors
    /// If it breaks or an octet is not in its place.
    pub fn tcp(&mut self, user: usize, span: Duration) -> Result<()> {
        let stream = Stream::start(&self.flow(user)?, TCP_RATE)?;
        // The time is the condition.
        std::thread::sleep(span);
        self.report.tcp = Some(stream.stop()?);
        Ok(())
    }

    /// The gateway at which an end user's session is; with one address for both, the
    /// gateways agree by themselves on who answers a new user.
    ///
    /// # Errors
    /// If no daemon knows so many sessions in time.
    pub fn wait_for_owner(&self, sessions: usize) -> Result<usize> {
        wait_for(&format!("{sessions} sessions active at one gateway"), EXCHANGE, || {
            for (at, site) in self.sites.iter().enumerate() {
                if site.control.status()?.sessions.get("active") == Some(&sessions) {
                    return Ok(Some(at));
                }
            }
            Ok(None)
        })
    }

    /// Moves these sessions, or all, from one gateway to the other and waits for the
    /// end of the batch.
    ///
    /// # Errors
    /// If it does not end. Sessions that did not move are no error.
    pub fn transfer(
        &mut self,
        from: usize,
        sessions: Option<Vec<String>>,
        mode: Mode,
    ) -> Result<Summary> {
        let target = GATEWAYS[1 - from];
        let site = self.sites.get(from).context("the setup has no daemons")?;
        let summary = site.control.transfer(sessions, target, mode, TRANSFER, |_| ())?;
        self.report.moved += summary.moved as u64;
        self.note_keys()?;
        Ok(summary)
    }
}
