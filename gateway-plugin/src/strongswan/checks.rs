//! What must be so at a gateway before anything moves, from what vici tells and
//! what charon's files say. Every check looks at answers alone, changes nothing,
//! and refuses with a reason and a cure.

pub mod settings;

use std::{fmt::Display, net::IpAddr, time::Duration};

use protocol_spec::{
    context::{IkeTransforms, Prefix, SideEffects},
    profile::Profile,
    status::{Refusal, Status},
};

pub use self::settings::{Settings, SettingsError};
use super::{
    ha::IkeSpis,
    vici::{Algorithms, Client, ConnectionInfo, Pool, Stats, Version, ViciError, names},
};
use crate::embedded::packet::contains;

/// What a charon told of itself at one time. Configurations, pools and leases
/// change: gather anew for each batch.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Who it is.
    pub version: Version,
    /// Its plugins.
    pub stats: Stats,
    /// Its configured connections.
    pub connections: Vec<ConnectionInfo>,
    /// Its pools.
    pub pools: Vec<Pool>,
    /// What it can compute.
    pub algorithms: Algorithms,
}

impl Facts {
    /// Asks for all of it; each question may take `timeout`.
    ///
    /// # Errors
    /// See [`ViciError`].
    pub fn gather(client: &mut Client, timeout: Duration) -> Result<Self, ViciError> {
        Ok(Self {
            // First: a lease that nobody has afterwards is not one of a user who is just
            // coming up.
            pools: client.pools(timeout)?,
            version: client.version(timeout)?,
            stats: client.stats(timeout)?,
            connections: client.list_conns(timeout)?,
            algorithms: client.algorithms(timeout)?,
        })
    }

    /// Asks anew for what may change while charon runs.
    ///
    /// # Errors
    /// See [`ViciError`].
    pub fn renew(&mut self, client: &mut Client, timeout: Duration) -> Result<(), ViciError> {
        self.pools = client.pools(timeout)?;
        self.connections = client.list_conns(timeout)?;
        Ok(())
    }

    /// Whether a session of this profile could be put into this charon. `own` is what
    /// this gateway hands out, also by others than charon's pools; `holder` is the IKE
    /// SA here whose end user has an inner address.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn admit(
        &self,
        profile: &Profile,
        own: &[Prefix],
        holder: &dyn Fn(IpAddr) -> Option<IkeSpis>,
    ) -> Result<(), Refusal> {
        let Some(spis) = profile.ike_spis else { return Ok(()) };
        plugins(&self.stats)?;
        configuration(&self.connections, &profile.configuration, [])?;
        let lent = self.lent(spis, &profile.virtual_ips, holder);
        addresses(&self.pools, &profile.virtual_ips, &lent)?;
        own_range(own, &profile.virtual_ips, &lent)?;
        if let Some(transforms) = &profile.ike_transforms {
            ike_transforms(&self.algorithms, transforms)?;
        }
        no_side_effects(profile.side_effects)
    }

    /// Those of the addresses that this charon handed out and that left with a session:
    /// their leases were kept (see [`lend`](super::ha::put::lend)), and no IKE SA here has
    /// them, unless it is the session's own.
    fn lent(
        &self,
        own: IkeSpis,
        of: &[IpAddr],
        holder: &dyn Fn(IpAddr) -> Option<IkeSpis>,
    ) -> Vec<IpAddr> {
        let free = |address: &IpAddr| holder(*address).is_none_or(|spis| spis == own);
        let leases = self.pools.iter().flat_map(|pool| &pool.leases);
        let leases = leases.filter(|lease| lease.online && of.contains(&lease.address));
        leases.map(|lease| lease.address).filter(free).collect()
    }
}

/// The plugins without which nothing can be moved.
///
/// # Errors
/// [`Status::NoFeature`]: `ha` or `kernel-netlink` is not loaded.
pub fn plugins(stats: &Stats) -> Result<(), Refusal> {
    let lacks = |name: &&str| !stats.plugins.iter().any(|plugin| plugin == name);
    match ["ha", "kernel-netlink"].iter().find(|name| lacks(name)) {
        None => Ok(()),
        Some(name) => Err(Refusal::new(
            Status::NoFeature,
            format!(
                "charon has not loaded its `{name}` plugin: install it (Debian: \
                 libcharon-extra-plugins), set charon.plugins.{name}.load = yes, restart charon"
            ),
        )),
    }
}

