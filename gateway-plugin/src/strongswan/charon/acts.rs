//! What a gateway asks of charon.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use protocol_spec::{
    context::{Context, IkeSa, SideEffects},
    id::SessionId,
    profile::{Capabilities, Feature, FeatureSet, Profile},
    status::{Refusal, Status},
    transfer::IkeFinals,
};

use super::{Charon, CharonError, PATIENCE, SETTLED, lock, spis, unanswered, unsent};
use crate::{
    linux::{Described, DescribedChild, FEATURES, IkeDaemon, Known, Remembered, Spis},
    plugin::Fault,
    strongswan::{
        checks,
        ha::{SocketError, put},
        vici::{
            IkeSaInfo, ViciError,
            sa::{ChildState, IkeState},
        },
    },
    xfrm::KernelSa,
};

/// What charon carries beside what the kernel does.
const OWN_FEATURES: &[Feature] = &[
    Feature::Ike,
    Feature::MultipleKeyExchanges,
    Feature::Eap,
    Feature::Mobike,
    Feature::Fragmentation,
    Feature::MessageIdSync,
    Feature::VirtualIp,
    Feature::Nat,
];
/// Between two looks whether charon has done something.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Charon {
    /// Asks again until `holds`, for at most `patience`.
    fn wait(
        &mut self,
        session: SessionId,
        patience: Duration,
        holds: impl Fn(&IkeSaInfo) -> bool,
    ) -> Result<IkeSaInfo, Refusal> {
        let clock = crate::holder::clock::Clock::start();
        loop {
            let left = patience.saturating_sub(clock.now());
            let late = left.is_zero();
            // One that charon does not have yet is not looked for among all.
            let asked = match late {
                true => Some(self.ask(session)?),
                false => self.look_up(session, left.max(PATIENCE))?,
            };
            match asked {
                Some(sa) if holds(&sa) || late => return Ok(sa),
                _ => std::thread::park_timeout(LOOK_AGAIN),
            }
        }
    }

    /// Whether charon still has an IKE SA that the session's has replaced: its end user
    /// deletes it, and only this charon can answer that.
    fn has_replaced(&mut self, session: SessionId) -> Result<bool, Refusal> {
        let new = self.ike(session)?.spis();
        let replaced = lock(&self.tracker).replaced(session);
        for old in replaced {
            let there = match self.news.number_before(old, new) {
                Some(number) => self.vici.find_sa(number, PATIENCE).map_err(unanswered)?,
                None => {
                    let all = self.vici.list_sas(PATIENCE).map_err(unanswered)?;
                    all.into_iter().find(|sa| spis(sa) == old)
                }
            };
            if there.is_some_and(|sa| spis(&sa) == old) {
                return Ok(true);
            }
            lock(&self.tracker).replaced_is_gone(session, old);
        }
        Ok(false)
    }

    fn wait_deleted(&mut self, session: SessionId, patience: Duration) -> Result<(), Refusal> {
        let clock = crate::holder::clock::Clock::start();
        while self.has_replaced(session)? {
            if clock.now() >= patience {
                let detail = "the IKE SA was rekeyed and the old one is not deleted: try later";
                return Err(Refusal::new(Status::Busy, detail));
            }
            std::thread::park_timeout(LOOK_AGAIN);
        }
        Ok(())
    }

    fn put(
        &mut self,
        context: &Context,
        ike: &IkeSa,
        local: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let local = local.map(|address| SocketAddr::new(address, ike.local.port()));
        let version = self.version()?;
        let mut messages = put::ike_messages(context, local, version).map_err(unsent)?;
        for child in &context.children {
            messages.push(put::child_message(context, child, version).map_err(unsent)?);
        }
        let park = put::park(&put::ike_id(ike), ike.remote, &self.gate()?, version);
        messages.push(park.map_err(unsent)?);
        let life = self.socket.send(&messages, PATIENCE).map_err(unsent)?;
        if self.life != Some(life) {
            return Err(unsent("it was started anew since it was asked what it has: try again"));
        }
        Ok(())
    }

    /// Has charon tell what it has not told of a session that an earlier process staged.
    fn learn_of(&mut self, session: SessionId) {
        self.news.miss();
        // It is in use; what could not be asked now is asked again.
        if let Err(error) = self.catch_up() {
            tracing::warn!(%session, %error, "what charon has of it is not known yet");
        }
    }

    /// What charon does for a session of this connection beside IKE and ESP.
    fn side_effects(&mut self, connection: &str) -> Result<SideEffects, Refusal> {
        let daemon = self.meet().map(|met| met.daemon).unwrap_or_default();
        if let Some((stats, strongswan, swanctl)) = self.effects.get() {
            return Ok(checks::side_effects(stats, &daemon, strongswan, swanctl, connection));
        }
        let last = self.effects.take_last();
        if let Some(last) = last.filter(|(_, one, other)| one.is_current() && other.is_current()) {
            let (stats, strongswan, swanctl) = self.effects.put(last);
            return Ok(checks::side_effects(stats, &daemon, strongswan, swanctl, connection));
        }
        let stats = self.vici.stats(PATIENCE).map_err(unanswered)?;
        let read = |path: &Path| {
            checks::Settings::read(path).map_err(|error| {
                Refusal::new(Status::GatewayFault, format!("charon's settings: {error}"))
            })
        };
        let strongswan = read(&self.settings.strongswan_conf)?;
        let swanctl = read(&self.settings.swanctl_conf)?;
        let (stats, strongswan, swanctl) = self.effects.put((stats, strongswan, swanctl));
        Ok(checks::side_effects(stats, &daemon, strongswan, swanctl, connection))
    }
}

