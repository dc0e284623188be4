//! Small values both ways: addresses, selectors, modes, lifetimes.

#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

use netlink_packet_xfrm::{
    AF_INET, AF_INET6, Address, IPPROTO_AH, IPPROTO_ESP, Lifetime as KernelLifetime,
    LifetimeConfig, Selector as KernelSelector, XFRM_INF, XFRM_MODE_BEET, XFRM_MODE_TRANSPORT,
    XFRM_MODE_TUNNEL,
};
use protocol_spec::context::{Direction, LifetimeLimit, Mark, Mode, Prefix, Protocol, Selector};

use super::sa::{Counters, Limits, SaSelector};

/// Ports of a selector that says nothing of ports.
const ANY_PORT: (u16, u16) = (0, u16::MAX);

pub(super) fn family_of(address: &IpAddr) -> u16 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

pub(super) fn address_from(family: u16, address: &Address) -> Option<IpAddr> {
    match family {
        AF_INET => Some(address.to_ipv4().into()),
        AF_INET6 => Some(address.to_ipv6().into()),
        _ => None,
    }
}

pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Esp => IPPROTO_ESP,
        Protocol::Ah => IPPROTO_AH,
    }
}

pub(super) fn protocol_from(number: u8) -> Option<Protocol> {
    match number {
        IPPROTO_ESP => Some(Protocol::Esp),
        IPPROTO_AH => Some(Protocol::Ah),
        _ => None,
    }
}

pub(super) fn mode_number(mode: Mode) -> u8 {
    match mode {
        Mode::Tunnel => XFRM_MODE_TUNNEL,
        Mode::Transport => XFRM_MODE_TRANSPORT,
        Mode::Beet => XFRM_MODE_BEET,
    }
}

pub(super) fn mode_from(number: u8) -> Option<Mode> {
    match number {
        XFRM_MODE_TUNNEL => Some(Mode::Tunnel),
        XFRM_MODE_TRANSPORT => Some(Mode::Transport),
        XFRM_MODE_BEET => Some(Mode::Beet),
        _ => None,
    }
}

pub(super) fn direction_number(direction: Direction) -> u8 {
    match direction {
        Direction::In => 0,
        Direction::Out => 1,
        Direction::Forward => 2,
    }
}

pub(super) fn direction_from(number: u8) -> Option<Direction> {
    match number {
        0 => Some(Direction::In),
        1 => Some(Direction::Out),
        2 => Some(Direction::Forward),
        _ => None,
    }
}

/// A mark that selects nothing is none.
pub(super) fn mark_from(value: u32, mask: u32) -> Option<Mark> {
    (value | mask != 0).then_some(Mark { value, mask })
}

/// The kernel's selector; `Err` says what it cannot hold.
pub(super) fn selector_to(
    source: &Selector,
    destination: &Selector,
    protocol: u8,
    interface: Option<u32>,
) -> Result<KernelSelector, String> {
    let family = family_of(&source.prefix.address);
    if family != family_of(&destination.prefix.address) {
        return Err("a selector from one address family to the other".into());
    }
    for prefix in [source.prefix, destination.prefix] {
        let most = if prefix.address.is_ipv4() { 32 } else { 128 };
        if prefix.bits > most {
            return Err(format!("the prefix {}/{}", prefix.address, prefix.bits));
        }
    }
    let (sport, sport_mask) = port_to(source.ports)?;
    let (dport, dport_mask) = port_to(destination.ports)?;
    Ok(KernelSelector {
        daddr: Address::from_ip(&destination.prefix.address),
        saddr: Address::from_ip(&source.prefix.address),
        dport,
        dport_mask,
        sport,
        sport_mask,
        family,
        prefixlen_d: destination.prefix.bits,
        prefixlen_s: source.prefix.bits,
        proto: protocol,
        ifindex: i32::try_from(interface.unwrap_or_default())
            .map_err(|_| "an interface index above 2^31".to_owned())?,
        user: 0,
    })
}

