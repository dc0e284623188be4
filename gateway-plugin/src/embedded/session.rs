//! One session on a gateway. Its context is its state: the counters and windows
//! of packets that pass are those of the context itself, so a snapshot is a copy
//! and a stage is a move.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol_spec::{
    context::{
        ChildSa, Context, Direction, IkeKeys, IkeSa, IkeSecrets, InboundSa, Lifetime, Load,
        OutboundSa, Prefix, ReplacedSa,
    },
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    status::{Refusal, Status},
    transfer::{ChildFinals, Finals, GrantedRange, IkeFinals, SaRef, SessionState, SessionStatus},
};

use super::{
    esp::{self, Cipher, HEADER, NEXT_IPV4, NEXT_IPV6, NEXT_NONE},
    packet::{self, Flow},
    random,
    window::{self, Verdict},
    wire::Kind,
};

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

/// Why a packet does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    Replayed,
    TooOld,
    Forged,
    Malformed,
    Policy,
    Expired,
    NoRemote,
    /// No number is left; `first` if nobody was told yet.
    Exhausted {
        first: bool,
    },
}

/// A packet that was opened.
pub(crate) struct Opened {
    /// Where the inner packet stands in the datagram; `None` for a dummy.
    pub(crate) inner: Option<Range<usize>>,
    /// The end user showed a new address.
    pub(crate) roamed: bool,
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

    /// Seals the inner packet of `flow.length` octets that stands at
    /// `datagram[HEADER..]` and returns the length of the datagram.
    pub(crate) fn seal(
        &mut self,
        now: Duration,
        flow: &Flow,
        datagram: &mut [u8],
    ) -> Result<(SocketAddr, usize), Dropped> {
        // The newest Child SA that fits: it replaces those before it.
        let newest = self.context.children.iter().rposition(|c| packet::may_leave(c, flow));
        let i = newest.ok_or(Dropped::Policy)?;
        self.seal_in(i, now, flow.next_header(), datagram, flow.length)
    }

    /// Seals a dummy packet, which shows the end user where we are.
    pub(crate) fn seal_dummy(
        &mut self,
        now: Duration,
        datagram: &mut [u8],
    ) -> Result<(SocketAddr, usize), Dropped> {
        let newest = self.context.children.len().checked_sub(1).ok_or(Dropped::Policy)?;
        self.seal_in(newest, now, NEXT_NONE, datagram, 0)
    }

    fn seal_in(
        &mut self,
        i: usize,
        now: Duration,
        next_header: u8,
        datagram: &mut [u8],
        payload: usize,
    ) -> Result<(SocketAddr, usize), Dropped> {
        let remote = self.remote.ok_or(Dropped::NoRemote)?;
        let (Some(child), Some(lane)) = (self.context.children.get_mut(i), self.lanes.get_mut(i))
        else {
            return Err(Dropped::Policy);
        };
        if expired(&child.lifetime, now.saturating_sub(self.since)) {
            return Err(Dropped::Expired);
        }
        let number = child.outbound.sequence.saturating_add(1);
        if number >= lane.end || number > last_number(child.esn) {
            let first = !std::mem::replace(&mut lane.exhausted, true);
            return Err(Dropped::Exhausted { first });
        }
        let cipher = ready(&mut lane.outbound, &child.outbound.keys.encryption)?;
        // Counted before it is used: no failure can lead to a second use.
        child.outbound.sequence = number;
        let total = cipher
            .seal(child.outbound.spi, number, child.esn, next_header, datagram, payload)
            .map_err(|_| Dropped::Malformed)?;
        let used = &mut child.lifetime.used;
        used.packets.1 += 1;
        used.octets.1 += payload as u64;
        self.note_use(i, now, payload);
        Ok((remote, total))
    }

