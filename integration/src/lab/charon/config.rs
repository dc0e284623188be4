//! charon's files: `strongswan.conf`, and swanctl's connections, pools and secrets.

use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::Result;

use crate::lab::net::user_shared;

/// Name of charon's own settings in its folder.
pub const STRONGSWAN: &str = "strongswan.conf";
/// Name of swanctl's folder in charon's.
pub const SWANCTL: &str = "swanctl";
/// Name of its vici socket.
pub const VICI: &str = "charon.vici";
/// Name of its log.
pub const LOG: &str = "charon.log";

/// The connection's name, which both ends know.
pub const CONNECTION: &str = "vpn";
/// Identity of the gateways, which are one to end users.
pub const GATEWAY_ID: &str = "gw.example.org";

/// Plugins that both kinds of node load.
const PLUGINS: &str = "random nonce openssl aes sha1 sha2 hmac kdf pem pkcs1 pkcs8 x509 pubkey \
    constraints curve25519 gmp gcm ccm cbc ctr chapoly kernel-netlink socket-default vici updown \
    attr counters eap-identity eap-md5 eap-mschapv2";

/// A Child SA of the connection.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// ESP proposals.
    pub esp: String,
    /// What lies behind the gateway.
    pub inner: String,
    /// Further lines of both ends.
    pub more: String,
}

impl Child {
    /// One with AES-GCM and the whole inner network.
    pub fn plain() -> Self {
        Self {
            name: "net".into(),
            esp: "aes256gcm16".into(),
            inner: "192.168.7.0/24".into(),
            more: String::new(),
        }
    }
}

/// How end users prove who they are. The gateways use the same means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Preshared keys, one for each user.
    Psk,
    /// EAP-MD5 of the user; the gateway has a preshared key.
    Eap,
    /// Certificates of one CA, of users and gateways.
    Certificate,
}

/// What end users and gateways agree on.
#[derive(Clone, Debug)]
pub struct Vpn {
    /// IKE proposals.
    pub ike: String,
    /// How users authenticate.
    pub auth: Auth,
    /// The Child SAs.
    pub children: Vec<Child>,
    /// Whether MOBIKE is announced.
    pub mobike: bool,
    /// Seconds of silence after which a user looks whether its gateway is there. The
    /// gateway does not: it would come first.
    pub dpd: u32,
    /// What virtual addresses a user asks for.
    pub vips: String,
    /// Further lines of the connection at end users.
    pub user_more: String,
    /// Further lines of the connection at gateways.
    pub gateway_more: String,
}

impl Default for Vpn {
    fn default() -> Self {
        Self {
            ike: "aes256-sha256-x25519".into(),
            auth: Auth::Psk,
            children: vec![Child::plain()],
            mobike: true,
            dpd: 2,
            vips: "0.0.0.0".into(),
            user_more: String::new(),
            gateway_more: String::new(),
        }
    }
}

/// The files of one charon.
#[derive(Clone, Debug)]
pub struct Files {
    strongswan: String,
    swanctl: String,
}

/// The connection of an end user that shares its node with others.
pub fn connection_of(user: usize) -> String {
    format!("{CONNECTION}-{user}")
}

/// Identity of an end user.
pub fn user_id(user: usize) -> String {
    format!("eu{user}@example.org")
}

/// How one proves who it is whose certificate lies in swanctl's folder.
fn own_certificate(id: &str) -> String {
    format!("auth = pubkey\n certs = {id}.pem")
}

/// The secret of an end user: long enough to be looked for in logs.
pub fn user_secret(user: usize) -> String {
    format!("preshared-secret-of-end-user-{user}")
}

impl Vpn {
    /// The files of an end user who connects to this address.
    pub fn user(&self, user: usize, gateway: IpAddr) -> Files {
        self.household(&[user], gateway)
    }

    /// The files of several end users in one node, each with a connection and an address
    /// of its own: see [`connection_of`] and [`user_shared`].
    pub fn household(&self, users: &[usize], gateway: IpAddr) -> Files {
        let alone = users.len() == 1;
        let name = |user| if alone { CONNECTION.into() } else { connection_of(user) };
        let local = |user: &usize| (!alone).then(|| user_shared(*user).of(gateway.is_ipv6()));
        let connections: String = users
            .iter()
            .map(|user| self.connection(&name(*user), *user, local(user), gateway))
            .collect();
        let secrets = self.secrets(users);
        let swanctl = format!("connections {{ {connections} }}\nsecrets {{\n{secrets} }}\n");
        Files { strongswan: strongswan("", "install_virtual_ip = yes"), swanctl }
    }

    fn connection(
        &self,
        name: &str,
        user: usize,
        address: Option<IpAddr>,
        gateway: IpAddr,
    ) -> String {
        let from = address.map(|address| format!("local_addrs = {address}\n")).unwrap_or_default();
        let id = user_id(user);
        let local = match self.auth {
            Auth::Psk => format!("auth = psk\n id = {id}"),
            Auth::Eap => format!("auth = eap-md5\n id = {id}\n eap_id = {id}"),
            Auth::Certificate => format!("{}\n id = {id}", own_certificate(&id)),
        };
        let remote = format!("{}\n id = {GATEWAY_ID}", self.gateway_auth());
        let children = self.children(|inner| format!("remote_ts = {inner}"));
        format!(
            "{name} {{\n{}\n {from} remote_addrs = {gateway}\n vips = {}\n dpd_delay = {}s\n{}\n \
             local {{\n {local}\n }}\n remote {{\n {remote}\n }}\n children {{\n{children} }}\n}}\n",
            self.common(),
            self.vips,
            self.dpd,
            self.user_more,
        )
    }

