//! Rekeys and liveness checks that cross a transfer: one begins at each of its steps, and
//! is on its way when the transfer goes on.

use std::{collections::BTreeMap, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    crash::{Played, outcome},
    steps::{Held, STEPS, Step, counted},
};
use crate::lab::{
    charon::{
        Charon, EXCHANGE,
        config::{CONNECTION, Vpn},
    },
    net::{Net, Network},
    world::Setup,
};

/// Packets per second each way.
const RATE: u32 = 250;
const PATIENCE: Duration = Duration::from_secs(20);
/// What a user sends takes this long, so that an exchange is still open when the transfer
/// goes on.
const FAR: &str = "delay 40ms";
/// Seconds of silence until somebody looks whether the other is there.
const SILENCE: u32 = 2;
/// What charon writes when it begins a rekey, and a liveness check.
const REKEY: &str = "generating CREATE_CHILD_SA request";
const DPD: &str = "sending DPD request";
/// How early a transfer begins before a liveness check is due, at first; and what is
/// added where that is not enough.
const LEAD: Duration = Duration::from_millis(700);
/// How often a liveness check is tried to be met at a step.
const TRIES: u32 = 4;

/// Who begins what.
#[derive(Clone, Copy)]
struct Crossing {
    kind: &'static str,
    by_gateway: bool,
    command: &'static [&'static str],
}

const CHILD: &[&str] = &["--rekey", "--child", "net"];
const IKE: &[&str] = &["--rekey", "--ike", CONNECTION];

const REKEYS: [Crossing; 4] = [
    Crossing { kind: "Child SA by the user", by_gateway: false, command: CHILD },
    Crossing { kind: "Child SA by the gateway", by_gateway: true, command: CHILD },
    Crossing { kind: "IKE SA by the user", by_gateway: false, command: IKE },
    Crossing { kind: "IKE SA by the gateway", by_gateway: true, command: IKE },
];

/// What came of all crossings.
#[derive(Default)]
struct Outcomes {
    rounds: Vec<Value>,
    tally: BTreeMap<&'static str, u64>,
    begun: BTreeMap<String, Vec<Step>>,
    failures: Vec<String>,
    moved: u64,
}

/// Rekeys of both kinds by either side. Nobody looks whether the other is there, which
/// would come first where a transfer is held for long.
///
/// # Errors
/// What could not be done.
pub fn rekeys(_: &[PathBuf]) -> Result<Value> {
    let mut played = begin(Vpn { dpd: 0, ..Vpn::default() })?;
    let mut outcomes = Outcomes::default();
    let traffic = played.traffic(1, RATE)?;
    for crossing in REKEYS {
        for step in STEPS {
            let place = format!("{}, {step:?}", crossing.kind);
            let said = rekey(&played, crossing, step).with_context(|| place.clone())?;
            outcomes.came_to(&mut played, crossing.kind, step, said)?;
            works(&played).with_context(|| place.clone())?;
            played.world.users[0].rekey_ike(CONNECTION).with_context(|| place.clone())?;
            traffic.wait_for_packets(20, PATIENCE).with_context(|| place)?;
        }
        played.world.users[0].rekey_child("net").context(crossing.kind)?;
    }
    played.world.stop_traffic(traffic)?;
    outcomes.report(played)
}

/// DPD by the user.
///
/// # Errors
/// What could not be done.
pub fn dpd_by_user(_: &[PathBuf]) -> Result<Value> {
    dpd(Vpn { dpd: SILENCE, ..Vpn::default() }, false)
}

/// DPD by the gateways.
///
/// # Errors
/// What could not be done.
pub fn dpd_by_gateway(_: &[PathBuf]) -> Result<Value> {
    let gateway_more = format!("dpd_delay = {SILENCE}s");
    dpd(Vpn { dpd: 0, gateway_more, ..Vpn::default() }, true)
}

fn dpd(vpn: Vpn, by_gateway: bool) -> Result<Value> {
    let mut played = begin(vpn)?;
    let mut outcomes = Outcomes::default();
    for step in STEPS {
        liveness(&mut played, by_gateway, step, &mut outcomes)?;
    }
    let traffic = played.traffic(1, RATE)?;
    traffic.wait_for_packets(200, PATIENCE)?;
    played.world.users[0].rekey_child("net")?;
    played.world.users[0].rekey_ike(CONNECTION)?;
    traffic.wait_for_packets(200, PATIENCE)?;
    played.world.stop_traffic(traffic)?;
    outcomes.report(played)
}

fn begin(vpn: Vpn) -> Result<Played> {
    let mut played = Played::begin(Setup { vpn, ..Setup::default() })?;
    let summary = played.begin_transfer()?.join().ok().context("the thread")?;
    ensure!(outcome(&summary) == "moved", "undisturbed: {}", outcome(&summary));
    played.settle()?;
    played.world.net.impair(&Net::user_name(1), Network::Outer, FAR)?;
    Ok(played)
}

