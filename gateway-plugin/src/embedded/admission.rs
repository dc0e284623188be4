//! Whether a session could be held here: what it needs, and what is taken.

use std::{collections::BTreeSet, sync::Arc};

use protocol_spec::{
    context::{ChildTransforms, Context, ENCR_AES_GCM_16, Prefix, SideEffects},
    id::SessionId,
    limits::MAX_REPLAY_WINDOW,
    profile::{Capabilities, Feature, FeatureSet, Profile},
    status::{Refusal, Status},
};

use super::{
    esp::Cipher,
    gateway::Gateway,
    packet::contains,
    session::{Phase, Session, prefixes},
    table::{lock, normal},
    window,
};

/// What the embedded gateway can carry.
pub(crate) fn capabilities(max_sessions: usize) -> Capabilities {
    use Feature::*;
    let features = [
        Ike,
        MultipleKeyExchanges,
        Eap,
        Mobike,
        Fragmentation,
        MessageIdSync,
        VirtualIp,
        Nat,
        Esp,
        TunnelMode,
        Esn,
        LargeWindow,
        UdpEncapsulation,
        CountedLifetime,
        OuterIpv4,
        OuterIpv6,
        InnerIpv4,
        InnerIpv6,
        PortSelectors,
    ];
    Capabilities {
        features: FeatureSet::from_iter(features),
        child_transforms: BTreeSet::from([(ENCR_AES_GCM_16, 128, 0), (ENCR_AES_GCM_16, 256, 0)]),
        ike_transforms: BTreeSet::new(),
        max_replay_window: MAX_REPLAY_WINDOW,
        max_sessions: max_sessions as u64,
    }
}

/// What admission looks at, from a profile or from a context itself.
struct Applicant<'a, C, P> {
    session: SessionId,
    features: FeatureSet,
    /// Absent where the session is here already and only grows.
    configuration: Option<&'a str>,
    side_effects: SideEffects,
    /// Inbound SPI, transforms, replay window.
    children: C,
    prefixes: P,
}

impl Gateway {
    /// Admission by profile, for a preflight.
    pub(crate) fn admit_profile(&self, profile: &Profile) -> Result<(), Refusal> {
        let children = profile.children.iter();
        self.admit(Applicant {
            session: profile.session,
            features: profile.features,
            configuration: Some(&profile.configuration),
            side_effects: profile.side_effects,
            children: children
                .clone()
                .map(|c| (c.usage.sa.inbound_spi, &c.transforms, c.replay_window)),
            prefixes: children
                .flat_map(|c| &c.destinations)
                .map(|selector| normal(selector.prefix))
                .chain(profile.virtual_ips.iter().map(|ip| host(*ip))),
        })
    }

    /// Admission by context, and whether the context itself is sound.
    pub(crate) fn admit_context(&self, context: &Context) -> Result<(), Refusal> {
        let name = context.ike.as_ref().map_or("", |ike| ike.configuration.as_str());
        self.admit_under(Some(name), context)
    }

    /// The same, under a configuration or as part of a session that is here.
    pub(crate) fn admit_under(
        &self,
        configuration: Option<&str>,
        context: &Context,
    ) -> Result<(), Refusal> {
        let ike = context.ike.as_ref();
        self.admit(Applicant {
            session: context.session,
            features: context.features(),
            configuration,
            side_effects: ike.map(|ike| ike.side_effects).unwrap_or_default(),
            children: context
                .children
                .iter()
                .map(|c| (c.inbound.spi, &c.transforms, c.inbound.window.size)),
            prefixes: prefixes(context)
                .into_iter()
                .chain(ike.iter().flat_map(|ike| &ike.virtual_ips).map(|ip| host(ip.address))),
        })?;
        for child in &context.children {
            let spi = child.inbound.spi;
            let bits = usize::from(child.transforms.key_bits);
            for keys in [&child.inbound.keys, &child.outbound.keys] {
                let octets = keys.encryption.len();
                if !Cipher::takes(octets) || octets != bits / 8 + 4 || !keys.integrity.is_empty() {
                    let detail =
                        format!("SPI {spi:#010x}: {octets} octets of key for a key of {bits} bits");
                    return Err(Refusal::new(Status::NoTransform, detail));
                }
            }
            if child.encapsulation.is_none() {
                let detail = format!(
                    "SPI {spi:#010x}: ESP without UDP encapsulation needs a gateway in the kernel"
                );
                //= spec CXTP-8.3-1
                return Err(Refusal::new(Status::NoFeature, detail));
            }
            if !window::is_sound(&child.inbound.window) {
                let detail = format!("SPI {spi:#010x}: the replay window is not one");
                return Err(Refusal::new(Status::NoFeature, detail));
            }
            // SPIs 1 to 255 are reserved, 0 marks IKE (RFC 4303 section 2.1).
            if spi < 256 {
                let detail = format!("SPI {spi:#010x} is reserved");
                return Err(Refusal::new(Status::SpiCollision, detail));
            }
            if context.children.iter().filter(|other| other.inbound.spi == spi).count() > 1 {
                let detail = format!("SPI {spi:#010x} stands for two Child SAs of the session");
                return Err(Refusal::new(Status::SpiCollision, detail));
            }
        }
        Ok(())
    }

