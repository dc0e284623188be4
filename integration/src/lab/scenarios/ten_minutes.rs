//! The page "From strongSwan to moved sessions in ten minutes", whose commands run here
//! as they stand, on two gateways and with two users under traffic.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::moves::Refused;
use crate::{
    lab::{
        charon::{
            Charon,
            config::{self, GATEWAY_ID, Vpn},
        },
        inside::LAB,
        net::{Namespace, SERVER, output, run},
        traffic::{Flow, Traffic},
    },
    process::wait_for,
};

const PAGE: &str = "docs/strongswan.md";
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const MACHINE: &str = include_str!("ten_minutes/machine.sh");
/// Packets per second, all users and each way.
const RATE: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long traffic goes on between and after the moves.
const SPAN: Duration = Duration::from_secs(2);
/// What of the page is another on the second gateway.
const PAIRS: &[(&str, &str)] = &[
    ("gw-a", "gw-b"),
    ("192.0.2.2", "192.0.2.3"),
    ("10.0.0.2", "10.0.0.3"),
    ("10.9.1.0", "10.9.2.0"),
];

/// The commands of a section of the page.
struct Section {
    number: u32,
    commands: Vec<String>,
}

/// The sections that are numbered, in their order.
fn sections(page: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        if let Some(open) = &mut block {
            if line == "```" {
                let commands = block.take().unwrap_or_default();
                if let Some(section) = sections.last_mut() {
                    section.commands.push(commands);
                }
            } else {
                open.push_str(line);
                open.push('\n');
            }
        } else if line == "```sh" {
            block = Some(String::new());
        } else if let Some(number) = line
            .strip_prefix("## ")
            .and_then(|title| title.split_once(". "))
            .and_then(|(number, _)| number.parse().ok())
        {
            sections.push(Section { number, commands: Vec::new() });
        }
    }
    sections
}

/// The text with the two gateways changed round.
fn swapped(text: &str) -> String {
    let mut text = text.to_owned();
    for (a, b) in PAIRS {
        text = text.replace(a, "\0").replace(b, a).replace('\0', b);
    }
    text
}

/// A gateway: a network namespace, and files of its own.
struct Machine {
    node: &'static str,
    keeper: Child,
}

