//! The topology of a scenario: a network namespace for each node, and bridges between
//! them in the namespace of the scenario itself, so that each link can be seen, cut
//! and made slow from there.
//!
//! ```text
//! eu1 … eun ── access ── router ──┐           (only behind a router)
//! eu1 … eun ──────────────────── outer ── sg1, sg2 ── inner ── srv
//!                                          sg1 ─ sync ─ sg2
//! ```

mod namespace;

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

pub use namespace::Namespace;

/// The gateways.
pub const GATEWAYS: [&str; 2] = ["sg1", "sg2"];
/// The inner server.
pub const SERVER: &str = "srv";
/// What stands between end users and the outer network, where a scenario wants it.
pub const ROUTER: &str = "router";

/// An IPv4 and an IPv6 address of a node on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Pair {
    const fn new(v4: [u8; 4], v6: [u16; 3]) -> Self {
        let [a, b, c, d] = v4;
        let [net, high, low] = v6;
        Self {
            v4: Ipv4Addr::new(a, b, c, d),
            v6: Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, high, low),
        }
    }

    /// Both, with the lengths of the prefixes that all networks of the lab have.
    pub fn with_prefixes(self) -> [String; 2] {
        [format!("{}/16", self.v4), format!("{}/64", self.v6)]
    }

    /// One of them.
    pub fn of(self, ipv6: bool) -> IpAddr {
        if ipv6 { self.v6.into() } else { self.v4.into() }
    }
}

/// Address of end user `user` (from 1) on the outer network.
pub fn user_outer(user: usize) -> Pair {
    let [high, low] = u16::try_from(user).unwrap_or(u16::MAX).to_be_bytes();
    Pair::new([10, 0, 16 + high, low], [1, 0x10, u16::from_be_bytes([high, low])])
}

/// Address of end user `user` behind the router.
pub fn user_access(user: usize) -> Pair {
    let [high, low] = u16::try_from(user).unwrap_or(u16::MAX).to_be_bytes();
    Pair::new([172, 16, 16 + high, low], [2, 0x10, u16::from_be_bytes([high, low])])
}

/// Address of end user `user` outside, where it shares its node with others: the
/// gateways tell users apart by their addresses.
pub fn user_shared(user: usize) -> Pair {
    let [high, low] = u16::try_from(user).unwrap_or(u16::MAX).to_be_bytes();
    Pair::new([10, 0, 128 | high, low], [1, 0x20, u16::from_be_bytes([high, low])])
}

/// Own addresses of the gateways on the outer network.
pub const OUTER: [Pair; 2] =
    [Pair::new([10, 0, 0, 1], [1, 0, 1]), Pair::new([10, 0, 0, 2], [1, 0, 2])];
/// The address that the gateways share in Mono-LAN. No node has it at first.
pub const SHARED: Pair = Pair::new([10, 0, 0, 100], [1, 0, 0x100]);
/// Addresses of the gateways on the inner network.
pub const INNER: [Pair; 2] =
    [Pair::new([192, 168, 7, 1], [7, 0, 1]), Pair::new([192, 168, 7, 2], [7, 0, 2])];
/// The inner server.
pub const SERVER_INNER: Pair = Pair::new([192, 168, 7, 10], [7, 0, 10]);
/// Addresses of the gateways on the network between them.
pub const SYNC: [Pair; 2] =
    [Pair::new([10, 1, 0, 1], [3, 0, 1]), Pair::new([10, 1, 0, 2], [3, 0, 2])];
/// Address of the router outside.
pub const ROUTER_OUTER: Pair = Pair::new([10, 0, 0, 3], [1, 0, 3]);
const ROUTER_ACCESS: Pair = Pair::new([172, 16, 0, 1], [2, 0, 1]);

/// What end users may reach.
pub const INNER_NETS: [&str; 2] = ["192.168.0.0/16", "fd00:7::/64"];
/// Where their virtual addresses come from, of both gateways together.
pub const VIRTUAL_NETS: [&str; 2] = ["10.9.0.0/16", "fd00:9::/64"];
/// What each gateway hands out: ranges that do not overlap.
pub const POOLS: [[&str; 2]; 2] =
    [["10.9.0.0/20", "fd00:9::1:0/112"], ["10.9.16.0/20", "fd00:9::2:0/112"]];

/// Which network a link belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Between end users and gateways: nothing inner may be seen here in clear.
    Outer,
    /// Between end users and the router: the same holds.
    Access,
    /// Between gateways and the inner server.
    Inner,
    /// Between the gateways.
    Sync,
}

impl Network {
    const ALL: [Self; 4] = [Self::Outer, Self::Access, Self::Inner, Self::Sync];