/// The connection and its Child SAs must be configured under the same names:
/// charon finds them by name when a session is put in.
///
/// # Errors
/// [`Status::NoConfiguration`].
pub fn configuration<'a>(
    connections: &[ConnectionInfo],
    name: &str,
    children: impl IntoIterator<Item = &'a str>,
) -> Result<(), Refusal> {
    let no = |detail: String| Err(Refusal::new(Status::NoConfiguration, detail));
    let Some(connection) = connections.iter().find(|connection| connection.name == name) else {
        let known = list(connections.iter().map(|connection| &connection.name));
        return no(format!(
            "charon has no connection `{name}` ({known}): configure it here as at the source and \
             run swanctl --load-conns"
        ));
    };
    for child in children {
        if !connection.children.iter().any(|known| known.name == child) {
            let known = list(connection.children.iter().map(|child| &child.name));
            return no(format!(
                "charon's connection `{name}` has no child `{child}` ({known}): configure it here \
                 as at the source and run swanctl --load-conns"
            ));
        }
    }
    Ok(())
}

/// The inner addresses must not be ones that charon might give to somebody else:
/// its pools do not see sessions that were put in. One that was `lent`, that is,
/// handed out here to a session that moved away and kept for it, may come home.
///
/// # Errors
/// [`Status::AddressCollision`].
pub fn addresses(pools: &[Pool], moved: &[IpAddr], lent: &[IpAddr]) -> Result<(), Refusal> {
    let no = |detail: String| Err(Refusal::new(Status::AddressCollision, detail));
    for address in moved.iter().filter(|address| !lent.contains(address)) {
        for pool in pools {
            let name = &pool.name;
            let lease = pool.leases.iter().find(|l| l.online && l.address == *address);
            if let Some(lease) = lease {
                let who = &lease.identity;
                return no(format!("{address} of pool `{name}` is in use here by {who}"));
            }
            if pool.covers(*address) {
                return no(format!(
                    "{address} may be handed out here by pool `{name}` ({} addresses from {}): \
                     give each gateway a range of its own",
                    pool.size, pool.base
                ));
            }
        }
    }
    Ok(())
}

/// Nor may they be ones that this gateway hands out by other means than charon's pools
/// (RADIUS, DHCP): what was lent of those is not known.
///
/// # Errors
/// [`Status::AddressCollision`].
pub fn own_range(own: &[Prefix], moved: &[IpAddr], lent: &[IpAddr]) -> Result<(), Refusal> {
    let taken = |address: &&IpAddr| {
        !lent.contains(address) && own.iter().any(|prefix| contains(prefix, **address))
    };
    let Some(address) = moved.iter().find(taken) else { return Ok(()) };
    let detail = format!(
        "{address} is among the addresses that this gateway hands out itself \
         (strongswan.hands_out): give each gateway a range of its own"
    );
    Err(Refusal::new(Status::AddressCollision, detail))
}

/// charon must be able to compute what the IKE SA negotiated. The algorithms of
/// Child SAs are the kernel's.
///
/// # Errors
/// [`Status::NoTransform`].
pub fn ike_transforms(has: &Algorithms, wants: &IkeTransforms) -> Result<(), Refusal> {
    let integrity = wants.integrity == 0 || has.has_integrity(wants.integrity);
    for (there, what, name, number) in [
        (
            has.has_encryption(wants.encryption),
            "encryption",
            names::encryption_name(wants.encryption),
            wants.encryption,
        ),
        (integrity, "integrity", names::integrity_name(wants.integrity), wants.integrity),
        (has.has_prf(wants.prf), "pseudo-random function", names::prf_name(wants.prf), wants.prf),
        (
            has.has_key_exchange(wants.key_exchange),
            "key exchange",
            names::key_exchange_name(wants.key_exchange),
            wants.key_exchange,
        ),
    ] {
        if !there {
            let name = name.unwrap_or("without a name in charon");
            return Err(Refusal::new(
                Status::NoTransform,
                format!(
                    "charon cannot compute {what} {name} ({number}) of the IKE SA: load the \
                     plugin that has it (openssl has most) and restart charon"
                ),
            ));
        }
    }
    Ok(())
}

