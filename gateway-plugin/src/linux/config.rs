//! The settings of `cxtp-linux`: a TOML file, checked into types of our own.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_spec::{
    context::Prefix,
    id::Name,
    profile::{Feature, FeatureSet},
};
use serde::Deserialize;

use crate::steering;

/// Settings, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The plugin socket.
    pub(crate) socket: PathBuf,
    /// The IKE daemon.
    pub(crate) daemon: Daemon,
    /// Where packets go.
    pub(crate) steering: steering::Config,
    /// Addresses outside that are this gateway's alone.
    pub(crate) own: Vec<IpAddr>,
    /// Gateways that sessions move to and come from.
    pub(crate) neighbours: BTreeMap<Name, Neighbour>,
    /// What a session must have to be taken, beside what it needs itself.
    pub(crate) require: FeatureSet,
    /// Most sessions at a time.
    pub(crate) max_sessions: u64,
    /// How long stragglers of a moved session are relayed.
    pub(crate) drain: Duration,
}

/// The IKE daemon.
#[derive(Clone, Debug)]
pub(crate) enum Daemon {
    /// SAs that no daemon owns.
    None,
    /// charon.
    Strongswan {
        /// Its vici socket.
        vici: PathBuf,
        /// Our address for its HA messages, and its own.
        ha: (SocketAddr, SocketAddr),
        /// Addresses that its pools hand out here.
        hands_out: Vec<Prefix>,
        /// `strongswan.conf`, with what it includes.
        strongswan_conf: PathBuf,
        /// `swanctl.conf`, with what it includes.
        swanctl_conf: PathBuf,
    },
}

/// Where a neighbour is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbour {
    /// On the inner network.
    pub(crate) inner: IpAddr,
    /// The same of the other IP version, if it has one.
    pub(crate) inner_also: Option<IpAddr>,
    /// Outside, its own address.
    pub(crate) outer: IpAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    socket: PathBuf,
    #[serde(default = "strongswan")]
    daemon: String,
    #[serde(default)]
    require: Vec<String>,
    #[serde(default = "a_million")]
    max_sessions: u64,
    #[serde(default = "ten")]
    drain_seconds: u64,
    network: RawNetwork,
    #[serde(default)]
    strongswan: RawStrongswan,
    #[serde(default)]
    neighbours: BTreeMap<String, RawNeighbour>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    outer: Vec<String>,
    inner: String,
    #[serde(default)]
    own: Vec<IpAddr>,
    #[serde(default)]
    shared: Vec<IpAddr>,
    #[serde(default = "none")]
    mode: String,
    #[serde(default)]
    shared_mac: Option<String>,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default = "routed")]
    inner_reach: String,
    #[serde(default)]
    inner_networks: Vec<String>,
    #[serde(default)]
    hook: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawStrongswan {
    vici: PathBuf,
    ha_ours: SocketAddr,
    ha_charons: SocketAddr,
    hands_out: Vec<String>,
    strongswan_conf: PathBuf,
    swanctl_conf: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNeighbour {
    inner: OneOrBoth,
    outer: IpAddr,
}

/// An address, or one of each IP version.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrBoth {
    One(IpAddr),
    Both([IpAddr; 2]),
}

impl OneOrBoth {
    fn split(self) -> Result<(IpAddr, Option<IpAddr>), String> {
        match self {
            Self::One(address) => Ok((address, None)),
            Self::Both([one, other]) if one.is_ipv4() != other.is_ipv4() => Ok((one, Some(other))),
            Self::Both([one, other]) => {
                let cure = "write one address of each IP version";
                Err(wrong("neighbours.inner", &format!("{one}, {other}"), cure))
            }
        }
    }
}

fn strongswan() -> String {
    "strongswan".to_owned()
}

fn none() -> String {
    "none".to_owned()
}

fn routed() -> String {
    "routed".to_owned()
}

fn a_million() -> u64 {
    1_000_000
}

fn ten() -> u64 {
    10
}

impl Default for RawStrongswan {
    fn default() -> Self {
        Self {
            vici: "/run/charon.vici".into(),
            ha_ours: ([127, 0, 0, 2], 4510).into(),
            ha_charons: ([127, 0, 0, 1], 4510).into(),
            hands_out: Vec::new(),
            strongswan_conf: "/etc/strongswan.conf".into(),
            swanctl_conf: "/etc/swanctl/swanctl.conf".into(),
        }
    }
}

fn wrong(key: &str, value: &str, cure: &str) -> String {
    format!("`{key}` is `{value}`: {cure}")
}

fn name(key: &str, value: &str) -> Result<Name, String> {
    value.parse().map_err(|_| wrong(key, value, "write the NAME of a certificate, such as gw-a"))
}

