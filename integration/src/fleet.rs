//! End users and the inner host of a demo or a test, behind a [`Wire`].

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use gateway_plugin::{
    embedded::{
        Addresses, Counters, Counts, FleetConfig, FleetReport, GatewayAdmin, RemoteGateway,
        SessionReport, SessionShape, UserFleet,
    },
    plugin::Fault,
};
use protocol_spec::{
    context::{ChildSa, Context},
    id::{Generation, Name, SessionId},
    status::Refusal,
};

use crate::{
    process::wait_for,
    rig::{A, B, Rig},
    wire::Wire,
};

/// How long stragglers are waited for before a packet counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// What end users and gateways call each other.
#[derive(Clone, Copy, Debug)]
pub struct Configurations {
    /// Of the sessions that can move.
    pub movable: &'static str,
    /// Of the others.
    pub foreign: &'static str,
}

/// End users with sessions at the first site.
pub struct Fleet {
    users: UserFleet,
    movable: Vec<String>,
    guests: Vec<String>,
    before: FleetReport,
}

/// What was counted between [`Fleet::begin`] and [`Fleet::end`].
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Seconds of sending.
    pub seconds: f64,
    /// Packets sent, both ways.
    pub sent: u64,
    /// Never arrived.
    pub lost: u64,
    /// Arrived more than once.
    pub duplicated: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Longest silence of each session, of both directions the longer.
    pub gaps: Vec<Duration>,
    /// Longest time that a packet of each session took, of both directions the longer.
    pub delays: Vec<Duration>,
}

impl Fleet {
    /// Sets sessions up at the first site's gateway, as IKE would: `sessions` that can
    /// move and `guests` whose configuration only that gateway knows.
    ///
    /// # Errors
    /// What a gateway or the system says.
    pub fn start(
        rig: &Rig,
        wire: &Wire,
        sessions: usize,
        guests: usize,
        rate: u32,
        names: Configurations,
    ) -> Result<Self> {
        let mut home = Behind {
            gateway: RemoteGateway::connect(&rig.sites[A].home.plugin)?,
            wire,
            left: sessions,
            names,
        };
        let mut other = RemoteGateway::connect(&rig.sites[B].home.plugin)?;
        let config = FleetConfig {
            sessions: u32::try_from(sessions + guests)?,
            rate,
            shape: SessionShape { configuration: names.movable.to_owned(), ..Default::default() },
            patience: PATIENCE,
            sending: false,
            ..FleetConfig::default()
        };
        let users = UserFleet::start(config, &mut home, &mut [&mut other])?;
        let mut movable: Vec<_> = users.sessions().iter().map(SessionId::to_string).collect();
        let guests = movable.split_off(sessions);
        Ok(Self { users, movable, guests, before: FleetReport::default() })
    }

    /// Sessions that can move.
    pub fn movable(&self) -> &[String] {
        &self.movable
    }

    /// Sessions that only the first gateway takes.
    pub fn guests(&self) -> &[String] {
        &self.guests
    }

    /// Begins to send and to count.
    pub fn begin(&mut self) {
        self.before = self.users.report();
        self.users.begin_phase();
        self.users.go_on();
    }

    /// Stops sending, waits for stragglers, and tells what was counted.
    pub fn end(&mut self) -> Tally {
        self.users.hold();
        let (now, before) = (self.users.report(), &self.before);
        let both = |figure: fn(&Counts) -> u64| {
            let sum = |report: &FleetReport| figure(&report.up) + figure(&report.down);
            sum(&now).saturating_sub(sum(before))
        };
        let longest = |figure: fn(&Counts) -> u64| {
            let of = |s: &SessionReport| Duration::from_micros(figure(&s.up).max(figure(&s.down)));
            now.per_session.iter().map(of).collect()
        };
        Tally {
            seconds: now.seconds - before.seconds,
            sent: both(|c| c.sent),
            lost: both(|c| c.lost),
            duplicated: both(|c| c.duplicated),
            reordered: both(|c| c.reordered),
            gaps: longest(|c| c.longest_gap_us),
            delays: longest(|c| c.longest_delay_us),
        }
    }

