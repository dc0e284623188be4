#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use protocol_spec::{id::Generation, samples};

use super::*;
use crate::cluster::Replicas;

const NAMES: [&str; 4] = ["owner", "x", "y", "z"];
const NOW: Duration = Duration::from_secs(1);
const EPOCH: SessionEpoch = SessionEpoch(1);

fn name(number: usize) -> Name {
    NAMES[number].parse().unwrap()
}

fn id(number: u8) -> SessionId {
    SessionId([number; 16])
}

fn replicator(copies: usize) -> Replicator {
    Replicator::new(name(0), (0..4).map(name), copies, 8)
}

type Contexts = Vec<(SessionId, Option<Context>)>;

/// An owner and three standbys, what its gateway has, and what is on its way.
struct World {
    owner: Replicator,
    standbys: Vec<Replicas>,
    lives: [u64; 4],
    /// Generations of the owner's sessions.
    gateway: BTreeMap<SessionId, u64>,
    /// Whether the gateway can read them.
    readable: bool,
    deltas: BTreeMap<Name, VecDeque<ReplicaDelta>>,
    /// What was read, each when it was ordered.
    reads: VecDeque<(u64, Contexts)>,
    acks: VecDeque<(Name, u64)>,
}

impl World {
    fn new(copies: usize) -> Self {
        Self {
            owner: replicator(copies),
            standbys: (0..3).map(|_| Replicas::new(1 << 24)).collect(),
            lives: [1; 4],
            gateway: BTreeMap::new(),
            readable: true,
            deltas: BTreeMap::new(),
            reads: VecDeque::new(),
            acks: VecDeque::new(),
        }
    }

    fn up(&mut self, standby: usize) {
        self.gather();
        self.lost(standby);
        self.standbys[standby - 1].connected(&name(0));
        self.owner.up(&name(standby), GatewayEpoch(self.lives[standby]), NOW);
    }

    /// What is on its way is lost.
    fn lost(&mut self, standby: usize) {
        self.deltas.remove(&name(standby));
        self.acks.retain(|(of, _)| *of != name(standby));
    }

    fn down(&mut self, standby: usize) {
        self.gather();
        self.lost(standby);
        self.owner.down(&name(standby), NOW);
    }

    fn change(&mut self, session: SessionId) {
        *self.gateway.entry(session).or_default() += 1;
        self.owner.changed(session, EPOCH, NOW);
    }

    fn gather(&mut self) {
        while let Some(wish) = self.owner.poll() {
            match wish {
                Wish::Read(number, sessions) => {
                    let read = sessions.into_iter().map(|session| (session, self.context(session)));
                    self.reads.push_back((number, read.collect()));
                }
                Wish::Tell(to, delta) => self.deltas.entry(to).or_default().push_back(delta),
            }
        }
    }

    fn context(&self, session: SessionId) -> Option<Context> {
        let generation = Generation(*self.gateway.get(&session).filter(|_| self.readable)?);
        Some(Context { session, generation, children: Vec::new(), ..samples::context(1) })
    }

    /// One thing that is on its way arrives; `false` if nothing is.
    fn step(&mut self) -> bool {
        self.gather();
        if let Some((number, results)) = self.reads.pop_front() {
            self.owner.read(number, results);
        } else if let Some((to, delta)) = self
            .deltas
            .iter_mut()
            .find_map(|(to, all)| all.pop_front().map(|delta| (to.clone(), delta)))
        {
            let standby = NAMES.iter().position(|name| *name == to.as_str()).unwrap() - 1;
            let ack = self.standbys[standby].told(&name(0), delta).unwrap();
            self.acks.push_back((to, ack.number));
        } else if let Some((from, number)) = self.acks.pop_front() {
            self.owner.acknowledged(&from, number, NOW).unwrap();
        } else {
            return false;
        }
        self.gather();
        true
    }

    /// Who holds a session, and which state of it.
    fn holders(&mut self, session: SessionId) -> Vec<u64> {
        let mut all = Vec::new();
        for standby in &mut self.standbys {
            if let Some((owner, epoch, context)) = standby.take(session) {
                assert_eq!((owner, epoch), (name(0), EPOCH));
                all.push(context.generation.0);
            }
        }
        all
    }
}

// proves CXTP-4.14-5
#[test]
fn a_standby_hears_once_that_it_knows_all() {
    let mut world = World::new(1);
    world.up(1);
    world.gather();
    let first = &world.deltas[&name(1)];
    assert!(first.len() == 1 && first[0].complete && first[0].entries.is_empty());
    while world.step() {}
    for number in 0..200 {
        world.change(id(number));
    }
    world.up(1);
    let mut completes = 0;
    loop {
        world.gather();
        let new = world.deltas.get(&name(1)).and_then(VecDeque::back);
        let last = new.is_some_and(|delta| delta.complete);
        if last && world.deltas[&name(1)].len() == 1 {
            completes += 1;
        }
        if !world.step() {
            break;
        }
    }
    assert_eq!(completes, 1);
    assert_eq!(world.standbys[0].of(&name(0)).count(), 200);
}