/// Who begins at a step: the user, or the gateway that may speak for the session then.
fn beginner(played: &Played, by_gateway: bool, step: Step) -> &Charon {
    let owner = if step >= Step::Taken { 1 - played.at } else { played.at };
    if by_gateway { &played.world.gateways[owner] } else { &played.world.users[0] }
}

/// Begins a rekey at a step and says how the transfer ended.
fn rekey(played: &Played, crossing: Crossing, step: Step) -> Result<String> {
    let charon = beginner(played, crossing.by_gateway, step);
    let held = Held::at(played, step)?;
    let from = charon.said()?.len();
    charon.swanctl(crossing.command)?;
    charon.wait_for_line(from, REKEY, EXCHANGE).context("it does not begin")?;
    held.let_go(played)?;
    Ok(outcome(&held.end()?))
}

/// Meets a liveness check at a step.
fn liveness(
    played: &mut Played,
    by_gateway: bool,
    step: Step,
    outcomes: &mut Outcomes,
) -> Result<()> {
    let kind = if by_gateway { "DPD by the gateway" } else { "DPD by the user" };
    let silence = Duration::from_secs(SILENCE.into());
    for lead in (1..=TRIES).map(|tries| LEAD * tries) {
        let source =
            if by_gateway { &played.world.gateways[played.at] } else { &played.world.users[0] };
        source.liveness(silence).with_context(|| format!("before {kind}, {step:?}"))?;
        // The next one begins when the transfer is this far.
        thread::sleep(silence.saturating_sub(lead));
        let charon = beginner(played, by_gateway, step);
        let from = charon.said()?.len();
        let held = Held::at(played, step)?;
        let early = charon.said()?.get(from..).is_some_and(|said| said.contains(DPD));
        if !early {
            charon.wait_for_line(from, DPD, silence * 2).with_context(|| format!("{step:?}"))?;
        }
        held.let_go(played)?;
        let said = outcome(&held.end()?);
        if early {
            // It crossed an earlier step.
            outcomes.judge(played, &format!("{kind}, before {step:?}"), &said)?;
            continue;
        }
        return outcomes.came_to(played, kind, step, said);
    }
    bail!("{kind} was always sent before {step:?}")
}

impl Outcomes {
    /// One crossing, which was seen to begin at its step.
    fn came_to(
        &mut self,
        played: &mut Played,
        kind: &'static str,
        step: Step,
        said: String,
    ) -> Result<()> {
        let place = format!("{kind}, {step:?}");
        self.begun.entry(kind.to_owned()).or_default().push(step);
        self.judge(played, &place, &said)?;
        self.rounds.push(json!({ "crossing": place, "outcome": said }));
        Ok(())
    }

    /// It moved, or was told at once that it cannot now; then it can a moment later.
    fn judge(&mut self, played: &mut Played, place: &str, said: &str) -> Result<()> {
        let owner = played.settle().with_context(|| format!("{place}: {said}"))?;
        ensure!(owner.starts_with("active"), "{place}: {said}, then {owner}");
        let key = if said == "moved" {
            self.moved += 1;
            "moved"
        } else if ["busy", "generation-changed"].iter().any(|why| said.contains(why)) {
            works(played).with_context(|| place.to_owned())?;
            let again = outcome(&played.begin_transfer()?.join().ok().context("the thread")?);
            played.settle().with_context(|| format!("{place}: {said}, then {again}"))?;
            if again == "moved" {
                self.moved += 1;
            } else {
                self.failures.push(format!("{place}: {said}, then {again}"));
            }
            "tried again"
        } else {
            self.failures.push(format!("{place}: {said}"));
            "otherwise"
        };
        *self.tally.entry(key).or_default() += 1;
        Ok(())
    }

    fn report(mut self, played: Played) -> Result<Value> {
        let Played { mut world, .. } = played;
        let mut begun = BTreeMap::new();
        for (kind, steps) in &self.begun {
            let (counts, missing) = counted(steps);
            let never = missing.iter().map(|step| format!("{kind} never began at {step:?}"));
            self.failures.extend(never);
            begun.insert(kind.clone(), counts);
        }
        world.report.moved = self.moved;
        let more =
            [("tally", json!(self.tally)), ("begun", json!(begun)), ("rounds", json!(self.rounds))];
        world.report.more.extend(more.map(|(name, value)| (name.to_owned(), value)));
        let mut report = world.finish()?;
        report.failures.extend(self.failures);
        report.passed = report.failures.is_empty();
        Ok(serde_json::to_value(report)?)
    }
}

/// One IKE SA with one Child SA at the user.
fn works(played: &Played) -> Result<()> {
    let user = &played.world.users[0];
    user.wait_for_sas("one IKE SA with its Child SA", |sas| match sas {
        [sa] if sa.established() => sa.child("net").map(drop),
        _ => None,
    })
}
