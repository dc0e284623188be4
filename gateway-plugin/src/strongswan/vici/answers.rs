//! Everything else that charon tells about itself and its configuration.

use std::net::IpAddr;

use super::{error::AnswerError, names, section::Section};

/// `version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Name of the program.
    pub daemon: String,
    /// strongSwan's version, such as `5.9.8`.
    pub version: String,
    /// Operating system, its release and the machine.
    pub system: (String, String, String),
}

impl Version {
    pub(super) fn read(s: &Section) -> Result<Self, AnswerError> {
        Ok(Self {
            daemon: s.text("daemon")?,
            version: s.text("version")?,
            system: (s.text("sysname")?, s.text("release")?, s.text("machine")?),
        })
    }

    /// Major, minor and patch number: `6.0.6` and `5.9.8dr1` alike.
    pub fn numbers(&self) -> Option<(u32, u32, u32)> {
        let mut parts = self.version.splitn(3, '.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part.get(..digits).and_then(|digits| digits.parse().ok())
        });
        Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }
}

/// `stats`, as far as the gateway looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// When charon was started, in its own words and to the second: another text,
    /// another life.
    pub since: String,
    /// IKE SAs.
    pub ike_sas: u64,
    /// Those of them that are half open.
    pub half_open: u64,
    /// Names of the loaded plugins.
    pub plugins: Vec<String>,
}

impl Stats {
    pub(super) fn read(s: &Section) -> Result<Self, AnswerError> {
        let uptime = s.section("uptime")?;
        let sas = s.section("ikesas")?;
        let within = |section: &'static str| move |error: AnswerError| error.within(section);
        Ok(Self {
            since: uptime.text("since").map_err(within("uptime"))?,
            ike_sas: sas.number("total").map_err(within("ikesas"))?,
            half_open: sas.number("half-open").map_err(within("ikesas"))?,
            plugins: s.texts("plugins")?,
        })
    }
}

/// A configured connection, from `list-conns`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its name.
    pub name: String,
    /// Addresses or names at which we answer; `%any` for all.
    pub local_addresses: Vec<String>,
    /// Addresses or names of the peer.
    pub remote_addresses: Vec<String>,
    /// `IKEv1`, `IKEv2` or `IKEv1/2`.
    pub version: String,
    /// What is done about a second IKE SA of one peer, in charon's words.
    pub unique: String,
    /// How we authenticate, round by round.
    pub local: Vec<Authentication>,
    /// How the peer must authenticate, round by round.
    pub remote: Vec<Authentication>,
    /// Its Child SAs.
    pub children: Vec<ConnectionChild>,
}

/// One round of authentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// charon's name: `pre-shared key`, `public key`, `EAP`, `any`, ...
    pub class: String,
    /// charon's name of the EAP method, such as `EAP_RADIUS`.
    pub eap_type: Option<String>,
    /// The identity that is wanted.
    pub id: Option<String>,
}

/// A Child SA of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionChild {
    /// Its name.
    pub name: String,
    /// `TUNNEL`, `TRANSPORT`, `PASS`, ...
    pub mode: String,
    /// Selectors at our side, as charon prints them.
    pub local_selectors: Vec<String>,
    /// Selectors at the peer's side; `dynamic` stands for its virtual IP.
    pub remote_selectors: Vec<String>,
}

impl ConnectionInfo {
    /// Reads the section under the connection's name.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub fn read(name: &str, section: &Section) -> Result<Self, AnswerError> {
        Self::read_fields(name, section).map_err(|error| error.within(name))
    }

    fn read_fields(name: &str, s: &Section) -> Result<Self, AnswerError> {
        let rounds = |prefix: &str| {
            let sections = s.sections().filter(|(label, _)| {
                label.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'))
            });
            sections
                .map(|(label, round)| {
                    Authentication::read(round).map_err(|error| error.within(label))
                })
                .collect::<Result<_, _>>()
        };
        let children = s.section("children")?.sections().map(|(label, child)| {
            ConnectionChild::read(label, child)
                .map_err(|error| error.within(label).within("children"))
        });
        Ok(Self {
            name: name.to_owned(),
            local_addresses: s.texts("local_addrs")?,
            remote_addresses: s.texts("remote_addrs")?,
            version: s.text("version")?,
            unique: s.optional_text("unique")?.unwrap_or_default(),
            local: rounds("local")?,
            remote: rounds("remote")?,
            children: children.collect::<Result<_, _>>()?,
        })
    }
}

impl Authentication {
    fn read(s: &Section) -> Result<Self, AnswerError> {
        Ok(Self {
            class: s.optional_text("class")?.unwrap_or_else(|| "any".to_owned()),
            eap_type: s.optional_text("eap-type")?,
            id: s.optional_text("id")?,
        })
    }
}

