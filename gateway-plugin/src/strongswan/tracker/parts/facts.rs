//! What IKE_UPDATEs say of an IKE SA.

use std::net::{IpAddr, SocketAddr};

use protocol_spec::{
    context::Identification,
    limits::{MAX_LIST, MAX_TEXT},
};

use crate::strongswan::ha::Attribute;

/// Whose bits the private words of version 5 are: plugins of other makers'. They
/// mean nothing to another charon and are left behind.
const PRIVATE: u32 = 1 << 31;

/// What IKE_UPDATEs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Facts {
    pub(super) local_id: Option<Identification>,
    pub(super) remote_id: Option<Identification>,
    pub(super) eap_identity: Option<String>,
    pub(in super::super) local: Option<SocketAddr>,
    pub(in super::super) remote: Option<SocketAddr>,
    pub(in super::super) configuration: Option<String>,
    pub(super) conditions: Option<u32>,
    pub(super) extensions: Option<u32>,
    pub(in super::super) virtual_ips: Vec<IpAddr>,
    pub(super) peers: Vec<IpAddr>,
}

impl Facts {
    /// Takes over what an IKE_UPDATE says; `true` if it is news.
    pub(in super::super) fn update(&mut self, attributes: &[Attribute]) -> bool {
        let before = self.clone();
        // A list that is said at all is said whole.
        let (mut ips, mut peers) = (Vec::new(), Vec::new());
        for attribute in attributes {
            match attribute {
                Attribute::LocalId(id) => self.local_id = Some(id.clone()),
                Attribute::RemoteId(id) => self.remote_id = Some(id.clone()),
                Attribute::RemoteEapId(id) => {
                    self.eap_identity = Some(String::from_utf8_lossy(&id.data).into_owned());
                }
                Attribute::LocalAddress(address) => self.local = Some(*address),
                // Where sessions are parked that we put there: charon repeats our
                // own messages after a RESYNC.
                Attribute::RemoteAddress(address) if !address.ip().is_loopback() => {
                    self.remote = Some(*address);
                }
                Attribute::Configuration(name) if name.len() <= MAX_TEXT => {
                    self.configuration = Some(name.clone());
                }
                Attribute::Conditions(word) if word & PRIVATE == 0 => self.conditions = Some(*word),
                Attribute::Extensions(word) if word & PRIVATE == 0 => self.extensions = Some(*word),
                Attribute::RemoteVirtualIp(address) if ips.len() < MAX_LIST => {
                    ips.push(address.ip());
                }
                Attribute::PeerAddress(address) if peers.len() < MAX_LIST => {
                    peers.push(address.ip());
                }
                _ => {}
            }
        }
        if !ips.is_empty() {
            self.virtual_ips = ips;
        }
        if !peers.is_empty() {
            self.peers = peers;
        }
        *self != before
    }

    pub(in super::super) fn updated(mut self, attributes: &[Attribute]) -> Self {
        self.update(attributes);
        self
    }

    /// What a rekeyed IKE SA has of the one that it replaced, unless it was said of
    /// itself.
    pub(in super::super) fn inherit(&mut self, old: &Self) {
        fn keep<T: Clone>(own: &mut Option<T>, old: &Option<T>) {
            if own.is_none() {
                own.clone_from(old);
            }
        }
        keep(&mut self.local_id, &old.local_id);
        keep(&mut self.remote_id, &old.remote_id);
        keep(&mut self.eap_identity, &old.eap_identity);
        keep(&mut self.local, &old.local);
        keep(&mut self.remote, &old.remote);
        keep(&mut self.configuration, &old.configuration);
        keep(&mut self.conditions, &old.conditions);
        keep(&mut self.extensions, &old.extensions);
        if self.virtual_ips.is_empty() {
            self.virtual_ips.clone_from(&old.virtual_ips);
        }
        if self.peers.is_empty() {
            self.peers.clone_from(&old.peers);
        }
    }

    pub(in super::super) fn names_configuration(attributes: &[Attribute]) -> bool {
        attributes.iter().any(|attribute| matches!(attribute, Attribute::Configuration(_)))
    }
}
