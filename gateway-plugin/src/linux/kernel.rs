//! [`Tables`] on the kernel itself.

use std::time::Duration;

use protocol_spec::{
    context::Selector,
    status::{Refusal, Status},
};

use super::{context::leads_into, ground::Tables};
use crate::xfrm::{Counters, Kernel, KernelPolicy, KernelSa, Mirror, SaId, XfrmError};

/// The kernel, and what finds its entries.
pub(crate) struct Live {
    kernel: Kernel,
    mirror: Mirror,
}

impl Live {
    /// Of the network namespace of this thread.
    pub(crate) fn new(kernel: Kernel) -> Result<Self, XfrmError> {
        Ok(Self { kernel, mirror: Mirror::open()? })
    }
}

fn refusal(error: XfrmError) -> Refusal {
    let status = if matches!(error, XfrmError::Exists(_)) {
        Status::SpiCollision
    } else {
        Status::GatewayFault
    };
    Refusal::new(status, error.to_string())
}

fn all<T>(results: Vec<Result<T, XfrmError>>) -> Result<Vec<T>, Refusal> {
    results.into_iter().collect::<Result<_, _>>().map_err(refusal)
}

impl Tables for Live {
    fn sas(&mut self) -> Result<Vec<KernelSa>, Refusal> {
        self.kernel.sas().map(|listing| listing.entries).map_err(refusal)
    }

    fn sa(&mut self, id: &SaId) -> Result<Option<KernelSa>, Refusal> {
        self.kernel.sa(id).map_err(refusal)
    }

    fn policies(&mut self) -> Result<Vec<KernelPolicy>, Refusal> {
        self.kernel.policies().map(|listing| listing.entries).map_err(refusal)
    }

    fn named(&mut self, spi: u32) -> Result<Vec<SaId>, Refusal> {
        let Self { kernel, mirror } = self;
        mirror.sas(kernel, spi).map(<[_]>::to_vec).map_err(refusal)
    }

    fn with_spis(&mut self, spis: &[u32]) -> Result<Vec<KernelSa>, Refusal> {
        let mut names = Vec::new();
        for spi in spis {
            names.extend(self.named(*spi)?);
        }
        self.kernel.present(&names).map_err(refusal)
    }

    fn leading_into(&mut self, sas: &[KernelSa]) -> Result<Vec<KernelPolicy>, Refusal> {
        let Self { kernel, mirror } = self;
        let mut reqids: Vec<u32> = sas.iter().map(|sa| sa.reqid).collect();
        reqids.sort_unstable();
        reqids.dedup();
        let mut found = Vec::new();
        for reqid in reqids {
            let policies = mirror.policies(kernel, reqid).map_err(refusal)?;
            let lead = |policy: &&KernelPolicy| sas.iter().any(|sa| leads_into(policy, sa));
            found.extend(policies.iter().filter(lead).cloned());
        }
        Ok(found)
    }

    fn lead_to(&mut self, destination: &Selector) -> Result<bool, Refusal> {
        let Self { kernel, mirror } = self;
        mirror.leads_to(kernel, destination).map_err(refusal)
    }

    fn wait(&mut self, patience: Duration) -> Result<(), Refusal> {
        self.mirror.wait(patience).map_err(refusal)
    }

    fn counters(&mut self, sas: &[SaId]) -> Result<Vec<Counters>, Refusal> {
        all(self.kernel.counters(sas))
    }

    fn set_counters(&mut self, counters: &[(SaId, Counters)]) -> Result<(), Refusal> {
        all(self.kernel.set_counters(counters)).map(drop)
    }

    fn install(&mut self, sas: &[KernelSa], policies: &[KernelPolicy]) -> Result<(), Refusal> {
        let results = self.kernel.install(sas);
        let installed: Vec<SaId> = sas
            .iter()
            .zip(&results)
            .filter(|(_, done)| done.is_ok())
            .map(|(sa, _)| sa.id)
            .collect();
        let outcome = all(results).and_then(|_| {
            let results = self.kernel.install_policies(policies);
            let installed: Vec<KernelPolicy> = policies
                .iter()
                .zip(&results)
                .filter(|(_, done)| done.is_ok())
                .map(|(policy, _)| policy.clone())
                .collect();
            all(results).map(drop).inspect_err(|_| drop(self.kernel.remove_policies(&installed)))
        });
        outcome.inspect_err(|_| drop(self.kernel.remove(&installed)))
    }

    fn remove(&mut self, sas: &[SaId], policies: &[KernelPolicy]) -> Result<(), Refusal> {
        let policies = self.kernel.remove_policies(policies);
        let sas = self.kernel.remove(sas);
        let failed = policies.into_iter().chain(sas).filter_map(Result::err);
        failed
            .filter(|error| !matches!(error, XfrmError::Missing(_)))
            .map(refusal)
            .next()
            .map_or(Ok(()), Err)
    }
}