    /// The files of a gateway that listens on these addresses and hands out these
    /// virtual addresses to these users.
    pub fn gateway(&self, local: &[IpAddr], pools: &[&str], users: usize) -> Files {
        let addresses: Vec<_> = local.iter().map(ToString::to_string).collect();
        let remote = match self.auth {
            Auth::Psk => "auth = psk",
            Auth::Eap => "auth = eap-md5\n eap_id = %any",
            Auth::Certificate => "auth = pubkey",
        };
        let local_auth = match self.auth {
            Auth::Certificate => own_certificate(GATEWAY_ID),
            Auth::Psk | Auth::Eap => "auth = psk".to_owned(),
        };
        let children = self.children(|inner| format!("local_ts = {inner}"));
        let names: Vec<_> = (0..pools.len()).map(|at| format!("pool{at}")).collect();
        let mut text = format!(
            "connections {{ {CONNECTION} {{\n{}\n local_addrs = {}\n pools = {}\n{}\n \
             local {{\n {local_auth}\n id = {GATEWAY_ID}\n }}\n remote {{\n {remote}\n }}\n \
             children {{\n{children} }}\n}} }}\npools {{\n",
            self.common(),
            addresses.join(","),
            names.join(","),
            self.gateway_more,
        );
        for (name, range) in names.iter().zip(pools) {
            // Writing to a string does not fail.
            let _ = writeln!(text, " {name} {{ addrs = {range} }}");
        }
        let users: Vec<_> = (1..=users).collect();
        let _ = write!(text, "}}\nsecrets {{\n{} }}\n", self.secrets(&users));
        Files { strongswan: strongswan("ha", HA), swanctl: text }
    }

    fn gateway_auth(&self) -> &'static str {
        match self.auth {
            Auth::Certificate => "auth = pubkey",
            Auth::Psk | Auth::Eap => "auth = psk",
        }
    }

    fn common(&self) -> String {
        let mobike = if self.mobike { "yes" } else { "no" };
        let ike = &self.ike;
        // Rekeys come when a scenario asks for them.
        format!(
            " version = 2\n proposals = {ike}\n mobike = {mobike}\n \
             rekey_time = 4h\n unique = no\n send_certreq = no\n \
             send_cert = always"
        )
    }

    fn children(&self, selector: impl Fn(&str) -> String) -> String {
        let child = |child: &Child| {
            let Child { name, esp, inner, more } = child;
            let selector = selector(inner);
            format!("  {name} {{\n   esp_proposals = {esp}\n   {selector}\n   {more}\n  }}\n")
        };
        self.children.iter().map(child).collect()
    }

    fn secrets(&self, users: &[usize]) -> String {
        let mut text = String::new();
        for user in users {
            let (id, secret) = (user_id(*user), user_secret(*user));
            let _ = match self.auth {
                Auth::Psk => writeln!(text, " ike-{user} {{ id = {id}\n secret = \"{secret}\" }}"),
                Auth::Eap => writeln!(text, " eap-{user} {{ id = {id}\n secret = \"{secret}\" }}"),
                // Its key lies in a file.
                Auth::Certificate => Ok(()),
            };
        }
        if self.auth == Auth::Eap {
            let _ = writeln!(text, " ike-gw {{ id = {GATEWAY_ID}\n secret = \"{GATEWAY_ID}\" }}");
        }
        text
    }
}

/// Settings of a gateway: our process is charon's other node, on loopback.
const HA: &str = "install_routes = no
  plugins { ha { local = 127.0.0.1
    remote = 127.0.0.2
    monitor = no
    resync = no
    fifo_interface = no
    segment_count = 16
    pools { } }
   kernel-netlink { roam_events = no } }";

fn strongswan(plugins: &str, more: &str) -> String {
    // `@` stands for charon's folder.
    format!(
        "charon {{\n  load = {PLUGINS} {plugins}\n  ikesa_table_size = 1024\n  \
         ikesa_table_segments = 16\n  retransmit_tries = 5\n  \
         retransmit_timeout = 1.0\n  {more}\n  plugins {{ vici {{ socket = unix://@/{VICI} }} }}\n  \
         filelog {{ log {{ path = @/{LOG}\n    time_format = %s\n    time_add_ms = yes\n    \
         default = 1\n    ike = 1\n    cfg = 1\n    flush_line = yes }} }}\n}}\n"
    )
}

impl Files {
    /// Writes them below charon's folder.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let swanctl = folder.join(SWANCTL);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&swanctl)?;
        let place = folder.display().to_string();
        fs::write(folder.join(STRONGSWAN), self.strongswan.replace('@', &place))?;
        let connections = swanctl.join("swanctl.conf");
        fs::write(&connections, &self.swanctl)?;
        Ok(fs::set_permissions(&connections, fs::Permissions::from_mode(0o600))?)
    }
}