fn unreachable(error: CharonError) -> Fault {
    Fault::Unreachable(error.to_string())
}

/// The same of one that may have ended.
fn gone(error: CharonError) -> Fault {
    match error {
        CharonError::Vici { error: ViciError::Connect { absent: true, .. }, .. } => {
            Fault::Lost(error.to_string())
        }
        error => unreachable(error),
    }
}

impl IkeDaemon for Charon {
    fn capabilities(&mut self) -> Result<Capabilities, Fault> {
        // What one said holds while none runs: its sessions are not gone for that.
        if self.met.is_none() {
            self.meet().map_err(unreachable)?;
        }
        let features: FeatureSet = FEATURES.iter().chain(OWN_FEATURES).copied().collect();
        Ok(Capabilities {
            features,
            child_transforms: self.settings.child_transforms.clone(),
            // charon's own check is finer than a list of combinations.
            ike_transforms: BTreeSet::new(),
            max_replay_window: 4096,
            max_sessions: u64::MAX,
        })
    }

    fn sessions(&mut self, _: &[KernelSa]) -> Result<Vec<Known>, Fault> {
        self.catch_up().map_err(gone)?;
        let known = |(session, generation)| Known { session, generation };
        let tracker = lock(&self.tracker);
        // After a restart of our own charon has them, and was only asked to tell of them.
        let untold = self.strangers.iter().filter_map(|ike| tracker.remembered(*ike));
        Ok(tracker.sessions().chain(untold).map(known).collect())
    }

    fn remember(&mut self, sessions: &[Remembered]) {
        let mut tracker = lock(&self.tracker);
        for Remembered { known, spis, remote } in sessions {
            if let Some(ike) = spis.ike {
                tracker.remember(ike, known.session, known.generation);
                self.remotes.extend(remote.map(|remote| (known.session, remote)));
            }
        }
    }

    fn spis(&mut self, session: SessionId) -> Result<Spis, Refusal> {
        let told = lock(&self.tracker).describe(session);
        let told = told.map_err(|error| Refusal::new(Status::GatewayFault, error.to_string()))?;
        Ok(Spis {
            ike: Some((told.ike.spi_initiator, told.ike.spi_responder)),
            inbound: told.children.iter().map(|child| child.inbound).collect(),
            ends: None,
        })
    }

    fn describe(&mut self, session: SessionId) -> Result<Described, Refusal> {
        let told = lock(&self.tracker).describe(session);
        let told = told.map_err(|error| Refusal::new(Status::GatewayFault, error.to_string()))?;
        let now = self.ask(session)?;
        let mut ike = told.ike;
        if now.state != IkeState::Passive {
            (ike.local, ike.remote) = (now.local, now.remote);
        }
        ike.nat = now.nat;
        (ike.rekey_in, ike.reauthenticate_in) = (now.rekey_in, now.reauthenticate_in);
        ike.side_effects = self.side_effects(&ike.configuration)?;
        let children = told.children.into_iter().filter_map(|child| {
            let listed = now.live_children().find(|listed| listed.spi_in == Some(child.inbound))?;
            Some(DescribedChild {
                configuration: child.configuration,
                inbound: child.inbound,
                outbound: child.outbound,
                seed: child.seed,
                rekey_in: listed.rekey_in,
            })
        });
        let known = Known { session, generation: told.generation };
        let is_quiet = now.is_quiet() && !self.has_replaced(session)?;
        Ok(Described { known, children: children.collect(), ike: Some(ike), is_quiet })
    }

