//! High availability: who may speak for a session when its gateway dies, is cut
//! off or hangs.
//!
//! An owner keeps replicas of its sessions at standbys ([`standbys`], [`Replicator`],
//! [`Replicas`]). Owner and
//! standby of a pair share one [`Claim`] at an arbiter that both can write by
//! compare-and-set. Two machines decide, one on each side:
//!
//! * the owner's [`Tenure`] says until when the owner may send with the keys of
//!   sessions that this standby holds replicas of. That time is enforced below
//!   the daemon, so it holds when the daemon hangs;
//! * the standby's [`Watch`] says when the standby may send with them.
//!
//! Both are driven like the engine: no socket, clock, task or randomness of their
//! own. Times are those of the machine on which they run, compared only with
//! themselves: the two clocks need not agree, and run at rates that differ by no
//! more than [`Timing::drift`].
//!
//! # Why there are never two owners
//!
//! The standby acts only after the claim is *taken*, which it alone can set, and
//! after the lease has passed since both
//!
//! * it acknowledged a beat last: the owner's time is counted from when it *sent*
//!   that beat, which was before;
//! * in mode *arbiter*, it first saw the renewal that it replaced: the owner's
//!   time is counted from when it *sent* that renewal, which was before, and no
//!   later one can have been written, since the claim was still the same.
//!
//! In mode *standby* no time that a renewal gave is left: the owner gives it back,
//! down to the kernel, before it asks for that mode.

mod blocks;
mod choice;
mod claim;
mod feed;
mod replicas;
mod replicator;
mod tenure;
mod watch;

pub use blocks::Blocks;
pub use choice::standbys;
#[cfg(feature = "sabotage")]
pub use claim::Sabotage;
pub use claim::{Answer, Ask, Claim, ClaimMode, Timing, Version};
pub use feed::{Batch, Feed, Lag, News, Revision};
pub use replicas::Replicas;
pub use replicator::{Replicator, Wish as ReplicaWish};
pub use tenure::{Tenure, Wish};
pub use watch::{Watch, WatchWish};
