//! One command as one call of the plugin, and its results as the engine hears
//! them: for each session that was asked about exactly one.

use std::collections::HashMap;

use gateway_plugin::{
    Activate, Discard, Extend, Fault, GatewayPlugin, Pause, PerSession, Release, Resume, Stage,
};
use protocol_spec::{
    context::Context,
    id::{Name, SessionId},
    profile::Profile,
    status::{Refusal, Status},
};

use crate::engine::{GatewayCommand, GatewayReply};

/// Carries a command out. It is whole afterwards, so that it can be done again
/// or refused; except that contexts to be staged are gone with the call.
pub(super) fn perform(
    plugin: &mut dyn GatewayPlugin,
    command: &mut GatewayCommand,
) -> Result<Vec<GatewayReply>, Fault> {
    Ok(vec![match command {
        GatewayCommand::List => GatewayReply::Listed(plugin.list()?),
        GatewayCommand::Snapshot(sessions) => {
            let taken = plugin.snapshot(sessions)?;
            GatewayReply::Snapshots(plain(settle(with_nothing(sessions), taken)))
        }
        GatewayCommand::Admit(request, profiles) => {
            let asked = profiles.iter().map(|profile| (profile.session, ())).collect();
            let admitted = plugin.admit(profiles)?;
            GatewayReply::Admitted(*request, plain(settle(asked, admitted)))
        }
        GatewayCommand::Stage(orders) => return stage(plugin, orders),
        GatewayCommand::Pause(orders) => {
            let asked = orders.iter().map(|(session, ..)| (*session, ())).collect();
            let order = |(session, target, generation): &(_, Name, _)| Pause {
                session: *session,
                target: target.clone(),
                generation: *generation,
            };
            let orders = orders.iter().map(order).collect();
            GatewayReply::Paused(plain(settle(asked, plugin.pause(orders)?)))
        }
        GatewayCommand::Resume(orders) => {
            let asked = orders.iter().map(|(session, ..)| (*session, ())).collect();
            let orders = orders
                .iter()
                .map(|(session, epoch, from)| Resume {
                    session: *session,
                    epoch: *epoch,
                    from: from.clone(),
                })
                .collect();
            GatewayReply::Resumed(plain(settle(asked, plugin.resume(orders)?)))
        }
        GatewayCommand::Activate(orders) => {
            let asked = orders.iter().map(|(session, epoch, _)| (*session, *epoch)).collect();
            let orders = orders
                .iter()
                .map(|(session, epoch, finals)| Activate {
                    session: *session,
                    epoch: *epoch,
                    finals: finals.clone(),
                })
                .collect();
            GatewayReply::Activated(settle(asked, plugin.activate(orders)?))
        }
        GatewayCommand::Release(orders) => {
            let asked = orders.iter().map(|(session, ..)| (*session, ())).collect();
            let orders = orders
                .iter()
                .map(|(session, epoch, target)| Release {
                    session: *session,
                    epoch: *epoch,
                    target: target.clone(),
                })
                .collect();
            GatewayReply::Released(plain(settle(asked, plugin.release(orders)?)))
        }
        GatewayCommand::Discard(orders) => {
            let asked = orders.iter().copied().collect();
            let orders = orders
                .iter()
                .map(|(session, epoch)| Discard { session: *session, epoch: *epoch })
                .collect();
            GatewayReply::Discarded(settle(asked, plugin.discard(orders)?))
        }
        GatewayCommand::Extend(orders) => {
            let orders = orders
                .iter()
                .map(|(session, epoch, ends)| Extend {
                    session: *session,
                    epoch: *epoch,
                    ends: ends.clone(),
                })
                .collect();
            for (session, result) in plugin.extend(orders)? {
                if let Err(refusal) = result {
                    tracing::debug!(%session, %refusal, "a granted range was not extended");
                }
            }
            return Ok(Vec::new());
        }
    }])
}

