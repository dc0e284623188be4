//! IKE SAs and Child SAs as `list-sas` and the events describe them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use protocol_spec::context::{ChildTransforms, IkeTransforms, Mark, Mode, Nat, Protocol};

use super::{error::AnswerError, names, section::Section};

/// The state of an IKE SA in charon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IkeState {
    /// Just made.
    Created,
    /// IKE_SA_INIT or IKE_AUTH is running.
    Connecting,
    /// In use.
    Established,
    /// Put in by the `ha` plugin and not activated.
    Passive,
    /// Being rekeyed.
    Rekeying,
    /// Replaced by rekeying.
    Rekeyed,
    /// A Delete was sent.
    Deleting,
    /// About to vanish.
    Destroying,
    /// What a newer strongSwan may have.
    Other(String),
}

impl IkeState {
    fn from_name(name: String) -> Self {
        match name.as_str() {
            "CREATED" => Self::Created,
            "CONNECTING" => Self::Connecting,
            "ESTABLISHED" => Self::Established,
            "PASSIVE" => Self::Passive,
            "REKEYING" => Self::Rekeying,
            "REKEYED" => Self::Rekeyed,
            "DELETING" => Self::Deleting,
            "DESTROYING" => Self::Destroying,
            _ => Self::Other(name),
        }
    }
}

/// The state of a Child SA in charon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChildState {
    /// Its SAs and policies are in the kernel.
    Installed,
    /// Being rekeyed; its SAs are in the kernel.
    Rekeying,
    /// Replaced by rekeying.
    Rekeyed,
    /// A Delete was sent.
    Deleting,
    /// Deleted; charon keeps its inbound SA for some seconds more.
    Deleted,
    /// Every other state, by charon's name: nothing passes through it.
    Other(String),
}

impl ChildState {
    fn from_name(name: String) -> Self {
        match name.as_str() {
            "INSTALLED" => Self::Installed,
            "REKEYING" => Self::Rekeying,
            "REKEYED" => Self::Rekeyed,
            "DELETING" => Self::Deleting,
            "DELETED" => Self::Deleted,
            _ => Self::Other(name),
        }
    }
}

/// Tasks of an IKE SA, by charon's names (`IKE_DPD`, `CHILD_REKEY`, ...).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// To be begun by us once nothing is active.
    pub queued: Vec<String>,
    /// In an exchange that we began.
    pub active: Vec<String>,
    /// In an exchange that the peer began.
    pub passive: Vec<String>,
}

/// An IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeSaInfo {
    /// charon's own number for it. A rekeyed IKE SA gets another one.
    pub unique_id: u32,
    /// Name of its connection.
    pub name: String,
    /// IKE version: 1 or 2.
    pub version: u8,
    /// Its state.
    pub state: IkeState,
    /// Whether charon was the initiator of this IKE SA (after an IKE rekey: of
    /// the rekeying).
    pub initiator: bool,
    /// SPI of the initiator.
    pub spi_initiator: u64,
    /// SPI of the responder; 0 before it is known.
    pub spi_responder: u64,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Our identity, as charon prints it.
    pub local_id: String,
    /// The peer's identity, as charon prints it.
    pub remote_id: String,
    /// The peer's identity inside EAP or XAuth, where it is another one.
    pub remote_eap_id: Option<String>,
    /// Who is behind a NAT.
    pub nat: Nat,
    /// Whether charon as responder pretended a NAT to have UDP encapsulation.
    pub nat_faked: bool,
    /// charon's name of the encryption algorithm.
    pub encryption: Option<String>,
    /// Its key length in bits, where it has several.
    pub key_bits: u16,
    /// charon's name of the integrity algorithm; none with AEAD.
    pub integrity: Option<String>,
    /// charon's name of the pseudo-random function.
    pub prf: Option<String>,
    /// charon's name of the key exchange method.
    pub key_exchange: Option<String>,
    /// charon's names of additional key exchange methods (RFC 9370).
    pub additional_key_exchanges: Vec<String>,
    /// Since it was established.
    pub established_for: Option<Duration>,
    /// Until it is rekeyed; zero if it is overdue.
    pub rekey_in: Option<Duration>,
    /// Until the peer must authenticate again; zero if it is overdue.
    pub reauthenticate_in: Option<Duration>,
    /// Inner addresses that the peer gave us.
    pub local_virtual_ips: Vec<IpAddr>,
    /// Inner addresses that the peer was given.
    pub virtual_ips: Vec<IpAddr>,
    /// XFRM interface ids, in and out, that its Child SAs get by default.
    pub if_id: (Option<u32>, Option<u32>),
    /// What it is doing.
    pub tasks: Tasks,
    /// Its Child SAs; empty in events that are not about one.
    pub children: Vec<ChildSaInfo>,
}

