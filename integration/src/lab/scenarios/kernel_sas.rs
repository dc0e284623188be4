//! SAs of the kernel that no IKE daemon owns, of kinds that are not carried: refused
//! with the reason before anything is touched, and their traffic goes on.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use cxtp::service::api::Mode;
use serde_json::Value;

use super::moves::no_long_gap;
use crate::lab::{
    gateway::{Settings, Sharing},
    net::{GATEWAYS, Namespace, Net, Network, SERVER, SERVER_INNER, SHARED, output, user_outer},
    traffic::{Flow, Traffic},
    world::{Setup, World},
};

const RATE: u32 = 1000;
const AFTER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
const USER: &str = "eu1";
const INNER: &str = "10.9.1.77";

/// What the two ends agree on.
struct Shape {
    protocol: &'static str,
    mode: &'static str,
    algorithm: &'static str,
    /// Octets of a key.
    key: usize,
    /// Octets behind the name and the key.
    after: &'static str,
    /// Selectors of the user and of what it speaks to.
    selectors: [String; 2],
}

/// ESP in transport mode between a user and the gateway itself.
///
/// # Errors
/// What could not be done.
pub fn transport_mode(_: &[PathBuf]) -> Result<Value> {
    let (user, gateway) = (user_outer(1).of(false), SHARED.of(false));
    let shape = Shape {
        protocol: "esp",
        mode: "transport",
        algorithm: "aead rfc4106(gcm(aes))",
        key: 36,
        after: "128",
        selectors: [format!("{user}/32"), format!("{gateway}/32")],
    };
    let flow =
        Flow { node: USER.into(), user, host: GATEWAYS[0].into(), server: gateway, number: 1 };
    refused(&shape, flow, "transport mode")
}

/// AH in tunnel mode.
///
/// # Errors
/// What could not be done.
pub fn ah(_: &[PathBuf]) -> Result<Value> {
    let shape = Shape {
        protocol: "ah",
        mode: "tunnel",
        algorithm: "auth-trunc hmac(sha256)",
        key: 32,
        after: "128",
        selectors: [format!("{INNER}/32"), "192.168.7.0/24".into()],
    };
    let (user, server) = (INNER.parse()?, SERVER_INNER.of(false));
    let flow = Flow { node: USER.into(), user, host: SERVER.into(), server, number: 1 };
    refused(&shape, flow, "AH")
}

fn refused(shape: &Shape, flow: Flow, reason: &str) -> Result<Value> {
    let settings =
        Settings { sharing: Sharing::Multicast, kernel_only: true, ..Settings::default() };
    let mut world =
        World::build(Setup { shared: true, daemons: Some(settings), ..Setup::default() })?;
    set_up(&world.net, shape)?;
    world.note_keys()?;
    let source = world.wait_for_owner(1)?;
    ensure!(source == 0, "the session is at {}", GATEWAYS[source]);
    let before = state(GATEWAYS[0])?;
    let traffic = Traffic::start(&[flow], RATE)?;
    traffic.wait_for_packets(3, PATIENCE)?;
    world.baseline(&traffic);
    let preflight = world.sites[0].ctl(&["preflight", "--all", "--to", GATEWAYS[1]]);
    let summary = world.transfer(0, None, Mode::Predictive)?;
    traffic.run_for(AFTER);
    world.stop_traffic(traffic)?;
    let failure = summary.failures.first().context("the session moved")?;
    let detail = failure.reason.detail.clone();
    let (same, nothing) = (state(GATEWAYS[0])? == before, state(GATEWAYS[1])?.is_empty());
    let still = world.wait_for_owner(1)?;
    let mut report = world.finish()?;
    report.expect(summary.refused == 1, || format!("not refused: {summary:?}"));
    report.expect(detail.contains(reason), || format!("the reason is `{detail}`"));
    report.expect(preflight.is_err(), || "preflight said that it would be taken".into());
    report.expect(same, || "the source's SAs are not what they were".into());
    report.expect(nothing, || "SAs are left at the target".into());
    report.expect(still == source, || "the session is elsewhere".into());
    report.more.insert("reason".into(), detail.into());
    no_long_gap(&mut report);
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// The lines of a node's SAs that name them and their keys, and no counters.
fn state(node: &str) -> Result<Vec<String>> {
    let mut ip = std::process::Command::new("ip");
    let text = Namespace::of(node).enter(|| output(ip.args(["xfrm", "state"])))?;
    let lasting = ["src ", "proto ", "replay-window ", "auth", "aead"];
    let lines = text.lines().map(str::trim);
    Ok(lines.filter(|line| lasting.iter().any(|l| line.starts_with(l))).map(Into::into).collect())
}

/// Makes SAs and policies at both ends, as an operator would by hand.
fn set_up(net: &Net, shape: &Shape) -> Result<()> {
    let Shape { protocol, mode, algorithm, key, after, selectors: [user, inner] } = shape;
    let (theirs, ours) = (user_outer(1).of(false), SHARED.of(false));
    if *mode == "tunnel" {
        let device = Network::Outer.interface();
        net.ip(USER, &format!("address add {INNER}/32 dev lo"))?;
        net.ip(USER, &format!("route add {inner} dev {device} src {INNER}"))?;
    }
    for (node, directions) in [(USER, ["out", "in"]), (GATEWAYS[0], ["in", "out"])] {
        let ways = [(theirs, ours, user, inner, 0x1001), (ours, theirs, inner, user, 0x1002)];
        for (direction, (from, to, source, destination, spi)) in directions.into_iter().zip(ways) {
            let key: String = (0..*key).map(|n| format!("{:02x}", n * 7 + spi % 16)).collect();
            net.ip(
                node,
                &format!(
                    "xfrm state add src {from} dst {to} proto {protocol} spi {spi:#x} reqid 7 mode \
                     {mode} replay-window 32 {algorithm} 0x{key} {after}"
                ),
            )?;
            let also = if direction == "in" && *mode == "tunnel" {
                &["in", "fwd"][..]
            } else {
                &[direction]
            };
            for direction in also {
                net.ip(
                    node,
                    &format!(
                        "xfrm policy add src {source} dst {destination} dir {direction} tmpl src \
                         {from} dst {to} proto {protocol} reqid 7 mode {mode}"
                    ),
                )?;
            }
        }
    }
    Ok(())
}