/// Our selector; `Err` says what cannot be said in ours.
pub(super) fn selector_from(kernel: &KernelSelector) -> Result<SaSelector, &'static str> {
    let side = |address: &Address, bits, port, mask| -> Result<Selector, &'static str> {
        let address = address_from(kernel.family, address).ok_or("a selector of no IP family")?;
        let ports = port_from(port, mask).ok_or("a port mask that is no range")?;
        Ok::<_, &'static str>(Selector { prefix: Prefix { address, bits }, ports })
    };
    if kernel.user != 0 {
        return Err("a selector by user");
    }
    Ok(SaSelector {
        source: side(&kernel.saddr, kernel.prefixlen_s, kernel.sport, kernel.sport_mask)?,
        destination: side(&kernel.daddr, kernel.prefixlen_d, kernel.dport, kernel.dport_mask)?,
        protocol: kernel.proto,
        interface: u32::try_from(kernel.ifindex).ok().filter(|index| *index != 0),
    })
}

/// Whether a selector lets everything through.
pub(super) fn is_any(kernel: &KernelSelector) -> bool {
    let blank = KernelSelector { family: kernel.family, ..KernelSelector::default() };
    *kernel == KernelSelector { daddr: kernel.daddr, saddr: kernel.saddr, ..blank }
}

/// A port range as the kernel's value and mask.
fn port_to((first, last): (u16, u16)) -> Result<(u16, u16), String> {
    let differ = first ^ last;
    let aligned = differ & differ.wrapping_add(1) == 0 && first & differ == 0;
    if first > last || !aligned {
        return Err(format!(
            "the ports {first}-{last} (only one port, all, or a block such as 1024-2047)"
        ));
    }
    Ok((first, !differ))
}

fn port_from(port: u16, mask: u16) -> Option<(u16, u16)> {
    if mask == 0 {
        return Some(ANY_PORT);
    }
    let differ = !mask;
    (differ & differ.wrapping_add(1) == 0).then_some((port & mask, port | differ))
}

pub(super) fn limits_to(limits: &Limits) -> LifetimeConfig {
    // The kernel knows no limit as all ones for amounts and as 0 for times.
    let amount = |limit: Option<u64>| limit.unwrap_or(XFRM_INF);
    let time = |limit: Option<Duration>| limit.map_or(0, seconds_up);
    LifetimeConfig {
        soft_byte_limit: amount(limits.soft.octets),
        hard_byte_limit: amount(limits.hard.octets),
        soft_packet_limit: amount(limits.soft.packets),
        hard_packet_limit: amount(limits.hard.packets),
        soft_add_expires_seconds: time(limits.soft.age),
        hard_add_expires_seconds: time(limits.hard.age),
        soft_use_expires_seconds: time(limits.soft.since_first_use),
        hard_use_expires_seconds: time(limits.hard.since_first_use),
    }
}

pub(super) fn limits_from(kernel: &LifetimeConfig) -> Limits {
    let amount = |limit| (limit != XFRM_INF).then_some(limit);
    let time = |limit: u64| (limit != 0 && limit != XFRM_INF).then_some(Duration::from_secs(limit));
    Limits {
        soft: LifetimeLimit {
            octets: amount(kernel.soft_byte_limit),
            packets: amount(kernel.soft_packet_limit),
            age: time(kernel.soft_add_expires_seconds),
            since_first_use: time(kernel.soft_use_expires_seconds),
        },
        hard: LifetimeLimit {
            octets: amount(kernel.hard_byte_limit),
            packets: amount(kernel.hard_packet_limit),
            age: time(kernel.hard_add_expires_seconds),
            since_first_use: time(kernel.hard_use_expires_seconds),
        },
    }
}

/// What is used, with instants of this host's clock made of durations.
pub(super) fn used_to(counters: &Counters, now: u64) -> KernelLifetime {
    let ago = |age: Duration| now.saturating_sub(age.as_secs()).max(1);
    KernelLifetime {
        bytes: counters.octets,
        packets: counters.packets,
        add_time: ago(counters.age),
        use_time: counters.since_first_use.map_or(0, ago),
    }
}

/// Durations made of the kernel's instants: since the SA was added, since its
/// first packet.
pub(super) fn ages_from(kernel: &KernelLifetime, now: u64) -> (Duration, Option<Duration>) {
    let since = |at: u64| Duration::from_secs(now.saturating_sub(at));
    (since(kernel.add_time), (kernel.use_time != 0).then(|| since(kernel.use_time)))
}

/// Whole seconds, a part of one counted as one: a limit of less than a second is
/// not none.
fn seconds_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
