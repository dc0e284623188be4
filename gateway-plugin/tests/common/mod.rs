//! Two embedded gateways that know each other, and a move by plugin calls alone.

#![allow(dead_code, reason = "each test uses its own part")]

use std::time::{Duration, Instant};

use gateway_plugin::{
    Activate, GatewayPlugin, Pause, Release, Stage,
    embedded::{EmbeddedGateway, GatewayConfig},
};
use protocol_spec::{
    context::Context,
    id::{BatchId, Name, SessionEpoch, SessionId},
    limits::GRANT_SPAN,
    transfer::{Finals, GrantedRange},
};

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Gateways `gw-a` and `gw-b`.
pub(crate) fn pair(configure: impl Fn(&mut GatewayConfig)) -> (EmbeddedGateway, EmbeddedGateway) {
    let start = || {
        let mut config = GatewayConfig::default();
        configure(&mut config);
        EmbeddedGateway::start(config).unwrap()
    };
    let (a, b) = (start(), start());
    introduce(&a, &b);
    (a, b)
}

pub(crate) fn introduce(a: &EmbeddedGateway, b: &EmbeddedGateway) {
    a.set_neighbour(name("gw-b"), b.addresses().unwrap().relay);
    b.set_neighbour(name("gw-a"), a.addresses().unwrap().relay);
}

pub(crate) fn batch(n: u8) -> BatchId {
    BatchId([n; 16])
}

/// The grants for every Child SA of a context.
pub(crate) fn grants(context: &Context) -> Vec<GrantedRange> {
    let children = context.profile().children;
    children
        .iter()
        .map(|child| child.usage.grant(Duration::from_secs(1), GRANT_SPAN).unwrap())
        .collect()
}

/// Every result of an act, none of them refused.
pub(crate) fn all<T>(
    results: Vec<(SessionId, Result<T, protocol_spec::status::Refusal>)>,
) -> Vec<T> {
    results.into_iter().map(|(id, result)| result.unwrap_or_else(|e| panic!("{id}: {e}"))).collect()
}

/// Snapshot at the source, stage at the target.
pub(crate) fn stage(
    source: &mut dyn GatewayPlugin,
    target: &mut dyn GatewayPlugin,
    from: &str,
    ids: &[SessionId],
    epoch: u64,
) {
    let orders = all(source.snapshot(ids).unwrap())
        .into_iter()
        .map(|context| Stage {
            epoch: SessionEpoch(epoch),
            source: name(from),
            batch: batch(epoch as u8),
            grants: grants(&context),
            context,
        })
        .collect();
    all(target.stage(orders).unwrap());
}

pub(crate) fn pause(
    source: &mut dyn GatewayPlugin,
    to: &str,
    ids: &[SessionId],
) -> Vec<(SessionId, Finals)> {
    let orders =
        ids.iter().map(|id| Pause { session: *id, target: name(to), generation: None }).collect();
    let results = source.pause(orders).unwrap();
    results.into_iter().map(|(id, finals)| (id, finals.unwrap())).collect()
}

pub(crate) fn activate(
    target: &mut dyn GatewayPlugin,
    finals: Vec<(SessionId, Finals)>,
    epoch: u64,
) {
    let orders = finals
        .into_iter()
        .map(|(session, finals)| Activate { session, epoch: SessionEpoch(epoch), finals })
        .collect();
    all(target.activate(orders).unwrap());
}

pub(crate) fn release(source: &mut dyn GatewayPlugin, to: &str, ids: &[SessionId], epoch: u64) {
    let orders = ids
        .iter()
        .map(|id| Release { session: *id, epoch: SessionEpoch(epoch), target: name(to) })
        .collect();
    all(source.release(orders).unwrap());
}

/// A whole move. `between` is what happens between pause and activation.
pub(crate) fn transfer(
    source: &mut dyn GatewayPlugin,
    target: &mut dyn GatewayPlugin,
    (from, to): (&str, &str),
    ids: &[SessionId],
    epoch: u64,
    between: impl FnOnce(),
) {
    stage(source, target, from, ids, epoch);
    let finals = pause(source, to, ids);
    between();
    activate(target, finals, epoch);
    release(source, to, ids, epoch);
}

/// Waits until something is true, but not for ever.
#[expect(clippy::disallowed_methods, reason = "a test waits for real time")]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: waited too long");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
