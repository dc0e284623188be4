//! One session on a gateway. Its context is its state: the counters and windows
//! of packets that pass are those of the context itself, so a snapshot is a copy
//! and a stage is a move.

mod copy;
mod passage;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol_spec::{
    context::{ChildSa, Context, Direction, Load, Prefix},
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    status::{Refusal, Status},
    transfer::{ChildFinals, Finals, GrantedRange, IkeFinals, SaRef, SessionState, SessionStatus},
};

pub(crate) use copy::duplicate;
pub(crate) use passage::Dropped;

use super::{esp::Cipher, window, wire::Kind};

/// A session and its lock. The datapath holds the lock for one packet, an act
/// for one session: that makes a pause atomic.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) guts: Mutex<Guts>,
}

/// What the lock protects.
pub(crate) struct Guts {
    pub(crate) epoch: SessionEpoch,
    pub(crate) phase: Phase,
    /// Absent once released or removed: nothing is left that could be used.
    pub(crate) body: Option<Box<Body>>,
    /// Packets that wait for an act.
    pub(crate) held: VecDeque<Held>,
}

/// Where a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Active,
    Paused(Name),
    Staged {
        source: Name,
        batch: BatchId,
    },
    /// Gone to another gateway; only its addresses are known still.
    Released {
        target: Name,
        spis: Box<[u32]>,
        prefixes: Box<[Prefix]>,
    },
    /// Ended or discarded.
    Removed,
}

/// A packet that waits.
pub(crate) struct Held {
    pub(crate) kind: Kind,
    pub(crate) hops: u8,
    pub(crate) source: SocketAddr,
    pub(crate) packet: Box<[u8]>,
}

/// A session that can be used.
pub(crate) struct Body {
    pub(crate) context: Context,
    /// One for each Child SA, in their order.
    lanes: Vec<Lane>,
    /// Where the end user is, if known.
    pub(crate) remote: Option<SocketAddr>,
    /// When the durations of the context were true.
    since: Duration,
    meter: Meter,
}

/// What a Child SA needs beside its context. Ciphers are made at the first
/// packet: a million staged sessions do not pay for key schedules.
struct Lane {
    inbound: Option<Box<Cipher>>,
    outbound: Option<Box<Cipher>>,
    /// First number that may not be used.
    end: u64,
    exhausted: bool,
}

/// Packets and octets in the running second and in the one before.
#[derive(Default)]
struct Meter {
    begun: Duration,
    packets: u32,
    octets: u64,
}

impl Session {
    pub(crate) fn new(id: SessionId, epoch: SessionEpoch, phase: Phase, body: Body) -> Arc<Self> {
        let body = Some(Box::new(body));
        Arc::new(Self { id, guts: Mutex::new(Guts { epoch, phase, body, held: VecDeque::new() }) })
    }
}

impl Guts {
    /// What `list` says of it; nothing once it is gone.
    pub(crate) fn status(&self, session: SessionId) -> Option<SessionStatus> {
        let state = match &self.phase {
            Phase::Active => SessionState::Active,
            Phase::Paused(target) => SessionState::Paused { target: target.clone() },
            Phase::Staged { source, batch } => {
                SessionState::Staged { source: source.clone(), batch: *batch }
            }
            Phase::Released { .. } | Phase::Removed => return None,
        };
        let generation = self.body.as_ref()?.context.generation;
        Some(SessionStatus { session, epoch: self.epoch, generation, state })
    }

    /// Refuses an act of an older ownership.
    pub(crate) fn refuse_stale(&self, epoch: SessionEpoch) -> Result<(), Refusal> {
        if epoch < self.epoch {
            let detail = format!("epoch {epoch} is below the known {}", self.epoch);
            return Err(Refusal::new(Status::StaleEpoch, detail));
        }
        Ok(())
    }
}

impl Body {
    /// A session that came up here and may use every number.
    pub(crate) fn new(context: Context, now: Duration) -> Self {
        let lanes = context.children.iter().map(|_| Lane::new(u64::MAX)).collect();
        let remote =
            context.ike.as_ref().map(|ike| ike.remote).filter(|r| !r.ip().is_unspecified());
        Self { context, lanes, remote, since: now, meter: Meter { begun: now, ..Meter::default() } }
    }

