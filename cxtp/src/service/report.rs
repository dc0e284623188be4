//! What the engine knows, in the words of the control API.

use std::collections::BTreeMap;

use protocol_spec::{status::Refusal, transfer::Outcome};
use serde_json::{Map, Value, json};

use super::{
    api::{self, Failure, Refused, Session, Summary},
    clock::unix_time,
};
use crate::engine::{BatchSummary, Event, Progress, SessionView};

/// Failures that a summary names; the rest is counted.
const NAMED_FAILURES: usize = 100;
/// Sessions whose gap is kept for the percentiles; beyond that they are sampled
/// by the first ones, and the longest is still exact.
const KEPT_GAPS: usize = 1 << 20;

pub(super) fn refused(refusal: &Refusal) -> Refused {
    Refused { status: refusal.status.name().to_owned(), detail: refusal.detail.clone() }
}

pub(super) fn session(view: &SessionView) -> Session {
    Session {
        session: view.session.to_string(),
        state: view.standing.as_str().to_owned(),
        epoch: view.epoch.0,
        generation: view.generation.0,
        with: view.with.as_ref().map(ToString::to_string),
        reason: view.reason.as_ref().map(ToString::to_string),
        step: view
            .source
            .map(|state| format!("{state:?}"))
            .or_else(|| view.target.map(|state| format!("{state:?}"))),
    }
}

pub(super) fn progress(progress: Progress) -> api::Progress {
    api::Progress { sessions: progress.sessions, ended: progress.ended, moved: progress.moved }
}

/// What is gathered of a batch while it runs, for its summary.
#[derive(Default)]
pub(super) struct Tally {
    gaps: Vec<u64>,
    longest: u64,
    failures: Vec<Failure>,
}

impl Tally {
    pub(super) fn ended(&mut self, session: String, outcome: &Outcome) {
        let (word, reason) = match outcome {
            Outcome::Moved { gap } => {
                let gap = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
                self.longest = self.longest.max(gap);
                if self.gaps.len() < KEPT_GAPS {
                    self.gaps.push(gap);
                }
                return;
            }
            Outcome::Refused(why) => ("refused", refused(why)),
            Outcome::Aborted(why) => ("aborted", refused(why)),
            Outcome::Lost(why) => ("lost", refused(why)),
            Outcome::InDoubt => (
                "in-doubt",
                Refused {
                    status: "in-doubt".into(),
                    detail: "committed, and the target does not answer; it is asked again and again, or \
                             use `cxtpctl resolve`"
                        .into(),
                },
            ),
        };
        if self.failures.len() < NAMED_FAILURES {
            self.failures.push(Failure { session, outcome: word.to_owned(), reason });
        }
    }

    pub(super) fn summary(mut self, end: &BatchSummary) -> Summary {
        self.gaps.sort_unstable();
        let rank = |hundredth: usize| {
            let last = self.gaps.len().saturating_sub(1);
            self.gaps.get(last * hundredth / 100).copied().unwrap_or(0)
        };
        Summary {
            batch: end.batch.to_string(),
            sessions: end.moved + end.refused + end.aborted + end.in_doubt + end.lost,
            moved: end.moved,
            refused: end.refused,
            aborted: end.aborted,
            in_doubt: end.in_doubt,
            lost: end.lost,
            gap_us_p50: rank(50),
            gap_us_p99: rank(99),
            gap_us_max: self.longest,
            failures: self.failures,
        }
    }
}

/// How many sessions stand where, by the words of the API.
pub(super) fn counts(counts: BTreeMap<crate::engine::Standing, usize>) -> BTreeMap<String, usize> {
    counts.into_iter().map(|(standing, number)| (standing.as_str().to_owned(), number)).collect()
}