/// A Child SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSaInfo {
    /// Name of its configuration.
    pub name: String,
    /// charon's own number for it. A rekeyed Child SA gets another one.
    pub unique_id: u32,
    /// The kernel's request id.
    pub reqid: u32,
    /// Its state.
    pub state: ChildState,
    /// Tunnel or transport; none for a drop or pass policy.
    pub mode: Option<Mode>,
    /// ESP or AH, once it is installed.
    pub protocol: Option<Protocol>,
    /// Whether it is encapsulated in UDP.
    pub encapsulated: bool,
    /// SPI on which we receive, once it is installed.
    pub spi_in: Option<u32>,
    /// SPI to which we send, once it is installed.
    pub spi_out: Option<u32>,
    /// CPIs of IPComp, in and out.
    pub cpi: Option<(u16, u16)>,
    /// Mark of the inbound SA and policy.
    pub mark_in: Option<Mark>,
    /// Mark of the outbound SA and policy.
    pub mark_out: Option<Mark>,
    /// XFRM interface ids, in and out.
    pub if_id: (Option<u32>, Option<u32>),
    /// charon's name of the encryption algorithm.
    pub encryption: Option<String>,
    /// Its key length in bits, where it has several.
    pub key_bits: u16,
    /// charon's name of the integrity algorithm; none with AEAD.
    pub integrity: Option<String>,
    /// charon's name of the key exchange method of its rekeying, if any.
    pub key_exchange: Option<String>,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Octets in and out, as charon last asked the kernel.
    pub octets: (u64, u64),
    /// Packets in and out, as charon last asked the kernel.
    pub packets: (u64, u64),
    /// Until it is rekeyed; zero if it is overdue.
    pub rekey_in: Option<Duration>,
    /// Until it expires; zero if it is overdue.
    pub expires_in: Option<Duration>,
    /// Since it was installed.
    pub installed_for: Option<Duration>,
    /// Selectors at our side, as charon prints them: `10.0.0.0/24[tcp/80]`.
    pub local_selectors: Vec<String>,
    /// Selectors at the peer's side.
    pub remote_selectors: Vec<String>,
}

