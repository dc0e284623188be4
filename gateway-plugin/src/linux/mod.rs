//! The gateway of the Linux kernel: SAs and policies in the kernel, IKE by a
//! daemon above it or by nobody.
//!
//! ```text
//!           cxtpd
//!             | plugin socket
//!   +---- cxtp-linux: LinuxGateway -----------------------+
//!   |  acts: what a session's state allows, in which order |
//!   |   Tables          Steer            IkeDaemon         |
//!   +-----|---------------|------------------|-------------+
//!      xfrm::Kernel   steering::Steering  strongswan::Charon
//!      SAD and SPD    guard, queue,       HA messages, vici
//!                     routes, addresses
//! ```
//!
//! What becomes of a session's packets:
//!
//! | session | from the end user | for the end user | IKE |
//! | --- | --- | --- | --- |
//! | Active | kernel | kernel | daemon |
//! | Paused, released | unopened to the target | in clear on the inner network to the target | unopened to the target; ours dropped |
//! | Staged | wait in a queue | wait in a queue | wait in a queue |
//!
//! All of it is state of the kernel, so it holds when this process is killed; what
//! waits is dropped then.

mod acts;
mod admit;
#[cfg(feature = "embedded")]
mod around;
mod command;
mod config;
mod context;
mod daemon;
mod gateway;
mod ground;
mod kernel;
mod kernel_only;
mod life;
mod look;
#[cfg(test)]
mod model;
mod orphans;
mod pair;
mod record;
mod session;
mod speak;
mod stage;
mod steer;
mod voice;

#[cfg(feature = "embedded")]
pub(crate) use around::Around;
pub use command::linux_main;
pub use daemon::{
    DaemonEvent, Described, DescribedChild, IkeDaemon, Known, LastResponses, Remembered, Spis,
};
pub use gateway::LinuxGateway;
pub(crate) use kernel_only::FEATURES;