    /// Opens an ESP packet from the end user in place.
    pub(crate) fn open(
        &mut self,
        now: Duration,
        datagram: &mut [u8],
        from: SocketAddr,
    ) -> Result<Opened, Dropped> {
        let (spi, low) = esp::peek(datagram).ok_or(Dropped::Malformed)?;
        let i = self.spis().position(|own| own == spi).ok_or(Dropped::Malformed)?;
        let (Some(child), Some(lane)) = (self.context.children.get_mut(i), self.lanes.get_mut(i))
        else {
            return Err(Dropped::Malformed);
        };
        if expired(&child.lifetime, now.saturating_sub(self.since)) {
            return Err(Dropped::Expired);
        }
        let seen = &mut child.inbound.window;
        let number = window::infer(seen, child.esn, low).ok_or(Dropped::TooOld)?;
        match window::check(seen, number) {
            Verdict::Fresh => {}
            Verdict::Replayed => return Err(Dropped::Replayed),
            Verdict::TooOld => return Err(Dropped::TooOld),
        }
        let cipher = ready(&mut lane.inbound, &child.inbound.keys.encryption)?;
        let (payload, next_header) =
            cipher.open(number, child.esn, datagram).map_err(|error| match error {
                esp::EspError::Forged => Dropped::Forged,
                _ => Dropped::Malformed,
            })?;
        let newest = number > seen.highest;
        window::accept(seen, number);
        let used = &mut child.lifetime.used;
        used.packets.0 += 1;
        used.octets.0 += payload.len() as u64;
        let inner = match next_header {
            NEXT_NONE => None,
            NEXT_IPV4 | NEXT_IPV6 => {
                let flow = datagram.get(payload.clone()).and_then(Flow::parse);
                let flow = flow.filter(|flow| flow.next_header() == next_header);
                let flow = flow.ok_or(Dropped::Malformed)?;
                if !packet::may_enter(child, &flow) {
                    return Err(Dropped::Policy);
                }
                Some(HEADER..HEADER + flow.length)
            }
            _ => return Err(Dropped::Malformed),
        };
        self.note_use(i, now, payload.len());
        // Only the newest authenticated packet says where the end user is.
        let roamed = newest && self.remote != Some(from);
        if roamed {
            self.remote = Some(from);
            if let Some(ike) = &mut self.context.ike {
                ike.remote = from;
            }
            for child in &mut self.context.children {
                if let Some(encapsulation) = &mut child.encapsulation {
                    encapsulation.remote_port = from.port();
                }
            }
            self.changed();
        }
        Ok(Opened { inner, roamed })
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

    /// Counts a packet of a Child SA for the load, and its first one for good.
    fn note_use(&mut self, i: usize, now: Duration, octets: usize) {
        let unused = |child: &ChildSa| child.lifetime.used.since_first_use.is_none();
        if self.context.children.get(i).is_some_and(unused) {
            self.age(now);
            if let Some(child) = self.context.children.get_mut(i) {
                child.lifetime.used.since_first_use = Some(Duration::ZERO);
            }
        }
        self.meter.add(now, octets, &mut self.context.load);
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

fn ready<'a>(
    slot: &'a mut Option<Box<Cipher>>,
    keys: &protocol_spec::KeyMaterial,
) -> Result<&'a Cipher, Dropped> {
    if slot.is_none() {
        let iv_mask = random::octets().map(u64::from_ne_bytes).ok_or(Dropped::Malformed)?;
        let cipher = Cipher::new(keys, iv_mask).map_err(|_| Dropped::Malformed)?;
        *slot = Some(Box::new(cipher));
    }
    slot.as_deref().ok_or(Dropped::Malformed)
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

/// Whether a hard limit is reached. `passed` is not in the ages yet.
fn expired(lifetime: &Lifetime, passed: Duration) -> bool {
    let (used, hard) = (&lifetime.used, &lifetime.hard);
    let above = |limit: Option<u64>, used: (u64, u64)| {
        limit.is_some_and(|limit| used.0 >= limit || used.1 >= limit)
    };
    above(hard.octets, used.octets)
        || above(hard.packets, used.packets)
        || hard.age.is_some_and(|limit| used.age + passed >= limit)
        || matches!((hard.since_first_use, used.since_first_use),
            (Some(limit), Some(since)) if since + passed >= limit)
}

/// A second copy of a context, with its keys.
pub(crate) fn duplicate(context: &Context) -> Context {
    Context {
        session: context.session,
        generation: context.generation,
        ike: context.ike.as_ref().map(duplicate_ike),
        children: context.children.iter().map(duplicate_child).collect(),
        load: context.load,
    }
}

fn duplicate_ike(ike: &IkeSa) -> IkeSa {
    let secrets = match &ike.secrets {
        IkeSecrets::Seed { nonce_initiator, nonce_responder, shared, replaced } => {
            IkeSecrets::Seed {
                nonce_initiator: nonce_initiator.clone(),
                nonce_responder: nonce_responder.clone(),
                shared: shared.iter().map(|key| key.duplicate()).collect(),
                replaced: replaced
                    .as_ref()
                    .map(|old| ReplacedSa { prf: old.prf, sk_d: old.sk_d.duplicate() }),
            }
        }
        IkeSecrets::Keys(keys) => IkeSecrets::Keys(IkeKeys {
            sk_d: keys.sk_d.duplicate(),
            sk_ai: keys.sk_ai.duplicate(),
            sk_ar: keys.sk_ar.duplicate(),
            sk_ei: keys.sk_ei.duplicate(),
            sk_er: keys.sk_er.duplicate(),
            sk_pi: keys.sk_pi.duplicate(),
            sk_pr: keys.sk_pr.duplicate(),
        }),
    };
    IkeSa {
        transforms: ike.transforms.clone(),
        secrets,
        local_id: ike.local_id.clone(),
        remote_id: ike.remote_id.clone(),
        eap_identity: ike.eap_identity.clone(),
        peer_addresses: ike.peer_addresses.clone(),
        virtual_ips: ike.virtual_ips.clone(),
        configuration: ike.configuration.clone(),
        ..*ike
    }
}

fn duplicate_child(child: &ChildSa) -> ChildSa {
    ChildSa {
        configuration: child.configuration.clone(),
        transforms: child.transforms.clone(),
        inbound: InboundSa {
            keys: child.inbound.keys.duplicate(),
            window: child.inbound.window.clone(),
            ..child.inbound
        },
        outbound: OutboundSa { keys: child.outbound.keys.duplicate(), ..child.outbound },
        policies: child.policies.clone(),
        lifetime: child.lifetime.clone(),
        ..*child
    }
}

#[cfg(test)]
mod tests;