    fn bridge(self) -> &'static str {
        match self {
            Self::Outer => "outer",
            Self::Access => "access",
            Self::Inner => "inner",
            Self::Sync => "sync",
        }
    }

    /// What a node calls its interface to it.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Outer => "wan",
            Self::Access => "access",
            Self::Inner => "lan",
            Self::Sync => "sync",
        }
    }
}

/// A link: the end of it that is not in the node's namespace.
#[derive(Clone, Debug)]
pub struct Link {
    /// The node.
    pub node: String,
    /// Which network it joins.
    pub network: Network,
    /// Number of the interface in the scenario's namespace.
    pub index: usize,
}

/// What a topology is made for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// End users.
    pub users: usize,
    /// Whether they stand behind a router with NAT.
    pub nat: bool,
}

/// The topology. It ends with the guest.
#[derive(Debug)]
pub struct Net {
    /// What it was made for.
    pub plan: Plan,
    /// Every link.
    pub links: Vec<Link>,
}

impl Net {
    /// Makes it.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new(plan: Plan) -> Result<Self> {
        let mut net = Self { plan, links: Vec::new() };
        for network in Network::ALL {
            let bridge = network.bridge();
            // Nobody but the nodes speaks on a bridge.
            ip(&format!("link add {bridge} type bridge forward_delay 0 mcast_snooping 0"))?;
            fs::write(format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6"), "1")?;
            ip(&format!("link set {bridge} up"))?;
        }
        for at in 0..2 {
            net.node(GATEWAYS[at])?;
            net.link(GATEWAYS[at], Network::Outer, OUTER[at])?;
            net.link(GATEWAYS[at], Network::Inner, INNER[at])?;
            net.link(GATEWAYS[at], Network::Sync, SYNC[at])?;
            net.forwards(GATEWAYS[at])?;
        }
        net.node(SERVER)?;
        net.link(SERVER, Network::Inner, SERVER_INNER)?;
        for (version, to) in [("-4", INNER[0].of(false)), ("-6", INNER[0].of(true))] {
            net.ip(SERVER, &format!("{version} route add default via {to}"))?;
        }
        if plan.nat {
            net.router()?;
        }
        for user in 1..=plan.users {
            net.user(user)?;
        }
        // What has no policy would go out in clear to the first user or the router: a
        // gateway that fails open is seen.
        let beyond = if plan.nat { ROUTER_OUTER } else { user_outer(1) };
        for gateway in GATEWAYS {
            for (version, net_, to) in [
                ("-4", VIRTUAL_NETS[0], beyond.of(false)),
                ("-6", VIRTUAL_NETS[1], beyond.of(true)),
            ] {
                net.ip(gateway, &format!("{version} route add {net_} via {to}"))?;
            }
        }
        Ok(net)
    }

    /// The name of an end user's node.
    pub fn user_name(user: usize) -> String {
        format!("eu{user}")
    }

    /// The address under which a user's node speaks: behind the router or outside.
    pub fn user_address(&self, user: usize) -> Pair {
        if self.plan.nat { user_access(user) } else { user_outer(user) }
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<&str> {
        let mut nodes: Vec<_> = self.links.iter().map(|link| link.node.as_str()).collect();
        nodes.dedup();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    fn user(&mut self, user: usize) -> Result<()> {
        let name = Self::user_name(user);
        self.node(&name)?;
        if !self.plan.nat {
            return self.link(&name, Network::Outer, user_outer(user));
        }
        self.link(&name, Network::Access, user_access(user))?;
        for (version, to) in [("-4", ROUTER_ACCESS.of(false)), ("-6", ROUTER_ACCESS.of(true))] {
            self.ip(&name, &format!("{version} route add default via {to}"))?;
        }
        Ok(())
    }

    fn router(&mut self) -> Result<()> {
        self.node(ROUTER)?;
        self.link(ROUTER, Network::Outer, ROUTER_OUTER)?;
        self.link(ROUTER, Network::Access, ROUTER_ACCESS)?;
        self.forwards(ROUTER)?;
        Namespace::of(ROUTER).enter(|| {
            run(Command::new("nft").arg(
                "add table inet nat; \
                 add chain inet nat out { type nat hook postrouting priority srcnat; }; \
                 add rule inet nat out oifname wan masquerade",
            ))
        })
    }

    fn node(&self, name: &str) -> Result<()> {
        ip(&format!("netns add {name}"))?;
        self.ip(name, "link set lo up")
    }

    fn forwards(&self, node: &str) -> Result<()> {
        Namespace::of(node).enter(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")?;
            // A redirect tells the server to go around a gateway.
            fs::write("/proc/sys/net/ipv4/conf/all/send_redirects", "0")?;
            for interface in ["wan", "lan", "sync", "access"] {
                let place = format!("/proc/sys/net/ipv4/conf/{interface}/send_redirects");
                if fs::exists(&place)? {
                    fs::write(place, "0")?;
                }
            }
            Ok(())
        })
    }

    fn link(&mut self, node: &str, network: Network, address: Pair) -> Result<()> {
        let interface = network.interface();
        let port = Self::port(node, network);
        ip(&format!("link add {port} type veth peer name {interface} netns {node}"))?;
        fs::write(format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6"), "1")?;
        ip(&format!("link set {port} master {} up", network.bridge()))?;
        self.ip(node, &format!("link set {interface} up"))?;
        for address in address.with_prefixes() {
            self.add_address(node, network, &address)?;
        }
        let index = fs::read_to_string(format!("/sys/class/net/{port}/ifindex"))?;
        let index = index.trim().parse()?;
        self.links.push(Link { node: node.into(), network, index });
        Ok(())
    }

    fn port(node: &str, network: Network) -> String {
        format!("{node}-{}", network.interface())
    }

    /// Gives a node a further address, with its prefix length.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_address(&self, node: &str, network: Network, address: &str) -> Result<()> {
        let dad = if address.contains(':') { "nodad" } else { "" };
        self.ip(node, &format!("address add {address} dev {} {dad}", network.interface()))
    }

    /// Gives a node an address of its own for each of several end users.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_users(&self, node: &str, users: &[usize]) -> Result<()> {
        let device = Network::Outer.interface();
        let line = |user: &usize| {
            let [v4, v6] = user_shared(*user).with_prefixes();
            format!("address add {v4} dev {device}\naddress add {v6} dev {device} nodad\n")
        };
        let file = format!("/tmp/users-of-{node}");
        fs::write(&file, users.iter().map(line).collect::<String>())?;
        self.ip(node, &format!("-batch {file}"))
    }