    fn admit<'a>(
        &self,
        applicant: Applicant<
            '_,
            impl Iterator<Item = (u32, &'a ChildTransforms, u32)>,
            impl Iterator<Item = Prefix>,
        >,
    ) -> Result<(), Refusal> {
        let no = |status, detail: String| Err(Refusal::new(status, detail));
        let lacking = applicant.features.without(self.capabilities.features);
        if !lacking.is_empty() {
            return no(Status::NoFeature, format!("the embedded gateway cannot carry: {lacking}"));
        }
        if let (Some(known), Some(name)) = (&self.config.configurations, applicant.configuration)
            && !known.contains(name)
        {
            return no(Status::NoConfiguration, format!("no configuration `{name}`: add it here"));
        }
        if applicant.side_effects != SideEffects::default() {
            let detail = "its hooks or accounting would end: stop them at the source first";
            return no(Status::SideEffects, detail.to_owned());
        }
        let here = self.sessions.find(&applicant.session).is_some();
        if !here && self.held_sessions() >= self.config.max_sessions {
            let detail = format!("{} sessions are all that fit", self.config.max_sessions);
            return no(Status::NoRoom, detail);
        }
        for (spi, transforms, size) in applicant.children {
            let (encryption, bits) = (transforms.encryption, transforms.key_bits);
            if !self.capabilities.child_transforms.contains(&(
                encryption,
                bits,
                transforms.integrity,
            )) {
                let detail = format!(
                    "SPI {spi:#010x}: encryption {encryption} with {bits} bits, integrity {}; \
                     there is AES-GCM-16 with 128 or 256 bits",
                    transforms.integrity
                );
                return no(Status::NoTransform, detail);
            }
            if !(window::MIN_WINDOW..=MAX_REPLAY_WINDOW).contains(&size) {
                let detail = format!("SPI {spi:#010x}: a replay window of {size}; 32 to 4096 fit");
                return no(Status::NoFeature, detail);
            }
            if self.spis.find(&spi).is_some_and(|s| collides(&s, applicant.session)) {
                return no(Status::SpiCollision, format!("SPI {spi:#010x} is in use here"));
            }
        }
        for prefix in applicant.prefixes {
            let (address, bits) = (prefix.address, prefix.bits);
            if self.routes.exact(prefix).is_some_and(|s| collides(&s, applicant.session)) {
                return no(Status::AddressCollision, format!("{address}/{bits} is in use here"));
            }
            let handed_out = self.config.hands_out.iter().any(|own| contains(own, address));
            if handed_out && !here {
                let detail = format!("{address}/{bits} is one that this gateway hands out itself");
                return no(Status::AddressCollision, detail);
            }
        }
        Ok(())
    }
}

/// Whether what this session holds is another's to hold. A released session
/// holds nothing any more.
fn collides(holder: &Arc<Session>, session: SessionId) -> bool {
    holder.id != session
        && !matches!(lock(&holder.guts).phase, Phase::Released { .. } | Phase::Removed)
}

fn host(address: std::net::IpAddr) -> Prefix {
    normal(Prefix { address, bits: u8::MAX })
}