    /// A session that comes from elsewhere: its outbound counters begin at the
    /// granted bases, before anything can use them.
    pub(crate) fn staged(
        context: Context,
        grants: &[GrantedRange],
        now: Duration,
    ) -> Result<Self, Refusal> {
        let mut body = Self::new(context, now);
        //= spec CXTP-6.3-3
        for (child, lane) in body.context.children.iter_mut().zip(&mut body.lanes) {
            let sa = sa_ref(child);
            let last = last_number(child.esn);
            let grant = grants
                .iter()
                .find(|grant| grant.sa == sa)
                .filter(|grant| {
                    grant.base > child.outbound.sequence
                        && grant.base < grant.end
                        && grant.base <= last
                })
                .ok_or_else(|| {
                    let detail = format!(
                        "SPI {:#010x}: no granted range above the highest number used, {}",
                        sa.inbound_spi, child.outbound.sequence
                    );
                    Refusal::new(Status::NoSequenceRoom, detail)
                })?;
            child.outbound.sequence = grant.base - 1;
            //= spec CXTP-6.3-3
            lane.end = grant.end;
        }
        Ok(body)
    }

    /// Breaks the grant on purpose, see [`super::Sabotage::NoGrant`].
    pub(crate) fn forget_grants(&mut self) {
        self.context.children.iter_mut().for_each(|child| child.outbound.sequence = 0);
    }

    pub(crate) fn spis(&self) -> impl Iterator<Item = u32> {
        self.context.children.iter().map(|child| child.inbound.spi)
    }

    /// Inner prefixes behind the end user, each once.
    pub(crate) fn prefixes(&self) -> Vec<Prefix> {
        prefixes(&self.context)
    }

    /// The context as it is now.
    pub(crate) fn snapshot(&mut self, now: Duration) -> Context {
        self.age(now);
        self.meter.roll(now, &mut self.context.load);
        duplicate(&self.context)
    }

    /// The last counters. The session is stopped: asked again, they are the same.
    pub(crate) fn finals(&self) -> Finals {
        let ike = self.context.ike.as_ref().map(|ike| IkeFinals {
            next_send: ike.next_send,
            next_receive: ike.next_receive,
            last_response: None,
        });
        let children = self.context.children.iter();
        Finals {
            generation: self.context.generation,
            ike,
            children: children
                .map(|child| ChildFinals {
                    sa: sa_ref(child),
                    sequence: child.outbound.sequence,
                    window: child.inbound.window.clone(),
                    used: child.lifetime.used.clone(),
                })
                .collect(),
        }
    }

    /// Whether these are the last counters of this session, and sound.
    pub(crate) fn refuse_finals(&self, finals: &Finals) -> Result<(), Refusal> {
        if finals.generation != self.context.generation {
            let detail = format!(
                "staged as generation {}, paused as {}",
                self.context.generation, finals.generation
            );
            return Err(Refusal::new(Status::GenerationChanged, detail));
        }
        for child in &self.context.children {
            let sa = sa_ref(child);
            let spi = sa.inbound_spi;
            let Some(last) = finals.children.iter().find(|last| last.sa == sa) else {
                let detail = format!("SPI {spi:#010x}: no last counters");
                return Err(Refusal::new(Status::GenerationChanged, detail));
            };
            if !window::is_sound(&last.window) || last.window.size != child.inbound.window.size {
                let detail = format!("SPI {spi:#010x}: the replay window is not the staged one");
                return Err(Refusal::new(Status::GenerationChanged, detail));
            }
            if last.sequence > child.outbound.sequence {
                let detail = format!(
                    "SPI {spi:#010x}: number {} was used, the grant begins at {}",
                    last.sequence,
                    child.outbound.sequence.saturating_add(1)
                );
                return Err(Refusal::new(Status::NoSequenceRoom, detail));
            }
        }
        Ok(())
    }

    /// Takes over the last counters. The outbound numbers stay at their grants.
    pub(crate) fn take_finals(&mut self, finals: Finals) {
        if let (Some(ike), Some(last)) = (&mut self.context.ike, finals.ike) {
            ike.next_send = last.next_send;
            ike.next_receive = last.next_receive;
        }
        for last in finals.children {
            let child = self.context.children.iter_mut().find(|child| sa_ref(child) == last.sa);
            if let Some(child) = child {
                child.inbound.window = last.window;
                child.lifetime.used = last.used;
            }
        }
    }

