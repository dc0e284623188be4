//! Inner addresses from pools: whoever moves keeps its own, and nobody else gets it, at
//! neither gateway; however the users prove who they are.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use cxtp::service::api::Mode;
use serde_json::Value;

use crate::{
    lab::{
        charon::{
            EXCHANGE,
            config::{Auth, CONNECTION, Vpn, user_id},
        },
        gateway::{Settings, Sharing},
        traffic::Traffic,
        world::{Setup, World},
    },
    process::wait_for,
};

/// The first of them moves; the gateways share the others.
const USERS: usize = 6;
/// This one is a second device of the first.
const SECOND_DEVICE: usize = 6;
/// Packets per second each way.
const RATE: u32 = 1000;
const AFTER: Duration = Duration::from_secs(1);

/// Users with preshared keys.
///
/// # Errors
/// What could not be done.
pub fn pools(_: &[PathBuf]) -> Result<Value> {
    once_only(Auth::Psk)
}

/// Users with certificates.
///
/// # Errors
/// What could not be done.
pub fn certificates(_: &[PathBuf]) -> Result<Value> {
    once_only(Auth::Certificate)
}

/// Users who prove themselves by EAP.
///
/// # Errors
/// What could not be done.
pub fn eap(_: &[PathBuf]) -> Result<Value> {
    once_only(Auth::Eap)
}

/// One user moves, others come up at both gateways, and it moves home.
fn once_only(auth: Auth) -> Result<Value> {
    let settings = Settings { sharing: Sharing::Multicast, ..Settings::default() };
    let vpn = Vpn { auth, ..Vpn::default() };
    let mut world = World::build(Setup {
        vpn,
        users: USERS,
        moves: 2,
        shared: true,
        daemons: Some(settings),
        ..Setup::default()
    })?;
    if auth == Auth::Psk {
        pretend(&world, SECOND_DEVICE, 1)?;
    }
    let up = |world: &World, user: usize| world.users[user - 1].initiate("net");
    up(&world, 1)?;
    world.note_keys()?;
    let home = world.wait_for_owner(1)?;
    let before = spis(&world)?;
    let moved = address(&world, 1)?;
    let traffic = Traffic::start(&[world.flow(1)?], RATE)?;
    traffic.wait_for_packets(20, EXCHANGE)?;
    world.baseline(&traffic);
    carry(&mut world, home)?;
    traffic.wait_for_packets(20, EXCHANGE)?;
    let mut given = BTreeSet::from([moved.clone()]);
    let (mut at_home, mut away) = (0, 0);
    for user in 2..=USERS {
        up(&world, user)?;
        let theirs = address(&world, user)?;
        if !given.insert(theirs.clone()) {
            bail!("{theirs} was given to end user {user}, and another one has it");
        }
        if world.gateways[home].sas()?.iter().any(|sa| sa.virtual_ips.contains(&theirs)) {
            at_home += 1;
        } else {
            away += 1;
        }
    }
    world.note_keys()?;
    let lent = lease(&world, home, &moved)?;
    carry(&mut world, 1 - home)?;
    traffic.wait_for_packets(20, EXCHANGE)?;
    traffic.run_for(AFTER);
    world.stop_traffic(traffic)?;
    let same = spis(&world)? == before && address(&world, 1)? == moved;
    world.still_works(1)?;
    // Where it came from it is free again, once its user has gone.
    let kept = lease(&world, home, &moved)?;
    world.users[0].swanctl(&["--terminate", "--ike", CONNECTION])?;
    wait_for(&format!("the end of the lease of {moved}"), EXCHANGE, || {
        Ok((lease(&world, home, &moved)? == Some(false)).then_some(()))
    })?;
    let mut report = world.finish()?;
    report.expect(same, || "end user 1 has another IKE SA or address".into());
    for (when, leased) in [("while its user is away", lent), ("after that", kept)] {
        let other = || format!("{moved} is not leased at home {when}: {leased:?}");
        report.expect(leased == Some(true), other);
    }
    report.expect(at_home > 0 && away > 0, || {
        format!("{at_home} others came up at home and {away} at the other gateway")
    });
    report.more.insert("others_at_home".into(), at_home.into());
    report.more.insert("others_at_target".into(), away.into());
    report.more.insert("addresses".into(), given.into_iter().collect::<Vec<_>>().into());
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}

/// Moves the first user's session away from a gateway.
fn carry(world: &mut World, from: usize) -> Result<()> {
    let (at, session) = world.session_of(1)?;
    if at != from {
        bail!("the session of end user 1 is at the other gateway");
    }
    let summary = world.transfer(from, Some(vec![session]), Mode::Predictive)?;
    if summary.moved != 1 {
        bail!("it did not move: {:?}", summary.failures);
    }
    Ok(())
}

/// Gives a user the identity and the secret of another one.
fn pretend(world: &World, user: usize, other: usize) -> Result<()> {
    let charon = &world.users[user - 1];
    let secret = |user| format!("end-user-{user}\"");
    charon.change_connections(|text| {
        let text = text.replace(&user_id(user), &user_id(other));
        // A first contact would end the other device's IKE SA.
        text.replace(&secret(user), &secret(other)).replace("unique = no", "unique = never")
    })?;
    charon.load()
}

fn spis(world: &World) -> Result<[String; 2]> {
    Ok(world.users[0].sas()?.first().context("end user 1 has no IKE SA")?.spis.clone())
}

fn address(world: &World, user: usize) -> Result<String> {
    Ok(world.flow(user)?.user.to_string())
}

/// Whether an address is in use, as a gateway's pools say; nothing if it is not known.
fn lease(world: &World, at: usize, address: &str) -> Result<Option<bool>> {
    let text = world.gateways[at].swanctl(&["--list-pools", "--leases"])?;
    let line = text.lines().find(|line| line.split_whitespace().any(|word| word == address));
    Ok(line.map(|line| line.contains("online")))
}