impl ConnectionChild {
    fn read(name: &str, s: &Section) -> Result<Self, AnswerError> {
        Ok(Self {
            name: name.to_owned(),
            mode: s.text("mode")?,
            local_selectors: s.texts("local-ts")?,
            remote_selectors: s.texts("remote-ts")?,
        })
    }
}

/// A pool from which charon hands out virtual IPs, from `get-pools`. Pools of
/// other plugins (`dhcp`, `attr-sql`) and those of `ha.pools` are not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its first address; in some versions (5.9.8) of a pool given as a prefix the
    /// prefix's own address, which is not handed out.
    pub base: IpAddr,
    /// How many addresses it hands out.
    pub size: u64,
    /// Leases in use.
    pub online: u64,
    /// Leases that are kept for a peer that is away.
    pub offline: u64,
    /// The leases.
    pub leases: Vec<Lease>,
}

/// An address that a pool gave to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// To whom, as charon prints it.
    pub identity: String,
    /// Whether it is in use.
    pub online: bool,
}

impl Pool {
    pub(super) fn read_all(answer: &Section) -> Result<Vec<Self>, AnswerError> {
        let pools = answer.sections();
        pools.map(|(name, s)| Self::read(name, s).map_err(|e| e.within(name))).collect()
    }

    /// Whether it may hand out this address. A pool that may have been given as a
    /// prefix claims all of it.
    pub fn covers(&self, address: IpAddr) -> bool {
        let (base, address) = match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(a)) => (u128::from(base.to_bits()), a.to_bits().into()),
            (IpAddr::V6(base), IpAddr::V6(a)) => (base.to_bits(), a.to_bits()),
            _ => return false,
        };
        let size = u128::from(self.size);
        let prefix = size + 2;
        let claimed = if prefix.is_power_of_two() && base % prefix == 0 { prefix } else { size };
        address.checked_sub(base).is_some_and(|offset: u128| offset < claimed)
    }

    fn read(name: &str, s: &Section) -> Result<Self, AnswerError> {
        let leases = match s.optional_section("leases")? {
            Some(leases) => leases.sections().map(|(_, lease)| Lease::read(lease)).collect(),
            None => Ok(Vec::new()),
        };
        Ok(Self {
            name: name.to_owned(),
            base: s.address("base")?,
            size: s.number("size")?,
            online: s.number("online")?,
            offline: s.number("offline")?,
            leases: leases.map_err(|error: AnswerError| error.within("leases"))?,
        })
    }
}

impl Lease {
    fn read(s: &Section) -> Result<Self, AnswerError> {
        Ok(Self {
            address: s.address("address")?,
            identity: s.text("identity")?,
            online: s.text("status")? == "online",
        })
    }
}

/// The algorithms that charon has, by charon's names, from `get-algorithms`.
/// What the kernel has for Child SAs is another matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Algorithms {
    /// Encryption without integrity.
    pub encryption: Vec<String>,
    /// Encryption with integrity.
    pub aead: Vec<String>,
    /// Integrity.
    pub integrity: Vec<String>,
    /// Pseudo-random functions.
    pub prf: Vec<String>,
    /// Key exchange methods.
    pub key_exchange: Vec<String>,
}

impl Algorithms {
    pub(super) fn read(answer: &Section) -> Result<Self, AnswerError> {
        let names = |section: &Section| section.iter().map(|(name, _)| name.to_owned()).collect();
        let key_exchange = match answer.optional_section("ke")? {
            Some(section) => section,
            // Up to 5.9.
            None => answer.section("dh")?,
        };
        Ok(Self {
            encryption: names(answer.section("encryption")?),
            aead: names(answer.section("aead")?),
            integrity: names(answer.section("integrity")?),
            prf: names(answer.section("prf")?),
            key_exchange: names(key_exchange),
        })
    }

    /// Whether there is an encryption algorithm with this number.
    pub fn has_encryption(&self, number: u16) -> bool {
        let list = if names::is_aead(number) { &self.aead } else { &self.encryption };
        names::encryption_name(number).is_some_and(|name| list.iter().any(|n| n == name))
    }

    /// Whether there is an integrity algorithm with this number.
    pub fn has_integrity(&self, number: u16) -> bool {
        names::integrity_name(number).is_some_and(|name| self.integrity.iter().any(|n| n == name))
    }

    /// Whether there is a pseudo-random function with this number.
    pub fn has_prf(&self, number: u16) -> bool {
        names::prf_name(number).is_some_and(|name| self.prf.iter().any(|n| n == name))
    }

    /// Whether there is a key exchange method with this number.
    pub fn has_key_exchange(&self, number: u16) -> bool {
        let name = names::key_exchange_name(number);
        name.is_some_and(|name| self.key_exchange.iter().any(|n| n == name))
    }
}

#[cfg(test)]
mod tests;
