//! The ruleset: one file that a person can read, made for this host and loaded in
//! one transaction.

use std::{net::IpAddr, process::Command, time::Duration};

use protocol_spec::context::Prefix;

use super::{
    Config, SteeringError,
    announce::sum,
    command::run_within,
    link::{Link, Links},
    set::octets,
};

/// How long the rules may take: the kernel waits for packets on their way, several
/// times.
const DEADLINE: Duration = Duration::from_secs(10);

/// Loads the rules; elements that stand stay.
/// Nothing is said on the network of the `quiet` addresses.
pub(super) fn load(config: &Config, links: &Links, quiet: &[IpAddr]) -> Result<(), SteeringError> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]);
    let text = render(config, links, quiet);
    run_within(DEADLINE, nft, text).map_err(|why| SteeringError::Command {
        command: "nft -f -".to_owned(),
        why: format!(
            "{why}\nNeeded are the program `nft` (package nftables), CAP_NET_ADMIN, and a kernel \
             from 5.16 with nf_tables in the families inet, netdev (ingress and egress) and arp, \
             and its queue, hash and fwd expressions. Tables `cxtp` of another version must be \
             deleted first; that opens the guard, so empty this gateway before."
        ),
    })
}

/// The file as it is loaded.
pub(super) fn render(config: &Config, links: &Links, quiet: &[IpAddr]) -> String {
    let mut text = include_str!("ruleset/base.nft").to_owned();
    if config.shared_mac().is_some() {
        text += include_str!("ruleset/shared.nft");
    }
    for (name, link) in config.outer.iter().zip(&links.outer) {
        text += &include_str!("ruleset/outer.nft")
            .replace("%SHARED_INGRESS%\n", &shared_ingress(config))
            .replace("%INNER_NETWORKS%\n", &inner_networks(&config.inner_networks))
            .replace("%CHAIN%", &chain_name(name))
            .replace("%OUTER%", name)
            .replace("%MAC%", &colons(&link.mac));
    }
    if let Some(mac) = config.shared_mac() {
        text += &answers(config, links, mac);
    }
    text += &silence(quiet);
    text.replace("%QUEUE%", &config.queue.to_string())
        .replace("%PORT_IKE%", &config.ike_ports.0.to_string())
        .replace("%PORT_NAT%", &config.ike_ports.1.to_string())
}

/// Frames to the shared MAC address.
fn shared_ingress(config: &Config) -> String {
    let Some(mac) = config.shared_mac() else { return String::new() };
    let mac = colons(&mac);
    let mut text = format!("\t\tether daddr {mac} ether type arp meta pkttype set host\n");
    for address in &config.shared {
        let (ip, chain) = if address.is_ipv4() { ("ip", "whose4") } else { ("ip6", "whose6") };
        text += &format!("\t\tether daddr {mac} {ip} daddr {address} jump {chain}\n");
    }
    // A flooded frame for an address that is not shared is not ours.
    text += &format!("\t\tether daddr {mac} meta pkttype != host drop\n\n");
    text
}

/// The operator's own prefixes.
fn inner_networks(prefixes: &[Prefix]) -> String {
    let rule = |prefix: &Prefix| {
        let (ip, address, bits) = match prefix.address {
            IpAddr::V4(address) => ("ip", address.to_string(), prefix.bits),
            IpAddr::V6(address) => ("ip6", address.to_string(), prefix.bits),
        };
        format!("\t\t{ip} daddr {address}/{bits} drop\n\t\t{ip} saddr {address}/{bits} drop\n")
    };
    prefixes.iter().map(rule).collect()
}

/// Rules that put the shared MAC address into our ARP and ND, while frames go on
/// being sent from our own.
fn answers(config: &Config, links: &Links, mac: [u8; 6]) -> String {
    let mut arp = String::new();
    let mut nd = String::new();
    for address in &config.shared {
        match address {
            IpAddr::V4(address) => {
                arp +=
                    &format!("\t\tarp saddr ip {address} arp saddr ether set {}\n", colons(&mac));
            }
            IpAddr::V6(address) => {
                for (name, link) in config.outer.iter().zip(&links.outer) {
                    nd += &neighbour_discovery(IpAddr::V6(*address), name, link, mac);
                }
            }
        }
    }
    format!(
        "\nadd table arp cxtp\ntable arp cxtp {{\n\tchain output {{\n\t\ttype filter hook output \
         priority filter; policy accept;\n{arp}\t}}\n}}\n\ntable inet cxtp {{\n\tchain output \
         {{\n{nd}\t}}\n}}\n"
    )
}

/// Rules that keep what the kernel says by ARP from naming addresses which it has on
/// its loopback interface only: it answers for them nevertheless, and asks in their
/// name. (By ND it does neither.)
fn silence(quiet: &[IpAddr]) -> String {
    let rule = |address: &IpAddr| match address {
        IpAddr::V4(address) => format!(
            "\t\tarp operation reply arp saddr ip {address} drop\n\t\tarp operation request arp \
             saddr ip {address} arp saddr ip set 0.0.0.0\n"
        ),
        IpAddr::V6(_) => String::new(),
    };
    let rules: String = quiet.iter().map(rule).collect();
    if rules.is_empty() {
        return rules;
    }
    format!(
        "\nadd table arp cxtp\ntable arp cxtp {{\n\tchain output {{\n\t\ttype filter hook output \
         priority filter; policy accept;\n{rules}\t}}\n}}\n"
    )
}

/// Advertisements of, and solicitations from, a shared IPv6 address: the MAC
/// address in their option becomes the shared one. The kernel has computed the
/// checksum by then; it stays right because a reserved field, which receivers
/// ignore (RFC 4861 sections 4.3 and 4.4), takes up the difference.
fn neighbour_discovery(address: IpAddr, name: &str, link: &Link, mac: [u8; 6]) -> String {
    let digits = |octets: &[u8]| octets.iter().map(|o| format!("{o:02x}")).collect::<String>();
    let difference = [sum(&link.mac).to_be_bytes(), (!sum(&mac)).to_be_bytes()].concat();
    let set = format!("@th,48,16 set 0x{:04x} @th,208,48 set 0x{}", sum(&difference), digits(&mac));
    let target = digits(&octets(address));
    format!(
        "\t\toifname \"{name}\" icmpv6 type nd-neighbor-advert @th,64,128 0x{target} @th,192,16 \
         0x0201 {set}\n\t\toifname \"{name}\" icmpv6 type nd-neighbor-solicit ip6 saddr {address} \
         @th,192,16 0x0101 {set}\n"
    )
}

fn chain_name(interface: &str) -> String {
    interface.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

pub(super) fn colons(mac: &[u8; 6]) -> String {
    let digits: Vec<_> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
    digits.join(":")
}

#[cfg(test)]
mod tests;
