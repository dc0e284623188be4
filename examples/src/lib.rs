//! What the examples share. Read `examples/predictive_transfer.rs` first.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use cxtp::engine::{GatewayCommand, GatewayReply, Moment};
use gateway_plugin::{
    Activate, Discard, Extend, Fault, GatewayPlugin, Pause, PerSession, Release, Resume, Stage,
};
use protocol_spec::{
    id::{SessionEpoch, SessionId},
    status::Refusal,
};

/// The time, as an engine wants to be told it.
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    #[expect(clippy::disallowed_methods, reason = "an example drives its engines itself")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time now.
    #[expect(clippy::disallowed_methods, reason = "an example drives its engines itself")]
    pub fn now(&self) -> Moment {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Moment { monotonic: self.0.elapsed(), unix: unix.map_or(0, |since| since.as_secs()) }
    }
}

/// Looks again and again until something is so; says whether it came to that in
/// ten seconds.
pub fn wait_until(mut so: impl FnMut() -> bool) -> bool {
    let clock = Clock::start();
    while clock.now().monotonic < Duration::from_secs(10) {
        if so() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    false
}

/// Does on a gateway what an engine wants of it, and brings back what the engine
/// waits for.
///
/// # Errors
/// [`Fault`] if the gateway cannot be asked.
pub fn act(
    gateway: &mut dyn GatewayPlugin,
    command: GatewayCommand,
) -> Result<Option<GatewayReply>, Fault> {
    use GatewayCommand as Do;
    use GatewayReply as Did;
    Ok(Some(match command {
        Do::List => Did::Listed(gateway.list()?),
        Do::Snapshot(sessions) => Did::Snapshots(gateway.snapshot(&sessions)?),
        Do::Admit(request, profiles) => Did::Admitted(request, gateway.admit(&profiles)?),
        Do::Stage(orders) => {
            let epochs = orders.iter().map(|order| (order.context.session, order.epoch)).collect();
            let orders = orders.into_iter().map(|order| Stage {
                epoch: order.epoch,
                source: order.source,
                batch: order.batch,
                grants: order.grants,
                context: order.context,
            });
            Did::Staged(with_epochs(&epochs, gateway.stage(orders.collect())?))
        }
        Do::Pause(orders) => {
            let order = |(session, target, generation)| Pause { session, target, generation };
            Did::Paused(gateway.pause(orders.into_iter().map(order).collect())?)
        }
        Do::Resume(orders) => {
            let order = |(session, epoch, from)| Resume { session, epoch, from };
            Did::Resumed(gateway.resume(orders.into_iter().map(order).collect())?)
        }
        Do::Activate(orders) => {
            let epochs = orders.iter().map(|(session, epoch, _)| (*session, *epoch)).collect();
            let order = |(session, epoch, finals)| Activate { session, epoch, finals };
            let results = gateway.activate(orders.into_iter().map(order).collect())?;
            Did::Activated(with_epochs(&epochs, results))
        }
        Do::Release(orders) => {
            let order = |(session, epoch, target)| Release { session, epoch, target };
            Did::Released(gateway.release(orders.into_iter().map(order).collect())?)
        }
        Do::Discard(orders) => {
            let epochs = orders.iter().copied().collect();
            let order = |(session, epoch)| Discard { session, epoch };
            let results = gateway.discard(orders.into_iter().map(order).collect())?;
            Did::Discarded(with_epochs(&epochs, results))
        }
        Do::Extend(orders) => {
            let order = |(session, epoch, ends)| Extend { session, epoch, ends };
            gateway.extend(orders.into_iter().map(order).collect())?;
            // Nobody waits for that.
            return Ok(None);
        }
    }))
}

fn with_epochs<T>(
    epochs: &BTreeMap<SessionId, SessionEpoch>,
    results: PerSession<T>,
) -> Vec<(SessionId, SessionEpoch, Result<T, Refusal>)> {
    let epoch = |id| epochs.get(&id).copied().unwrap_or_default();
    results.into_iter().map(|(id, result)| (id, epoch(id), result)).collect()
}