/// What charon does for a session of this connection beside IKE and ESP: scripts
/// and accounting are started by charon itself and run at neither side of a
/// move. vici does not tell scripts, so they are looked up in `swanctl`, what
/// `swanctl.conf` says; of a connection that stands elsewhere the worst is
/// assumed as long as the `updown` plugin is loaded.
pub fn side_effects(
    stats: &Stats,
    daemon: &str,
    strongswan: &Settings,
    swanctl: &Settings,
    connection: &str,
) -> SideEffects {
    let loaded = |name| stats.plugins.iter().any(|plugin| plugin == name);
    let section = format!("connections.{connection}");
    let children = format!("{section}.children.");
    let scripts = !swanctl.has_section(&section)
        || swanctl.between(&children, ".updown").any(|(_, script)| !script.is_empty());
    SideEffects {
        hooks: loaded("updown") && scripts,
        accounting: loaded("eap-radius")
            && strongswan.charon_flag(daemon, "plugins.eap-radius.accounting", false),
    }
}

/// Nothing may be running that a move would end without a word.
///
/// # Errors
/// [`Status::SideEffects`].
pub fn no_side_effects(effects: SideEffects) -> Result<(), Refusal> {
    let no = |detail: &str| Err(Refusal::new(Status::SideEffects, detail));
    if effects.hooks {
        return no(
            "charon runs an `updown` script for this session, or may: remove `updown` from \
                   its connection in swanctl.conf, or unload charon's updown plugin, and use the \
                   gateway's own hooks",
        );
    }
    if effects.accounting {
        return no("charon accounts for this session by RADIUS, which would end: set \
                   charon.plugins.eap-radius.accounting = no, or leave the session here");
    }
    Ok(())
}

/// What our part of the HA protocol needs, and what would make charon speak for
/// sessions by itself; every deviation, so that all can be cured at once.
pub fn settings(daemon: &str, files: &Settings) -> Vec<Refusal> {
    let mut wrong = Vec::new();
    let mut must = |right: bool, key: &str, value: &str, why: &str| {
        if !right {
            let is = files.charon(daemon, key).unwrap_or("not set");
            wrong.push(Refusal::new(
                Status::NoFeature,
                format!("charon.{key} is {is}: {why}; set it to {value} and restart charon"),
            ));
        }
    };
    let local = |key: &str| {
        let address = files.charon(daemon, key).and_then(|text| text.parse::<IpAddr>().ok());
        address.is_some_and(|address| address.is_loopback())
    };
    let nodes = ("plugins.ha.local", "plugins.ha.remote");
    let apart = files.charon(daemon, nodes.0) != files.charon(daemon, nodes.1);
    let loopback = "the HA messages hold secrets and are for this machine alone";
    must(local(nodes.0), nodes.0, "127.0.0.1", loopback);
    must(local(nodes.1) && apart, nodes.1, "127.0.0.2", loopback);
    for (key, default, why) in [
        ("plugins.ha.monitor", true, "charon would take over what its other node does not answer"),
        ("plugins.ha.resync", true, "charon would wait for its other node when it starts"),
        ("plugins.ha.fifo_interface", true, "anybody could switch segments"),
        (
            "plugins.kernel-netlink.roam_events",
            true,
            "charon would send address updates for every session when an address appears",
        ),
    ] {
        must(!files.charon_flag(daemon, key, default), key, "no", why);
    }
    must(
        files.charon(daemon, "plugins.ha.secret").is_none(),
        "plugins.ha.secret",
        "nothing",
        "charon would encrypt what goes to our process on the loopback",
    );
    let segments = files.charon(daemon, "plugins.ha.segment_count");
    let count = segments.and_then(|text| text.parse::<u16>().ok());
    must(
        count == Some(16),
        "plugins.ha.segment_count",
        "16",
        "sessions are activated by segment, and one segment holds all",
    );
    wrong
}

fn list<T: Display>(names: impl Iterator<Item = T>) -> String {
    let mut text = String::new();
    for (index, name) in names.enumerate() {
        if index == 8 {
            text.push_str(", ...");
            break;
        }
        text.push_str(if index == 0 { "it has " } else { ", " });
        text.push_str(&format!("`{name}`"));
    }
    if text.is_empty() { "it has none".to_owned() } else { text }
}

#[cfg(test)]
mod tests;
