//! Policies as the kernel holds them, and their messages.

use std::{fmt, net::IpAddr};

use netlink_packet_core::{Emitable, NLM_F_ACK};
use netlink_packet_xfrm::{
    Address, Id, Selector as KernelSelector, UserPolicyId, UserPolicyInfo, UserTemplate,
    XFRM_MSG_DELPOLICY, XFRM_POLICY_ALLOW, XFRM_POLICY_BLOCK, XFRM_USER_POLICY_INFO_LEN,
    XFRM_USER_TEMPLATE_LEN, XFRMA_IF_ID, XFRMA_TMPL,
};
use protocol_spec::context::{Mark, Mode, Policy, Protocol};

use super::{
    convert::{
        address_from, direction_from, direction_number, family_of, mode_from, mode_number,
        protocol_from, protocol_number, selector_from, selector_to,
    },
    decode::{Foreign, NotOurs, mark_and_interface},
    encode,
    netlink::{Attributes, Malformed, Message},
    sa::Limits,
};

/// Templates that one policy can have.
const MAX_TEMPLATES: usize = 6;
const ALL_ALGORITHMS: u32 = u32::MAX;

/// An entry of the kernel's policy database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelPolicy {
    /// Packets, direction and priority.
    pub policy: Policy,
    /// What happens to them.
    pub action: Action,
    /// Which SAs they need, in the order in which they are applied. Empty with
    /// [`Action::Allow`] is a bypass: they pass in clear.
    pub templates: Vec<Template>,
    /// XFRM interface id.
    pub if_id: Option<u32>,
    /// Mark of the packets.
    pub mark: Option<Mark>,
    /// Index of the one interface on which it holds.
    pub interface: Option<u32>,
    /// `XFRM_POLICY_*` flags: 1 local sockets may override it, 2 ICMP errors too.
    pub flags: u8,
}

/// What a policy does with its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// They pass, through the SAs of the templates.
    Allow,
    /// They are dropped.
    Block,
}

/// An SA that a policy needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    /// Outer source; the unspecified address leaves it open.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// ESP or AH.
    pub protocol: Protocol,
    /// Tunnel, transport or BEET.
    pub mode: Mode,
    /// Request id of the SA; 0 for any.
    pub reqid: u32,
    /// SPI of the SA; 0 for any.
    pub spi: u32,
    /// Inbound: packets may also come without it.
    pub optional: bool,
}

impl KernelPolicy {
    /// Packets go through one SA.
    pub fn protect(policy: Policy, template: Template) -> Self {
        Self { templates: vec![template], ..Self::bypass(policy, None) }
    }

    /// Packets pass in clear, only on one interface if one is given.
    pub fn bypass(policy: Policy, interface: Option<u32>) -> Self {
        Self {
            policy,
            action: Action::Allow,
            templates: Vec::new(),
            if_id: None,
            mark: None,
            interface,
            flags: 0,
        }
    }

    /// Packets are dropped.
    pub fn block(policy: Policy) -> Self {
        Self { action: Action::Block, ..Self::bypass(policy, None) }
    }

    /// Whether both are the same entry to the kernel: another policy with this
    /// selector, direction, mark and interface id cannot stand beside it.
    pub fn is_at_the_place_of(&self, other: &Self) -> bool {
        let place = |of: &Self| {
            let policy = &of.policy;
            let selector = (policy.source.clone(), policy.destination.clone(), policy.protocol);
            (selector, policy.direction, of.mark, of.if_id, of.interface)
        };
        place(self) == place(other)
    }
}

impl fmt::Display for KernelPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Policy { direction, priority, source, destination, .. } = &self.policy;
        write!(
            f,
            "policy {direction:?} {}/{} to {}/{} priority {priority}",
            source.prefix.address,
            source.prefix.bits,
            destination.prefix.address,
            destination.prefix.bits
        )
    }
}

/// NEWPOLICY or UPDPOLICY (`kind`). `Err` says what the kernel cannot hold.
pub(super) fn new_policy(kind: u16, flags: u16, policy: &KernelPolicy) -> Result<Message, String> {
    let mut message = Message::new(kind, NLM_F_ACK | flags);
    message.body(&UserPolicyInfo {
        selector: selector(policy)?,
        lifetime_cfg: super::convert::limits_to(&Limits::default()),
        priority: policy.policy.priority,
        direction: direction_number(policy.policy.direction),
        action: match policy.action {
            Action::Allow => XFRM_POLICY_ALLOW,
            Action::Block => XFRM_POLICY_BLOCK,
        },
        flags: policy.flags,
        ..UserPolicyInfo::default()
    });
    if !policy.templates.is_empty() {
        message.attribute(XFRMA_TMPL, &templates(&policy.templates)?);
    }
    place(policy, &mut message);
    Ok(message)
}