    /// Waits until packets pass both ways in every session.
    ///
    /// # Errors
    /// How many sessions are stuck.
    pub fn pass(&self, patience: Duration) -> Result<()> {
        let all: Vec<_> = (0..self.movable.len() + self.guests.len()).collect();
        self.pass_at(&all, patience)
    }

    /// Waits until packets pass both ways in these sessions.
    ///
    /// # Errors
    /// How many sessions are stuck.
    pub fn pass_in(&self, sessions: &[String], patience: Duration) -> Result<()> {
        let sessions: HashSet<_> = sessions.iter().collect();
        let all = self.movable.iter().chain(&self.guests).enumerate();
        let places: Vec<_> =
            all.filter(|(_, id)| sessions.contains(id)).map(|(place, _)| place).collect();
        self.pass_at(&places, patience)
    }

    fn pass_at(&self, places: &[usize], patience: Duration) -> Result<()> {
        let seen = self.users.report().per_session;
        let mut stuck = 0;
        let waited = wait_for("packets in every session", patience, || {
            let now = self.users.report().per_session;
            // One packet may have been on its way at the first look.
            let more = |now: &Counts, seen: &Counts| now.received >= seen.received + 2;
            let passes = |place: &&usize| match (now.get(**place), seen.get(**place)) {
                (Some(now), Some(seen)) => more(&now.up, &seen.up) && more(&now.down, &seen.down),
                _ => false,
            };
            stuck = places.len() - places.iter().filter(passes).count();
            Ok((stuck == 0).then_some(()))
        });
        waited.with_context(|| format!("in {stuck} sessions packets do not pass both ways"))
    }
}

/// A gateway as end users see it through the wire: its outer address is the wire's,
/// and so are theirs.
struct Behind<'a> {
    gateway: RemoteGateway,
    wire: &'a Wire,
    /// Sessions that are still to come under the common configuration.
    left: usize,
    names: Configurations,
}

impl Behind<'_> {
    fn fronted(&self, mut context: Context) -> Result<Context, Fault> {
        let foreign = self.left == 0;
        if let Some(ike) = &mut context.ike {
            ike.remote = self.public(ike.remote)?;
            if foreign {
                ike.configuration = self.names.foreign.to_owned();
            }
        }
        Ok(context)
    }

    fn public(&self, user: SocketAddr) -> Result<SocketAddr, Fault> {
        self.wire.public(user).map_err(|error| Fault::Unreachable(error.to_string()))
    }
}

impl GatewayAdmin for Behind<'_> {
    fn addresses(&mut self) -> Result<Addresses, Fault> {
        let outer = self.wire.front(A).map_err(|error| Fault::Unreachable(error.to_string()))?;
        Ok(Addresses { outer, ..self.gateway.addresses()? })
    }

    fn provision(
        &mut self,
        contexts: Vec<Context>,
    ) -> Result<Vec<Result<SessionId, Refusal>>, Fault> {
        let mut fronted = Vec::with_capacity(contexts.len());
        for context in contexts {
            fronted.push(self.fronted(context)?);
            self.left = self.left.saturating_sub(1);
        }
        self.gateway.provision(fronted)
    }

    fn add_child(
        &mut self,
        session: SessionId,
        child: ChildSa,
    ) -> Result<Result<Generation, Refusal>, Fault> {
        self.gateway.add_child(session, child)
    }

    fn remove_child(
        &mut self,
        session: SessionId,
        spi: u32,
    ) -> Result<Result<Generation, Refusal>, Fault> {
        self.gateway.remove_child(session, spi)
    }

    fn remove(&mut self, session: SessionId) -> Result<Result<(), Refusal>, Fault> {
        self.gateway.remove(session)
    }

    fn counters(&mut self) -> Result<Counters, Fault> {
        self.gateway.counters()
    }

    fn set_neighbour(&mut self, name: Name, relay: SocketAddr) -> Result<(), Fault> {
        self.gateway.set_neighbour(name, relay)
    }

    fn set_inner_host(&mut self, address: SocketAddr) -> Result<(), Fault> {
        self.gateway.set_inner_host(address)
    }
}
