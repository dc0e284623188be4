//! The world of one claim: two hosts, the links between them, an arbiter; all of it
//! in steps of a millisecond of true time, which nobody in it sees.

use std::time::Duration;

use cxtp::cluster::{Answer, Ask, Claim, Tenure, Timing, Version, Watch, WatchWish, Wish};
use protocol_spec::id::GatewayEpoch;

/// Between two beats of the owner, by its clock.
const PACE: Duration = Duration::from_millis(40);

/// Small enough to fail over in 250 ms.
pub(crate) fn timing() -> Timing {
    Timing {
        lease: Duration::from_millis(160),
        drift: 50,
        suspicion: Duration::from_millis(130),
        renewal: Duration::from_millis(60),
        patience: Duration::from_millis(40),
        #[cfg(feature = "sabotage")]
        sabotage: None,
    }
}

/// SplitMix64: a seed is a run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// What can go wrong, and right again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillOwnersHost,
    KillOwner,
    StartOwner,
    HangOwner,
    KillStandby,
    StartStandby,
    HangStandby,
    /// Hung processes go on.
    Continue,
    CutOwnerOff,
    CutLink,
    LoseBeats,
    LoseAcknowledgements,
    CutOwnerFromArbiter,
    CutStandbyFromArbiter,
    StopArbiter,
    StartArbiter,
    /// All messages are late, by up to more than a lease.
    Slow,
    /// Orders to the owner's kernel are late.
    SlowKernel,
    /// All links are as they should be.
    Heal,
}

const FAULTS: &[Fault] = &[
    Fault::KillOwnersHost,
    Fault::KillOwner,
    Fault::StartOwner,
    Fault::StartOwner,
    Fault::HangOwner,
    Fault::KillStandby,
    Fault::StartStandby,
    Fault::StartStandby,
    Fault::HangStandby,
    Fault::Continue,
    Fault::Continue,
    Fault::CutOwnerOff,
    Fault::CutLink,
    Fault::LoseBeats,
    Fault::LoseAcknowledgements,
    Fault::CutOwnerFromArbiter,
    Fault::CutStandbyFromArbiter,
    Fault::StopArbiter,
    Fault::StartArbiter,
    Fault::Slow,
    Fault::SlowKernel,
    Fault::Heal,
    Fault::Heal,
    Fault::Heal,
];

#[derive(Clone, Copy, Debug)]
enum Message {
    Beat(u64, u64),
    Acknowledgement(u64, u64),
    OwnerAsks(u64, u64, Ask),
    OwnerHears(u64, u64, Answer),
    StandbyAsks(u64, u64, Ask),
    StandbyHears(u64, u64, Answer),
    /// To the owner's kernel: which life says it, until when, and the number.
    Limit(u64, Duration, Option<u64>),
    Limited(u64, u64),
}

/// A process: which life of it, its machine, and what waits while it hangs.
#[derive(Debug)]
struct Process<M> {
    life: u64,
    machine: Option<M>,
    hangs: bool,
    inbox: Vec<Message>,
}

impl<M> Process<M> {
    fn new() -> Self {
        Self { life: 0, machine: None, hangs: false, inbox: Vec::new() }
    }

    fn start(&mut self, begin: impl FnOnce(u64) -> M) {
        if self.machine.is_none() {
            self.life += 1;
            self.hangs = false;
            self.machine = Some(begin(self.life));
        }
    }

    fn kill(&mut self) {
        self.machine = None;
        self.inbox.clear();
    }
}

/// Which ways are open.
#[derive(Clone, Copy, Debug)]
struct Links {
    beats: bool,
    acknowledgements: bool,
    owner_arbiter: bool,
    standby_arbiter: bool,
    slow: bool,
    slow_kernel: bool,
}

const OPEN: Links = Links {
    beats: true,
    acknowledgements: true,
    owner_arbiter: true,
    standby_arbiter: true,
    slow: false,
    slow_kernel: false,
};

pub(crate) struct World {
    timing: Timing,
    rng: Rng,
    /// True time, in milliseconds.
    time: u64,
    /// Microseconds of each host's clock in a millisecond, and its start.
    clocks: [(u64, u64); 2],
    links: Links,
    arbiter_up: bool,
    claim: (Version, Option<Claim>),
    /// The version after which something was last about to go wrong.
    struck: Version,
    /// Whether anything goes wrong by itself; how often in a thousand, at any time
    /// and after a change.
    faults: bool,
    mishaps: u64,
    strikes: u64,
    /// By how much orders to the owner's kernel are late at most.
    orders_late: u64,
    asked: usize,
    owner: Process<Tenure>,
    standby: Process<Watch>,
    beats: (u64, Duration),
    /// The owner's kernel lets nothing out from this time of its clock on.
    limit: Duration,
    /// When the last order to the kernel arrives: they do not overtake each other.
    orders_until: u64,
    /// The standby's kernel sends.
    acts: bool,
    on_the_way: Vec<(u64, Message)>,
}