// proves CXTP-4.14-4
#[test]
fn an_acknowledgement_of_what_was_never_sent_counts_for_nothing() {
    let mut world = World::new(1);
    world.up(1);
    world.change(id(1));
    while world.step() {}
    assert!(world.owner.is_held(id(1)));
    assert!(world.owner.acknowledged(&name(1), 99, NOW).is_err());
    assert!(!world.owner.is_held(id(1)));
    world.up(1);
    while world.step() {}
    assert!(world.owner.is_held(id(1)));
}

#[test]
fn a_session_that_cannot_be_read_is_not_held_and_is_read_again() {
    let mut world = World::new(1);
    world.up(1);
    world.readable = false;
    world.change(id(1));
    while world.step() {}
    assert!(!world.owner.is_held(id(1)));
    world.readable = true;
    world.owner.tick(NOW);
    while world.step() {}
    assert!(world.owner.is_held(id(1)));
}

#[test]
fn sessions_that_are_too_large_for_one_message_go_in_several() {
    let mut owner = replicator(1);
    owner.up(&name(1), GatewayEpoch(1), NOW);
    let large = |number: u8| {
        let context = samples::context(number);
        let child = || samples::child(number, u32::from(number));
        let children = (0..200).map(|_| child()).collect();
        Context { session: id(number), children, ..context }
    };
    for number in 0..8 {
        owner.changed(id(number), EPOCH, NOW);
    }
    let mut told = Vec::new();
    while let Some(wish) = owner.poll() {
        match wish {
            Wish::Read(number, sessions) => {
                let read = sessions.into_iter().map(|session| (session, Some(large(session.0[0]))));
                owner.read(number, read.collect());
            }
            Wish::Tell(_, delta) => {
                assert_eq!(delta.number, told.len() as u64 + 1);
                let number = delta.number;
                let message = protocol_spec::message::Message::ReplicaDelta(delta);
                told.push(message.entries());
                assert!(message.to_frame().is_ok());
                owner.acknowledged(&name(1), number, NOW).unwrap();
            }
        }
    }
    assert!(told.len() > 2 && told.iter().sum::<usize>() == 8, "{told:?}");
    assert!((0..8).all(|number| owner.is_held(id(number))));
}

#[derive(Clone, Debug)]
enum Act {
    Change(u8),
    End(u8),
    Up(usize),
    Down(usize),
    /// A standby forgets all, and comes again.
    Die(usize),
    Unreadable(bool),
    Steps(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u8..12).prop_map(Act::Change),
        1 => (0_u8..12).prop_map(Act::End),
        2 => (1_usize..4).prop_map(Act::Up),
        1 => (1_usize..4).prop_map(Act::Down),
        1 => (1_usize..4).prop_map(Act::Die),
        1 => any::<bool>().prop_map(Act::Unreadable),
        6 => (1_u8..20).prop_map(Act::Steps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What counts as held is held in its newest state, at every step; and in the end
    /// all is held by as many as shall, and by nobody else.
    #[test]
    fn whatever_happens_the_standbys_have_what_the_owner_believes(
        copies in 1_usize..3,
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut world = World::new(copies);
        for act in acts {
            match act {
                Act::Change(number) => world.change(id(number)),
                Act::End(number) => {
                    world.gateway.remove(&id(number));
                    world.owner.gone(id(number), NOW);
                }
                Act::Up(standby) => world.up(standby),
                Act::Down(standby) => world.down(standby),
                Act::Die(standby) => {
                    world.standbys[standby - 1] = Replicas::new(1 << 24);
                    world.lives[standby] += 1;
                    world.up(standby);
                }
                Act::Unreadable(readable) => world.readable = readable,
                Act::Steps(steps) => {
                    for _ in 0..steps {
                        world.step();
                    }
                }
            }
            let held: Vec<_> =
                world.gateway.keys().copied().filter(|id| world.owner.is_held(*id)).collect();
            for session in held {
                let generation = world.gateway[&session];
                let count = world.standbys.iter().filter(|standby| {
                    standby.generation(session) == Some(generation)
                }).count();
                prop_assert!(count >= copies, "{session}: {count} hold {generation}");
            }
        }
        world.readable = true;
        for standby in 1..4 {
            world.up(standby);
        }
        world.owner.tick(NOW);
        while world.step() {}
        prop_assert!(world.owner.lags(NOW).all(|(_, lag)| lag.sessions == 0));
        for (session, generation) in world.gateway.clone() {
            prop_assert!(world.owner.is_held(session));
            prop_assert_eq!(world.holders(session), vec![generation; copies]);
        }
        prop_assert_eq!(world.standbys.iter().map(Replicas::octets).sum::<usize>(), 0);
    }
}
