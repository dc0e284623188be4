//! Two gateways on the model, their end users, and the suite's harness.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use protocol_spec::{
    context::{
        ChildSa, ChildTransforms, Context, Direction, ENCR_AES_GCM_16, Endpoints, IkeSa, InboundSa,
        Lifetime, Load, Mode, Nat, OutboundSa, Policy, Prefix, Protocol, ReplayWindow, SaKeys,
        Selector, SideEffects, VirtualIp,
    },
    id::{Generation, Name, SessionId},
    profile::{Capabilities, FeatureSet},
    samples,
    transfer::GrantedRange,
};

use super::{
    Failing, ModelSteer, ModelTables, Shared,
    charon::{IkeSession, ModelCharon},
    ground::lock,
    packets::{Fate, Packet},
};
use crate::{
    conformance::{Harness, Passed, Side},
    linux::{
        context,
        daemon::{DaemonEvent, IkeDaemon},
        gateway::{LinuxGateway, Place},
        kernel_only::{FEATURES, KernelOnly},
    },
    plugin::{EventSink, EventSource, Fault, GatewayPlugin},
};

/// Which daemon stands above the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// None.
    Kernel,
    /// One that installs Child SAs itself.
    Charon,
}

/// An address that both gateways share.
pub(crate) const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NAMES: [&str; 2] = ["gw-a", "gw-b"];

pub(crate) struct Bench {
    kind: Kind,
    pub(crate) grounds: [Shared; 2],
    pub(crate) gateways: [Option<LinuxGateway>; 2],
    events: [Option<SyncSender<DaemonEvent>>; 2],
    pub(crate) users: BTreeMap<SessionId, User>,
    next: u32,
    records: tempfile::TempDir,
}

/// An end user.
pub(crate) struct User {
    /// By which its addresses are made.
    pub(crate) number: u32,
    pub(crate) inbound: u32,
    pub(crate) outbound: u32,
    /// The number of its last packet.
    pub(crate) last: u64,
}

static IDS: AtomicU64 = AtomicU64::new(1);

