//! A Child SA: how it is heard, listed, put and written down.

use protocol_spec::{
    context::{ChildSa, ChildSeed, ChildTransforms, Mode},
    limits::{MAX_KEY_OCTETS, MAX_LIST, MAX_NONCE, MAX_TEXT},
};

use super::MAX_EXCHANGES;
use crate::strongswan::{
    ha::{Attribute, IkeSpis, TrafficSelector},
    tracker::listing::ListedChild,
};

/// A Child SA.
#[derive(Debug)]
pub(in super::super) struct Child {
    pub(in super::super) inbound: u32,
    outbound: u32,
    configuration: String,
    /// Under which IKE SA its keys were made, and from what; not known of one that
    /// only vici told.
    made: Option<(IkeSpis, ChildSeed)>,
    negotiated: Option<Negotiated>,
}

/// A Child SA as charon told it.
#[derive(Debug, PartialEq)]
pub struct TrackedChild {
    /// SPI on which the gateway receives.
    pub inbound: u32,
    /// SPI on which the gateway sends.
    pub outbound: u32,
    /// Name of its configuration.
    pub configuration: String,
    /// What its keys are made of, together with SK_d of the session's present IKE
    /// SA. `None` for a child that was made under an earlier IKE SA or whose
    /// making was not heard: another charon cannot derive its keys.
    pub seed: Option<ChildSeed>,
    /// What was agreed; `None` if the message was not heard.
    pub negotiated: Option<Negotiated>,
}

/// What was agreed of a Child SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Tunnel or transport.
    pub mode: Mode,
    /// Algorithms.
    pub transforms: ChildTransforms,
    /// Extended sequence numbers.
    pub esn: bool,
    /// CPI of IPComp: inbound, outbound.
    pub cpi: Option<(u16, u16)>,
    /// Traffic selectors of the gateway's side; empty where only the policies are
    /// known.
    pub local: Vec<TrafficSelector>,
    /// Traffic selectors of the end user's side.
    pub remote: Vec<TrafficSelector>,
}

impl Child {
    /// A CHILD_ADD; `None` if it has no SPIs or is too large for a context.
    pub(in super::super) fn new(ike: IkeSpis, attributes: Vec<Attribute>) -> Option<Self> {
        let (mut inbound, mut outbound, mut cpi) = (0, 0, (0, 0));
        let mut configuration = String::new();
        let mut seed = ChildSeed {
            initiator: false,
            nonce_initiator: Vec::new(),
            nonce_responder: Vec::new(),
            shared: Vec::new(),
        };
        let mut agreed = Negotiated {
            mode: Mode::Tunnel,
            transforms: ChildTransforms { encryption: 0, key_bits: 0, integrity: 0 },
            esn: false,
            cpi: None,
            local: Vec::new(),
            remote: Vec::new(),
        };
        for attribute in attributes {
            match attribute {
                Attribute::InboundSpi(spi) => inbound = spi.0,
                Attribute::OutboundSpi(spi) => outbound = spi.0,
                Attribute::InboundCpi(number) => cpi.0 = number,
                Attribute::OutboundCpi(number) => cpi.1 = number,
                Attribute::Configuration(name) if name.len() <= MAX_TEXT => configuration = name,
                Attribute::Initiator(flag) => seed.initiator = flag != 0,
                Attribute::NonceInitiator(nonce) => seed.nonce_initiator = nonce,
                Attribute::NonceResponder(nonce) => seed.nonce_responder = nonce,
                Attribute::Secret(secret) | Attribute::AdditionalSecret(secret) => {
                    seed.shared.push(secret);
                }
                Attribute::Mode(1) => agreed.mode = Mode::Transport,
                Attribute::Mode(3) => agreed.mode = Mode::Beet,
                Attribute::Encryption(number) => agreed.transforms.encryption = number,
                Attribute::KeyBits(bits) => agreed.transforms.key_bits = bits,
                Attribute::Integrity(number) => agreed.transforms.integrity = number,
                Attribute::ExtendedNumbers(number) => agreed.esn = number != 0,
                Attribute::LocalSelector(selector) => agreed.local.push(selector),
                Attribute::RemoteSelector(selector) => agreed.remote.push(selector),
                _ => {}
            }
        }
        agreed.cpi = (cpi != (0, 0)).then_some(cpi);
        let fits = inbound != 0
            && outbound != 0
            && seed.nonce_initiator.len() <= MAX_NONCE
            && seed.nonce_responder.len() <= MAX_NONCE
            && seed.shared.len() <= MAX_EXCHANGES
            && seed.shared.iter().all(|secret| secret.len() <= MAX_KEY_OCTETS)
            && agreed.local.len().max(agreed.remote.len()) <= MAX_LIST;
        fits.then_some(Self {
            inbound,
            outbound,
            configuration,
            made: Some((ike, seed)),
            negotiated: Some(agreed),
        })
    }

    /// A Child SA that only vici knows.
    pub(in super::super) fn listed(listed: &ListedChild) -> Self {
        Self {
            inbound: listed.inbound,
            outbound: listed.outbound,
            configuration: listed.name.chars().take(MAX_TEXT / 4).collect(),
            made: None,
            negotiated: None,
        }
    }

    /// A Child SA of a context that is being put into charon.
    pub(in super::super) fn adopt(child: &ChildSa, ike: IkeSpis) -> Self {
        Self {
            inbound: child.inbound.spi,
            outbound: child.outbound.spi,
            configuration: child.configuration.clone(),
            made: child.seed.as_ref().map(|seed| (ike, seed.duplicate())),
            negotiated: Some(Negotiated {
                mode: child.mode,
                transforms: child.transforms.clone(),
                esn: child.esn,
                cpi: child.cpi,
                local: Vec::new(),
                remote: Vec::new(),
            }),
        }
    }

    pub(in super::super) fn describe(&self, present: IkeSpis) -> TrackedChild {
        let seed = self.made.as_ref().filter(|(ike, _)| *ike == present);
        TrackedChild {
            inbound: self.inbound,
            outbound: self.outbound,
            configuration: self.configuration.clone(),
            seed: seed.map(|(_, seed)| seed.duplicate()),
            negotiated: self.negotiated.clone(),
        }
    }
}
