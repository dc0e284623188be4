//! Orders that wait: joined to batches, those first that a stopped session
//! waits for.

use std::collections::VecDeque;

use protocol_spec::id::SessionId;

use super::{LOOKS, LookReply};
use crate::engine::GatewayCommand;

/// Sessions in one call.
const CHUNK: usize = 1024;

/// What is to be done, in its order.
#[derive(Default)]
pub(super) struct Orders {
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
        pop(&mut self.urgent).map(Next::Command).or_else(|| self.next_calm())
    }

    /// The next call that no stopped session waits for.
    pub(super) fn next_calm(&mut self) -> Option<Next> {
        let look = self.looks.pop_front().map(|(session, reply)| Next::Look(session, reply));
        look.or_else(|| pop(&mut self.calm).map(Next::Command))
    }
}

/// The first command, with what follows of the same kind, up to a chunk.
fn pop(queue: &mut VecDeque<GatewayCommand>) -> Option<GatewayCommand> {
    let mut first = queue.pop_front()?;
    if let Some(rest) = beyond_chunk(&mut first) {
        queue.push_front(rest);
        return Some(first);
    }
    while let Some(next) = queue.front_mut()
        && join(&mut first, next)
    {
        queue.pop_front();
    }
    Some(first)
}

/// Takes what is too much for one call out of a command.
fn beyond_chunk(command: &mut GatewayCommand) -> Option<GatewayCommand> {
    fn rest<T>(
        entries: &mut Vec<T>,
        again: impl FnOnce(Vec<T>) -> GatewayCommand,
    ) -> Option<GatewayCommand> {
        (entries.len() > CHUNK).then(|| again(entries.split_off(CHUNK)))
    }
    match command {
        GatewayCommand::Snapshot(entries) => rest(entries, GatewayCommand::Snapshot),
        GatewayCommand::Stage(entries) => rest(entries, GatewayCommand::Stage),
        GatewayCommand::Pause(entries) => rest(entries, GatewayCommand::Pause),
        GatewayCommand::Resume(entries) => rest(entries, GatewayCommand::Resume),
        GatewayCommand::Activate(entries) => rest(entries, GatewayCommand::Activate),
        GatewayCommand::Release(entries) => rest(entries, GatewayCommand::Release),
        GatewayCommand::Discard(entries) => rest(entries, GatewayCommand::Discard),
        GatewayCommand::Extend(entries) => rest(entries, GatewayCommand::Extend),
        // The answer to a question is one; it has no more than a message may.
        GatewayCommand::List | GatewayCommand::Admit(..) => None,
    }
}

/// Adds all of `next` to `first` where both are the same act and fit one call.
fn join(first: &mut GatewayCommand, next: &mut GatewayCommand) -> bool {
    fn take<T>(to: &mut Vec<T>, from: &mut Vec<T>) -> bool {
        let fits = to.len() + from.len() <= CHUNK;
        if fits {
            to.append(from);
        }
        fits
    }
    match (first, next) {
        (GatewayCommand::Snapshot(to), GatewayCommand::Snapshot(from)) => take(to, from),
        (GatewayCommand::Stage(to), GatewayCommand::Stage(from)) => take(to, from),
        (GatewayCommand::Pause(to), GatewayCommand::Pause(from)) => take(to, from),
        (GatewayCommand::Resume(to), GatewayCommand::Resume(from)) => take(to, from),
        (GatewayCommand::Activate(to), GatewayCommand::Activate(from)) => take(to, from),
        (GatewayCommand::Release(to), GatewayCommand::Release(from)) => take(to, from),
        (GatewayCommand::Discard(to), GatewayCommand::Discard(from)) => take(to, from),
        (GatewayCommand::Extend(to), GatewayCommand::Extend(from)) => take(to, from),
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