/// DELPOLICY by selector and direction.
pub(super) fn delete_policy(policy: &KernelPolicy) -> Result<Message, String> {
    let mut message = Message::new(XFRM_MSG_DELPOLICY, NLM_F_ACK);
    message.body(&UserPolicyId {
        selector: selector(policy)?,
        index: 0,
        direction: direction_number(policy.policy.direction),
    });
    place(policy, &mut message);
    Ok(message)
}

/// NEWPOLICY as it comes from the kernel.
pub(super) fn policy(payload: &[u8]) -> Result<KernelPolicy, NotOurs> {
    let attributes = Attributes::after(payload, XFRM_USER_POLICY_INFO_LEN)?;
    from_parts(payload, attributes)
}

/// A policy from its fixed part and the attributes that came with it.
pub(super) fn from_parts(info: &[u8], attributes: Attributes<'_>) -> Result<KernelPolicy, NotOurs> {
    let info = UserPolicyInfo::parse(info).map_err(|_| Malformed("a policy that is too short"))?;
    let (mark, if_id) = mark_and_interface(attributes.clone())?;
    let mut wanted: &[u8] = &[];
    for one in attributes {
        let (kind, value) = one?;
        if kind == XFRMA_TMPL {
            wanted = value;
        }
    }
    let destination = address_from(info.selector.family, &info.selector.daddr);
    let foreign = |reason| NotOurs::Foreign(Foreign { spi: 0, destination, reason });
    let direction = direction_from(info.direction).ok_or(foreign("a socket's own policy"))?;
    let selector = selector_from(&info.selector).map_err(foreign)?;
    Ok(KernelPolicy {
        policy: Policy {
            direction,
            priority: info.priority,
            source: selector.source,
            destination: selector.destination,
            protocol: selector.protocol,
        },
        action: if info.action == XFRM_POLICY_BLOCK { Action::Block } else { Action::Allow },
        templates: wanted
            .chunks_exact(XFRM_USER_TEMPLATE_LEN)
            .map(|octets| template(octets).map_err(foreign))
            .collect::<Result<_, _>>()?,
        if_id: if_id.filter(|id| *id != 0),
        mark,
        interface: selector.interface,
        flags: info.flags,
    })
}

fn selector(policy: &KernelPolicy) -> Result<KernelSelector, String> {
    let Policy { source, destination, protocol, .. } = &policy.policy;
    selector_to(source, destination, *protocol, policy.interface)
}

fn place(policy: &KernelPolicy, message: &mut Message) {
    encode::mark(policy.mark, message);
    if let Some(id) = policy.if_id.filter(|id| *id != 0) {
        message.number(XFRMA_IF_ID, id);
    }
}

fn templates(templates: &[Template]) -> Result<Vec<u8>, String> {
    if templates.len() > MAX_TEMPLATES {
        return Err(format!("a policy with {} templates: 6 is the most", templates.len()));
    }
    let mut octets = vec![0; templates.len() * XFRM_USER_TEMPLATE_LEN];
    for (one, into) in templates.iter().zip(octets.chunks_exact_mut(XFRM_USER_TEMPLATE_LEN)) {
        let family = family_of(&one.destination);
        if family_of(&one.source) != family {
            return Err("a template from one address family to the other".into());
        }
        let template = UserTemplate {
            id: Id {
                daddr: Address::from_ip(&one.destination),
                spi: one.spi,
                proto: protocol_number(one.protocol),
            },
            family,
            saddr: Address::from_ip(&one.source),
            reqid: one.reqid,
            mode: mode_number(one.mode),
            share: 0,
            optional: u8::from(one.optional),
            aalgos: ALL_ALGORITHMS,
            ealgos: ALL_ALGORITHMS,
            calgos: ALL_ALGORITHMS,
        };
        template.emit(into);
    }
    Ok(octets)
}

fn template(octets: &[u8]) -> Result<Template, &'static str> {
    let template = UserTemplate::parse(octets).map_err(|_| "a template that is too short")?;
    Ok(Template {
        source: address_from(template.family, &template.saddr)
            .ok_or("a template of no IP family")?,
        destination: address_from(template.family, &template.id.daddr)
            .ok_or("a template of no IP family")?,
        protocol: protocol_from(template.id.proto)
            .ok_or("a template that is neither ESP nor AH")?,
        mode: mode_from(template.mode).ok_or("a template that is not tunnel, transport or BEET")?,
        reqid: template.reqid,
        spi: template.id.spi,
        optional: template.optional != 0,
    })
}