impl World {
    pub(crate) fn new(timing: Timing, mut rng: Rng, faults: bool) -> Self {
        // Calm worlds reach what wild ones never live to see.
        let mishaps = [1, 4, 8, 20][usize::try_from(rng.below(4)).unwrap()];
        let strikes = [0, 30, 150, 400][usize::try_from(rng.below(4)).unwrap()];
        let orders_late =
            if faults { [2, 2, 60, 200][usize::try_from(rng.below(4)).unwrap()] } else { 2 };
        // One clock may be as much faster as is allowed; which one is chance.
        let fast = 1000 + u64::from(timing.drift);
        let [owner, standby] = [[1000, 1000], [1000, fast], [fast, 1000], [1000, fast - 20]]
            [usize::try_from(rng.below(4)).unwrap()];
        let clocks = [(owner, rng.below(5_000_000)), (standby, rng.below(5_000_000))];
        let mut world = Self {
            timing,
            rng,
            time: 0,
            clocks,
            links: OPEN,
            arbiter_up: true,
            claim: (Version::default(), None),
            struck: Version::default(),
            faults,
            mishaps,
            strikes,
            orders_late,
            asked: 0,
            owner: Process::new(),
            standby: Process::new(),
            beats: (0, Duration::ZERO),
            limit: Duration::ZERO,
            orders_until: 0,
            acts: false,
            on_the_way: Vec::new(),
        };
        world.happen(Fault::StartOwner);
        world.happen(Fault::StartStandby);
        world
    }

    fn clock(&self, host: usize) -> Duration {
        let (rate, start) = self.clocks[host];
        Duration::from_micros(start + self.time * rate)
    }

    pub(crate) fn owner_may_send(&self) -> bool {
        self.clock(0) < self.limit
    }

    pub(crate) fn standby_acts(&self) -> bool {
        self.acts
    }

    pub(crate) fn two_owners(&self) -> bool {
        self.owner_may_send() && self.acts
    }

    /// How often the arbiter was asked.
    pub(crate) fn questions(&self) -> usize {
        self.asked
    }

    pub(crate) fn run(&mut self, span: Duration) {
        for _ in 0..span.as_millis() {
            self.step();
        }
    }

    /// A millisecond of true time.
    pub(crate) fn step(&mut self) {
        self.time += 1;
        // Most goes wrong right after a claim has changed.
        let changed = std::mem::replace(&mut self.struck, self.claim.0) != self.claim.0;
        if self.faults && self.rng.chance(if changed { self.strikes } else { self.mishaps }) {
            let which = self.rng.below(FAULTS.len() as u64);
            self.happen(FAULTS[usize::try_from(which).unwrap()]);
        }
        let due: Vec<Message> =
            self.on_the_way.extract_if(.., |(at, _)| *at <= self.time).map(|(_, m)| m).collect();
        for message in due {
            self.deliver(message);
        }
        self.beat();
        let (owners, standbys) = (self.clock(0), self.clock(1));
        if let Some(tenure) = self.owner.machine.as_mut().filter(|_| !self.owner.hangs) {
            tenure.tick(owners);
        }
        if let Some(watch) = self.standby.machine.as_mut().filter(|_| !self.standby.hangs) {
            watch.tick(standbys);
        }
        self.wishes();
    }

    fn beat(&mut self) {
        let now = self.clock(0);
        if self.owner.hangs || now < self.beats.1 {
            return;
        }
        let Some(tenure) = &mut self.owner.machine else { return };
        self.beats = (self.beats.0 + 1, now + PACE);
        tenure.beat(self.beats.0, now);
        let beat = Message::Beat(self.owner.life, self.beats.0);
        self.send(self.links.beats, beat);
    }