/// Contexts cannot be copied, so a failed call is answered here: nothing may be
/// assumed, and what may be staged is discarded.
fn stage(
    plugin: &mut dyn GatewayPlugin,
    orders: &mut Vec<crate::engine::StageOrder>,
) -> Result<Vec<GatewayReply>, Fault> {
    let asked: HashMap<_, _> =
        orders.iter().map(|order| (order.context.session, order.epoch)).collect();
    let staged = plugin.stage(
        orders
            .drain(..)
            .map(|order| Stage {
                epoch: order.epoch,
                source: order.source,
                batch: order.batch,
                grants: order.grants,
                context: order.context,
            })
            .collect(),
    );
    match staged {
        Ok(staged) => Ok(vec![GatewayReply::Staged(settle(asked, staged))]),
        Err(fault @ Fault::Lost(_)) => Err(fault),
        Err(Fault::Unreachable(why)) => {
            let discard =
                asked.iter().map(|(session, epoch)| Discard { session: *session, epoch: *epoch });
            // If this fails as well, the engine has it done again.
            let discarded = plugin.discard(discard.collect()).unwrap_or_else(|fault| {
                tracing::warn!(%fault, "what was being staged could not be discarded");
                Vec::new()
            });
            let refusal = Refusal::new(Status::GatewayFault, why);
            let staged = asked.iter();
            let staged = staged.map(|(session, epoch)| (*session, *epoch, Err(refusal.clone())));
            let staged = GatewayReply::Staged(staged.collect());
            Ok(vec![staged, GatewayReply::Discarded(settle(asked, discarded))])
        }
    }
}

/// A session's profile from its snapshot; the keys end here.
pub(super) fn profile(
    session: SessionId,
    taken: Result<PerSession<Context>, Fault>,
) -> (Result<Profile, Refusal>, Option<Fault>) {
    match taken {
        Ok(taken) => {
            let nothing = Refusal::new(Status::NoSession, "the gateway does not hold it");
            let taken = taken.into_iter().find(|(other, _)| *other == session);
            let context = taken.map_or(Err(nothing), |(_, context)| context);
            (context.map(|context| context.profile()), None)
        }
        Err(fault) => {
            let refusal = Refusal::new(Status::GatewayFault, fault.to_string());
            (Err(refusal), Some(fault))
        }
    }
}

/// The answer to a command that is not carried out.
pub(super) fn refuse(command: GatewayCommand, refusal: &Refusal) -> Option<GatewayReply> {
    let no = || refusal.clone();
    Some(match command {
        // It lists again once it is back.
        GatewayCommand::List | GatewayCommand::Extend(_) => return None,
        GatewayCommand::Snapshot(all) => {
            GatewayReply::Snapshots(all.into_iter().map(|id| (id, Err(no()))).collect())
        }
        GatewayCommand::Admit(request, all) => {
            let all = all.into_iter().map(|profile| (profile.session, Err(no())));
            GatewayReply::Admitted(request, all.collect())
        }
        GatewayCommand::Stage(all) => {
            let all = all.into_iter().map(|order| (order.context.session, order.epoch, Err(no())));
            GatewayReply::Staged(all.collect())
        }
        GatewayCommand::Pause(all) => {
            GatewayReply::Paused(all.into_iter().map(|(id, ..)| (id, Err(no()))).collect())
        }
        GatewayCommand::Resume(all) => {
            GatewayReply::Resumed(all.into_iter().map(|(id, ..)| (id, Err(no()))).collect())
        }
        GatewayCommand::Activate(all) => {
            let all = all.into_iter().map(|(id, epoch, _)| (id, epoch, Err(no())));
            GatewayReply::Activated(all.collect())
        }
        GatewayCommand::Release(all) => {
            GatewayReply::Released(all.into_iter().map(|(id, ..)| (id, Err(no()))).collect())
        }
        GatewayCommand::Discard(all) => {
            let all = all.into_iter().map(|(id, epoch)| (id, epoch, Err(no())));
            GatewayReply::Discarded(all.collect())
        }
    })
}

fn with_nothing(sessions: &[SessionId]) -> HashMap<SessionId, ()> {
    sessions.iter().map(|session| (*session, ())).collect()
}

/// Exactly one result for each session that was asked about, whatever the body
/// answered, with what goes with the session.
pub(super) fn settle<K, T>(
    mut asked: HashMap<SessionId, K>,
    results: PerSession<T>,
) -> Vec<(SessionId, K, Result<T, Refusal>)> {
    let mut settled = Vec::with_capacity(asked.len());
    for (session, result) in results {
        if let Some(with) = asked.remove(&session) {
            settled.push((session, with, result));
        }
    }
    settled.extend(asked.into_iter().map(|(session, with)| {
        let refusal = Refusal::new(Status::GatewayFault, "the gateway gave no result for it");
        (session, with, Err(refusal))
    }));
    settled
}

fn plain<T>(
    settled: Vec<(SessionId, (), Result<T, Refusal>)>,
) -> Vec<(SessionId, Result<T, Refusal>)> {
    settled.into_iter().map(|(session, (), result)| (session, result)).collect()
}
