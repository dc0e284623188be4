//! Engines with one guard of the protocol taken out, for the tests that prove
//! that the guard is needed. Without the feature `sabotage` nothing of this is
//! compiled.

/// Which guard is taken out.
#[cfg(feature = "sabotage")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// The source resumes by itself when a committed transfer is not answered.
    ResumeOnTimeoutAfterCommit,
    /// The target puts a session to use before *active* is on disk.
    ActivateBeforeJournal,
    /// Granted ranges begin right above the number used last, and no pause looks
    /// at them again.
    BaseTooLow,
    /// The target takes contexts and final data of any epoch.
    OldEpochAccepted,
    /// The source sends final data without ever writing *committed* down.
    CommitNotJournaled,
    /// The source sends final data while *committed* is still being written.
    SendCtdBeforeJournal,
    /// The target says *aborted* without writing it down.
    AbortNotJournaled,
    /// A session that changed after it was staged is committed all the same.
    RestageSkipped,
    /// A forced resume does not go above the target's granted ranges.
    ResumeNotAboveGrant,
    /// The target activates for whoever sends final data.
    AnySourceActivates,
}

#[cfg(feature = "sabotage")]
impl Sabotage {
    /// Every one of them.
    pub const ALL: &'static [Self] = &[
        Self::ResumeOnTimeoutAfterCommit,
        Self::ActivateBeforeJournal,
        Self::BaseTooLow,
        Self::OldEpochAccepted,
        Self::CommitNotJournaled,
        Self::SendCtdBeforeJournal,
        Self::AbortNotJournaled,
        Self::RestageSkipped,
        Self::ResumeNotAboveGrant,
        Self::AnySourceActivates,
    ];
}

/// Whether this guard is taken out: `sabotaged!(core, BaseTooLow)`.
#[cfg(feature = "sabotage")]
macro_rules! sabotaged {
    ($core:expr, $guard:ident) => {
        $core.config.sabotage == Some($crate::engine::Sabotage::$guard)
    };
}
/// No guard can be taken out.
#[cfg(not(feature = "sabotage"))]
macro_rules! sabotaged {
    ($core:expr, $guard:ident) => {
        false
    };
}
pub(super) use sabotaged;