impl IkeSaInfo {
    /// Reads the section under the connection's name.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub fn read(name: &str, section: &Section) -> Result<Self, AnswerError> {
        Self::read_fields(name, section).map_err(|error| error.within(name))
    }

    /// The same without its Child SAs: `child-rekey` shows them in another way.
    pub(super) fn read_alone(name: &str, section: &Section) -> Result<Self, AnswerError> {
        Self::read_ike(name, section).map_err(|error| error.within(name))
    }

    fn read_fields(name: &str, s: &Section) -> Result<Self, AnswerError> {
        let mut ike = Self::read_ike(name, s)?;
        if let Some(children) = s.optional_section("child-sas")? {
            for (label, child) in children.sections() {
                let child = ChildSaInfo::read(label, child);
                ike.children.push(child.map_err(|error| error.within("child-sas"))?);
            }
        }
        Ok(ike)
    }

    fn read_ike(name: &str, s: &Section) -> Result<Self, AnswerError> {
        let spi = |key| s.optional_hex(key)?.ok_or_else(|| AnswerError::missing(key));
        let eap = s.optional_text("remote-eap-id")?;
        let mut additional_key_exchanges = Vec::new();
        for number in 1..=7 {
            additional_key_exchanges.extend(s.optional_text(&format!("ake{number}"))?);
        }
        Ok(Self {
            unique_id: s.number("uniqueid")?,
            name: name.to_owned(),
            version: s.number("version")?,
            state: IkeState::from_name(s.text("state")?),
            initiator: s.flag("initiator")?,
            spi_initiator: spi("initiator-spi")?,
            spi_responder: spi("responder-spi")?,
            local: endpoint(s, "local-host", "local-port")?,
            remote: endpoint(s, "remote-host", "remote-port")?,
            local_id: s.text("local-id")?,
            remote_id: s.text("remote-id")?,
            remote_eap_id: match eap {
                Some(id) => Some(id),
                None => s.optional_text("remote-xauth-id")?,
            },
            nat: Nat { local: s.flag("nat-local")?, remote: s.flag("nat-remote")? },
            nat_faked: s.flag("nat-fake")?,
            encryption: s.optional_text("encr-alg")?,
            key_bits: s.optional_number("encr-keysize")?.unwrap_or(0),
            integrity: s.optional_text("integ-alg")?,
            prf: s.optional_text("prf-alg")?,
            key_exchange: s.optional_text("dh-group")?,
            additional_key_exchanges,
            established_for: seconds(s, "established")?,
            rekey_in: seconds(s, "rekey-time")?,
            reauthenticate_in: seconds(s, "reauth-time")?,
            local_virtual_ips: s.addresses("local-vips")?,
            virtual_ips: s.addresses("remote-vips")?,
            if_id: (s.optional_hex32("if-id-in")?, s.optional_hex32("if-id-out")?),
            tasks: Tasks {
                queued: s.texts("tasks-queued")?,
                active: s.texts("tasks-active")?,
                passive: s.texts("tasks-passive")?,
            },
            children: Vec::new(),
        })
    }

    /// Whether it is established and no exchange is open, ours or the peer's, and none
    /// must come: of a Child SA that was replaced the peer deletes the old half first,
    /// and the new one is whole only then. Queued tasks begin none as long as charon
    /// cannot send.
    pub fn is_quiet(&self) -> bool {
        let halves = [ChildState::Rekeyed, ChildState::Deleting];
        self.state == IkeState::Established
            && self.tasks.active.is_empty()
            && self.tasks.passive.is_empty()
            && !self.children.iter().any(|child| halves.contains(&child.state))
    }

    /// The Child SAs that are in use: neither on their way up nor replaced or
    /// deleted.
    pub fn live_children(&self) -> impl Iterator<Item = &ChildSaInfo> {
        let live =
            |c: &&ChildSaInfo| matches!(c.state, ChildState::Installed | ChildState::Rekeying);
        self.children.iter().filter(live)
    }

    /// Whether the `ha` plugin put it in and it is not activated.
    pub fn is_passive(&self) -> bool {
        self.state == IkeState::Passive
    }

    /// Its transforms by number, or `None` before they are negotiated and where
    /// one has a name without a number.
    pub fn transforms(&self) -> Option<IkeTransforms> {
        Some(IkeTransforms {
            encryption: names::encryption(self.encryption.as_deref()?)?,
            key_bits: self.key_bits,
            integrity: match self.integrity.as_deref() {
                Some(name) => names::integrity(name)?,
                None => 0,
            },
            prf: names::prf(self.prf.as_deref()?)?,
            key_exchange: names::key_exchange(self.key_exchange.as_deref()?)?,
        })
    }
}

