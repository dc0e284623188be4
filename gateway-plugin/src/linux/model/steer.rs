//! Steering of the model.

use std::{net::IpAddr, time::Duration};

use protocol_spec::{
    id::{Name, SessionId},
    status::Refusal,
};

use super::{
    super::ground::{Flow, Steer},
    bench::SHARED,
    ground::{Ground, Shared, Steered, Way, call, lock},
};

pub(crate) struct ModelSteer {
    pub(crate) ground: Shared,
    pub(crate) neighbour: Name,
}

impl Ground {
    fn steered(&mut self, session: SessionId, flow: &Flow) -> &mut Steered {
        let steered = self.steered.entry(session).or_insert_with(|| Steered {
            flow: flow.clone(),
            data: Way::Kernel,
            ike: Way::Kernel,
            blocked: false,
            ends: Vec::new(),
            queue: Vec::new(),
        });
        steered.flow = flow.clone();
        steered
    }
}

impl Steer for ModelSteer {
    fn here(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal> {
        call(&self.ground, "here", |ground| {
            ground.steered(session, flow);
            Ok(())
        })
    }

    fn hold(&mut self, session: SessionId, flow: &Flow, _: &Name) -> Result<(), Refusal> {
        call(&self.ground, "hold", |ground| {
            let steered = ground.steered(session, flow);
            (steered.data, steered.ike) = (Way::Queue, Way::Queue);
            Ok(())
        })
    }

    fn limit(
        &mut self,
        session: SessionId,
        flow: &Flow,
        ends: &[(u32, u64)],
    ) -> Result<(), Refusal> {
        call(&self.ground, "limit", |ground| {
            let known = &mut ground.steered(session, flow).ends;
            known.retain(|(spi, _)| ends.iter().all(|(other, _)| other != spi));
            known.extend(ends);
            Ok(())
        })
    }

    fn let_go_data(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal> {
        call(&self.ground, "let_go_data", |ground| {
            let steered = ground.steered(session, flow);
            steered.data = Way::Kernel;
            for packet in std::mem::take(&mut steered.queue) {
                ground.take(packet);
            }
            Ok(())
        })
    }

    fn let_go_ike(&mut self, session: SessionId) -> Result<(), Refusal> {
        call(&self.ground, "let_go_ike", |ground| {
            if let Some(steered) = ground.steered.get_mut(&session) {
                steered.ike = Way::Kernel;
            }
            Ok(())
        })
    }

    fn drained(&mut self, session: SessionId) -> Result<(), Refusal> {
        call(&self.ground, "drained", |ground| {
            ground.steered.remove(&session);
            Ok(())
        })
    }

    fn inherit(&mut self, from: SessionId, _: SessionId) -> Result<(), Refusal> {
        call(&self.ground, "inherit", |ground| {
            ground.steered.remove(&from);
            Ok(())
        })
    }

    fn maintain(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    fn discard(&mut self, session: SessionId, _: &Name) -> Result<(), Refusal> {
        call(&self.ground, "discard", |ground| {
            ground.steered.remove(&session);
            Ok(())
        })
    }

    fn divert_ike(
        &mut self,
        session: SessionId,
        flow: &Flow,
        target: &Name,
    ) -> Result<(), Refusal> {
        call(&self.ground, "divert_ike", |ground| {
            ground.steered(session, flow).ike = Way::To(target.clone());
            Ok(())
        })
    }

    fn block_ike(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal> {
        call(&self.ground, "block_ike", |ground| {
            ground.steered(session, flow);
            Ok(())
        })
    }

    fn divert(&mut self, session: SessionId, flow: &Flow, target: &Name) -> Result<(), Refusal> {
        call(&self.ground, "divert", |ground| {
            let steered = ground.steered(session, flow);
            steered.data = Way::To(target.clone());
            steered.ike = Way::To(target.clone());
            Ok(())
        })
    }

    fn block(&mut self, session: SessionId, flow: &Flow) -> Result<(), Refusal> {
        call(&self.ground, "block", |ground| {
            ground.steered(session, flow).blocked = true;
            Ok(())
        })
    }

    fn restore(&mut self, session: SessionId) -> Result<(), Refusal> {
        call(&self.ground, "restore", |ground| {
            if let Some(steered) = ground.steered.get_mut(&session) {
                (steered.data, steered.ike) = (Way::Kernel, Way::Kernel);
                steered.blocked = false;
            }
            Ok(())
        })
    }

    fn released(&mut self, _: SessionId) -> Result<(), Refusal> {
        call(&self.ground, "released", |_| Ok(()))
    }

    fn take_free(&mut self, _: Duration, in_use: &dyn Fn(IpAddr) -> bool) -> Result<(), Refusal> {
        lock(&self.ground).may_take = in_use(SHARED);
        Ok(())
    }

    fn forget(&mut self, session: SessionId) -> Result<(), Refusal> {
        call(&self.ground, "forget", |ground| {
            ground.steered.remove(&session);
            Ok(())
        })
    }

    fn reaches(&self, gateway: &Name) -> bool {
        *gateway == self.neighbour
    }
}
