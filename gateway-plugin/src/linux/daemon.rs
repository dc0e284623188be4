//! What the kernel's SAs belong to: an IKE daemon, or nobody.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use protocol_spec::{
    context::{ChildSeed, Context, Endpoints, IkeSa},
    id::{Generation, SessionId},
    profile::{Capabilities, Profile},
    status::Refusal,
    transfer::IkeFinals,
};

use crate::{ike::answer::LastResponse, plugin::Fault, xfrm::KernelSa};

/// A session as its daemon knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub session: SessionId,
    /// Its SPIs, keys, selectors and addresses.
    pub generation: Generation,
}

/// By what a session is found again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spis {
    /// SPIs of its IKE SA, the initiator's first.
    pub ike: Option<(u64, u64)>,
    /// Inbound SPIs of its Child SAs.
    pub inbound: Vec<u32>,
    /// Outer addresses, which name it where it has no IKE SA.
    pub ends: Option<Endpoints>,
}

/// A session as it was known before this process was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// What it was.
    pub known: Known,
    /// By what it is found again: its IKE SA, else one of its Child SAs.
    pub spis: Spis,
    /// Where its end user was, which nobody else knows of one that is staged.
    pub remote: Option<SocketAddr>,
}

/// A session written down, but for what the kernel has: keys of Child SAs, their
/// counters and policies.
#[derive(Debug)]
pub struct Described {
    /// What the session is.
    pub known: Known,
    /// Its IKE SA, if it has one.
    pub ike: Option<IkeSa>,
    /// Its Child SAs.
    pub children: Vec<DescribedChild>,
    /// Whether no IKE exchange of it is open.
    pub is_quiet: bool,
}

/// A Child SA, but for what the kernel has.
#[derive(Debug)]
pub struct DescribedChild {
    /// Name of its configuration.
    pub configuration: String,
    /// Inbound SPI.
    pub inbound: u32,
    /// Outbound SPI.
    pub outbound: u32,
    /// From what its keys were made.
    pub seed: Option<ChildSeed>,
    /// Time left until it is rekeyed.
    pub rekey_in: Option<Duration>,
}

/// What a daemon tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonEvent {
    /// A session came up.
    Up(Known),
    /// SPIs, keys, selectors or addresses are others now.
    Changed(Known),
    /// It ended.
    Down(SessionId),
    /// Something was missed: ask for all sessions again.
    Gap,
}

/// The owner of the kernel's SAs. It is made with the sending end of a bounded
/// channel, into which it puts its [`DaemonEvent`]s from threads of its own; where
/// the channel is full it puts [`DaemonEvent::Gap`] in as soon as there is room.
/// Every question in a call has a deadline of its own, of a second or a little more
/// where the daemon has much to tell; every act is safe to repeat.
pub trait IkeDaemon: Send {
    /// What it can carry, without the Child SAs' algorithms, which are the
    /// kernel's.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be asked.
    fn capabilities(&mut self) -> Result<Capabilities, Fault>;

    /// Sessions of an earlier process, told once before anything else. One that is
    /// still there keeps its id; its generation too, unless its SPIs are others.
    fn remember(&mut self, sessions: &[Remembered]) {
        _ = sessions;
    }

    /// All sessions, staged ones among them. `kernel` is what the kernel holds now.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be asked: [`Fault::Lost`] if it does not run, so that it
    /// has none of them once it runs again.
    fn sessions(&mut self, kernel: &[KernelSa]) -> Result<Vec<Known>, Fault>;

    /// Whether all that changed since the sessions were asked for was told by itself, so
    /// that a session can be described without asking for all again.
    fn has_told_all(&self) -> bool {
        false
    }

    /// By which SAs a session can be found again.
    ///
    /// # Errors
    /// A refusal that names what is missing.
    fn spis(&mut self, session: SessionId) -> Result<Spis, Refusal> {
        let Described { ike, children, .. } = self.describe(session)?;
        Ok(Spis {
            ike: ike.map(|ike| (ike.spi_initiator, ike.spi_responder)),
            inbound: children.iter().map(|child| child.inbound).collect(),
            ends: None,
        })
    }

    /// Writes a session down.
    ///
    /// # Errors
    /// A refusal that names what is missing.
    fn describe(&mut self, session: SessionId) -> Result<Described, Refusal>;

    /// The secrets of a session's IKE SA, and which algorithms they are for. `None`
    /// without one.
    ///
    /// # Errors
    /// A refusal that names what is missing.
    fn secrets(&mut self, session: SessionId) -> Result<Option<IkeSa>, Refusal> {
        self.describe(session).map(|described| described.ike)
    }

    /// Whether a session could be staged: configuration, pools, algorithms, SPIs.
    ///
    /// # Errors
    /// A refusal that names the reason and the cure.
    fn admit(&mut self, profile: &Profile) -> Result<(), Refusal>;

    /// Takes a session without speaking for it. If the daemon installs Child SAs
    /// itself, they are in the kernel soon, and [`IkeDaemon::staged`] says whether all
    /// is done. `local` is the address that the session will have here.
    ///
    /// # Errors
    /// A refusal; what there is of the session is to be forgotten.
    fn stage(&mut self, context: &Context, local: Option<IpAddr>) -> Result<(), Refusal>;

    /// Waits until the daemon has done what [`IkeDaemon::stage`] began, for a time of its
    /// own.
    ///
    /// # Errors
    /// A refusal that says what is missing.
    fn staged(&mut self, context: &Context) -> Result<(), Refusal> {
        _ = context;
        Ok(())
    }

    /// Whether [`IkeDaemon::stage`] and [`IkeDaemon::forget`] install and remove
    /// Child SAs and policies in the kernel.
    fn installs_children(&self) -> bool;

    /// Waits until no exchange of the session is open, at most for `patience`.
    ///
    /// # Errors
    /// `Busy` if one stays open.
    fn wait_quiet(&mut self, session: SessionId, patience: Duration) -> Result<(), Refusal>;

    /// Message IDs and the last response of a session that is guarded, so that
    /// they do not change any more. `None` without an IKE SA.
    ///
    /// # Errors
    /// A refusal that names what is missing.
    fn finals(&mut self, session: SessionId) -> Result<Option<IkeFinals>, Refusal>;

    /// Speaks for a staged session from now on, with these Message IDs.
    ///
    /// # Errors
    /// A refusal; the session stays staged.
    fn activate(&mut self, session: SessionId, finals: Option<&IkeFinals>) -> Result<(), Refusal>;

    /// Forgets a session without a word to the end user. Succeeds for one that is
    /// not known.
    ///
    /// # Errors
    /// A refusal if it cannot be made sure.
    fn forget(&mut self, session: SessionId) -> Result<(), Refusal>;
}

/// Who keeps the last response of each IKE SA as it was sent.
pub trait LastResponses: Send + Sync {
    /// The response, if it was seen.
    fn last(&self, spis: (u64, u64)) -> Option<LastResponse>;
}