    fn secrets(&mut self, session: SessionId) -> Result<Option<IkeSa>, Refusal> {
        let told = lock(&self.tracker).describe(session);
        let told = told.map_err(|error| Refusal::new(Status::GatewayFault, error.to_string()))?;
        Ok(Some(told.ike))
    }

    fn admit(&mut self, profile: &Profile) -> Result<(), Refusal> {
        self.notice_another();
        let facts = match self.facts.get() {
            Some(facts) => facts,
            None => {
                let vici = &mut self.vici;
                let facts = match self.facts.take_last() {
                    Some(mut last) => last.renew(vici, PATIENCE).map(|()| last),
                    None => checks::Facts::gather(vici, PATIENCE),
                };
                self.facts.put(facts.map_err(unanswered)?)
            }
        };
        let tracker = lock(&self.tracker);
        // What is staged of it may be older than its last rekey.
        let holder = |address| tracker.holder(address, profile.session);
        facts.admit(profile, &self.settings.hands_out, &holder)?;
        let Some(spis) = profile.ike_spis else {
            let detail = "the session has no IKE SA, and here an IKE daemon owns all SAs";
            return Err(Refusal::new(Status::NoFeature, detail));
        };
        let before = || tracker.remembered(spis).map(|(session, _)| session);
        let owner = tracker.find(spis).or_else(before);
        if owner == Some(profile.session) || owner.is_none() && !self.strangers.contains(&spis) {
            return Ok(());
        }
        let who = owner.map_or("an IKE SA".to_owned(), |owner| format!("session {owner}"));
        let detail = format!(
            "{who} here has the same IKE SPIs ({:016x} and {:016x}): rekey the IKE SA at the source \
             first",
            spis.0, spis.1
        );
        Err(Refusal::new(Status::SpiCollision, detail))
    }

    fn stage(&mut self, context: &Context, local: Option<IpAddr>) -> Result<(), Refusal> {
        let Some(ike) = &context.ike else {
            let detail = "the session has no IKE SA, and here an IKE daemon owns all SAs";
            return Err(Refusal::new(Status::NoFeature, detail));
        };
        lock(&self.tracker).adopt(context).map_err(|notice| {
            Refusal::new(Status::NoRoom, format!("the session cannot be followed: {notice:?}"))
        })?;
        self.put(context, ike, local)
    }

    fn staged(&mut self, context: &Context) -> Result<(), Refusal> {
        let wanted: BTreeSet<u32> = context.children.iter().map(|c| c.inbound.spi).collect();
        let installed = |sa: &IkeSaInfo| -> BTreeSet<u32> {
            let up = sa.children.iter().filter(|child| child.state == ChildState::Installed);
            up.filter_map(|child| child.spi_in).collect()
        };
        let id = context.session;
        // Parking it was the last message: whatever is missing after it does not come.
        let park = self.segments.address_in(self.segments.parking());
        let is_over = |sa: &IkeSaInfo| Some(sa.remote.ip()) == park;
        let is_done = |sa: &IkeSaInfo| sa.is_passive() && installed(sa) == wanted;
        let sa = self.wait(id, SETTLED, |sa| is_done(sa) || is_over(sa))?;
        if !sa.is_passive() {
            let detail =
                format!("charon has the IKE SA in state {:?} instead of passive", sa.state);
            return Err(Refusal::new(Status::GatewayFault, detail));
        }
        if installed(&sa) != wanted {
            let detail = "charon did not install every Child SA: its log says why";
            return Err(Refusal::new(Status::GatewayFault, detail));
        }
        self.passive.extend(self.life.map(|life| (id, life)));
        Ok(())
    }

    fn has_told_all(&self) -> bool {
        !self.news.has_missed()
    }

    fn installs_children(&self) -> bool {
        true
    }

