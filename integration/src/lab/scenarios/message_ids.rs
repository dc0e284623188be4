//! RFC 6311 with a stock end user: our own small responder takes it in and announces
//! the extension, which no strongSwan gateway does. Then that gateway dies; another one
//! has its context as it was at the beginning, asks the end user for the Message IDs,
//! and goes on.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::mpsc::Receiver,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use gateway_plugin::{
    ike::{
        Association,
        answer::{Answer, Path, Responder},
        exchange::{Outcome, Output, Pace, Request, SyncOffer},
        port::Port,
        random,
        responder::{Established, Terms, take_in},
        tap::{Sighting, Tap},
    },
    xfrm::{Kernel, KernelSa, SaId},
};
use protocol_spec::{
    KeyMaterial,
    context::{Identification, SaKeys},
};
use serde_json::Value;

use crate::{
    clock::now,
    lab::{
        charon::{
            EXCHANGE,
            config::{GATEWAY_ID, Vpn, user_secret},
        },
        net::{GATEWAYS, INNER, Namespace, Network, SERVER, SHARED, run, user_outer},
        traffic::Traffic,
        world::{Setup, World},
    },
};

/// Packets per second each way.
const RATE: u32 = 1000;
const SPAN: Duration = Duration::from_secs(3);
const USER: &str = "eu1";
const VIRTUAL: [u8; 4] = [10, 9, 0, 1];
const CHILD_SPI: u32 = 0xc123_4567;
/// The kind of an identity that is a domain name.
const DOMAIN_NAME: u8 = 2;
const REQID: u32 = 7;
/// Above all Message IDs and numbers that the first owner may have used.
const MESSAGES_BEYOND: u32 = 100;
const PACKETS_BEYOND: u64 = 1 << 20;
/// Between the offers of two attempts.
const STEP: u32 = 10;
const PACE: Pace = Pace {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(2),
    total: Duration::from_secs(8),
};

