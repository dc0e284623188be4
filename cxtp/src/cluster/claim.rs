//! The word that an owner and its standby share at the arbiter, and what one may
//! ask of it.

use std::time::Duration;

use bincode::{Decode, Encode};
use protocol_spec::id::GatewayEpoch;

/// Who may use the sessions of one owner that have replicas at one standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Claim {
    /// The life of the owner that wrote it, or that lost it.
    pub life: GatewayEpoch,
    /// By what the owner holds it, or that it does not.
    pub mode: ClaimMode,
}

/// By what an owner holds its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum ClaimMode {
    /// By the standby's acknowledgements of its beats.
    Standby,
    /// By renewing this word, since the standby does not acknowledge.
    Arbiter {
        /// Counts the renewals, so that each is another word.
        renewal: u64,
    },
    /// It does not: the standby has taken them.
    Taken,
    /// The standby holds no replicas any more: it may take nothing, and the
    /// owner needs no leave.
    Void,
}

/// Which writing of a claim: above all earlier ones of this claim. The arbiter
/// counts (etcd calls it `mod_revision`). Zero: there is none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// What is asked of the arbiter. Both are linearizable: what a read answers was so
/// at some time between question and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// How does the claim stand?
    Read,
    /// Write it, if it is still of this version.
    Set {
        /// The version that it must have.
        expected: Version,
        /// What it becomes.
        claim: Claim,
    },
}

/// What the arbiter answers. No answer within [`Timing::patience`] is `Silent`: a
/// claim that was to be written may have been written, or may be later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It stands like this; answers `Read`, and a `Set` that came too late.
    Stands(Version, Option<Claim>),
    /// It was written and has this version.
    Written(Version),
    /// Nothing was heard.
    Silent,
}

/// Times of a cluster: equal on all its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// How long an owner may go on after a beat that was acknowledged, or a
    /// renewal.
    pub lease: Duration,
    /// How much faster one machine's clock may run than another's, in thousandths.
    pub drift: u32,
    /// A gateway whose beats were not heard for so long is suspected.
    pub suspicion: Duration,
    /// An owner whose last acknowledged beat is so old asks the arbiter for leave,
    /// and renews it so often. Well below the lease: an answer must come in time.
    pub renewal: Duration,
    /// How long an answer of the arbiter is waited for.
    pub patience: Duration,
    /// Which guard is taken out.
    #[cfg(feature = "sabotage")]
    pub sabotage: Option<Sabotage>,
}

impl Timing {
    /// The lease as a clock must measure it that may run fast.
    pub(super) fn stretched(&self) -> Duration {
        if sabotaged!(self, NoDrift) {
            return self.lease;
        }
        self.lease + self.lease * self.drift / 1000
    }
}

/// One guard of the claim taken out, for the tests that prove that it is needed.
#[cfg(feature = "sabotage")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// The standby acts as soon as the claim is taken.
    ActAtOnce,
    /// The standby goes on to acknowledge while it takes the claim.
    AcknowledgeWhileTaking,
    /// The standby acts without the claim.
    ActWithoutClaim,
    /// The owner goes back to the standby's acknowledgements with the time that a
    /// renewal gave.
    KeepRenewal,
    /// The owner does not wait until the kernel has given that time back.
    ReturnUnconfirmed,
    /// The owner's time begins with the acknowledgement.
    CountFromAnswer,
    /// A new life begins in mode *standby*, whatever the old one had.
    BeginAnew,
    /// Clocks are believed to run alike.
    NoDrift,
}

#[cfg(feature = "sabotage")]
impl Sabotage {
    /// Every one of them.
    pub const ALL: &'static [Self] = &[
        Self::ActAtOnce,
        Self::AcknowledgeWhileTaking,
        Self::ActWithoutClaim,
        Self::KeepRenewal,
        Self::ReturnUnconfirmed,
        Self::CountFromAnswer,
        Self::BeginAnew,
        Self::NoDrift,
    ];
}

/// Whether this guard is taken out: `sabotaged!(timing, NoDrift)`.
#[cfg(feature = "sabotage")]
macro_rules! sabotaged {
    ($timing:expr, $guard:ident) => {
        $timing.sabotage == Some($crate::cluster::Sabotage::$guard)
    };
}
/// No guard can be taken out.
#[cfg(not(feature = "sabotage"))]
macro_rules! sabotaged {
    ($timing:expr, $guard:ident) => {
        false
    };
}
pub(super) use sabotaged;
