//! Orders that wait: joined to batches, those first that a stopped session
//! waits for.

use std::collections::VecDeque;

use protocol_spec::id::SessionId;

use super::{LOOKS, LookReply};
use crate::engine::GatewayCommand;

/// What is to be done, in its order.
pub(super) struct Orders {
    /// Sessions in one call.
    at_once: usize,
    urgent: VecDeque<GatewayCommand>,
    calm: VecDeque<GatewayCommand>,
    looks: VecDeque<(SessionId, LookReply)>,
}

/// What is to be done next.
pub(super) enum Next {
    Command(GatewayCommand),
    Look(SessionId, LookReply),
}

impl Orders {
    pub(super) fn new(at_once: usize) -> Self {
        let (urgent, calm, looks) = Default::default();
        Self { at_once: at_once.max(1), urgent, calm, looks }
    }

    pub(super) fn push(&mut self, command: GatewayCommand) {
        let queue = if is_urgent(&command) { &mut self.urgent } else { &mut self.calm };
        // One list answers all who asked.
        let same = matches!(command, GatewayCommand::List)
            && queue.iter().any(|other| matches!(other, GatewayCommand::List));
        if !same {
            queue.push_back(command);
        }
    }

    /// An order that failed and must be done before all others.
    pub(super) fn push_again(&mut self, command: GatewayCommand) {
        self.urgent.push_front(command);
    }

    pub(super) fn look(&mut self, session: SessionId, reply: LookReply) {
        if self.looks.len() < LOOKS {
            self.looks.push_back((session, reply));
        }
    }

    /// The next call.
    pub(super) fn next(&mut self) -> Option<Next> {
        pop(&mut self.urgent, self.at_once).map(Next::Command).or_else(|| self.next_calm())
    }

    /// The next call that no stopped session waits for.
    pub(super) fn next_calm(&mut self) -> Option<Next> {
        let look = self.looks.pop_front().map(|(session, reply)| Next::Look(session, reply));
        look.or_else(|| pop(&mut self.calm, self.at_once).map(Next::Command))
    }
}

/// The first command, with what follows of the same kind, up to so many sessions.
fn pop(queue: &mut VecDeque<GatewayCommand>, at_once: usize) -> Option<GatewayCommand> {
    let mut first = queue.pop_front()?;
    if let Some(rest) = beyond(&mut first, at_once) {
        queue.push_front(rest);
        return Some(first);
    }
    while let Some(next) = queue.front_mut()
        && join(&mut first, next, at_once)
    {
        queue.pop_front();
    }
    Some(first)
}

/// Takes what is too much for one call out of a command.
fn beyond(command: &mut GatewayCommand, at_once: usize) -> Option<GatewayCommand> {
    fn rest<T>(
        entries: &mut Vec<T>,
        at_once: usize,
        again: impl FnOnce(Vec<T>) -> GatewayCommand,
    ) -> Option<GatewayCommand> {
        (entries.len() > at_once).then(|| again(entries.split_off(at_once)))
    }
    match command {
        GatewayCommand::Snapshot(entries) => rest(entries, at_once, GatewayCommand::Snapshot),
        GatewayCommand::Stage(entries) => rest(entries, at_once, GatewayCommand::Stage),
        GatewayCommand::Pause(entries) => rest(entries, at_once, GatewayCommand::Pause),
        GatewayCommand::Resume(entries) => rest(entries, at_once, GatewayCommand::Resume),
        GatewayCommand::Activate(entries) => rest(entries, at_once, GatewayCommand::Activate),
        GatewayCommand::Release(entries) => rest(entries, at_once, GatewayCommand::Release),
        GatewayCommand::Discard(entries) => rest(entries, at_once, GatewayCommand::Discard),
        GatewayCommand::Extend(entries) => rest(entries, at_once, GatewayCommand::Extend),
        // The answer to a question is one; it has no more than a message may.
        GatewayCommand::List | GatewayCommand::Admit(..) => None,
    }
}

/// Adds all of `next` to `first` where both are the same act and fit one call.
fn join(first: &mut GatewayCommand, next: &mut GatewayCommand, at_once: usize) -> bool {
    fn take<T>(to: &mut Vec<T>, from: &mut Vec<T>, at_once: usize) -> bool {
        let fits = to.len() + from.len() <= at_once;
        if fits {
            to.append(from);
        }
        fits
    }
    match (first, next) {
        (GatewayCommand::Snapshot(to), GatewayCommand::Snapshot(from)) => take(to, from, at_once),
        (GatewayCommand::Stage(to), GatewayCommand::Stage(from)) => take(to, from, at_once),
        (GatewayCommand::Pause(to), GatewayCommand::Pause(from)) => take(to, from, at_once),
        (GatewayCommand::Resume(to), GatewayCommand::Resume(from)) => take(to, from, at_once),
        (GatewayCommand::Activate(to), GatewayCommand::Activate(from)) => take(to, from, at_once),
        (GatewayCommand::Release(to), GatewayCommand::Release(from)) => take(to, from, at_once),
        (GatewayCommand::Discard(to), GatewayCommand::Discard(from)) => take(to, from, at_once),
        (GatewayCommand::Extend(to), GatewayCommand::Extend(from)) => take(to, from, at_once),
        _ => false,
    }
}

/// Whether a session stands still until it is done. A discard is not: it must not
/// overtake the staging that it takes back.
pub(super) fn is_urgent(command: &GatewayCommand) -> bool {
    matches!(
        command,
        GatewayCommand::Pause(_)
            | GatewayCommand::Resume(_)
            | GatewayCommand::Activate(_)
            | GatewayCommand::Release(_)
            | GatewayCommand::Extend(_)
    )
}

/// How many sessions a command is about.
pub(super) fn sessions_in(command: &GatewayCommand) -> usize {
    match command {
        GatewayCommand::List => 0,
        GatewayCommand::Snapshot(entries) => entries.len(),
        GatewayCommand::Admit(_, entries) => entries.len(),
        GatewayCommand::Stage(entries) => entries.len(),
        GatewayCommand::Pause(entries) => entries.len(),
        GatewayCommand::Resume(entries) => entries.len(),
        GatewayCommand::Activate(entries) => entries.len(),
        GatewayCommand::Release(entries) => entries.len(),
        GatewayCommand::Discard(entries) => entries.len(),
        GatewayCommand::Extend(entries) => entries.len(),
    }
}
