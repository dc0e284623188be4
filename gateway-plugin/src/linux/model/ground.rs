//! A gateway's kernel and the IKE daemon on it: what outlives our process.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::ThreadId,
};

use protocol_spec::{
    id::{Name, SessionId},
    status::{Refusal, Status},
};

use super::{super::ground::Flow, charon::IkeSession, packets::Packet};
use crate::xfrm::{KernelPolicy, KernelSa, SaId};

/// A kernel, as its gateway and the test both see it.
pub(crate) type Shared = Arc<Mutex<Ground>>;

/// A kernel.
#[derive(Default)]
pub(crate) struct Ground {
    pub(crate) sas: Vec<KernelSa>,
    pub(crate) policies: Vec<KernelPolicy>,
    pub(crate) steered: BTreeMap<SessionId, Steered>,
    /// charon's IKE SAs by their SPIs.
    pub(crate) ike: BTreeMap<(u64, u64), IkeSession>,
    /// Whether an IKE exchange of each session is open.
    pub(crate) exchange: bool,
    /// Whether charon answers as late as it may, and makes Child SAs only once it is
    /// asked whether it is done.
    pub(crate) slow: bool,
    /// What it has not made yet.
    pub(crate) unmade: Vec<(Vec<KernelSa>, Vec<KernelPolicy>)>,
    /// Whether charon does not run.
    pub(crate) absent: bool,
    /// Whether the shared address may be taken where nobody else has it.
    pub(crate) may_take: bool,
    /// What left outside: outbound SPI and number.
    pub(crate) sent: Vec<(u32, u64)>,
    /// What came in and was opened: inbound SPI and number.
    pub(crate) delivered: Vec<(u32, u64)>,
    pub(crate) fail: Option<Fail>,
    /// The record of its gateway, and how it stood when calls began to fail.
    pub(crate) record: Option<PathBuf>,
    pub(crate) record_then: Option<Vec<u8>>,
    /// Calls since `fail` was set, and the last of them.
    pub(crate) calls: u32,
    pub(crate) last_call: &'static str,
}

/// Which calls fail, made by one thread.
#[derive(Clone, Copy)]
pub(crate) struct Fail {
    pub(crate) by: ThreadId,
    /// Counted from 1.
    pub(crate) at: u32,
    /// Whether all after it fail too.
    pub(crate) onwards: bool,
    /// Whether what was asked for is done all the same.
    pub(crate) done: bool,
}

/// Where a session's packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Kernel,
    Queue,
    To(Name),
}

/// What steering holds of a session.
pub(crate) struct Steered {
    pub(crate) flow: Flow,
    pub(crate) data: Way,
    pub(crate) ike: Way,
    pub(crate) blocked: bool,
    /// Outbound SPI and the first number that may not leave.
    pub(crate) ends: Vec<(u32, u64)>,
    pub(crate) queue: Vec<Packet>,
}

pub(crate) fn lock(ground: &Mutex<Ground>) -> MutexGuard<'_, Ground> {
    ground.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ground {
    pub(crate) fn sa(&self, id: &SaId) -> Option<&KernelSa> {
        self.sas.iter().find(|sa| sa.id == *id)
    }

    /// Whether this call fails, and whether it is done all the same.
    fn fails(&mut self, call: &'static str) -> Option<bool> {
        let fail = self.fail.filter(|fail| fail.by == std::thread::current().id())?;
        self.calls += 1;
        self.last_call = call;
        if self.calls == fail.at && fail.onwards && !fail.done {
            // If the process is killed after this, it was killed here.
            self.record_then = self.record.as_ref().map(|path| std::fs::read(path).unwrap());
        }
        let fails = self.calls == fail.at || fail.onwards && self.calls > fail.at;
        fails.then_some(fail.done)
    }

    /// Puts SAs and policies in, all or nothing.
    pub(crate) fn put(
        &mut self,
        sas: Vec<KernelSa>,
        policies: Vec<KernelPolicy>,
    ) -> Result<(), Refusal> {
        let taken = |what: &dyn std::fmt::Display| {
            Err(Refusal::new(Status::SpiCollision, format!("{what} is there already")))
        };
        if let Some(sa) = sas.iter().find(|sa| self.sa(&sa.id).is_some()) {
            return taken(&sa.id);
        }
        let stands = |policy: &&KernelPolicy| {
            self.policies.iter().any(|other| other.is_at_the_place_of(policy))
        };
        if let Some(policy) = policies.iter().find(stands) {
            return taken(policy);
        }
        self.sas.extend(sas);
        self.policies.extend(policies);
        Ok(())
    }

    pub(crate) fn take_out(&mut self, sas: &[SaId], policies: &[KernelPolicy]) {
        self.policies
            .retain(|policy| !policies.iter().any(|other| other.is_at_the_place_of(policy)));
        self.sas.retain(|sa| !sas.contains(&sa.id));
    }
}

/// One call of a gateway's into its surroundings.
pub(crate) fn call<T>(
    ground: &Mutex<Ground>,
    name: &'static str,
    effect: impl FnOnce(&mut Ground) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut ground = lock(ground);
    match ground.fails(name) {
        None => effect(&mut ground),
        Some(done) => {
            if done {
                effect(&mut ground)?;
            }
            Err(Refusal::new(Status::GatewayFault, format!("{name} fails in this test")))
        }
    }
}

/// A call that promises to leave nothing behind when it fails.
pub(crate) fn whole_call<T>(
    ground: &Mutex<Ground>,
    name: &'static str,
    effect: impl FnOnce(&mut Ground) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut ground = lock(ground);
    match ground.fails(name) {
        None => effect(&mut ground),
        Some(_) => Err(Refusal::new(Status::GatewayFault, format!("{name} fails in this test"))),
    }
}