/// An event for `watch`.
pub(super) fn event(event: &Event) -> api::Event {
    let (name, fields) = match event {
        Event::SessionUp(status) => (
            "session-up",
            json!({"session": status.session.to_string(), "epoch": status.epoch.0,
                   "generation": status.generation.0}),
        ),
        Event::SessionDown(session) => ("session-down", json!({"session": session.to_string()})),
        Event::TransferBegun { batch, session, target, mode } => (
            "transfer-begun",
            json!({"batch": batch.to_string(), "session": session.to_string(),
                   "target": target.as_str(), "mode": format!("{mode:?}").to_lowercase()}),
        ),
        Event::Committed { session, epoch } => {
            ("committed", json!({"session": session.to_string(), "epoch": epoch.0}))
        }
        Event::TransferEnded { batch, session, outcome } => {
            let mut fields = json!({"batch": batch.to_string(), "session": session.to_string()});
            let more = match outcome {
                Outcome::Moved { gap } => {
                    json!({"outcome": "moved", "gap_us": u64::try_from(gap.as_micros()).unwrap_or(u64::MAX)})
                }
                Outcome::Refused(why) => json!({"outcome": "refused", "reason": refused(why)}),
                Outcome::Aborted(why) => json!({"outcome": "aborted", "reason": refused(why)}),
                Outcome::InDoubt => json!({"outcome": "in-doubt"}),
                Outcome::Lost(why) => json!({"outcome": "lost", "reason": refused(why)}),
            };
            if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
                fields.extend(more);
            }
            ("transfer-ended", fields)
        }
        Event::Taken { session, epoch, source } => (
            "taken",
            json!({"session": session.to_string(), "epoch": epoch.0, "source": source.as_str()}),
        ),
        Event::BatchEnded(end) => (
            "batch-ended",
            json!({"batch": end.batch.to_string(), "moved": end.moved, "refused": end.refused,
                   "aborted": end.aborted, "in_doubt": end.in_doubt, "lost": end.lost}),
        ),
        Event::InDoubt { session, target } => {
            ("in-doubt", json!({"session": session.to_string(), "target": target.as_str()}))
        }
        Event::Lost { session, reason } => {
            ("lost", json!({"session": session.to_string(), "reason": refused(reason)}))
        }
        Event::UnknownSpi(spi) => ("unknown-spi", json!({"spi": format!("{spi:#010x}")})),
        Event::PeerMisbehaved { peer, reason } => {
            ("peer-misbehaved", json!({"peer": peer.to_string(), "reason": refused(reason)}))
        }
    };
    plain_event(name, fields)
}

/// An event with its time.
pub(super) fn plain_event(name: &str, fields: Value) -> api::Event {
    let fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let unix_ms = u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX);
    api::Event { unix_ms, event: name.to_owned(), fields }
}

/// All of a session but its keys.
pub(super) fn details(
    view: &SessionView,
    profile: Result<protocol_spec::profile::Profile, Refusal>,
) -> Value {
    let gateway = match profile {
        Err(refusal) => json!({"unknown": refused(&refusal)}),
        Ok(profile) => json!({
            "features": protocol_spec::profile::Feature::ALL.iter()
                .filter(|feature| profile.features.contains(**feature))
                .map(|feature| feature.name()).collect::<Vec<_>>(),
            "ike_spis": profile.ike_spis.map(|(i, r)| [format!("{i:016x}"), format!("{r:016x}")]),
            "configuration": profile.configuration,
            "virtual_ips": profile.virtual_ips,
            "children": profile.children.iter().map(|child| json!({
                "protocol": format!("{:?}", child.usage.sa.protocol).to_uppercase(),
                "inbound_spi": format!("{:08x}", child.usage.sa.inbound_spi),
                "outbound_sequence": child.usage.sequence,
                "esn": child.usage.esn,
                "encryption": child.transforms.encryption,
                "key_bits": child.transforms.key_bits,
                "replay_window": child.replay_window,
                "reqid": child.reqid,
            })).collect::<Vec<_>>(),
        }),
    };
    json!({
        "session": session(view),
        "source_state": view.source.map(|state| format!("{state:?}")),
        "target_state": view.target.map(|state| format!("{state:?}")),
        "batch": view.batch.map(|batch| batch.to_string()),
        "gateway": gateway,
    })
}
