//! How much may go wrong in a world.

use super::step::Step;

/// How often things may still happen that do not happen by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// All of the following together, but traffic and imports.
    pub all: u8,
    /// [`Step::Crash`]
    pub crashes: u8,
    /// [`Step::LoseGateway`]
    pub gateways: u8,
    /// [`Step::Disconnect`]
    pub disconnects: u8,
    /// [`Step::Replay`]
    pub replays: u8,
    /// [`Step::Refuse`]
    pub refusals: u8,
    /// [`Step::FailWrite`]
    pub writes: u8,
    /// [`Step::Delay`]
    pub delays: u8,
    /// [`Step::Fence`]
    pub fences: u8,
    /// [`Step::Lie`]
    pub lies: u8,
    /// [`Step::Rekey`]
    pub rekeys: u8,
    /// [`Step::End`]
    pub ends: u8,
    /// [`Step::Relist`]
    pub relists: u8,
    /// [`Step::Cancel`]
    pub cancels: u8,
    /// [`Step::Burst`]
    pub bursts: u8,
    /// [`Step::Traffic`]
    pub traffic: u8,
    /// [`Step::Import`]
    pub imports: u8,
}

impl Budget {
    /// Whether messages of the past may arrive again.
    pub fn replays(&self) -> bool {
        self.replays > 0
    }

    /// What is left of each kind.
    pub fn left(&self) -> [u8; 17] {
        [
            self.all,
            self.crashes,
            self.gateways,
            self.disconnects,
            self.replays,
            self.refusals,
            self.writes,
            self.delays,
            self.fences,
            self.lies,
            self.rekeys,
            self.ends,
            self.relists,
            self.cancels,
            self.bursts,
            self.traffic,
            self.imports,
        ]
    }

    /// Whether nothing can happen with `other` that cannot with this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.left().iter().zip(other.left()).all(|(a, b)| *a >= b)
    }

    /// Pays for a step.
    pub fn pay(&mut self, step: Step) {
        let purse = match step {
            Step::Crash(_) => &mut self.crashes,
            Step::LoseGateway(_) => &mut self.gateways,
            Step::Disconnect(_) => &mut self.disconnects,
            Step::Replay { .. } => &mut self.replays,
            Step::Refuse(..) => &mut self.refusals,
            Step::FailWrite(..) => &mut self.writes,
            Step::Delay(_) => &mut self.delays,
            Step::Fence(_) => &mut self.fences,
            Step::Lie { .. } => &mut self.lies,
            Step::Rekey(..) => &mut self.rekeys,
            Step::End(..) => &mut self.ends,
            Step::Relist(_) => &mut self.relists,
            Step::Cancel(_) => &mut self.cancels,
            Step::Burst(..) => &mut self.bursts,
            Step::Import(_) => {
                self.imports = self.imports.saturating_sub(1);
                return;
            }
            Step::Traffic(..) => {
                self.traffic = self.traffic.saturating_sub(1);
                return;
            }
            _ => return,
        };
        *purse = purse.saturating_sub(1);
        self.all = self.all.saturating_sub(1);
    }
}