    /// On the way, unless it is lost; perhaps late, perhaps twice.
    fn send(&mut self, open: bool, message: Message) {
        let noise = if self.faults { 5 } else { 0 };
        while open && !self.rng.chance(noise) {
            let most = match self.links.slow {
                true => 400,
                false if self.rng.chance(noise * 20) => 60,
                false => 4,
            };
            self.on_the_way.push((self.time + 1 + self.rng.below(most), message));
            if !self.rng.chance(noise) {
                break;
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let [owners, standbys] = [self.clock(0), self.clock(1)];
        let to_owner = matches!(
            message,
            Message::Acknowledgement(..) | Message::OwnerHears(..) | Message::Limited(..)
        );
        let to_standby = matches!(message, Message::Beat(..) | Message::StandbyHears(..));
        if to_owner && self.owner.hangs {
            return self.owner.inbox.push(message);
        }
        if to_standby && self.standby.hangs {
            return self.standby.inbox.push(message);
        }
        match message {
            Message::Beat(life, number) => {
                let Some(watch) = &mut self.standby.machine else { return };
                if watch.heard(standbys) {
                    let open = self.links.acknowledgements;
                    self.send(open, Message::Acknowledgement(life, number));
                }
            }
            Message::Acknowledgement(life, number) if life == self.owner.life => {
                if let Some(tenure) = &mut self.owner.machine {
                    tenure.acknowledged(number, owners);
                }
            }
            Message::OwnerAsks(life, number, ask) => {
                if let Some(answer) = self.arbiter(ask) {
                    let open = self.links.owner_arbiter;
                    self.send(open, Message::OwnerHears(life, number, answer));
                }
            }
            Message::OwnerHears(life, number, answer) if life == self.owner.life => {
                if let Some(tenure) = &mut self.owner.machine {
                    tenure.answered(number, answer, owners);
                }
            }
            Message::StandbyAsks(life, number, ask) => {
                if let Some(answer) = self.arbiter(ask) {
                    let open = self.links.standby_arbiter;
                    self.send(open, Message::StandbyHears(life, number, answer));
                }
            }
            Message::StandbyHears(life, number, answer) if life == self.standby.life => {
                if let Some(watch) = &mut self.standby.machine {
                    watch.answered(number, answer, standbys);
                }
            }
            Message::Limit(life, until, confirm) => {
                self.limit = until;
                if let Some(number) = confirm {
                    self.on_the_way.push((self.time + 1, Message::Limited(life, number)));
                }
            }
            Message::Limited(life, number) if life == self.owner.life => {
                if let Some(tenure) = &mut self.owner.machine {
                    tenure.limited(number, owners);
                }
            }
            _ => {}
        }
        self.wishes();
    }

    fn arbiter(&mut self, ask: Ask) -> Option<Answer> {
        if !self.arbiter_up {
            return None;
        }
        self.asked += 1;
        let (version, claim) = self.claim;
        Some(match ask {
            Ask::Set { expected, claim } if expected == version => {
                self.claim = (Version(version.0 + 1), Some(claim));
                Answer::Written(self.claim.0)
            }
            _ => Answer::Stands(version, claim),
        })
    }

    fn wishes(&mut self) {
        while let Some(wish) = self.owner.machine.as_mut().and_then(Tenure::poll) {
            match wish {
                Wish::Ask(number, ask) => {
                    let open = self.links.owner_arbiter;
                    self.send(open, Message::OwnerAsks(self.owner.life, number, ask));
                }
                Wish::Limit { until, confirm } => self.order(until, confirm),
                Wish::Displaced => self.order(Duration::ZERO, None),
            }
        }
        while let Some(wish) = self.standby.machine.as_mut().and_then(Watch::poll) {
            match wish {
                WatchWish::Ask(number, ask) => {
                    let open = self.links.standby_arbiter;
                    self.send(open, Message::StandbyAsks(self.standby.life, number, ask));
                }
                WatchWish::Suspect => {}
                WatchWish::Act => self.acts = true,
            }
        }
    }

    /// To the owner's kernel, in order.
    fn order(&mut self, until: Duration, confirm: Option<u64>) {
        let late = self.rng.below(if self.links.slow_kernel { 1000 } else { self.orders_late });
        self.orders_until = self.orders_until.max(self.time + late);
        let limit = Message::Limit(self.owner.life, until, confirm);
        self.on_the_way.push((self.orders_until, limit));
    }

    pub(crate) fn happen(&mut self, fault: Fault) {
        let [owners, standbys] = [self.clock(0), self.clock(1)];
        let timing = self.timing;
        match fault {
            Fault::KillOwnersHost => {
                self.owner.kill();
                self.limit = Duration::ZERO;
                self.on_the_way.retain(|(_, message)| !matches!(message, Message::Limit(..)));
            }
            Fault::KillOwner => self.owner.kill(),
            Fault::StartOwner => {
                self.owner.start(|life| Tenure::new(timing, GatewayEpoch(life), owners));
            }
            Fault::HangOwner => self.owner.hangs = true,
            Fault::KillStandby => self.standby.kill(),
            Fault::StartStandby => self.standby.start(|_| Watch::new(timing, standbys)),
            Fault::HangStandby => self.standby.hangs = true,
            Fault::Continue => {
                (self.owner.hangs, self.standby.hangs) = (false, false);
                let mut waited = std::mem::take(&mut self.owner.inbox);
                waited.append(&mut self.standby.inbox);
                for message in waited {
                    self.deliver(message);
                }
            }
            Fault::CutOwnerOff => {
                self.links = Links { owner_arbiter: false, ..self.links };
                (self.links.beats, self.links.acknowledgements) = (false, false);
            }
            Fault::CutLink => (self.links.beats, self.links.acknowledgements) = (false, false),
            Fault::LoseBeats => self.links.beats = false,
            Fault::LoseAcknowledgements => self.links.acknowledgements = false,
            Fault::CutOwnerFromArbiter => self.links.owner_arbiter = false,
            Fault::CutStandbyFromArbiter => self.links.standby_arbiter = false,
            Fault::StopArbiter => self.arbiter_up = false,
            Fault::StartArbiter => self.arbiter_up = true,
            Fault::Slow => self.links.slow = true,
            Fault::SlowKernel => self.links.slow_kernel = true,
            Fault::Heal => self.links = OPEN,
        }
        self.wishes();
    }
}
