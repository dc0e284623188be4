//! What can happen next in a world.

use protocol_spec::transfer::SessionState;

use super::{
    Node, World,
    driver::Order,
    setup::{number_of, session_id},
    shared::Shared,
    step::Step,
};

fn small(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

impl World {
    /// What happens by itself, sooner or later, in any order.
    pub fn progress(&self, steps: &mut Vec<Step>) {
        let busy = self.busy();
        if busy.is_empty() {
            steps.extend(self.next_tick());
        } else {
            steps.extend(busy);
        }
    }

    /// What can happen by itself now.
    pub fn busy(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let n = small(number);
            if node.engine.is_none() {
                steps.extend((!node.fenced).then_some(Step::Restart(n)));
                continue;
            }
            // The engine must not care in which order its wishes come true.
            steps.extend((0..small(node.orders.len())).map(|order| Step::Act(n, order)));
            let due = node.deadline.is_some_and(|deadline| deadline <= self.now);
            for (possible, step) in [
                (!node.answers.is_empty(), Step::Answer(n)),
                (!node.news.is_empty(), Step::News(n)),
                (!node.journal.unsynced.is_empty(), Step::Sync(n)),
                (!node.journal.settled.is_empty(), Step::Ack(n)),
                (due, Step::Tick(n)),
            ] {
                if possible {
                    steps.push(step);
                }
            }
        }
        for (number, link) in self.links.iter().enumerate() {
            let alive = |node: usize| self.nodes[node].engine.is_some();
            if !link.up && link.ends.iter().all(|end| alive(*end) && !link.told(*end)) {
                steps.push(Step::Connect(small(number)));
            }
            for to in link.ends.into_iter().filter(|end| alive(*end)) {
                let from = link.peer(to);
                if link.told(to) != link.up {
                    steps.push(Step::Notice(small(to), small(from)));
                }
                if link.told(to) {
                    let streams = 0..small(link.incoming(to).streams.len());
                    steps.extend(streams.map(|stream| Step::Deliver {
                        to: small(to),
                        from: small(from),
                        stream,
                    }));
                }
            }
        }
        steps
    }

    /// The timer that fires when nothing else is left to do.
    fn next_tick(&self) -> Option<Step> {
        let deadlines = self.nodes.iter().enumerate().filter_map(|(n, node)| {
            node.deadline.filter(|_| node.engine.is_some()).map(|deadline| (deadline, n))
        });
        let (deadline, node) = deadlines.min()?;
        (deadline <= self.horizon).then(|| Step::Tick(small(node)))
    }

    /// What somebody may do, or what may go wrong, within the budget.
    pub fn chances(&self, steps: &mut Vec<Step>) {
        let budget = &self.budget;
        if self.setup.errands.get(self.next_errand).is_some_and(|errand| {
            let holds = |s: &usize| self.nodes[errand.source].gateway.is_active(session_id(*s));
            self.nodes[errand.source].engine.is_some() && errand.sessions.iter().all(holds)
        }) {
            steps.push(Step::Errand);
        }
        for (number, node) in self.nodes.iter().enumerate() {
            for session in 0..self.setup.homes.len() {
                if node.gateway.is_active(session_id(session)) {
                    self.life(small(number), u16::try_from(session).unwrap_or(u16::MAX), steps);
                }
            }
        }
        if budget.imports > 0 {
            steps.extend((0..small(self.files.len())).map(Step::Import));
        }
        if budget.all > 0 && budget.cancels > 0 {
            steps.extend((0..small(self.begun.len())).map(Step::Cancel));
        }
        self.resolutions(steps);
        if budget.all > 0 {
            self.wrongs(steps);
        }
    }

    /// What may go wrong, within the budget.
    pub fn wrongs(&self, steps: &mut Vec<Step>) {
        let budget = &self.budget;
        for (number, node) in self.nodes.iter().enumerate() {
            if node.engine.is_some() {
                self.faults(small(number), node, steps);
            }
        }
        if budget.lies > 0 {
            self.lies(steps);
        }
        for (number, link) in self.links.iter().enumerate() {
            if budget.disconnects > 0 && link.up {
                steps.push(Step::Disconnect(small(number)));
            }
            for to in link.ends.into_iter().filter(|end| budget.replays > 0 && link.told(*end)) {
                let past = 0..small(link.incoming(to).past.len());
                let from = small(link.peer(to));
                steps.extend(past.map(|past| Step::Replay { to: small(to), from, past }));
            }
        }
    }

    fn life(&self, node: u8, session: u16, steps: &mut Vec<Step>) {
        let budget = &self.budget;
        for (possible, step) in [
            (budget.traffic > 0, Step::Traffic(node, session)),
            (budget.all > 0 && budget.bursts > 0, Step::Burst(node, session)),
            (budget.all > 0 && budget.rekeys > 0, Step::Rekey(node, session)),
            (budget.all > 0 && budget.ends > 0, Step::End(node, session)),
        ] {
            if possible {
                steps.push(step);
            }
        }
    }

    fn faults(&self, n: u8, node: &Node, steps: &mut Vec<Step>) {
        let budget = &self.budget;
        let writing = budget.writes > 0 && !node.journal.unsynced.is_empty();
        for (possible, step) in [
            (budget.crashes > 0, Step::Crash(n)),
            (budget.relists > 0, Step::Relist(n)),
            (budget.fences > 0 && !self.setup.homes.contains(&usize::from(n)), Step::Fence(n)),
            (budget.gateways > 0, Step::LoseGateway(n)),
            (writing, Step::FailWrite(n, false)),
            (writing, Step::FailWrite(n, true)),
            (
                budget.delays > 0
                    && node.deadline.is_some_and(|d| d > self.now && d <= self.horizon),
                Step::Delay(n),
            ),
        ] {
            if possible {
                steps.push(step);
            }
        }
        if budget.refusals > 0 {
            let entries = match node.orders.front() {
                Some(Order::Snapshot(all)) => all.len(),
                Some(Order::Stage(all)) => all.len(),
                Some(Order::Pause(all)) => all.len(),
                Some(Order::Activate(all)) => all.len(),
                Some(Order::Resume(all)) => all.len(),
                Some(Order::Release(all)) => all.len(),
                // The trait allows no refusal of the others.
                _ => 0,
            };
            steps.extend((0..small(entries)).map(|entry| Step::Refuse(n, entry)));
        }
    }

    /// Sessions that are paused for a gateway which was switched off, and that
    /// somebody reported in doubt.
    fn resolutions(&self, steps: &mut Vec<Step>) {
        if !self.nodes.iter().any(|node| node.fenced) {
            return;
        }
        for (number, node) in self.nodes.iter().enumerate() {
            for (session, held) in &node.gateway.sessions {
                let SessionState::Paused { target } = &held.state else { continue };
                let fenced = |other: &Shared<Node>| other.fenced && other.name == *target;
                let doubted = self.facts.get(session).is_some_and(|f| f.reported_in_doubt);
                if doubted && node.engine.is_some() && self.nodes.iter().any(fenced) {
                    let session = u16::try_from(number_of(*session)).unwrap_or(u16::MAX);
                    steps.push(Step::Resolve(small(number), session));
                }
            }
        }
    }

    /// Lies that a third gateway could tell about what another one has staged.
    fn lies(&self, steps: &mut Vec<Step>) {
        for (to, node) in self.nodes.iter().enumerate() {
            for (session, held) in &node.gateway.sessions {
                let SessionState::Staged { source, .. } = &held.state else { continue };
                for (from, other) in self.nodes.iter().enumerate() {
                    if from != to && other.name != *source {
                        let session = u16::try_from(number_of(*session)).unwrap_or(u16::MAX);
                        steps.push(Step::Lie { to: small(to), from: small(from), session });
                    }
                }
            }
        }
    }
}
