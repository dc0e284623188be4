//! What happens in a world, one step at a time.

use std::rc::Rc;

use cxtp::engine::{GatewayReply, Input};

use super::{
    News, World,
    driver::{Order, heard},
    invariants::Violation,
    setup::session_id,
    traffic::BURST,
};

/// One thing that happens. Nodes, links and sessions go by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A message arrives: the first of one of the streams between two daemons.
    Deliver {
        /// At whom.
        to: u8,
        /// From whom.
        from: u8,
        /// On which of the streams that carry something.
        stream: u8,
    },
    /// A daemon learns that its connection with a peer is there, or is gone.
    Notice(u8, u8),
    /// Two daemons connect.
    Connect(u8),
    /// A gateway carries out one of its orders.
    Act(u8, u8),
    /// A daemon hears what its gateway did.
    Answer(u8),
    /// A daemon hears what its gateway tells by itself.
    News(u8),
    /// The oldest records that are being written reach the disk.
    Sync(u8),
    /// A daemon hears that records are on disk, or are not.
    Ack(u8),
    /// A daemon hears that its deadline has passed; nothing else was left to do.
    Tick(u8),
    /// A dead daemon is started again.
    Restart(u8),

    /// An operator runs the next errand.
    Errand,
    /// An operator cancels an errand.
    Cancel(u8),
    /// An operator puts a session back to use from a file.
    Import(u8),
    /// An operator says that a session in doubt goes on here, since its target
    /// was switched off.
    Resolve(u8, u16),

    /// A daemon dies; what was not synced is lost.
    Crash(u8),
    /// A gateway process dies with all that it holds; a new one is started.
    LoseGateway(u8),
    /// A connection breaks.
    Disconnect(u8),
    /// A message of the past arrives once more.
    Replay {
        /// At whom.
        to: u8,
        /// From whom.
        from: u8,
        /// Which message of the past.
        past: u8,
    },
    /// A gateway refuses one session of its next order.
    Refuse(u8, u8),
    /// The oldest records that are being written fail; they may be on disk.
    FailWrite(u8, bool),
    /// Events of a gateway are lost; its daemon lists again.
    Relist(u8),
    /// A deadline passes although there is other work to do.
    Delay(u8),
    /// A gateway where no session began is switched off for good, with its
    /// daemon and what it holds.
    Fence(u8),
    /// A peer sends final data for a session that it never had.
    Lie {
        /// To whom.
        to: u8,
        /// Who lies.
        from: u8,
        /// About which session.
        session: u16,
    },

    /// A session is rekeyed at the gateway that uses it.
    Rekey(u8, u16),
    /// A session ends at the gateway that uses it.
    End(u8, u16),
    /// A packet and an IKE exchange each way, at the gateway that uses the
    /// session. They happen together, since no part of the world looks at more
    /// than one of them.
    Traffic(u8, u16),
    /// More packets out than the headroom of a grant.
    Burst(u8, u16),
}

impl World {
    /// Takes a step and checks what must be true after it.
    ///
    /// # Errors
    /// The invariant that the step broke.
    pub fn take(&mut self, step: Step) -> Result<(), Violation> {
        if self.log.is_some() {
            let line = format!("{:>9.3}s {}", self.now.as_secs_f64(), self.describe(step));
            self.say(|| line);
        }
        self.happen(step);
        self.budget.pay(step);
        if let Some(violation) = self.broken.take() {
            return Err(violation);
        }
        match step {
            Step::Act(..) | Step::Refuse(..) => {
                self.facts.keys().try_for_each(|session| self.check(*session))
            }
            Step::Rekey(_, s) | Step::End(_, s) | Step::Traffic(_, s) | Step::Burst(_, s) => {
                self.check(session_id(usize::from(s)))
            }
            // No other step changes what a gateway or an end user has.
            _ => Ok(()),
        }
    }