/// Runs it.
///
/// # Errors
/// What could not be done.
pub fn scenario(_: &[PathBuf]) -> Result<Value> {
    let mut world = World::build(Setup {
        // Its requests are those that this asks it for.
        vpn: Vpn { dpd: 0, ..Vpn::default() },
        gateways: 0,
        shared: true,
        moves: 1,
        ..Setup::default()
    })?;
    let [first, second] = GATEWAYS.map(Namespace::of);
    let began = now();
    let clock = move || began.elapsed();

    let held = first.enter(ports)?;
    let established = std::thread::scope(|scope| {
        let user = world.users.first().context("no end user")?;
        let initiated = scope.spawn(|| user.initiate("net"));
        let established = take_in(terms(), &held, EXCHANGE, clock);
        match initiated.join() {
            Ok(initiated) => initiated?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        anyhow::Ok(established?)
    })?;
    let ike = &established.ike;
    ensure!(ike.extensions.message_id_sync, "the end user does not announce RFC 6311");
    let (known_send, known_receive) = (ike.next_send, ike.next_receive);
    let association = Association::new(ike)?;
    install(&world, GATEWAYS[0], &established, 0)?;
    world.note_keys()?;
    world.observed(|observer| observer.mark())?;
    let traffic = world.start_traffic(RATE)?;
    world.baseline(&traffic);
    finish(&mut world, traffic)?;

    // What the first owner still does, and the second one never hears of.
    first.enter(|| {
        let tap = Tap::start(vec![SHARED.of(false)], 8)?;
        let sightings = tap.follow(association.spis())?;
        let mut responder = Responder::new(known_receive, None);
        let before = world.users[0].said()?.len();
        add_address(&world, 201)?;
        answer_next(&association, &mut responder, &sightings)?;
        let answered = format!("parsed INFORMATIONAL response {known_receive} [ ]");
        world.users[0].wait_for_line(before, &answered, EXCHANGE)
    })?;
    drop(held);
    fail_over(&world, &established)?;

    let outcome = second.enter(|| {
        let _held = ports()?;
        let tap = Tap::start(vec![SHARED.of(false)], 8)?;
        let sightings = tap.follow(association.spis())?;
        let port = Port::open(established.ike.local, established.ike.remote)?;
        let offer = SyncOffer {
            next_send: known_send + MESSAGES_BEYOND,
            next_receive: known_receive,
            step: STEP,
        };
        let mut sync =
            Request::message_id_sync(&association, offer, &random::draws(3)?, PACE, clock())?;
        // The answer to the first attempt is lost.
        let Output::Send(attempt) = sync.poll_output(clock()) else { bail!("no attempt") };
        port.send(&attempt)?;
        wait_for_answer(&sightings, 0)?;
        let outcome = port.exchange(&mut sync, &association, &sightings, clock, |_| {})?;
        let Outcome::Synced { next_send, next_receive } = outcome else {
            bail!("the end user did not agree: {outcome:?}");
        };

        // Both directions go on with the new numbers.
        let iv = random::iv()?;
        let mut check = Request::dead_peer_detection(&association, next_send, &iv, PACE, clock())?;
        let answered = port.exchange(&mut check, &association, &sightings, clock, |_| {})?;
        ensure!(answered == Outcome::Answered, "no answer to {next_send}: {answered:?}");
        let before = world.users[0].said()?.len();
        add_address(&world, 202)?;
        let mut responder = Responder::new(next_receive, None);
        answer_next(&association, &mut responder, &sightings)?;
        let answered = format!("parsed INFORMATIONAL response {next_receive} [ ]");
        world.users[0].wait_for_line(before, &answered, EXCHANGE)?;
        Ok((next_send, next_receive))
    })?;
    let traffic = world.start_traffic(RATE)?;
    traffic.run_for(SPAN);
    finish(&mut world, traffic)?;
    let owners = world.observed(|observer| observer.owners())?;
    let said = world.users[0].said()?;

    let mut report = world.gather()?;
    for (name, figure) in report.zeros() {
        // Attempts have Message ID 0 and differ: RFC 6311 section 4.1.
        if name != "message_id_reuse" {
            report.expect(figure == 0, || format!("{name} is {figure}"));
        }
    }
    let reuse = report.message_id_reuse;
    report.expect(reuse == 1, || format!("{reuse} Message IDs were used twice, not the one"));
    let wanted = (known_send + MESSAGES_BEYOND + STEP, known_receive + 1);
    report.expect(outcome == wanted, || format!("agreed on {outcome:?} instead of {wanted:?}"));
    report.expect(!owners.is_empty() && owners.iter().all(|(_, owner)| *owner == 1), || {
        format!("{owners:?} spoke last, not the second gateway alone")
    });
    let begun = said.matches("initiating IKE_SA").count();
    report.expect(begun == 1, || format!("the end user began {begun} IKE SAs"));
    report.more.insert("next_send".into(), outcome.0.into());
    report.more.insert("next_receive".into(), outcome.1.into());
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// The ports of IKE, which somebody must hold: else the kernel says that nobody does.
fn ports() -> Result<[UdpSocket; 2]> {
    let bind = |port: u16| UdpSocket::bind((SHARED.of(false), port));
    Ok([bind(500)?, bind(4500)?])
}

fn terms() -> Terms {
    Terms {
        identity: Identification { kind: DOMAIN_NAME, data: GATEWAY_ID.into() },
        shared_key: KeyMaterial::new(user_secret(1).into_bytes()),
        spi: 0x5e55_1011_1213_1415,
        child_spi: CHILD_SPI,
        virtual_ip: VIRTUAL.into(),
    }
}

/// Of the SA from the end user to us, and of that the other way.
fn copy_keys(established: &Established) -> [SaKeys; 2] {
    let keys = &established.keys;
    [&keys.initiator_to_responder, &keys.responder_to_initiator].map(|keys| SaKeys {
        encryption: keys.encryption.duplicate(),
        integrity: keys.integrity.duplicate(),
    })
}

/// Installs the Child SA in a node's kernel; its next number is above `used`.
fn install(world: &World, node: &str, established: &Established, used: u64) -> Result<()> {
    let [inbound, outbound] = copy_keys(established);
    let (local, remote) = (established.ike.local.ip(), established.ike.remote.ip());
    let (spi_in, spi_out) = established.child_spis;
    let sa = |source, destination, spi, keys| {
        let id = SaId::esp(destination, spi);
        let transforms = established.transforms.clone();
        KernelSa { reqid: REQID, ..KernelSa::new(id, source, transforms, keys) }
    };
    let mut sas = [sa(remote, local, spi_in, inbound), sa(local, remote, spi_out, outbound)];
    sas[1].counters.sequence = used;
    Namespace::of(node)
        .enter(|| Ok(Kernel::open()?.install(&sas).into_iter().collect::<Result<(), _>>()?))?;
    let (user, inner) = (format!("{}/32", IpAddr::from(VIRTUAL)), "192.168.7.0/24");
    for (direction, source, destination, from, to) in [
        ("out", inner, user.as_str(), local, remote),
        ("in", &user, inner, remote, local),
        ("fwd", &user, inner, remote, local),
    ] {
        let selector = format!("src {source} dst {destination} dir {direction}");
        let template = format!("tmpl src {from} dst {to} proto esp reqid {REQID} mode tunnel");
        world.net.ip(node, &format!("xfrm policy add {selector} {template}"))?;
    }
    Ok(())
}

/// The first gateway is gone; the second one has its address, its users and what was
/// known of them at the beginning.
fn fail_over(world: &World, established: &Established) -> Result<()> {
    let [gone, next] = GATEWAYS;
    let (shared, outer) = (SHARED.of(false), Network::Outer.interface());
    world.net.ip(gone, &format!("address del {shared}/32 dev {outer}"))?;
    world.net.ip(gone, "xfrm state flush")?;
    world.net.ip(gone, "xfrm policy flush")?;
    install(world, next, established, PACKETS_BEYOND)?;
    world.net.add_address(next, Network::Outer, &format!("{shared}/32"))?;
    world.net.ip(SERVER, &format!("route replace default via {}", INNER[1].of(false)))?;
    let address = shared.to_string();
    Namespace::of(next)
        .enter(|| run(Command::new("arping").args(["-U", "-c", "2", "-I", outer, &address])))
}

/// The end user tells its gateway of every new address.
fn add_address(world: &World, number: usize) -> Result<()> {
    let address = format!("{}/16", user_outer(number).of(false));
    world.net.add_address(USER, Network::Outer, &address)
}

/// Answers the end user's next new request.
fn answer_next(
    association: &Association,
    responder: &mut Responder,
    sightings: &Receiver<Sighting>,
) -> Result<()> {
    loop {
        let sighting = sightings.recv_timeout(EXCHANGE).context("the end user asked nothing")?;
        let path = Path { source: sighting.source, destination: sighting.destination };
        let answer =
            responder.handle_datagram(association, &sighting.message, path, &random::iv()?)?;
        if let Answer::Reply { datagram, .. } = answer {
            let (local, remote): (SocketAddr, SocketAddr) = (path.destination, path.source);
            return Ok(Port::open(local, remote)?.send(&datagram)?);
        }
    }
}

/// Waits until the answer with a Message ID was received.
fn wait_for_answer(sightings: &Receiver<Sighting>, message_id: u32) -> Result<()> {
    loop {
        let Sighting { header, outgoing, .. } =
            sightings.recv_timeout(EXCHANGE).context("no answer")?;
        if header.response && !outgoing && header.message_id == message_id {
            return Ok(());
        }
    }
}

fn finish(world: &mut World, traffic: Traffic) -> Result<()> {
    traffic.wait_for_packets(20, EXCHANGE)?;
    world.stop_traffic(traffic)
}