pub(crate) fn new_id() -> SessionId {
    let mut id = [0x5e; 16];
    id[8..].copy_from_slice(&IDS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    SessionId(id)
}

pub(crate) fn capabilities() -> Capabilities {
    Capabilities {
        features: FEATURES.iter().copied().collect(),
        child_transforms: [(ENCR_AES_GCM_16, 256, 0)].into(),
        ike_transforms: [].into(),
        max_replay_window: 4096,
        max_sessions: 1000,
    }
}

pub(crate) fn index(side: Side) -> usize {
    usize::from(side == Side::Target)
}

pub(crate) fn inner(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn outer(number: u32) -> IpAddr {
    Ipv4Addr::from(0xcb00_0000 + number).into()
}

/// An IKE SA of this end user.
pub(crate) fn ike(number: u32, local: IpAddr) -> IkeSa {
    let sample = samples::ike(7);
    let mut extensions = sample.extensions;
    extensions.redirect = false;
    IkeSa {
        spi_initiator: u64::from(number),
        spi_responder: 0x1000 + u64::from(number),
        authentication: protocol_spec::context::Authentication::Method(2),
        local: SocketAddr::new(local, 500),
        remote: SocketAddr::new(outer(number), 500),
        nat: Nat::default(),
        extensions,
        virtual_ips: vec![VirtualIp { address: inner(number), pool: "pool".to_owned() }],
        side_effects: SideEffects::default(),
        ..sample
    }
}

/// A Child SA of this end user; each `serial` has other SPIs and keys.
fn child(number: u32, serial: u32, kind: Kind) -> ChildSa {
    let keys = |mark| SaKeys { encryption: samples::key(mark, 36), integrity: samples::key(0, 0) };
    let any = |address, bits| Selector { prefix: Prefix { address, bits }, ports: (0, u16::MAX) };
    let (user, net) = (any(inner(number), 32), any(Ipv4Addr::new(172, 16, 0, 0).into(), 16));
    let policies = [Direction::Out, Direction::In, Direction::Forward].map(|direction| {
        let out = direction == Direction::Out;
        let (source, destination) = if out { (&net, &user) } else { (&user, &net) };
        Policy {
            direction,
            priority: 1000,
            source: source.clone(),
            destination: destination.clone(),
            protocol: 0,
        }
    });
    ChildSa {
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        configuration: "net".to_owned(),
        // Without a daemon all sources may have given the same.
        reqid: if kind == Kind::Kernel { 7 } else { number },
        cpi: None,
        transforms: ChildTransforms { encryption: ENCR_AES_GCM_16, key_bits: 256, integrity: 0 },
        esn: false,
        inbound: InboundSa {
            spi: 0xc000_0000 + serial,
            keys: keys(serial as u8),
            window: ReplayWindow { size: 64, highest: 0, bitmap: vec![0; 2] },
        },
        outbound: OutboundSa {
            spi: 0xd000_0000 + serial,
            keys: keys(serial as u8 ^ 0x80),
            sequence: 0,
        },
        policies: policies.into(),
        encapsulation: None,
        pmtu: None,
        mark: None,
        if_id: None,
        lifetime: Lifetime::default(),
        rekey_in: None,
        seed: None,
        endpoints: (kind == Kind::Kernel)
            .then_some(Endpoints { local: SHARED, remote: outer(number) }),
    }
}

impl Bench {
    pub(crate) fn new(kind: Kind) -> Self {
        let mut bench = Self {
            kind,
            grounds: Default::default(),
            gateways: [None, None],
            events: [None, None],
            users: BTreeMap::new(),
            next: 1,
            // In memory, as it is to be.
            records: tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(),
        };
        bench.start(Side::Source);
        bench.start(Side::Target);
        bench
    }

    /// Starts a gateway's process, after ending the one before.
    pub(crate) fn start(&mut self, side: Side) {
        let at = index(side);
        self.events[at] = None;
        self.gateways[at] = None;
        // What waits in a queue waits in the process.
        let record = self.records.path().join(NAMES[at]);
        {
            let mut ground = lock(&self.grounds[at]);
            ground.steered.values_mut().for_each(|steered| steered.queue.clear());
            if let Some(then) = ground.record_then.take() {
                std::fs::write(&record, then).unwrap();
            }
            ground.record = Some(record.clone());
        }
        let ground = &self.grounds[at];
        let daemon: Box<dyn IkeDaemon> = match self.kind {
            Kind::Kernel => Box::new(KernelOnly::new(capabilities(), vec![SHARED], new_id)),
            Kind::Charon => Box::new(ModelCharon::new(ground.clone())),
        };
        let place = Place {
            shared: vec![SHARED],
            own: Vec::new(),
            require: FeatureSet::default(),
            max_sessions: 1000,
            drain: Duration::from_secs(60),
            life: [at as u8; 16],
        };
        let neighbour = NAMES[1 - at].parse().unwrap();
        let (sender, events) = sync_channel(64);
        let gateway = LinuxGateway::start(
            place,
            Box::new(ModelTables(ground.clone())),
            Box::new(ModelSteer { ground: ground.clone(), neighbour }),
            Box::new(Failing { ground: ground.clone(), daemon }),
            None,
            events,
            &record,
        );
        self.gateways[at] = Some(gateway.unwrap());
        self.events[at] = Some(sender);
    }

    pub(crate) fn at(&mut self, side: Side) -> &mut LinuxGateway {
        self.gateways[index(side)].as_mut().unwrap()
    }

    fn tell(&self, side: Side) {
        let sender = self.events[index(side)].as_ref().unwrap();
        // Full is as good: the gateway looks anyway.
        _ = sender.try_send(DaemonEvent::Gap);
    }

    /// Puts a Child SA into a kernel, as IKE does.
    fn install(&mut self, side: Side, number: u32, policies: bool) -> (u32, u32) {
        let serial = self.next;
        self.next += 1;
        let child = child(number, serial, self.kind);
        let spis = (child.inbound.spi, child.outbound.spi);
        let grants = [GrantedRange { sa: child.sa(), base: 1, end: u64::MAX }];
        let context = Context {
            session: SessionId([0; 16]),
            generation: Generation(1),
            ike: (self.kind == Kind::Charon).then(|| ike(number, SHARED)),
            children: vec![child],
            load: Load::default(),
        };
        let (mut sas, made) = context::tables(&context, &grants).unwrap();
        let mut ground = lock(&self.grounds[index(side)]);
        let key = (u64::from(number), 0x1000 + u64::from(number));
        if let Some(ike) = ground.ike.get(&key) {
            let reqid = ike.reqid;
            sas.iter_mut().for_each(|sa| sa.reqid = reqid);
        }
        ground.put(sas, if policies { made } else { Vec::new() }).unwrap();
        spis
    }

    /// Offers a packet to a gateway and follows it to the other.
    pub(crate) fn offer(&mut self, side: Side, packet: Packet) -> Fate {
        let fate = lock(&self.grounds[index(side)]).take(packet);
        if let Fate::Diverted(name) = &fate {
            let other = NAMES.iter().position(|known| name.as_str() == *known).unwrap();
            lock(&self.grounds[other]).take(packet);
        }
        fate
    }

    /// The end user's next packet.
    pub(crate) fn fresh(&mut self, session: SessionId) -> Packet {
        let user = self.users.get_mut(&session).unwrap();
        user.last += 1;
        Packet::Esp(user.inbound, user.last)
    }

    fn passed(&mut self, side: Side, session: SessionId) -> Passed {
        let user = &self.users[&session];
        let mut ground = lock(&self.grounds[index(side)]);
        let mut passed = Passed::default();
        ground.sent.retain(|(spi, number)| {
            let own = *spi == user.outbound;
            passed.numbers.extend(own.then_some(*number));
            !own
        });
        let before = ground.delivered.len();
        ground.delivered.retain(|(spi, _)| *spi != user.inbound);
        passed.delivered = (before - ground.delivered.len()) as u32;
        passed
    }
}

impl Harness for Bench {
    fn gateway(&mut self, side: Side) -> &mut dyn GatewayPlugin {
        self.at(side)
    }

    fn name(&self, side: Side) -> Name {
        NAMES[index(side)].parse().unwrap()
    }

    fn events(&mut self, side: Side) -> Result<EventSource, Fault> {
        let (sink, source) = EventSink::bounded(1024);
        self.at(side).subscribe(sink)?;
        Ok(source)
    }

    fn provision(&mut self) -> Result<SessionId, String> {
        let number = self.next;
        let (inbound, outbound) = self.install(Side::Source, number, true);
        if self.kind == Kind::Charon {
            let session = IkeSession {
                number,
                local: SHARED,
                children: vec![(inbound, outbound)],
                reqid: number,
                next: (3, 7),
                passive: false,
            };
            let key = (u64::from(number), 0x1000 + u64::from(number));
            lock(&self.grounds[0]).ike.insert(key, session);
        }
        self.tell(Side::Source);
        let known = self.at(Side::Source).list().map_err(|fault| fault.to_string())?;
        let new = known.iter().map(|status| status.session);
        let mut new = new.filter(|id| !self.users.contains_key(id));
        let id = new.next().ok_or("the gateway does not see the new session")?;
        self.users.insert(id, User { number, inbound, outbound, last: 0 });
        Ok(id)
    }

    fn rekey(&mut self, side: Side, session: SessionId) -> Result<(), String> {
        let User { number, inbound, outbound, .. } = self.users[&session];
        let spis = self.install(side, number, false);
        let mut ground = lock(&self.grounds[index(side)]);
        ground.sas.retain(|sa| sa.id.spi != inbound && sa.id.spi != outbound);
        let key = (u64::from(number), 0x1000 + u64::from(number));
        if let Some(ike) = ground.ike.get_mut(&key) {
            ike.children = vec![spis];
        }
        drop(ground);
        self.users.insert(session, User { number, inbound: spis.0, outbound: spis.1, last: 0 });
        self.tell(side);
        Ok(())
    }

    fn pass(&mut self, side: Side, session: SessionId, packets: u32) -> Result<Passed, String> {
        let to = inner(self.users[&session].number);
        for _ in 0..packets {
            self.offer(side, Packet::Inner(to));
            let packet = self.fresh(session);
            self.offer(side, packet);
        }
        Ok(self.passed(side, session))
    }

    fn replay(&mut self, side: Side, session: SessionId) -> Result<bool, String> {
        let user = &self.users[&session];
        let packet = Packet::Esp(user.inbound, user.last);
        self.offer(side, packet);
        Ok(self.passed(side, session).delivered > 0)
    }
}