    fn happen(&mut self, step: Step) {
        match step {
            Step::Deliver { to, from, stream } => {
                let (to, from) = (usize::from(to), usize::from(from));
                let Some(link) = self.link(to, from) else { return };
                if let Some(frame) = self.links[link].edit().receive(to, usize::from(stream)) {
                    self.arrive(to, from, &frame);
                }
            }
            Step::Replay { to, from, past } => {
                let (to, from) = (usize::from(to), usize::from(from));
                let Some(link) = self.link(to, from) else { return };
                let frame =
                    self.links[link].incoming(to).past.get(usize::from(past)).map(Rc::clone);
                if let Some(frame) = frame {
                    self.arrive(to, from, &frame);
                }
            }
            Step::Notice(node, peer) => self.notice(usize::from(node), usize::from(peer)),
            Step::Connect(link) => self.links[usize::from(link)].edit().up = true,
            Step::Disconnect(link) => self.links[usize::from(link)].edit().up = false,
            Step::Act(node, order) => self.act(usize::from(node), usize::from(order), None),
            Step::Refuse(node, entry) => {
                self.act(usize::from(node), 0, Some(usize::from(entry)));
            }
            Step::Answer(node) => {
                let answer = self.nodes[usize::from(node)].edit().answers.pop_front();
                if let Some(answer) = answer {
                    self.feed(usize::from(node), Input::Gateway(heard(answer)));
                }
            }
            Step::News(node) => {
                let reply = match self.nodes[usize::from(node)].edit().news.pop_front() {
                    Some(News::Changed(session, generation)) => {
                        GatewayReply::Changed(session, generation)
                    }
                    Some(News::Down(session)) => GatewayReply::Down(session),
                    None => return,
                };
                self.feed(usize::from(node), Input::Gateway(reply));
            }
            Step::Sync(node) => self.sync(usize::from(node)),
            Step::FailWrite(node, on_disk) => self.fail_write(usize::from(node), on_disk),
            Step::Ack(node) => {
                let settled = self.nodes[usize::from(node)].edit().journal.settled.pop_front();
                let input = match settled {
                    Some((ticket, true)) => Input::Journaled { ticket },
                    Some((ticket, false)) => {
                        Input::JournalFailed { ticket, detail: "the disk is full".to_owned() }
                    }
                    None => return,
                };
                self.feed(usize::from(node), input);
            }
            Step::Tick(node) | Step::Delay(node) => {
                let node = usize::from(node);
                let deadline = self.nodes[node].deadline.unwrap_or_default();
                self.now = self.now.max(deadline);
                self.feed(node, Input::Tick);
            }
            Step::Restart(node) => self.start(usize::from(node)),
            Step::Crash(node) => self.crash(usize::from(node)),
            Step::Fence(node) => self.fence(usize::from(node)),
            Step::Lie { to, from, session } => {
                self.lie(usize::from(to), usize::from(from), session_id(usize::from(session)));
            }
            Step::Resolve(node, session) => {
                self.resolve(usize::from(node), session_id(usize::from(session)));
            }
            Step::LoseGateway(node) => self.lose_gateway(usize::from(node)),
            Step::Errand => self.run_errand(),
            Step::Import(file) => self.import(usize::from(file)),
            Step::Relist(node) => {
                let node = self.nodes[usize::from(node)].edit();
                node.news.clear();
                node.orders.push_back(Order::List);
            }
            Step::Cancel(begun) => {
                if let Some((batch, node)) = self.begun.get(usize::from(begun)).copied() {
                    self.cancel(node, batch);
                }
            }
            Step::Rekey(node, s) => self.rekey(usize::from(node), session_id(usize::from(s))),
            Step::End(node, s) => self.end(usize::from(node), session_id(usize::from(s))),
            Step::Burst(node, s) => self.send(usize::from(node), session_id(usize::from(s)), BURST),
            Step::Traffic(node, s) => {
                let (node, session) = (usize::from(node), session_id(usize::from(s)));
                self.send(node, session, 1);
                self.receive(node, session, 0);
                self.request(node, session);
                self.respond(node, session);
            }
        }
    }
}
