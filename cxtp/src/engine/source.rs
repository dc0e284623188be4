//! The source machine as a table: what can happen to a session that is given
//! away, and where that leads. What is done on the way stands in
//! [`super::departure`].

use super::table::{Step, Table};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident, $all:ident { $($(#[$item:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$item])* $variant,)* }
        const $all: &[$name] = &[$($name::$variant),*];
    };
}
pub(super) use states;

states! {
    /// Where a session stands at the gateway that gives it away.
    SourceState, STATES {
        /// Its context is being read; nobody else knows anything yet.
        Reading,
        /// Its context was sent; the target has not answered.
        Staging,
        /// The target holds it staged; it waits for its turn to pause.
        Ready,
        /// It is being paused.
        Pausing,
        /// It is being paused, which takes too long: it will be resumed as soon as it is,
        /// and staged anew.
        Overdue,
        /// It is being paused, and will be resumed as soon as it is.
        Halting,
        /// It is paused; *committed* is being written down.
        Committing,
        /// Only the target may use it now; the final data was sent.
        Committed,
        /// The target was silent for too long; it is asked again and again.
        InDoubt,
        /// The target has not had the final data: they are read again.
        Redelivering,
        /// Committed to a file: the context is being read for it.
        Handing,
        /// The target has it; *moved* is being written down.
        Settling,
        /// It is being released.
        Releasing,
        /// The target never will have it; *resumed* is being written down.
        Returning,
        /// It is being resumed, to be staged anew.
        Retreating,
        /// It is being resumed.
        Resuming,
        /// The target has it and it is gone here.
        Moved,
        /// It goes on here.
        Kept,
        /// It ended while it was moved.
        Ended,
        /// No gateway has it.
        Lost,
    }
}

states! {
    /// What can happen to it.
    SourceEvent, EVENTS {
        /// The gateway wrote its context down.
        Read,
        /// The gateway did not.
        Unreadable,
        /// The target staged it.
        Staged,
        /// The target will not have it.
        Refused,
        /// The target knows a newer ownership than the one offered.
        Outdated,
        /// Its SPIs, keys, selectors or addresses changed after they were read.
        Changed,
        /// It is its turn to pause.
        Turn,
        /// It is paused and fits what is staged.
        Paused,
        /// It is paused and does not fit what is staged.
        Differs,
        /// It is paused, does not fit, and was staged often enough.
        Unfit,
        /// An exchange is open: it may be paused later.
        Busy,
        /// The gateway did not pause it.
        Unpaused,
        /// The record is on disk.
        Written,
        /// The record may or may not be on disk.
        Unwritten,
        /// It goes into a file.
        HandOut,
        /// The target is using it.
        Active,
        /// The target has written down that it never will.
        Aborted,
        /// The target still waits for the final data.
        Waiting,
        /// The state lasted too long.
        Deadline,
        /// So did its pause, which may be tried again.
        Late,
        /// Somebody wants it to stay.
        Cancel,
        /// The connection with the target is gone.
        PeerDown,
        /// The connection with the target is there again.
        PeerUp,
        /// It goes on in the gateway.
        Resumed,
        /// The gateway no longer has it.
        Missing,
        /// The gateway has forgotten it.
        Released,
        /// It ended in the gateway.
        Ended,
        /// The gateway is gone.
        GatewayLost,
        /// The operator says that the target never will have it.
        ResumeHere,
        /// The operator says that the target has it.
        ReleaseHere,
    }
}

/// The table of the source.
pub struct SourceTable;

impl Table for SourceTable {
    type State = SourceState;
    type Event = SourceEvent;
    const STATES: &'static [SourceState] = STATES;
    const EVENTS: &'static [SourceEvent] = EVENTS;
    const ENDS: &'static [SourceState] =
        &[SourceState::Moved, SourceState::Kept, SourceState::Ended, SourceState::Lost];

    fn step(state: SourceState, event: SourceEvent) -> Step<SourceState> {
        step(state, event)
    }
}

impl SourceState {
    /// Whether the transfer has ended.
    pub fn is_end(self) -> bool {
        SourceTable::ENDS.contains(&self)
    }

    /// Whether only the target may use the session, as far as this gateway knows.
    pub fn is_committed(self) -> bool {
        use SourceState as S;
        matches!(
            self,
            S::Committed | S::InDoubt | S::Redelivering | S::Handing | S::Settling | S::Releasing
        )
    }

    /// Whether it counts for the staging window of its batch.
    pub(super) fn in_staging_window(self) -> bool {
        use SourceState as S;
        matches!(self, S::Reading | S::Staging | S::Ready)
    }

    /// Of these, whether the target does not hold it yet.
    pub(super) fn is_unstaged(self) -> bool {
        matches!(self, Self::Reading | Self::Staging)
    }

    /// Whether it counts for the pause window.
    pub(super) fn in_pause_window(self) -> bool {
        use SourceState as S;
        matches!(
            self,
            S::Pausing | S::Overdue | S::Halting | S::Committing | S::Committed | S::Retreating
        )
    }

    /// Whether its target is to be asked.
    pub(super) fn in_doubt(self) -> bool {
        matches!(self, Self::InDoubt | Self::Redelivering)
    }
}

/// The table.
pub fn step(state: SourceState, event: SourceEvent) -> Step<SourceState> {
    use SourceEvent as E;
    use SourceState as S;
    use Step::{Ignored, Refused, To};

    match (state, event) {
        (S::Moved | S::Kept | S::Ended | S::Lost, _) => Ignored,

        // Not paused: whatever goes wrong, it simply goes on here.
        (S::Reading, E::Read) => To(S::Staging),
        (S::Reading, E::HandOut) => To(S::Pausing),
        //= spec CXTP-6.2-1
        (S::Staging, E::Staged) => To(S::Ready),
        (S::Ready, E::Turn) => To(S::Pausing),
        (S::Staging, E::Outdated) | (S::Staging | S::Ready, E::Changed) => To(S::Reading),
        (S::Ready, E::Aborted) => To(S::Reading),
        (S::Reading, E::Unreadable) => To(S::Kept),
        (S::Staging, E::Refused | E::Aborted) => To(S::Kept),
        //= spec CXTP-6.2-9
        (S::Reading | S::Staging | S::Ready, E::Deadline | E::Cancel | E::PeerDown) => To(S::Kept),

        // Being paused: the answer is waited for before anything else is done.
        (S::Pausing, E::Paused) => To(S::Committing),
        (S::Pausing, E::Differs) => To(S::Retreating),
        (S::Pausing, E::Busy) => To(S::Ready),
        (S::Pausing | S::Overdue, E::Changed) => To(S::Reading),
        (S::Pausing, E::Unfit | E::Unpaused) => To(S::Resuming),
        (S::Pausing, E::Deadline | E::Cancel | E::PeerDown | E::Aborted) => To(S::Halting),
        (S::Pausing, E::Late) => To(S::Overdue),
        (S::Overdue, E::Paused | E::Differs | E::Unfit) => To(S::Retreating),
        (S::Overdue, E::Busy) => To(S::Ready),
        (S::Overdue, E::Unpaused) => To(S::Resuming),
        (S::Overdue, E::Cancel | E::PeerDown | E::Aborted) => To(S::Halting),
        (S::Halting, E::Paused | E::Differs | E::Unfit | E::Unpaused) => To(S::Resuming),
        (S::Halting, E::Busy | E::Changed) => To(S::Kept),

        // The commit. A record that may be on disk is taken back by another one.
        //= spec CXTP-6.2-3
        (S::Committing, E::Written) => To(S::Committed),
        //= spec CXTP-6.5-1
        (S::Committing, E::Unwritten) => To(S::Returning),

        // Committed: only an answer, or the operator, ends it.
        (S::Committed, E::HandOut) => To(S::Handing),
        //= spec CXTP-6.2-5
        (S::Committed, E::Deadline | E::PeerDown) => To(S::InDoubt),
        (S::InDoubt, E::Deadline | E::PeerUp) => To(S::InDoubt),
        //= spec CXTP-6.4-2
        (S::InDoubt, E::Waiting) => To(S::Redelivering),
        (S::Redelivering, E::Paused | E::Differs | E::Unfit) => To(S::InDoubt),
        (S::Redelivering, E::Busy | E::Unpaused | E::Missing | E::GatewayLost) => To(S::InDoubt),
        (S::Committed | S::InDoubt, E::Active) => To(S::Settling),
        (S::Committed | S::InDoubt, E::Aborted) => To(S::Returning),
        (S::Committed | S::InDoubt, E::ReleaseHere) => To(S::Settling),
        (S::Committed | S::InDoubt, E::ResumeHere) => To(S::Returning),
        (S::Handing, E::Read) => To(S::InDoubt),
        (S::Handing, E::Unreadable | E::GatewayLost) => To(S::Returning),

        // Settled one way or the other; what cannot be written is asked again.
        //= spec CXTP-6.2-8
        (S::Settling, E::Written) => To(S::Releasing),
        (S::Settling | S::Returning, E::Unwritten) => To(S::InDoubt),
        //= spec CXTP-6.4-3
        (S::Returning, E::Written) => To(S::Resuming),
        (S::Releasing, E::Released | E::Missing | E::Ended | E::GatewayLost) => To(S::Moved),
        (S::Releasing, E::Deadline) => To(S::Releasing),

        // On the way back.
        (S::Retreating, E::Resumed) => To(S::Reading),
        (S::Retreating, E::Cancel | E::PeerDown | E::Aborted) => To(S::Resuming),
        (S::Resuming, E::Resumed) => To(S::Kept),
        (S::Retreating | S::Resuming, E::Missing) => To(S::Lost),
        (S::Retreating | S::Resuming, E::Deadline) => To(state),

        // Gone from the gateway. What is committed may be with the target.
        (
            S::Reading | S::Staging | S::Ready | S::Pausing | S::Overdue | S::Halting,
            E::Ended | E::Missing,
        ) => To(S::Ended),
        (S::Retreating | S::Resuming, E::Ended) => To(S::Ended),
        (
            S::Reading
            | S::Staging
            | S::Ready
            | S::Pausing
            | S::Overdue
            | S::Halting
            | S::Retreating
            | S::Resuming,
            E::GatewayLost,
        ) => To(S::Lost),

        // A target has no business to be using what it was not given.
        (
            S::Reading
            | S::Staging
            | S::Ready
            | S::Pausing
            | S::Overdue
            | S::Halting
            | S::Committing,
            E::Active,
        ) => Refused,
        // An operator cannot decide what is not in doubt.
        (_, E::ResumeHere | E::ReleaseHere) => Refused,
        (
            S::Committing
            | S::Committed
            | S::InDoubt
            | S::Redelivering
            | S::Handing
            | S::Settling
            | S::Releasing
            | S::Returning,
            E::Cancel,
        ) => Refused,
        _ => Ignored,
    }
}

#[cfg(test)]
mod tests;
