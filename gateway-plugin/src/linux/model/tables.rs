//! SAD and SPD of the model.

use protocol_spec::status::{Refusal, Status};

use super::{
    super::ground::Tables,
    ground::{Ground, Shared, call, whole_call},
};
use crate::xfrm::{Counters, KernelPolicy, KernelSa, SaId};

pub(crate) struct ModelTables(pub(crate) Shared);

/// A second copy, for a kernel that gives and keeps.
pub(crate) fn copy(sa: &KernelSa) -> KernelSa {
    KernelSa {
        id: sa.id,
        source: sa.source,
        reqid: sa.reqid,
        mode: sa.mode,
        transforms: sa.transforms.clone(),
        keys: sa.keys.duplicate(),
        esn: sa.esn,
        counters: sa.counters.clone(),
        window_size: sa.window_size,
        encapsulation: sa.encapsulation,
        if_id: sa.if_id,
        output_mark: sa.output_mark,
        lifetime: sa.lifetime.clone(),
        selector: sa.selector.clone(),
        flags: sa.flags,
        not_carried: Vec::new(),
    }
}

fn missing(id: &SaId) -> Refusal {
    Refusal::new(Status::GatewayFault, format!("{id} is not in the kernel"))
}

/// As the kernel does with NEWAE: numbers of one SA.
fn set(ground: &mut Ground, id: &SaId, counters: &Counters) -> Result<(), Refusal> {
    let sa = ground.sas.iter_mut().find(|sa| sa.id == *id).ok_or_else(|| missing(id))?;
    if counters.window.size != sa.window_size {
        let detail =
            format!("{id} has a window of {}, not {}", sa.window_size, counters.window.size);
        return Err(Refusal::new(Status::GatewayFault, detail));
    }
    sa.counters = counters.clone();
    Ok(())
}

impl Tables for ModelTables {
    fn sas(&mut self) -> Result<Vec<KernelSa>, Refusal> {
        call(&self.0, "sas", |ground| Ok(ground.sas.iter().map(copy).collect()))
    }

    fn sa(&mut self, id: &SaId) -> Result<Option<KernelSa>, Refusal> {
        call(&self.0, "sa", |ground| Ok(ground.sa(id).map(copy)))
    }

    fn policies(&mut self) -> Result<Vec<KernelPolicy>, Refusal> {
        call(&self.0, "policies", |ground| Ok(ground.policies.clone()))
    }

    fn counters(&mut self, sas: &[SaId]) -> Result<Vec<Counters>, Refusal> {
        call(&self.0, "counters", |ground| {
            let one = |id| ground.sa(id).map(|sa| sa.counters.clone()).ok_or_else(|| missing(id));
            sas.iter().map(one).collect()
        })
    }

    fn set_counters(&mut self, counters: &[(SaId, Counters)]) -> Result<(), Refusal> {
        call(&self.0, "set_counters", |ground| {
            counters.iter().try_for_each(|(id, counters)| set(ground, id, counters))
        })
    }

    fn install(&mut self, sas: &[KernelSa], policies: &[KernelPolicy]) -> Result<(), Refusal> {
        whole_call(&self.0, "install", |ground| {
            ground.put(sas.iter().map(copy).collect(), policies.to_vec())
        })
    }

    fn remove(&mut self, sas: &[SaId], policies: &[KernelPolicy]) -> Result<(), Refusal> {
        call(&self.0, "remove", |ground| {
            ground.take_out(sas, policies);
            Ok(())
        })
    }
}
