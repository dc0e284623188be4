//! [`Tables`] on the kernel itself.

use protocol_spec::status::{Refusal, Status};

use super::ground::Tables;
use crate::xfrm::{Counters, Kernel, KernelPolicy, KernelSa, SaId, XfrmError};

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

impl Tables for Kernel {
    fn sas(&mut self) -> Result<Vec<KernelSa>, Refusal> {
        Kernel::sas(self).map(|listing| listing.entries).map_err(refusal)
    }

    fn sa(&mut self, id: &SaId) -> Result<Option<KernelSa>, Refusal> {
        Kernel::sa(self, id).map_err(refusal)
    }

    fn policies(&mut self) -> Result<Vec<KernelPolicy>, Refusal> {
        Kernel::policies(self).map(|listing| listing.entries).map_err(refusal)
    }

    fn counters(&mut self, sas: &[SaId]) -> Result<Vec<Counters>, Refusal> {
        all(Kernel::counters(self, sas))
    }

    fn set_counters(&mut self, counters: &[(SaId, Counters)]) -> Result<(), Refusal> {
        all(Kernel::set_counters(self, counters)).map(drop)
    }

    fn install(&mut self, sas: &[KernelSa], policies: &[KernelPolicy]) -> Result<(), Refusal> {
        let results = Kernel::install(self, sas);
        let installed: Vec<SaId> = sas
            .iter()
            .zip(&results)
            .filter(|(_, done)| done.is_ok())
            .map(|(sa, _)| sa.id)
            .collect();
        let outcome = all(results).and_then(|_| {
            let results = self.install_policies(policies);
            let installed: Vec<KernelPolicy> = policies
                .iter()
                .zip(&results)
                .filter(|(_, done)| done.is_ok())
                .map(|(policy, _)| policy.clone())
                .collect();
            all(results).map(drop).inspect_err(|_| drop(self.remove_policies(&installed)))
        });
        outcome.inspect_err(|_| drop(Kernel::remove(self, &installed)))
    }

    fn remove(&mut self, sas: &[SaId], policies: &[KernelPolicy]) -> Result<(), Refusal> {
        let policies = self.remove_policies(policies);
        let sas = Kernel::remove(self, sas);
        let failed = policies.into_iter().chain(sas).filter_map(Result::err);
        failed
            .filter(|error| !matches!(error, XfrmError::Missing(_)))
            .map(refusal)
            .next()
            .map_or(Ok(()), Err)
    }
}
