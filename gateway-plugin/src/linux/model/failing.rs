//! A daemon whose calls fail on demand.

use std::{net::IpAddr, time::Duration};

use protocol_spec::{
    context::{Context, IkeSa},
    id::SessionId,
    profile::{Capabilities, Profile},
    status::Refusal,
    transfer::IkeFinals,
};

use super::{
    super::daemon::{Described, IkeDaemon, Known, Remembered, Spis},
    ground::{Shared, call},
};
use crate::{plugin::Fault, xfrm::KernelSa};

pub(crate) struct Failing {
    pub(crate) ground: Shared,
    pub(crate) daemon: Box<dyn IkeDaemon>,
}

impl Failing {
    fn may(&self, name: &'static str) -> Result<(), Refusal> {
        call(&self.ground, name, |_| Ok(()))
    }

    fn may_not(&self, name: &'static str) -> Result<(), Fault> {
        self.may(name).map_err(|refusal| Fault::Unreachable(refusal.detail))
    }
}

impl IkeDaemon for Failing {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        self.may_not("capabilities").and_then(|()| self.daemon.capabilities())
    }

    fn remember(&mut self, sessions: &[Remembered]) {
        self.daemon.remember(sessions);
    }

    fn sessions(&mut self, kernel: &[KernelSa]) -> Result<Vec<Known>, Fault> {
        self.may_not("sessions").and_then(|()| self.daemon.sessions(kernel))
    }

    fn spis(&mut self, session: SessionId) -> Result<Spis, Refusal> {
        self.may("spis").and_then(|()| self.daemon.spis(session))
    }

    fn describe(&mut self, session: SessionId) -> Result<Described, Refusal> {
        self.may("describe").and_then(|()| self.daemon.describe(session))
    }

    fn secrets(&mut self, session: SessionId) -> Result<Option<IkeSa>, Refusal> {
        self.may("secrets").and_then(|()| self.daemon.secrets(session))
    }

    fn admit(&mut self, profile: &Profile) -> Result<(), Refusal> {
        self.may("admit").and_then(|()| self.daemon.admit(profile))
    }

    fn stage(&mut self, context: &Context, local: Option<IpAddr>) -> Result<(), Refusal> {
        self.may("daemon.stage").and_then(|()| self.daemon.stage(context, local))
    }

    fn staged(&mut self, context: &Context) -> Result<(), Refusal> {
        self.may("daemon.staged").and_then(|()| self.daemon.staged(context))
    }

    fn installs_children(&self) -> bool {
        self.daemon.installs_children()
    }

    fn wait_quiet(&mut self, session: SessionId, patience: Duration) -> Result<(), Refusal> {
        self.may("wait_quiet").and_then(|()| self.daemon.wait_quiet(session, patience))
    }

    fn finals(&mut self, session: SessionId) -> Result<Option<IkeFinals>, Refusal> {
        self.may("finals").and_then(|()| self.daemon.finals(session))
    }

    fn activate(&mut self, session: SessionId, finals: Option<&IkeFinals>) -> Result<(), Refusal> {
        self.may("daemon.activate").and_then(|()| self.daemon.activate(session, finals))
    }

    fn forget(&mut self, session: SessionId) -> Result<(), Refusal> {
        self.may("daemon.forget").and_then(|()| self.daemon.forget(session))
    }
}
