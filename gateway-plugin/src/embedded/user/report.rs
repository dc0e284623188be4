//! What a fleet tells.

use serde::{Serialize, Serializer};

use protocol_spec::id::SessionId;

use super::tally::{Counts, Gap};

/// What a fleet has counted, in all and for each session.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FleetReport {
    /// Sessions in the fleet.
    pub sessions: usize,
    /// Packets per second, each way, of each session.
    pub rate: u32,
    /// Seconds during which the fleet was sending.
    pub seconds: f64,
    /// From the end users to the inner host.
    pub up: Counts,
    /// From the inner host to the end users.
    pub down: Counts,
    /// ESP packets that end users refused because they had been received before
    /// or were left of the window.
    pub replay_rejected: u64,
    /// ESP packets that end users could not open.
    pub forged: u64,
    /// Times that an end user took another gateway for its own.
    pub roamed: u64,
    /// Datagrams that nobody could use.
    pub strays: u64,
    /// For each session.
    pub per_session: Vec<SessionReport>,
}

impl FleetReport {
    /// Packets that rate and time ask for, both ways together.
    pub fn expected(&self) -> f64 {
        2.0 * self.sessions as f64 * f64::from(self.rate) * self.seconds
    }
}

impl FleetReport {
    /// The longest gap of each session and direction in microseconds: the one in
    /// the middle, the 99th of a hundred, the longest.
    pub fn gaps(&self) -> (u64, u64, u64) {
        let mut gaps: Vec<_> = self
            .per_session
            .iter()
            .flat_map(|session| [session.up.longest_gap_us, session.down.longest_gap_us])
            .collect();
        gaps.sort_unstable();
        let at = |percent: usize| {
            let last = gaps.len().saturating_sub(1);
            gaps.get(last * percent / 100).copied().unwrap_or(0)
        };
        (at(50), at(99), at(100))
    }
}

/// What was counted of one session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionReport {
    /// Which.
    #[serde(serialize_with = "as_text")]
    pub session: SessionId,
    /// From the end user to the inner host.
    pub up: Counts,
    /// From the inner host to the end user.
    pub down: Counts,
    /// ESP packets that the end user refused as replayed or too old.
    pub replay_rejected: u64,
    /// Gaps longer than twice the usual, up.
    pub up_gaps: Vec<Gap>,
    /// Gaps longer than twice the usual, down.
    pub down_gaps: Vec<Gap>,
}

fn as_text<S: Serializer>(id: &SessionId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}