impl Machine {
    fn start(node: &'static str) -> Result<Self> {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "bash", "-c", MACHINE])
            .env("NODE", node)
            .env("SOURCE", fs::canonicalize(SOURCE)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut keeper = Namespace::of(node).enter(|| Ok(command.spawn()?))?;
        let mut said = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        if said != "ready\n" {
            bail!("the files of {node} could not be made: {said}");
        }
        Ok(Self { node, keeper })
    }

    /// Runs commands as root at the machine, in the source's folder.
    fn shell(&self, commands: &str) -> Result<String> {
        let place = format!("{LAB}/ten/{}", self.node);
        let script = format!("cd {place}/source\n{commands}");
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--target", &self.keeper.id().to_string()])
            .args(["bash", "-e", "-c", &script])
            .env("PATH", format!("{place}/shims:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
        Namespace::of(self.node)
            .enter(|| output(&mut command))
            .with_context(|| format!("at {}:\n{commands}", self.node))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The guest ends soon after, and whatever runs in it.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// The picture of the page: users, two gateways, a server.
fn topology() -> Result<()> {
    for bridge in ["wan", "lan"] {
        ip(&format!("link add br{bridge} type bridge"))?;
        ip(&format!("link set br{bridge} up"))?;
    }
    let ports: &[(&str, &str, &str)] = &[
        ("gw-a", "wan", "192.0.2.2/24"),
        ("gw-a", "lan", "10.0.0.2/24"),
        ("gw-b", "wan", "192.0.2.3/24"),
        ("gw-b", "lan", "10.0.0.3/24"),
        ("eu1", "wan", "192.0.2.11/24"),
        ("eu2", "wan", "192.0.2.12/24"),
        (SERVER, "lan", "10.0.0.10/24"),
    ];
    for node in ["gw-a", "gw-b", "eu1", "eu2", SERVER] {
        ip(&format!("netns add {node}"))?;
        ip(&format!("-n {node} link set lo up"))?;
    }
    for (node, port, address) in ports {
        ip(&format!("link add {node}{port} type veth peer name {port} netns {node}"))?;
        ip(&format!("link set {node}{port} master br{port} up"))?;
        ip(&format!("-n {node} link set {port} up"))?;
        ip(&format!("-n {node} addr add {address} dev {port}"))?;
    }
    for (range, gateway) in [("10.9.1.0/24", "10.0.0.2"), ("10.9.2.0/24", "10.0.0.3")] {
        ip(&format!("-n {SERVER} route add {range} via {gateway}"))?;
    }
    for gateway in ["gw-a", "gw-b"] {
        let forward = || Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "1")?);
        Namespace::of(gateway).enter(forward)?;
    }
    Ok(())
}

/// The operator's own connections: the same on both gateways but for the pool.
fn connections(pool: &str) -> String {
    format!(
        "connections {{ {} {{ version = 2\n proposals = aes256-sha256-x25519\n pools = p\n \
         local {{ auth = psk\n id = {GATEWAY_ID} }}\n remote {{ auth = psk }}\n \
         children {{ net {{ local_ts = 10.0.0.0/24\n esp_proposals = aes256gcm16 }} }} }} }}\n\
         pools {{ p {{ addrs = {pool} }} }}\n\
         secrets {{ ike-1 {{ id = eu1@example.org\n secret = \"preshared-secret-of-end-user-1\" }}\n\
         ike-2 {{ id = eu2@example.org\n secret = \"preshared-secret-of-end-user-2\" }} }}\n",
        config::CONNECTION
    )
}

/// Two users of gw-a, each with its flow.
fn users() -> Result<(Vec<Charon>, Vec<Flow>)> {
    let mut vpn = Vpn::default();
    vpn.children.iter_mut().for_each(|child| child.inner = "10.0.0.0/24".into());
    let server: IpAddr = [10, 0, 0, 10].into();
    let mut users = Vec::new();
    let mut flows = Vec::new();
    for user in 1..=2 {
        let node = format!("eu{user}");
        let folder = Path::new(LAB).join("ten").join(&node);
        let files = vpn.user(user, [192, 0, 2, 2].into());
        let charon = Charon::start(&node, &folder, &files)?;
        charon.swanctl(&["--initiate", "--child", "net"])?;
        let addresses = output(Command::new("ip").args(["-n", &node, "-4", "-o", "addr", "show"]))?;
        let virtual_ip = addresses
            .split_whitespace()
            .filter_map(|word| word.split('/').next())
            .find(|word| word.starts_with("10.9."))
            .with_context(|| format!("{node} has no inner address"))?;
        let number = u16::try_from(user)?;
        flows.push(Flow { node, user: virtual_ip.parse()?, host: SERVER.into(), server, number });
        users.push(charon);
    }
    Ok((users, flows))
}

/// # Errors
/// What could not be done, with the command of the page that failed.
pub fn follow(_: &[PathBuf]) -> Result<Value> {
    let page = fs::read_to_string(Path::new(SOURCE).join(PAGE))?;
    let sections = sections(&page);
    let numbers: Vec<u32> = sections.iter().map(|section| section.number).collect();
    if numbers != [1, 2, 3, 4, 5, 6] {
        bail!("{PAGE} has the sections {numbers:?}, and this knows six");
    }
    let commands = |number: u32| {
        let section = sections.iter().filter(move |section| section.number == number);
        section.flat_map(|section| section.commands.iter().map(String::as_str))
    };
    topology()?;
    let (a, b) = (Machine::start("gw-a")?, Machine::start("gw-b")?);
    for (machine, pool) in [(&a, "10.9.1.0/24"), (&b, "10.9.2.0/24")] {
        let file = Path::new(LAB).join("ten").join(machine.node).join("swanctl.conf");
        fs::write(&file, connections(pool))?;
        machine.shell(&format!("install -m 600 {} /etc/swanctl/swanctl.conf", file.display()))?;
    }
    let mut ran = 0;
    let mut both = |number: u32| -> Result<()> {
        for block in commands(number) {
            a.shell(block)?;
            b.shell(&swapped(block))?;
            ran += 1;
        }
        Ok(())
    };
    both(1)?;
    both(2)?;
    for block in commands(3) {
        a.shell(block)?;
    }
    // As the page says in words: the authority's certificate, each gateway's own files,
    // and the public half of the other's.
    let made = format!("{LAB}/ten/gw-a/source/pki");
    for (machine, own, other) in [(&a, "gw-a", "gw-b"), (&b, "gw-b", "gw-a")] {
        machine.shell(&format!(
            "install -d -m 700 /etc/cxtp/pki\n\
             install -m 600 {made}/ca.pem {made}/{own}.pem {made}/{own}.key {made}/{own}.seal.key \
             {made}/{other}.seal.pub /etc/cxtp/pki/"
        ))?;
    }
    // The example is gw-a's; gw-b's operator changes it.
    let packaging = Path::new(SOURCE).join("packaging");
    for block in commands(4) {
        a.shell(block)?;
        let example = swapped(&fs::read_to_string(packaging.join("linux.toml"))?);
        let file = Path::new(LAB).join("ten/gw-b/linux.toml");
        fs::write(&file, example)?;
        b.shell(&swapped(block).replace("packaging/linux.toml", &file.display().to_string()))?;
        ran += 1;
    }
    for block in commands(5) {
        a.shell(block)?;
        b.shell(&swapped(block))?;
        ran += 1;
    }
    let (users, flows) = users()?;
    let traffic = Traffic::start(&flows, RATE)?;
    let listed = || -> Result<Option<Vec<String>>> {
        let said = a.shell("cxtpctl sessions --json")?;
        let said: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        let all = said["sessions"].as_array().cloned().unwrap_or_default();
        let ids: Vec<String> =
            all.iter().filter_map(|s| s["session"].as_str().map(str::to_owned)).collect();
        Ok((ids.len() == flows.len()).then_some(ids))
    };
    let sessions = wait_for("the sessions of both users", PATIENCE, listed)?;
    traffic.wait_for_packets(100, PATIENCE)?;
    traffic.run_for(SPAN);
    let baseline = traffic.take_gap();
    let mut said = String::new();
    for block in commands(6) {
        said += &a.shell(&block.replace("SESSION", &sessions[0]))?;
        ran += 1;
        traffic.run_for(SPAN);
    }
    let gap = traffic.take_gap();
    let tally = traffic.stop()?;
    let moved = said.lines().filter(|line| line.ends_with(": 1 moved")).count();
    let mut failures = Vec::new();
    if moved != 2 {
        failures.push(format!("the two commands moved {moved} sessions: {said}"));
    }
    // Their charons change their SAs as they follow: what they do to their own packets
    // meanwhile, no gateway can help.
    if tally.lost != tally.refused || tally.duplicated > 0 {
        failures.push(format!(
            "{} packets lost, of which the users' own nodes refused {}, {} duplicated",
            tally.lost, tally.refused, tally.duplicated
        ));
    }
    for flow in &flows {
        let inbound = Refused::at(&flow.node)?.inbound;
        if inbound > 0 {
            failures
                .push(format!("{inbound} packets reached {} while it changed its SAs", flow.node));
        }
    }
    let there = b.shell("swanctl --list-sas")?.matches("ESTABLISHED").count();
    let left = a.shell("swanctl --list-sas")?.matches("ESTABLISHED").count();
    if (there, left) != (2, 0) {
        failures.push(format!("charon of gw-b has {there} users, that of gw-a {left}"));
    }
    for user in &users {
        user.rekey_child("net")?;
        user.rekey_ike(config::CONNECTION)?;
    }
    Ok(json!({
        "passed": failures.is_empty(), "failures": failures, "blocks": ran, "moved": moved,
        "packets_sent": tally.sent, "packets_lost": tally.lost,
        "packets_refused": tally.refused, "packets_duplicated": tally.duplicated, "gap_ms_max": gap, "gap_ms_baseline": baseline,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_commands_in_every_section_and_both_gateways_in_it() {
        let page = fs::read_to_string(Path::new(SOURCE).join(PAGE)).unwrap();
        let sections = sections(&page);
        assert_eq!(sections.iter().map(|s| s.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert!(sections.iter().all(|section| !section.commands.is_empty()));
        assert_eq!(swapped("gw-a 192.0.2.3 10.9.1.0"), "gw-b 192.0.2.2 10.9.2.0");
    }
}