    /// Runs `ip` in a node.
    ///
    /// # Errors
    /// What it says.
    pub fn ip(&self, node: &str, args: &str) -> Result<()> {
        ip(&format!("-n {node} {args}"))
    }

    /// Cuts a node's link, or mends it.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cut(&self, node: &str, network: Network, cut: bool) -> Result<()> {
        let state = if cut { "down" } else { "up" };
        ip(&format!("link set {} {state}", Self::port(node, network)))
    }

    /// Makes a node's link worse, both ways, as `netem` words it: `delay 20ms loss 1%`.
    ///
    /// # Errors
    /// What `tc` says.
    pub fn impair(&self, node: &str, network: Network, how: &str) -> Result<()> {
        let qdisc = |device: &str| {
            let mut tc = Command::new("tc");
            tc.args(["qdisc", "replace", "dev", device, "root", "netem"]);
            run(tc.args(how.split_whitespace()))
        };
        qdisc(&Self::port(node, network))?;
        Namespace::of(node).enter(|| qdisc(network.interface()))
    }

    /// Lets the server look for users on the inner network itself, where gateways
    /// answer for them, and not behind the first gateway.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn users_on_link(&self) -> Result<()> {
        let lan = Network::Inner.interface();
        for (version, net) in ["-4", "-6"].into_iter().zip(VIRTUAL_NETS) {
            self.ip(SERVER, &format!("{version} route add {net} dev {lan}"))?;
        }
        Ok(())
    }

    /// What gateways share by multicast on the outer network does not go to users, as
    /// where a switch was told its members. They cannot be looked for by IPv6 then.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn spare_users(&self) -> Result<()> {
        (1..=self.plan.users).try_for_each(|user| {
            let port = Self::port(&Self::user_name(user), Network::Outer);
            ip(&format!("link set {port} type bridge_slave mcast_flood off"))
        })
    }

    /// What the kernel counted as errors of IPsec in a node, by name.
    ///
    /// # Errors
    /// If the node is not there.
    pub fn xfrm_errors(&self, node: &str) -> Result<Vec<(String, u64)>> {
        xfrm_errors(node)
    }
}

/// What the kernel counted as errors of IPsec in a node, by name.
///
/// # Errors
/// If the node is not there.
pub fn xfrm_errors(node: &str) -> Result<Vec<(String, u64)>> {
    let text = Namespace::of(node).enter(|| Ok(fs::read_to_string("/proc/net/xfrm_stat")?))?;
    let mut errors = Vec::new();
    for line in text.lines() {
        let (name, count) = line.split_once(char::is_whitespace).context("xfrm_stat")?;
        let count: u64 = count.trim().parse()?;
        if count > 0 {
            errors.push((name.to_owned(), count));
        }
    }
    Ok(errors)
}

fn ip(args: &str) -> Result<()> {
    run(Command::new("ip").args(args.split_whitespace()))
}

/// Runs a command to its end.
///
/// # Errors
/// What it says on stderr.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end and returns what it writes to stdout.
///
/// # Errors
/// What it says on stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        std::io::stdout().flush()?;
        bail!("{command:?}: {}", String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