    fn wait_quiet(&mut self, session: SessionId, patience: Duration) -> Result<(), Refusal> {
        let sa = self.wait(session, patience, IkeSaInfo::is_quiet)?;
        if !sa.is_quiet() {
            let tasks: Vec<&str> =
                sa.tasks.active.iter().chain(&sa.tasks.passive).map(String::as_str).collect();
            let detail = match &tasks[..] {
                [] => "an SA is being replaced: try later".to_owned(),
                tasks => format!("an IKE exchange stays open ({}): try later", tasks.join(", ")),
            };
            return Err(Refusal::new(Status::Busy, detail));
        }
        // What charon did until then is known here, too.
        self.socket
            .catch_up(PATIENCE)
            .map_err(|error| Refusal::new(Status::Busy, format!("{error}: try later")))?;
        self.wait_deleted(session, patience)
    }

    fn finals(&mut self, session: SessionId) -> Result<Option<IkeFinals>, Refusal> {
        let told = lock(&self.tracker).describe(session);
        let ike = told.map_err(|error| Refusal::new(Status::GatewayFault, error.to_string()))?.ike;
        let IkeSa { next_send, next_receive, .. } = ike;
        // Only the answer to the newest request can be asked for again.
        let last = self.responses.last((ike.spi_initiator, ike.spi_responder));
        let last = last.filter(|last| last.message_id.checked_add(1) == Some(next_receive));
        let last_response = last.map(|last| last.to_octets());
        Ok(Some(IkeFinals { next_send, next_receive, last_response }))
    }

    fn activate(&mut self, session: SessionId, finals: Option<&IkeFinals>) -> Result<(), Refusal> {
        // What was seen to wait still does, unless this was called before.
        let waits_in = self.passive.remove(&session);
        if waits_in.is_none() && !self.ask(session)?.is_passive() {
            return Ok(());
        }
        let version = self.version()?;
        let ike = self.ike(session)?;
        let before = self.staged_before.get(&session).map(|(_, remote)| *remote);
        let remote = match (before, lock(&self.tracker).describe(session)) {
            (_, Ok(told)) => told.ike.remote,
            (Some(remote), Err(_)) => remote,
            (None, Err(error)) => {
                return Err(Refusal::new(Status::GatewayFault, error.to_string()));
            }
        };
        let mut messages = Vec::new();
        if let Some(finals) = finals {
            let (send, receive) = (finals.next_send, finals.next_receive);
            lock(&self.tracker).set_message_ids(session, send, receive);
            messages.extend(put::mids(&ike, send, receive, version).map_err(unsent)?);
        }
        let gate = self.gate()?;
        let open = put::activate(&ike, remote, &gate, version).map_err(unsent)?;
        messages.extend(open);
        let life = self.socket.send(&messages, PATIENCE).map_err(unsent)?;
        tracing::debug!(%session, "charon told");
        if waits_in.is_some_and(|staged_in| staged_in != life) {
            let detail = "charon was started anew after the session was staged";
            return Err(Refusal::new(Status::SessionEnded, detail));
        }
        // Asked before it has read them, it would be kept from them. Whether it has done
        // what they say is asked below.
        let read = self.socket.settle(PATIENCE);
        tracing::debug!(%session, ?read, "charon has read");
        // Its true address comes after it is established: who asks in between would
        // write the gate's down.
        let is_up =
            |sa: &IkeSaInfo| sa.state == IkeState::Established && sa.remote.ip() != gate.gate;
        let sa = self.wait(session, SETTLED, is_up)?;
        if is_up(&sa) {
            if before.is_some() {
                self.learn_of(session);
            }
            return Ok(());
        }
        let detail = format!(
            "charon has the IKE SA in state {:?} towards {} after its activation",
            sa.state, sa.remote
        );
        Err(Refusal::new(Status::GatewayFault, detail))
    }

    fn forget(&mut self, session: SessionId) -> Result<(), Refusal> {
        let Ok(ike) = self.ike(session) else { return Ok(()) };
        // One that does not run knows no session; the next one neither.
        if self.socket.charons_life().is_some() {
            let version = self.version()?;
            // Whoever forgets a session leaves it to another gateway, address and all.
            let messages = [put::lend(&ike, version), put::delete(&ike, version)];
            let messages: Vec<_> =
                messages.into_iter().collect::<Result<_, _>>().map_err(unsent)?;
            match self.socket.send(&messages, PATIENCE) {
                Ok(_) | Err(SocketError::NoCharon { .. }) => {}
                Err(error) => return Err(unsent(error)),
            }
        }
        self.passive.remove(&session);
        lock(&self.tracker).forget(session);
        self.staged_before.remove(&session);
        self.strangers.remove(&ike.spis());
        self.news.forget(ike.spis());
        Ok(())
    }
}
