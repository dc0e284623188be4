//! The target machine as a table: what can happen to a session that is taken
//! over, and where that leads. What is done on the way stands in
//! [`super::arrival`].

use super::{
    source::states,
    table::{Step, Table},
};

states! {
    /// Where a session stands at the gateway that takes it over.
    TargetState, STATES {
        /// The gateway is installing it.
        Staging,
        /// The gateway is installing it, and it is no longer wanted.
        Withdrawing,
        /// Installed and not in use.
        Staged,
        /// The final data are here; *active* is being written down.
        Claiming,
        /// This gateway owns it; it is being put to use.
        Activating,
        /// The gateway no longer has it and *active* may be on disk.
        Doomed,
        /// *Aborted* is being written down.
        Aborting,
        /// It was owned and is gone; *ended* is being written down.
        Burying,
        /// In use here.
        Active,
        /// Never used here, and never will be.
        Aborted,
        /// Not taken; nothing was kept.
        Refused,
        /// Owned here, and gone.
        Lost,
    }
}

states! {
    /// What can happen to it.
    TargetEvent, EVENTS {
        /// The gateway installed it.
        Installed,
        /// The gateway would not.
        NotInstalled,
        /// The source offers it anew, with a higher epoch.
        Offered,
        /// The source has committed.
        Finals,
        /// The record is on disk.
        Written,
        /// The record may or may not be on disk.
        Unwritten,
        /// The gateway put it to use.
        Activated,
        /// The gateway did not, often enough, or does not have it.
        Unusable,
        /// The source takes it back.
        Cancel,
        /// The state lasted too long.
        Deadline,
        /// It ended in the gateway.
        Ended,
        /// The gateway is gone.
        GatewayLost,
    }
}

/// The table of the target.
pub struct TargetTable;

impl Table for TargetTable {
    type State = TargetState;
    type Event = TargetEvent;
    const STATES: &'static [TargetState] = STATES;
    const EVENTS: &'static [TargetEvent] = EVENTS;
    const ENDS: &'static [TargetState] =
        &[TargetState::Active, TargetState::Aborted, TargetState::Refused, TargetState::Lost];

    fn step(state: TargetState, event: TargetEvent) -> Step<TargetState> {
        step(state, event)
    }
}

impl TargetState {
    /// Whether the transfer has ended.
    pub fn is_end(self) -> bool {
        TargetTable::ENDS.contains(&self)
    }
}

/// The table.
pub fn step(state: TargetState, event: TargetEvent) -> Step<TargetState> {
    use Step::{Ignored, Refused, To};
    use TargetEvent as E;
    use TargetState as S;

    match (state, event) {
        (S::Active | S::Aborted | S::Refused | S::Lost, _) => Ignored,

        // The gateway's answer is waited for before anything is taken back.
        (S::Staging, E::Installed) => To(S::Staged),
        //= spec CXTP-6.3-1
        (S::Staging, E::NotInstalled) => To(S::Refused),
        (S::Staging, E::Cancel | E::Deadline) => To(S::Withdrawing),
        (S::Withdrawing, E::Installed | E::NotInstalled) => To(S::Aborting),
        (S::Staging | S::Withdrawing, E::GatewayLost) => To(S::Aborting),
        (S::Staging | S::Withdrawing, E::Finals) => Refused,

        (S::Staged, E::Finals) => To(S::Claiming),
        (S::Staged, E::Offered) => To(S::Staging),
        (_, E::Offered) => Refused,
        (S::Staged, E::Cancel | E::Deadline | E::Ended | E::GatewayLost) => To(S::Aborting),

        // No act before *active* is on disk; no *aborted* after it may be there.
        //= spec CXTP-6.3-5
        (S::Claiming, E::Written) => To(S::Activating),
        //= spec CXTP-6.5-2
        (S::Claiming, E::Unwritten) => To(S::Staged),
        (S::Claiming, E::Ended | E::GatewayLost) => To(S::Doomed),
        (S::Doomed, E::Written) => To(S::Burying),
        (S::Doomed, E::Unwritten) => To(S::Aborting),
        (S::Activating, E::Activated) => To(S::Active),
        (S::Activating, E::Deadline) => To(S::Activating),
        (S::Activating, E::Unusable | E::Ended | E::GatewayLost) => To(S::Burying),

        // What cannot be written is written again.
        //= spec CXTP-6.3-7
        (S::Aborting, E::Written) => To(S::Aborted),
        (S::Aborting, E::Deadline) => To(S::Aborting),
        (S::Aborting, E::Finals) => Ignored,
        (S::Burying, E::Written) => To(S::Lost),
        (S::Burying, E::Deadline) => To(S::Burying),

        _ => Ignored,
    }
}

#[cfg(test)]
mod tests;