    /// Goes on above numbers that somebody else may have used.
    pub(crate) fn skip_to(&mut self, from: &[(SaRef, u64)]) {
        for child in &mut self.context.children {
            let sa = sa_ref(child);
            let first = from.iter().find(|(of, _)| *of == sa).map_or(0, |(_, first)| *first);
            child.outbound.sequence = child.outbound.sequence.max(first.saturating_sub(1));
        }
    }

    /// Moves the ends of grants up.
    pub(crate) fn extend(&mut self, ends: &[(SaRef, u64)]) -> Result<(), Refusal> {
        let known = |sa: &SaRef| self.context.children.iter().any(|child| sa_ref(child) == *sa);
        if let Some((sa, _)) = ends.iter().find(|(sa, _)| !known(sa)) {
            let detail = format!("SPI {:#010x} is not one of the session's", sa.inbound_spi);
            return Err(Refusal::new(Status::GenerationChanged, detail));
        }
        for (child, lane) in self.context.children.iter().zip(&mut self.lanes) {
            let sa = sa_ref(child);
            if let Some((_, end)) = ends.iter().find(|(of, _)| *of == sa)
                && *end > lane.end
            {
                lane.end = *end;
                lane.exhausted = false;
            }
        }
        Ok(())
    }

    /// Installs a new Child SA in front of those that it will replace.
    pub(crate) fn add_child(&mut self, child: ChildSa) {
        self.context.children.push(child);
        self.lanes.push(Lane::new(u64::MAX));
        self.changed();
    }

    /// Removes a Child SA; says whether it was there.
    pub(crate) fn remove_child(&mut self, spi: u32) -> bool {
        let found = self.context.children.iter().position(|child| child.inbound.spi == spi);
        if let Some(i) = found {
            self.context.children.remove(i);
            self.lanes.remove(i);
            self.changed();
        }
        found.is_some()
    }

    fn changed(&mut self) {
        self.context.generation = self.context.generation.next();
    }

    pub(crate) fn generation(&self) -> Generation {
        self.context.generation
    }

    /// Brings every duration of the context up to now.
    pub(crate) fn age(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since);
        self.since = now;
        if let Some(ike) = &mut self.context.ike {
            for left in [&mut ike.rekey_in, &mut ike.reauthenticate_in, &mut ike.expire_in] {
                *left = left.map(|left| left.saturating_sub(passed));
            }
        }
        for child in &mut self.context.children {
            child.rekey_in = child.rekey_in.map(|left| left.saturating_sub(passed));
            let used = &mut child.lifetime.used;
            used.age += passed;
            used.since_first_use = used.since_first_use.map(|since| since + passed);
        }
    }
}

impl Lane {
    fn new(end: u64) -> Self {
        Self { inbound: None, outbound: None, end, exhausted: false }
    }
}

impl Meter {
    fn add(&mut self, now: Duration, octets: usize, load: &mut Load) {
        self.roll(now, load);
        self.packets = self.packets.saturating_add(1);
        self.octets += octets as u64;
    }

    /// Ends the running second, if it is one.
    fn roll(&mut self, now: Duration, load: &mut Load) {
        let passed = now.saturating_sub(self.begun).as_millis() as u64;
        if passed >= 1000 {
            load.packets_per_second = (u64::from(self.packets) * 1000 / passed) as u32;
            load.octets_per_second = self.octets.saturating_mul(1000) / passed;
            *self = Self { begun: now, ..Self::default() };
        }
    }
}

/// Names the pair of SAs.
pub(crate) fn sa_ref(child: &ChildSa) -> SaRef {
    SaRef { protocol: child.protocol, inbound_spi: child.inbound.spi }
}

/// Inner prefixes behind the end user, each once.
pub(crate) fn prefixes(context: &Context) -> Vec<Prefix> {
    let mut prefixes = Vec::with_capacity(1);
    for child in &context.children {
        for policy in child.policies.iter().filter(|p| p.direction == Direction::Out) {
            let prefix = super::table::normal(policy.destination.prefix);
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
    }
    prefixes
}

fn last_number(esn: bool) -> u64 {
    if esn { u64::MAX } else { u64::from(u32::MAX) }
}

#[cfg(test)]
mod tests;
