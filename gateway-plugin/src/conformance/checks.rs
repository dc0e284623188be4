//! The checks, in the order of a session's life.

use std::time::Duration;

use protocol_spec::{
    context::Protocol,
    id::{Generation, SessionEpoch, SessionId},
    status::Status,
    transfer::{Finals, SessionState},
};

use super::{Finding, HEADROOM, ONE, Side, Suite, done, holds, refused, refused_as, same};
use crate::plugin::{Activate, Discard, Extend, GatewayEvent, Pause, Release, Resume, Stage};
use Side::{Source, Target};

type Check = fn(&mut Suite<'_>) -> Finding;

pub(super) const ALL: &[(&str, Check)] = &[
    ("capabilities are stated", capabilities),
    ("a new session is listed and carries packets", a_new_session),
    ("a snapshot touches nothing", snapshot_touches_nothing),
    ("unknown sessions are refused by name, the others go on", unknown_sessions),
    ("admission changes nothing", admission_changes_nothing),
    ("what cannot be staged is refused and touches nothing", stage_refusals),
    ("staging can be repeated and is not use", staging),
    ("finals are stable and a paused session is silent", pausing),
    ("a resumed session goes on as if nothing had happened", resuming),
    ("an activated session uses granted numbers and the old window", activating),
    ("activation wants the staged epoch and fitting finals", activation_refusals),
    ("a grant ends where it ends", grants),
    ("a discarded session is gone, an active one is not discarded", discarding),
    ("a released session is forgotten and may come back", releasing),
    ("older epochs are refused", stale_epochs),
    ("changes are told", events),
];

fn pause(suite: &mut Suite<'_>, session: SessionId) -> Result<Finals, String> {
    let target = suite.harness.name(Target);
    done("pause", suite.at(Source).pause(vec![Pause { session, target, generation: None }]))
}

fn resume(session: SessionId, epoch: SessionEpoch) -> Vec<Resume> {
    vec![Resume { session, epoch, from: Vec::new() }]
}

fn activate(session: SessionId, epoch: SessionEpoch, finals: &Finals) -> Vec<Activate> {
    vec![Activate { session, epoch, finals: finals.clone() }]
}

fn discard(session: SessionId, epoch: SessionEpoch) -> Vec<Discard> {
    vec![Discard { session, epoch }]
}

fn release(suite: &Suite<'_>, session: SessionId, epoch: SessionEpoch) -> Vec<Release> {
    vec![Release { session, epoch, target: suite.harness.name(Target) }]
}

/// Stages a new session at the target under epoch 1.
fn staged(suite: &mut Suite<'_>, span: u64) -> Result<SessionId, String> {
    let session = suite.harness.provision()?;
    suite.harness.pass(Source, session, 3)?;
    let order = suite.order(session, 1, span)?;
    done("stage", suite.at(Target).stage(vec![order]))?;
    Ok(session)
}

/// Moves a new session to the target under epoch 1; the source keeps it paused.
fn moved(suite: &mut Suite<'_>, span: u64) -> Result<(SessionId, Finals), String> {
    let session = staged(suite, span)?;
    let finals = pause(suite, session)?;
    done("activate", suite.at(Target).activate(activate(session, ONE, &finals)))?;
    Ok((session, finals))
}

/// How long the next event is waited for, once enough were told or before.
fn patience(enough: bool) -> Duration {
    if enough { Duration::from_millis(200) } else { Duration::from_secs(3) }
}

fn capabilities(suite: &mut Suite<'_>) -> Finding {
    for side in [Source, Target] {
        let capabilities = suite.at(side).capabilities().map_err(|fault| fault.to_string())?;
        holds("there is room for a session", capabilities.max_sessions > 0)?;
        holds("there is a Child SA transform", !capabilities.child_transforms.is_empty())?;
        holds("windows of 32 packets are possible", capabilities.max_replay_window >= 32)?;
    }
    Ok(())
}

fn a_new_session(suite: &mut Suite<'_>) -> Finding {
    let session = suite.harness.provision()?;
    suite.expect(Source, session, 0, "active")?;
    let passed = suite.harness.pass(Source, session, 5)?;
    same("packets delivered", passed.delivered, 5)?;
    holds("numbers rise", passed.numbers.len() >= 5 && passed.numbers.is_sorted())
}

fn snapshot_touches_nothing(suite: &mut Suite<'_>) -> Finding {
    let session = suite.harness.provision()?;
    suite.harness.pass(Source, session, 3)?;
    let first = suite.context(session)?;
    let second = suite.context(session)?;
    same("the session", (first.session, second.session), (session, session))?;
    same("the generation", first.generation, second.generation)?;
    let windows = |context: &protocol_spec::context::Context| -> Vec<_> {
        let of =
            |c: &protocol_spec::context::ChildSa| (c.inbound.window.clone(), c.outbound.sequence);
        context.children.iter().map(of).collect()
    };
    same("the counters", windows(&first), windows(&second))?;
    holds("counters were read", first.children.iter().any(|c| c.outbound.sequence >= 3))?;
    let capabilities = suite.at(Source).capabilities().map_err(|fault| fault.to_string())?;
    let lacking = first.features().without(capabilities.features);
    holds("it needs nothing that its own gateway cannot carry", lacking.is_empty())?;
    suite.expect(Source, session, 0, "active")?;
    same("packets delivered", suite.harness.pass(Source, session, 3)?.delivered, 3)
}

fn unknown_sessions(suite: &mut Suite<'_>) -> Finding {
    let known = suite.harness.provision()?;
    let unknown = SessionId([0xee; 16]);
    let finals = Finals { generation: Generation(1), ike: None, children: Vec::new() };
    let both = suite.at(Source).snapshot(&[unknown, known]).map_err(|fault| fault.to_string())?;
    same("results", both.len(), 2)?;
    for (session, result) in both {
        same("only the unknown one is refused", result.is_err(), session == unknown)?;
    }
    let target = suite.harness.name(Target);
    let gateway = suite.at(Source);
    refused_as("snapshot", gateway.snapshot(&[unknown]), Status::NoSession)?;
    let order = Pause { session: unknown, target, generation: None };
    refused_as("pause", gateway.pause(vec![order]), Status::NoSession)?;
    refused_as("resume", gateway.resume(resume(unknown, ONE)), Status::NoSession)?;
    let order = activate(unknown, ONE, &finals);
    refused_as("activate", gateway.activate(order), Status::NoSession)?;
    let order = Extend { session: unknown, epoch: ONE, ends: Vec::new() };
    refused_as("extend", gateway.extend(vec![order]), Status::NoSession)?;
    done("discard of an unknown session", gateway.discard(discard(unknown, ONE)))?;
    let order = release(suite, unknown, ONE);
    done("release of an unknown session", suite.at(Source).release(order))
}

fn admission_changes_nothing(suite: &mut Suite<'_>) -> Finding {
    let session = suite.harness.provision()?;
    let profile = suite.context(session)?.profile();
    done("admit", suite.at(Target).admit(std::slice::from_ref(&profile)))?;
    suite.expect(Target, session, 0, "absent")?;
    // Under another id its SPIs and addresses are somebody else's at the source.
    let stranger = protocol_spec::profile::Profile { session: SessionId([0xdd; 16]), ..profile };
    let refusal = refused("admit of used SPIs", suite.at(Source).admit(&[stranger]))?;
    let collisions = [Status::SpiCollision, Status::AddressCollision];
    holds("the reason is a collision", collisions.contains(&refusal.status))
}

/// What is spoilt in an order, how it is to be refused, and the spoiling.
type Spoil = (&'static str, Status, fn(&mut Stage));

fn stage_refusals(suite: &mut Suite<'_>) -> Finding {
    let session = suite.harness.provision()?;
    let before = suite.list(Target)?.len();
    let spoil: [Spoil; 4] = [
        ("an unknown transform", Status::NoTransform, |order| {
            order.context.children.iter_mut().for_each(|c| c.transforms.encryption = 0xfff0);
        }),
        ("a protocol that it cannot speak", Status::NoFeature, |order| {
            order.context.children.iter_mut().for_each(|c| c.protocol = Protocol::Ah);
        }),
        ("hooks that would be lost", Status::SideEffects, |order| {
            if let Some(ike) = &mut order.context.ike {
                ike.side_effects.hooks = true;
            }
        }),
        ("no granted range", Status::NoSequenceRoom, |order| order.grants.clear()),
    ];
    for (what, status, spoil) in spoil {
        let mut order = suite.order(session, 1, 1 << 24)?;
        if status == Status::SideEffects && order.context.ike.is_none() {
            continue;
        }
        spoil(&mut order);
        refused_as(&format!("stage with {what}"), suite.at(Target).stage(vec![order]), status)?;
    }
    let mut order = suite.order(session, 1, 1 << 24)?;
    order.grants.iter_mut().for_each(|grant| grant.base = 0);
    refused("stage with numbers that were used", suite.at(Target).stage(vec![order]))?;
    same("sessions at the target", suite.list(Target)?.len(), before)?;

    let order = suite.order(session, 1, 1 << 24)?;
    refused("stage of a session that is active here", suite.at(Source).stage(vec![order]))?;
    let mut order = suite.order(session, 1, 1 << 24)?;
    order.context.session = SessionId([0xdd; 16]);
    refused("stage with SPIs that are in use", suite.at(Source).stage(vec![order]))?;
    suite.expect(Source, session, 0, "active")?;
    same("packets delivered", suite.harness.pass(Source, session, 3)?.delivered, 3)?;

    let order = suite.order(session, 1, 1 << 24)?;
    let generation = order.context.generation;
    let staged = done("stage after the refusals", suite.at(Target).stage(vec![order]))?;
    same("the staged generation", staged, generation)
}

fn staging(suite: &mut Suite<'_>) -> Finding {
    let session = suite.harness.provision()?;
    let order = suite.order(session, 2, 1 << 24)?;
    let (source, batch) = (order.source.clone(), order.batch);
    let first = done("stage", suite.at(Target).stage(vec![order]))?;
    let state = suite.status(Target, session)?.map(|status| status.state);
    same("the listed state", state, Some(SessionState::Staged { source, batch }))?;
    let again = suite.order(session, 2, 1 << 24)?;
    same("the answer again", done("stage", suite.at(Target).stage(vec![again]))?, first)?;
    suite.expect(Target, session, 2, "staged")?;
    let older = suite.order(session, 1, 1 << 24)?;
    refused_as("stage again", suite.at(Target).stage(vec![older]), Status::StaleEpoch)?;
    let newer = suite.order(session, 3, 1 << 24)?;
    done("stage under a newer epoch", suite.at(Target).stage(vec![newer]))?;
    suite.expect(Target, session, 3, "staged")?;

    refused("snapshot of a staged session", suite.at(Target).snapshot(&[session]))?;
    let target = suite.harness.name(Source);
    let order = vec![Pause { session, target, generation: None }];
    refused("pause of a staged session", suite.at(Target).pause(order))?;
    let order = resume(session, SessionEpoch(3));
    refused("resume of a staged session", suite.at(Target).resume(order))?;
    let order = release(suite, session, SessionEpoch(3));
    refused("release of a staged session", suite.at(Target).release(order))?;

    same("packets out while staged", suite.harness.pass(Target, session, 3)?.numbers, vec![])?;
    same("packets delivered", suite.harness.pass(Source, session, 3)?.delivered, 3)?;
    done("discard", suite.at(Target).discard(discard(session, SessionEpoch(3))))
}

fn pausing(suite: &mut Suite<'_>) -> Finding {
    let session = staged(suite, 1 << 24)?;
    let last = suite.harness.pass(Source, session, 4)?.numbers.last().copied();
    let finals = pause(suite, session)?;
    let highest = finals.children.iter().map(|child| child.sequence).max();
    same("the highest number used", highest, last)?;
    suite.expect(Source, session, 0, "paused")?;
    same("packets out while paused", suite.harness.pass(Source, session, 3)?.numbers, vec![])?;
    same("the finals again", pause(suite, session)?, finals.clone())?;
    let context = suite.context(session)?;
    same("the generation of a snapshot", context.generation, finals.generation)?;
    let sequences: Vec<_> = context.children.iter().map(|c| c.outbound.sequence).collect();
    let last: Vec<_> = finals.children.iter().map(|c| c.sequence).collect();
    same("the numbers of a snapshot", sequences, last)?;
    same("the finals after it", pause(suite, session)?, finals)
}

fn resuming(suite: &mut Suite<'_>) -> Finding {
    let session = suite.harness.provision()?;
    let before = suite.harness.pass(Source, session, 3)?.numbers;
    let finals = pause(suite, session)?;
    done("resume", suite.at(Source).resume(resume(session, ONE)))?;
    suite.expect(Source, session, 1, "active")?;
    done("resume again", suite.at(Source).resume(resume(session, ONE)))?;
    let after = suite.harness.pass(Source, session, 3)?;
    same("packets delivered", after.delivered, 3)?;
    let all: Vec<_> = before.into_iter().chain(after.numbers).collect();
    holds("numbers rise without repetition", all.windows(2).all(|two| two[0] < two[1]))?;

    pause(suite, session)?;
    let first = 1 << 20;
    let from = finals.children.iter().map(|child| (child.sa, first)).collect();
    let order = Resume { session, epoch: SessionEpoch(2), from };
    done("resume above the other's numbers", suite.at(Source).resume(vec![order]))?;
    let numbers = suite.harness.pass(Source, session, 3)?.numbers;
    holds(
        "numbers are above the other's",
        numbers.len() >= 3 && numbers.iter().all(|n| *n >= first),
    )
}

fn activating(suite: &mut Suite<'_>) -> Finding {
    let (session, finals) = moved(suite, 1 << 24)?;
    suite.expect(Target, session, 1, "active")?;
    done("activate again", suite.at(Target).activate(activate(session, ONE, &finals)))?;
    let same_packet = suite.harness.replay(Target, session)?;
    holds("a packet that the source had is refused", !same_packet)?;
    let passed = suite.harness.pass(Target, session, 4)?;
    same("packets delivered", passed.delivered, 4)?;
    let base = finals.children.iter().map(|c| c.sequence).min().unwrap_or(0) + HEADROOM;
    let high = passed.numbers.iter().all(|number| *number >= base.saturating_sub(HEADROOM / 2));
    holds("only granted numbers are used", passed.numbers.len() >= 4 && high)?;
    holds("a packet of its own is refused again", !suite.harness.replay(Target, session)?)?;
    same("packets out at the source", suite.harness.pass(Source, session, 2)?.numbers, vec![])
}

fn activation_refusals(suite: &mut Suite<'_>) -> Finding {
    let session = staged(suite, 1 << 24)?;
    let finals = pause(suite, session)?;
    let newer = activate(session, SessionEpoch(2), &finals);
    refused("activate under an epoch that is not staged", suite.at(Target).activate(newer))?;
    let generation = finals.generation.next();
    let changed = activate(session, ONE, &Finals { generation, ..finals.clone() });
    let answer = suite.at(Target).activate(changed);
    refused_as("activate of another generation", answer, Status::GenerationChanged)?;
    let mut beyond = finals.clone();
    beyond.children.iter_mut().for_each(|child| child.sequence += 2 * HEADROOM);
    let answer = suite.at(Target).activate(activate(session, ONE, &beyond));
    refused("activate after the source used granted numbers", answer)?;
    let none = Finals { children: Vec::new(), ..finals.clone() };
    refused("activate without counters", suite.at(Target).activate(activate(session, ONE, &none)))?;
    suite.expect(Target, session, 1, "staged")?;
    done("activate", suite.at(Target).activate(activate(session, ONE, &finals)))
}

fn grants(suite: &mut Suite<'_>) -> Finding {
    let span = 5;
    let told = suite.harness.events(Target).map_err(|fault| fault.to_string())?;
    let (session, finals) = moved(suite, span)?;
    let used = suite.harness.pass(Target, session, 20)?.numbers;
    holds("numbers are used", !used.is_empty())?;
    holds("no more than were granted", used.len() as u64 <= span)?;
    let mut exhausted = 0;
    while let Some(event) = told.next(patience(exhausted > 0)) {
        exhausted += u32::from(event == GatewayEvent::GrantExhausted { session });
    }
    same("times that the end was told", exhausted, 1)?;
    let end = used.last().map_or(0, |last| last + 1);
    let extend = |end: u64, epoch| {
        let ends = finals.children.iter().map(|child| (child.sa, end)).collect();
        vec![Extend { session, epoch, ends }]
    };
    done("extend downwards", suite.at(Target).extend(extend(1, ONE)))?;
    same("numbers after that", suite.harness.pass(Target, session, 2)?.numbers, vec![])?;
    let older = suite.at(Target).extend(extend(end + 1000, SessionEpoch(0)));
    refused_as("extend by an older owner", older, Status::StaleEpoch)?;
    done("extend", suite.at(Target).extend(extend(end + 1000, ONE)))?;
    done("extend again", suite.at(Target).extend(extend(end + 1000, ONE)))?;
    let numbers = suite.harness.pass(Target, session, 2)?.numbers;
    holds("it goes on with the next number", numbers.first().is_some_and(|n| *n >= end))
}

fn discarding(suite: &mut Suite<'_>) -> Finding {
    let session = staged(suite, 1 << 24)?;
    let answer = suite.at(Target).discard(discard(session, SessionEpoch(0)));
    refused_as("discard by an older owner", answer, Status::StaleEpoch)?;
    done("discard", suite.at(Target).discard(discard(session, ONE)))?;
    suite.expect(Target, session, 0, "absent")?;
    done("discard again", suite.at(Target).discard(discard(session, ONE)))?;
    let finals = pause(suite, session)?;
    let answer = suite.at(Target).activate(activate(session, ONE, &finals));
    refused_as("activate after a discard", answer, Status::NoSession)?;
    done("resume", suite.at(Source).resume(resume(session, ONE)))?;
    same("packets delivered", suite.harness.pass(Source, session, 3)?.delivered, 3)?;

    let order = suite.order(session, 2, 1 << 24)?;
    done("stage after a discard", suite.at(Target).stage(vec![order]))?;
    let finals = pause(suite, session)?;
    let order = activate(session, SessionEpoch(2), &finals);
    done("activate", suite.at(Target).activate(order))?;
    let answer = suite.at(Target).discard(discard(session, SessionEpoch(2)));
    refused("discard of an active session", answer)?;
    suite.expect(Target, session, 2, "active")
}

fn releasing(suite: &mut Suite<'_>) -> Finding {
    let (session, finals) = moved(suite, 1 << 24)?;
    let order = release(suite, session, ONE);
    refused("release of an active session", suite.at(Target).release(order.clone()))?;
    done("release", suite.at(Source).release(order.clone()))?;
    done("release again", suite.at(Source).release(order))?;
    suite.expect(Source, session, 0, "absent")?;
    let gone = suite.at(Source).snapshot(&[session]);
    refused_as("snapshot after a release", gone, Status::NoSession)?;
    let answer = suite.at(Source).resume(resume(session, SessionEpoch(2)));
    refused("resume after a release", answer)?;
    same("packets delivered", suite.harness.pass(Target, session, 3)?.delivered, 3)?;

    // And back, as a move from the target to the source.
    let context = done("snapshot", suite.at(Target).snapshot(&[session]))?;
    let back = |epoch: u64, context, suite: &Suite<'_>| {
        let range = |child: &protocol_spec::transfer::ChildFinals| {
            let base = child.sequence + 4 * HEADROOM;
            protocol_spec::transfer::GrantedRange { sa: child.sa, base, end: base + (1 << 24) }
        };
        Stage {
            epoch: SessionEpoch(epoch),
            source: suite.harness.name(Target),
            batch: protocol_spec::id::BatchId([0xbb; 16]),
            grants: finals.children.iter().map(range).collect(),
            context,
        }
    };
    let order = back(1, context, suite);
    let answer = suite.at(Source).stage(vec![order]);
    refused_as("stage under the epoch that left", answer, Status::StaleEpoch)?;
    let context = done("snapshot", suite.at(Target).snapshot(&[session]))?;
    let order = back(2, context, suite);
    done("stage under the next epoch", suite.at(Source).stage(vec![order]))?;
    suite.expect(Source, session, 2, "staged")
}

fn stale_epochs(suite: &mut Suite<'_>) -> Finding {
    let session = suite.harness.provision()?;
    let five = SessionEpoch(5);
    let finals = pause(suite, session)?;
    done("resume", suite.at(Source).resume(resume(session, five)))?;
    let four = SessionEpoch(4);
    let stale = Status::StaleEpoch;
    let order = release(suite, session, four);
    let source = suite.at(Source);
    refused_as("resume", source.resume(resume(session, four)), stale)?;
    refused_as("activate", source.activate(activate(session, four, &finals)), stale)?;
    refused_as("discard", source.discard(discard(session, four)), stale)?;
    refused_as("release", source.release(order), stale)?;
    let order = Extend { session, epoch: four, ends: Vec::new() };
    refused_as("extend", source.extend(vec![order]), stale)?;
    suite.expect(Source, session, 5, "active")?;
    same("packets delivered", suite.harness.pass(Source, session, 2)?.delivered, 2)
}

fn events(suite: &mut Suite<'_>) -> Finding {
    let told = suite.harness.events(Source).map_err(|fault| fault.to_string())?;
    let session = suite.harness.provision()?;
    let before = suite.context(session)?.generation;
    suite.harness.rekey(Source, session)?;
    let after = suite.context(session)?.generation;
    holds("a rekey counts the generation up", after > before)?;
    let (mut up, mut changed) = (false, None);
    while let Some(event) = told.next(patience(up && changed == Some(after))) {
        match event {
            GatewayEvent::Up(status) => up |= status.session == session,
            GatewayEvent::Changed { session: of, generation } if of == session => {
                changed = Some(generation);
            }
            _ => {}
        }
    }
    holds("that a session came up was told", up)?;
    same("the generation that was told", changed, Some(after))
}