/// A feature by the word for it in code, in lower case: `message-id-sync`.
fn feature(word: &str) -> Result<Feature, String> {
    let dashed = |feature: &Feature| {
        let name = format!("{feature:?}");
        let dash = |c: char| if c.is_ascii_uppercase() { "-" } else { "" };
        let words = name.chars().map(|c| format!("{}{}", dash(c), c.to_ascii_lowercase()));
        words.collect::<String>().trim_start_matches('-') == word
    };
    let cure = "write the name of a feature, such as `message-id-sync` or `mobike`";
    Feature::ALL.iter().copied().find(dashed).ok_or_else(|| wrong("require", word, cure))
}

fn prefix(key: &str, value: &str) -> Result<Prefix, String> {
    let parsed = value.split_once('/').and_then(|(address, bits)| {
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Prefix { address, bits })
    });
    parsed.ok_or_else(|| wrong(key, value, "write ADDRESS/BITS, such as 10.9.0.0/24"))
}

fn mac(value: &str) -> Option<[u8; 6]> {
    let octets: Vec<u8> =
        value.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect::<Option<_>>()?;
    octets.try_into().ok()
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Text that names the file, the key, its value and what to do.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let told = |error: String| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path)
            .map_err(|error| told(format!("{error}; name the file with --config FILE")))?;
        Self::from_toml(&text).map_err(told)
    }

    /// The neighbours as steering knows them.
    pub(crate) fn neighbours(&self) -> BTreeMap<Name, steering::Neighbour> {
        let neighbour = |(name, at): (&Name, &Neighbour)| {
            let Neighbour { inner, inner_also, outer } = *at;
            (name.clone(), steering::Neighbour { name: name.clone(), inner, inner_also, outer })
        };
        self.neighbours.iter().map(neighbour).collect()
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub(crate) fn from_toml(text: &str) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|error| error.to_string())?;
        let own = name("name", &raw.name)?;
        let daemon = match raw.daemon.as_str() {
            "none" => Daemon::None,
            "strongswan" => Daemon::Strongswan {
                vici: raw.strongswan.vici,
                ha: (raw.strongswan.ha_ours, raw.strongswan.ha_charons),
                hands_out: raw
                    .strongswan
                    .hands_out
                    .iter()
                    .map(|text| prefix("strongswan.hands_out", text))
                    .collect::<Result<_, _>>()?,
                strongswan_conf: raw.strongswan.strongswan_conf,
                swanctl_conf: raw.strongswan.swanctl_conf,
            },
            other => return Err(wrong("daemon", other, "set it to `strongswan` or `none`")),
        };
        let neighbours = raw
            .neighbours
            .into_iter()
            .map(|(key, RawNeighbour { inner, outer })| {
                let (inner, inner_also) = inner.split()?;
                Ok((name("neighbours", &key)?, Neighbour { inner, inner_also, outer }))
            })
            .collect::<Result<_, String>>()?;
        let steering = raw.network.steering(own)?;
        Ok(Self {
            socket: raw.socket,
            daemon,
            steering,
            own: raw.network.own,
            neighbours,
            require: raw.require.iter().map(|word| feature(word)).collect::<Result<_, _>>()?,
            max_sessions: raw.max_sessions,
            drain: Duration::from_secs(raw.drain_seconds),
        })
    }
}

impl RawNetwork {
    fn steering(&self, own: Name) -> Result<steering::Config, String> {
        let mac = || {
            let text = self.shared_mac.as_deref().unwrap_or("");
            let cure = "write the MAC address that all gateways answer for a shared address, such \
                        as 03:00:5e:00:40:67";
            mac(text).ok_or_else(|| wrong("network.shared_mac", text, cure))
        };
        let mode = match self.mode.as_str() {
            "none" => steering::Mode::None,
            "address" => steering::Mode::Address,
            "multicast" => steering::Mode::Shared(steering::Layer2::Multicast(mac()?)),
            "flooded" => steering::Mode::Shared(steering::Layer2::Flooded(mac()?)),
            other => {
                let cure = "set it to `none`, `address`, `multicast` or `flooded`";
                return Err(wrong("network.mode", other, cure));
            }
        };
        let inner_reach = match self.inner_reach.as_str() {
            "routed" => steering::InnerReach::Routed,
            "proxy" => steering::InnerReach::Proxy,
            other => {
                return Err(wrong("network.inner_reach", other, "set it to `routed` or `proxy`"));
            }
        };
        let networks = self.inner_networks.iter();
        let networks = networks.map(|text| prefix("network.inner_networks", text));
        let defaults = steering::Config::new(own, String::new(), self.inner.clone());
        Ok(steering::Config {
            outer: self.outer.clone(),
            shared: self.shared.clone(),
            mode,
            members: self
                .members
                .iter()
                .map(|text| name("network.members", text))
                .collect::<Result<_, _>>()?,
            inner_reach,
            inner_networks: networks.collect::<Result<_, _>>()?,
            hook: self.hook.clone(),
            ..defaults
        })
    }
}

#[cfg(test)]
mod tests;
