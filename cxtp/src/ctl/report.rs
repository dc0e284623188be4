//! Answers of the daemon in words: lists of sessions and ends of batches.

use std::collections::BTreeMap;

use super::{
    outcome::{Answer, Exit},
    text,
};
use crate::service::api::{Failure, Session, Summary};

pub(super) fn session_row(session: &Session) -> [String; 6] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        session.session.clone(),
        session.state.clone(),
        session.epoch.to_string(),
        session.generation.to_string(),
        or_dash(&session.with),
        or_dash(&session.reason),
    ]
}

/// `12 sessions: 10 active, 2 in-doubt`.
pub(super) fn by_state(states: &BTreeMap<String, usize>) -> String {
    let counts: Vec<_> = states
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let all = text::sessions(states.values().sum());
    if counts.is_empty() { all } else { text::clean(&format!("{all}: {}", counts.join(", "))) }
}

/// The end of a batch, for a person and for a script.
pub(super) fn summed_up(summary: &Summary) -> Answer {
    let mut text = failures_table(&summary.failures);
    let mut parts = vec![format!("{} moved", summary.moved)];
    for (count, word) in [
        (summary.refused, "refused"),
        (summary.aborted, "aborted"),
        (summary.in_doubt, "in doubt"),
        (summary.lost, "lost"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    text.push_str(&format!("{}: {}\n", text::sessions(summary.sessions), parts.join(", ")));
    if summary.moved > 0 {
        text.push_str(&format!(
            "gap: half within {}, 99 % within {}, longest {}\n",
            text::micros(summary.gap_us_p50),
            text::micros(summary.gap_us_p99),
            text::micros(summary.gap_us_max)
        ));
    }
    text.push_str(&format!("batch {}\n", text::clean(&summary.batch)));
    let failed = summary.refused + summary.aborted + summary.in_doubt + summary.lost;
    text.push_str(&not_listed(failed, summary.failures.len()));
    if summary.in_doubt > 0 {
        text.push_str(
            "in doubt: the target is asked on; `cxtpctl sessions --state in-doubt` lists them, \
             `cxtpctl resolve` ends it by your word\n",
        );
    }
    Answer::new(Exit::of_batch(summary), text, summary)
}

pub(super) fn failures_table(failures: &[Failure]) -> String {
    if failures.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = failures
        .iter()
        .map(|failure| {
            [
                failure.session.clone(),
                failure.outcome.clone(),
                failure.reason.status.clone(),
                failure.reason.detail.clone(),
            ]
        })
        .collect();
    text::table(["SESSION", "OUTCOME", "STATUS", "REASON"], &rows)
}

pub(super) fn not_listed(failed: usize, listed: usize) -> String {
    match failed.saturating_sub(listed) {
        0 => String::new(),
        more => format!("{more} more did not move and are not listed\n"),
    }
}
