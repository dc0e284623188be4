//! Each detector is tripped on purpose: a detector that nothing trips shows nothing.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{
    charon::{EXCHANGE, config::CONNECTION},
    net::{GATEWAYS, INNER, Namespace, Network, OUTER, SERVER, SERVER_INNER, output, run},
    world::{Setup, World},
};

const USER: &str = "eu1";
const ESP: i32 = 50;
/// How long a link is cut or made worse.
const SPAN: Duration = Duration::from_millis(400);

/// Runs it.
///
/// # Errors
/// What could not be done.
pub fn scenario(_: &[PathBuf]) -> Result<Value> {
    let mut world = World::build(Setup { moves: 1, ..Setup::default() })?;
    world.establish()?;
    traffic_suffers(&mut world)?;
    let user: IpAddr = world.net.user_address(1).of(false);
    let sa = world.users[0].sas()?.into_iter().next().context("no IKE SA")?;
    let spi = &sa.child("net").context("no Child SA")?.spi_in;
    let spi = u32::from_str_radix(spi, 16)?;

    // The same number again, by the same gateway.
    esp(GATEWAYS[0], user, spi, 1)?;
    seen(&world, "seq_reuse", |world| world.observed(|o| o.seen().seq_reuse == 1))?;
    seen(&world, "no owner_violations", |w| w.observed(|o| o.seen().owner_violations == 0))?;
    // Another gateway goes on, which is a move, and the first one speaks once more.
    esp(GATEWAYS[1], user, spi, 1 << 20)?;
    seen(&world, "handovers", |world| world.observed(|o| o.seen().handovers == 1))?;
    esp(GATEWAYS[0], user, spi, 1 << 19)?;
    seen(&world, "owner_violations", |w| w.observed(|o| o.seen().owner_violations == 1))?;
    // Above the other's numbers: a second move, and only one was to be.
    esp(GATEWAYS[0], user, spi, 1 << 21)?;
    seen(&world, "owner_violations", |w| w.observed(|o| o.seen().owner_violations == 2))?;
    // The first Message ID of the gateway's answers, with other octets.
    ike(user, &sa.spis)?;
    seen(&world, "message_id_reuse", |w| w.observed(|o| o.seen().message_id_reuse == 1))?;
    in_clear(&world, user)?;
    delete(&world)?;
    key_in_a_log(&world)?;

    let mut report = world.gather()?;
    let tripped = [
        ("packets_lost", report.packets_lost > 0),
        ("packets_duplicated", report.packets_duplicated > 0),
        ("packets_reordered", report.packets_reordered > 0),
        ("gap_ms_max", report.gap_ms_max > millis(SPAN)),
        ("new_ike_sas", report.new_ike_sas == 1),
        ("deletes_seen", report.deletes_seen == 1),
        ("owner_violations", report.owner_violations == 2),
        ("seq_reuse", report.seq_reuse == 1),
        ("message_id_reuse", report.message_id_reuse == 1),
        ("cleartext_leaks", report.cleartext_leaks == 3),
        ("key_leaks", report.key_leaks == 2),
        ("xfrm_errors", report.xfrm_errors.contains_key(USER)),
    ];
    for (name, tripped) in tripped {
        report.expect(tripped, || format!("{name} was not tripped, or not as often as it was"));
    }
    report.more.insert("tripped".into(), json!(tripped.map(|(name, _)| name)));
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// Waits until the observer has seen it.
fn seen(world: &World, what: &str, look: impl Fn(&World) -> Result<bool>) -> Result<()> {
    crate::process::wait_for(what, EXCHANGE, || Ok(look(world)?.then_some(())))
}

/// Packets are lost, doubled and reordered.
fn traffic_suffers(world: &mut World) -> Result<()> {
    let traffic = world.start_traffic(200)?;
    world.baseline(&traffic);
    world.net.cut(USER, Network::Outer, true)?;
    traffic.run_for(SPAN);
    world.net.cut(USER, Network::Outer, false)?;
    traffic.wait_for_packets(10, EXCHANGE)?;
    world.net.impair(SERVER, Network::Inner, "delay 20ms reorder 50% duplicate 50%")?;
    traffic.wait_for_packets(40, EXCHANGE)?;
    world.net.impair(SERVER, Network::Inner, "delay 0ms")?;
    world.stop_traffic(traffic)
}

/// A gateway sends the head of an ESP packet that nobody can open.
fn esp(gateway: &str, to: IpAddr, spi: u32, number: u32) -> Result<()> {
    let packet = [spi.to_be_bytes().as_slice(), &number.to_be_bytes(), &[0; 32]].concat();
    Namespace::of(gateway).enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(ESP)))?;
        socket.send_to(&packet, &SocketAddr::new(to, 0).into())?;
        Ok(())
    })
}

/// The first gateway sends an answer with the Message ID of its `IKE_AUTH` answer.
fn ike(to: IpAddr, spis: &[String; 2]) -> Result<()> {
    let mut message = vec![0; 4];
    for spi in spis {
        message.extend(u64::from_str_radix(spi, 16)?.to_be_bytes());
    }
    // Encrypted payload, version 2, INFORMATIONAL, a response, Message ID 1.
    message.extend([46, 0x20, 37, 0x20, 0, 0, 0, 1, 0, 0, 0, 28]);
    Namespace::of(GATEWAYS[0]).enter(|| {
        let socket = UdpSocket::bind((OUTER[0].of(false), 0))?;
        socket.send_to(&message, (to, 4500))?;
        Ok(())
    })
}

/// An inner address outside; then the policies go and traffic leaves in clear.
fn in_clear(world: &World, user: IpAddr) -> Result<()> {
    Namespace::of(GATEWAYS[0]).enter(|| {
        let socket = UdpSocket::bind((INNER[0].of(false), 0))?;
        socket.send_to(b"in clear", (user, 9))?;
        Ok(())
    })?;
    // The packet, and the answer that nobody listens.
    seen(world, "cleartext_leaks", |w| w.observed(|o| o.seen().cleartext_leaks == 2))?;
    let flow = world.flow(1)?;
    Namespace::of(GATEWAYS[0])
        .enter(|| run(Command::new("ip").args(["xfrm", "policy", "flush"])))?;
    Namespace::of(SERVER).enter(|| {
        let socket = UdpSocket::bind((SERVER_INNER.of(false), 0))?;
        socket.send_to(b"in clear", (flow.user, 9))?;
        Ok(())
    })?;
    seen(world, "cleartext_leaks", |w| w.observed(|o| o.seen().cleartext_leaks == 3))
}

/// The gateway tells the user that the session has ended, and the user comes again.
fn delete(world: &World) -> Result<()> {
    world.gateways[0].swanctl(&["--terminate", "--ike", CONNECTION])?;
    world.users[0].wait_for_line(0, "received DELETE for IKE_SA", EXCHANGE)?;
    world.users[0].wait_for_sas("no IKE SA", |sas| sas.is_empty().then_some(()))?;
    world.users[0].initiate("net")
}

/// A key stands in two logs, in two forms.
fn key_in_a_log(world: &World) -> Result<()> {
    let states =
        Namespace::of(GATEWAYS[0]).enter(|| output(Command::new("ip").args(["xfrm", "state"])))?;
    let keys = states.split_whitespace().filter_map(|word| word.strip_prefix("0x"));
    let key = keys.max_by_key(|key| key.len()).context("no key")?;
    fs::write(world.folder().join("sg1/one.log"), format!("the key is {key}\n"))?;
    let upper = key.to_uppercase();
    Ok(fs::write(world.folder().join("sg1/two.log"), format!("{upper}\n"))?)
}
