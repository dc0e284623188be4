//! What a scenario found, as one JSON object.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    observer::Seen,
    traffic::{Tally, tcp::TcpTally},
};

/// The figures of a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether all is as it should be.
    pub passed: bool,
    /// What is not.
    pub failures: Vec<String>,
    /// Sessions that moved.
    pub moved: u64,
    /// Packets of all users, both ways.
    pub packets_sent: u64,
    /// Of these, never seen at the other end.
    pub packets_lost: u64,
    /// Of the lost, those that the user's own node did not take to send.
    pub packets_refused: u64,
    /// Of these, seen more than once.
    pub packets_duplicated: u64,
    /// Of these, seen after one that was sent later.
    pub packets_reordered: u64,
    /// The longest gap, one way, while sessions moved.
    pub gap_ms_max: f64,
    /// The longest gap less what the sender itself was silent in it: what gateways and
    /// network held up, or lost.
    pub held_ms_max: f64,
    /// The longest gap in the same traffic before.
    pub gap_ms_baseline: f64,
    /// The longest that the sender itself fell behind.
    pub sender_late_ms: f64,
    /// What was sent, as a share of rate times time.
    pub sent_share: f64,
    /// The TCP stream, where there is one.
    pub tcp: Option<TcpTally>,
    /// IKE SAs that users began after all were up.
    pub new_ike_sas: u64,
    /// Deletes that reached an end user and that no rekey explains.
    pub deletes_seen: u64,
    /// Packets of a gateway under an SA that it had given away.
    pub owner_violations: u64,
    /// Sequence numbers that were used twice under one SA.
    pub seq_reuse: u64,
    /// Message IDs under which gateways sent two different IKE messages.
    pub message_id_reuse: u64,
    /// Packets outside that were neither ESP nor AH and had an inner address.
    pub cleartext_leaks: u64,
    /// Files in which a key stands.
    pub key_leaks: u64,
    /// Keys that were looked for.
    pub keys_looked_for: u64,
    /// Changes of the gateway that speaks for an SA.
    pub handovers: u64,
    /// ESP packets from gateways to users, as the observer saw them.
    pub esp_to_users: u64,
    /// ESP packets from users.
    pub esp_to_gateways: u64,
    /// What the kernels counted as errors of IPsec, by node.
    pub xfrm_errors: BTreeMap<String, BTreeMap<String, u64>>,
    /// What is the scenario's own.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl Report {
    /// Takes over what the traffic counted.
    pub(super) fn traffic(&mut self, tally: &Tally) {
        let before = if self.packets_sent > 0 { self.sent_share } else { f64::INFINITY };
        self.sent_share = tally.sent_share.min(before);
        self.packets_sent += tally.sent;
        self.packets_lost += tally.lost;
        self.packets_refused += tally.refused;
        self.packets_duplicated += tally.duplicated;
        self.packets_reordered += tally.reordered;
        self.sender_late_ms = self.sender_late_ms.max(tally.sender_late_ms);
    }

    /// Takes over what the observer saw.
    pub(super) fn seen(&mut self, seen: &Seen) {
        self.new_ike_sas = seen.new_ike_sas;
        self.owner_violations = seen.owner_violations;
        self.seq_reuse = seen.seq_reuse;
        self.message_id_reuse = seen.message_id_reuse;
        self.cleartext_leaks = seen.cleartext_leaks;
        self.handovers = seen.handovers;
        self.esp_to_users = seen.esp_to_users;
        self.esp_to_gateways = seen.esp_to_gateways;
    }

    /// What must be zero after any planned move.
    pub fn zeros(&self) -> [(&'static str, u64); 9] {
        [
            ("packets_lost", self.packets_lost),
            ("packets_duplicated", self.packets_duplicated),
            ("new_ike_sas", self.new_ike_sas),
            ("deletes_seen", self.deletes_seen),
            ("owner_violations", self.owner_violations),
            ("seq_reuse", self.seq_reuse),
            ("message_id_reuse", self.message_id_reuse),
            ("cleartext_leaks", self.cleartext_leaks),
            ("key_leaks", self.key_leaks),
        ]
    }

    /// Notes a failure unless this holds.
    pub fn expect(&mut self, holds: bool, failure: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(failure());
        }
    }
}
