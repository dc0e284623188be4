//! Sequence numbers at their limits, and replay windows of several sizes.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use gateway_plugin::xfrm::{Kernel, KernelSa};
use serde_json::{Value, json};

use super::crash::{Played, figures, outcome};
use crate::lab::{
    charon::config::{Child, Vpn},
    net::{GATEWAYS, Namespace, Net, Network},
    world::{Setup, World},
};

const RATE: u32 = 500;
const PATIENCE: Duration = Duration::from_secs(20);
/// How long traffic goes on after a move.
const AFTER: Duration = Duration::from_secs(2);
/// Packets that are lost and overtaken by the network alone.
const BAD_LINE: &str = "delay 6ms 2ms loss 1% reorder 10%";
/// How often a session moves over it.
const MOVES: u64 = 6;
/// Of both directions of a bad line, the most that may be lost.
const MOST_LOST: f64 = 0.06;

fn setup(esp: &str, window: u32) -> Setup {
    let child =
        Child { esp: esp.into(), more: format!("replay_window = {window}"), ..Child::plain() };
    Setup { vpn: Vpn { children: vec![child], ..Vpn::default() }, ..Setup::default() }
}

/// The outbound SA of a node.
fn outbound(node: &str) -> Result<KernelSa> {
    let sas = Namespace::of(node).enter(|| Ok(Kernel::open()?.sas()?.entries))?;
    let local = sas.iter().map(|sa| sa.counters.sequence).max().unwrap_or(0);
    // The one whose source has most recently sent, or, before, the newest outbound one.
    sas.into_iter()
        .filter(|sa| sa.counters.window.highest == 0)
        .find(|sa| sa.counters.sequence == local)
        .context("no outbound SA")
}

/// Goes on at this number, as if all before it had been sent.
fn go_on_at(node: &str, number: u64) -> Result<()> {
    let sa = outbound(node)?;
    let mut counters = sa.counters.clone();
    counters.sequence = number;
    Namespace::of(node).enter(|| {
        let mut kernel = Kernel::open()?;
        let results = kernel.set_counters(&[(sa.id, counters)]);
        results.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(())
    })
}

fn move_once(played: &mut Played) -> Result<String> {
    let said = outcome(&played.begin_transfer()?.join().ok().context("the thread")?);
    played.settle()?;
    if said == "moved" {
        played.world.report.moved += 1;
    }
    Ok(said)
}

fn end(mut world: World) -> Result<Value> {
    world.still_works(1)?;
    Ok(serde_json::to_value(world.finish()?)?)
}

/// A session that never sent a packet moves. Shortly before the last number it does
/// not, until its Child SA is rekeyed.
///
/// # Errors
/// What could not be done.
pub fn plain(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(setup("aes256gcm16", 32))?;
    let said = move_once(&mut played)?;
    ensure!(said == "moved", "at number 0: {said}");
    let traffic = played.traffic(1, RATE)?;
    let said = move_once(&mut played)?;
    ensure!(said == "moved", "with traffic: {said}");
    traffic.wait_for_packets(20, PATIENCE)?;
    played.world.stop_traffic(traffic)?;
    go_on_at(GATEWAYS[played.at], u64::from(u32::MAX) - 1000)?;
    let traffic = played.traffic(1, 50)?;
    let said = move_once(&mut played)?;
    ensure!(said.contains("no-sequence-room") && said.contains("rekey"), "near 2^32: {said}");
    played.world.report.more.insert("near_2_32".into(), json!(said));
    traffic.wait_for_packets(20, PATIENCE)?;
    played.world.users[0].rekey_child("net")?;
    let said = move_once(&mut played)?;
    ensure!(said == "moved", "after the rekey: {said}");
    traffic.wait_for_packets(20, PATIENCE)?;
    played.world.stop_traffic(traffic)?;
    end(played.world)
}

/// Both sides pass 2^32 while the session moves.
///
/// # Errors
/// What could not be done.
pub fn esn(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(setup("aes256gcm16-esn", 128))?;
    let boundary = 1_u64 << 32;
    // Far jumps in steps that a receiver takes for its own half of the numbers.
    for number in [boundary / 4, boundary / 2, boundary / 4 * 3, boundary - 400] {
        for node in [GATEWAYS[played.at].to_owned(), Net::user_name(1)] {
            go_on_at(&node, number)?;
        }
        let traffic = played.traffic(1, 50)?;
        traffic.wait_for_packets(3, PATIENCE)?;
        played.world.stop_traffic(traffic)?;
    }
    let traffic = played.traffic(1, RATE)?;
    for _ in 0..4 {
        let said = move_once(&mut played)?;
        ensure!(said == "moved", "around 2^32: {said}");
        traffic.wait_for_packets(100, PATIENCE)?;
    }
    traffic.run_for(AFTER);
    played.world.stop_traffic(traffic)?;
    let last = outbound(GATEWAYS[played.at])?.counters.sequence;
    ensure!(last > boundary, "the last number is {last}, below 2^32");
    played.world.report.more.insert("last_number".into(), json!(last));
    end(played.world)
}

/// Nothing more is lost than the line loses, and nothing comes twice.
///
/// # Errors
/// What could not be done.
pub fn loss(_: &[PathBuf]) -> Result<Value> {
    let mut played = Played::begin(setup("aes256gcm16", 2048))?;
    let user = Net::user_name(1);
    played.world.net.impair(&user, Network::Outer, BAD_LINE)?;
    let traffic = played.traffic(1, RATE)?;
    let mut moves = Vec::new();
    for _ in 0..MOVES {
        moves.push(move_once(&mut played)?);
        traffic.wait_for_packets(200, PATIENCE)?;
    }
    let tally = traffic.stop()?;
    played.world.net.impair(&user, Network::Outer, "delay 0ms")?;
    let traffic = played.traffic(1, RATE)?;
    traffic.run_for(AFTER);
    played.world.stop_traffic(traffic)?;
    let mut world = played.world;
    world.report.more.insert("moves".into(), json!(moves));
    world.report.more.insert("bad_line".into(), figures(&tally));
    world.still_works(1)?;
    let mut report = world.finish()?;
    report.expect(report.moved == MOVES, || format!("{moves:?}"));
    let share = tally.lost as f64 / tally.sent as f64;
    report.expect(share > 0.0 && share < MOST_LOST, || format!("{share:.3} was lost"));
    report.expect(tally.reordered > 0, || "the line reorders nothing".into());
    report.expect(tally.duplicated == 0, || format!("{} came twice", tally.duplicated));
    report.passed = report.failures.is_empty();
    Ok(serde_json::to_value(report)?)
}