impl ChildSaInfo {
    /// Reads the section under the Child SA's label, its name with a number.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub fn read(label: &str, section: &Section) -> Result<Self, AnswerError> {
        Self::read_fields(section).map_err(|error| error.within(label))
    }

    fn read_fields(s: &Section) -> Result<Self, AnswerError> {
        let mark = |value, mask| -> Result<Option<Mark>, AnswerError> {
            let (value, mask) = (s.optional_hex32(value)?, s.optional_hex32(mask)?);
            // charon leaves out a mask of all ones.
            Ok(value.map(|value| Mark { value, mask: mask.unwrap_or(u32::MAX) }))
        };
        let cpi = |key| -> Result<Option<u16>, AnswerError> {
            s.optional_hex(key)?
                .map(|n| u16::try_from(n).map_err(|_| AnswerError::bad(key, "exceeds 16 bits")))
                .transpose()
        };
        let count = |key| Ok::<u64, AnswerError>(s.optional_number(key)?.unwrap_or(0));
        Ok(Self {
            name: s.text("name")?,
            unique_id: s.number("uniqueid")?,
            reqid: s.number("reqid")?,
            state: ChildState::from_name(s.text("state")?),
            mode: match s.text("mode")?.as_str() {
                "TUNNEL" => Some(Mode::Tunnel),
                "TRANSPORT" | "TRANSPORT_PROXY" => Some(Mode::Transport),
                "BEET" => Some(Mode::Beet),
                _ => None,
            },
            protocol: match s.optional_text("protocol")?.as_deref() {
                None => None,
                Some("ESP") => Some(Protocol::Esp),
                Some("AH") => Some(Protocol::Ah),
                Some(other) => return Err(AnswerError::bad_value("protocol", other, "ESP or AH")),
            },
            encapsulated: s.flag("encap")?,
            spi_in: s.optional_hex32("spi-in")?,
            spi_out: s.optional_hex32("spi-out")?,
            cpi: cpi("cpi-in")?.zip(cpi("cpi-out")?),
            mark_in: mark("mark-in", "mark-mask-in")?,
            mark_out: mark("mark-out", "mark-mask-out")?,
            if_id: (s.optional_hex32("if-id-in")?, s.optional_hex32("if-id-out")?),
            encryption: s.optional_text("encr-alg")?,
            key_bits: s.optional_number("encr-keysize")?.unwrap_or(0),
            integrity: s.optional_text("integ-alg")?,
            key_exchange: s.optional_text("dh-group")?,
            esn: s.flag("esn")?,
            octets: (count("bytes-in")?, count("bytes-out")?),
            packets: (count("packets-in")?, count("packets-out")?),
            rekey_in: seconds(s, "rekey-time")?,
            expires_in: seconds(s, "life-time")?,
            installed_for: seconds(s, "install-time")?,
            local_selectors: s.texts("local-ts")?,
            remote_selectors: s.texts("remote-ts")?,
        })
    }

    /// Its transforms by number, or `None` before it is installed and where one
    /// has a name without a number.
    pub fn transforms(&self) -> Option<ChildTransforms> {
        self.protocol?;
        Some(ChildTransforms {
            encryption: match self.encryption.as_deref() {
                Some(name) => names::encryption(name)?,
                None => 0,
            },
            key_bits: self.key_bits,
            integrity: match self.integrity.as_deref() {
                Some(name) => names::integrity(name)?,
                None => 0,
            },
        })
    }
}

/// An address and a port; charon writes `%any` for no address.
pub(super) fn endpoint(s: &Section, host: &str, port: &str) -> Result<SocketAddr, AnswerError> {
    let address = match s.text(host)?.as_str() {
        "%any" | "%any4" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "%any6" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => s.address(host)?,
    };
    Ok(SocketAddr::new(address, s.number(port)?))
}

/// A time in seconds; charon counts on below zero what is overdue.
fn seconds(s: &Section, key: &str) -> Result<Option<Duration>, AnswerError> {
    let seconds = s.optional_number::<i64>(key)?;
    Ok(seconds.map(|n| Duration::from_secs(u64::try_from(n).unwrap_or(0))))
}

#[cfg(test)]
pub(in crate::strongswan) mod samples;
#[cfg(test)]
mod tests;
