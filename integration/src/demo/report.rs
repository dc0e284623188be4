//! What the demo found: one object for a script, one table for a person.

use serde::Serialize;

use crate::{
    observer,
    stats::{Spread, human_micros, table},
};

/// How the traffic of a part went, as end users, inner host and observer saw it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// For how long packets were sent.
    pub seconds: f64,
    /// Sent by end users and by the inner host.
    pub sent: u64,
    /// Never arrived.
    pub lost: u64,
    /// Arrived more than once.
    pub duplicated: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Longest silence of each session, of both directions the worse.
    pub gaps: Spread,
    /// What the observer saw on the wire.
    pub wire: observer::Figures,
}

/// What became of the sessions of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Sessions that should move.
    pub sessions: usize,
    /// Moved.
    pub moved: usize,
    /// Refused by the target; they go on at the source.
    pub refused: usize,
    /// Stopped on the way; they go on at the source.
    pub aborted: usize,
    /// Not settled at the end of the part.
    pub in_doubt: usize,
    /// On no gateway any more.
    pub lost: usize,
    /// Were in doubt for a time and are settled.
    pub settled: usize,
}

/// One part of the demo.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Its name.
    pub part: &'static str,
    /// What became of its sessions.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// From the order to its end.
    pub transfer_seconds: f64,
    /// For how long packets were sent.
    pub seconds: f64,
    /// Packets that should have been sent: rate times time, both ways.
    pub packets_expected: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Never arrived.
    pub packets_lost: u64,
    /// Arrived more than once.
    pub packets_duplicated: u64,
    /// Arrived after a later one.
    pub packets_reordered: u64,
    /// Longest silence of a session, median over the sessions.
    pub gap_us_p50: u64,
    /// 99th percentile.
    pub gap_us_p99: u64,
    /// Longest of all.
    pub gap_us_max: u64,
    /// From the pause at the source to the target's word, median.
    pub pause_us_p50: u64,
    /// 99th percentile.
    pub pause_us_p99: u64,
    /// Longest.
    pub pause_us_max: u64,
    /// Packets of a gateway that had given the session away.
    pub owner_violations: u64,
    /// Sequence numbers used twice.
    pub seq_reuse: u64,
    /// Changes of owner on the wire.
    pub handovers: u64,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Sessions with traffic.
    pub sessions: usize,
    /// Packets per second that each session was to send each way.
    pub rate: u32,
    /// Moves over all parts.
    pub moved: usize,
    /// Refusals over all parts.
    pub refused: usize,
    /// Stopped transfers over all parts.
    pub aborted: usize,
    /// Sessions in doubt at the end.
    pub in_doubt: usize,
    /// Sessions lost.
    pub lost: usize,
    /// From the first start of a process to the last figure.
    pub seconds: f64,
    /// For how long packets were sent.
    pub traffic_seconds: f64,
    /// Packets that should have been sent.
    pub packets_expected: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Never arrived.
    pub packets_lost: u64,
    /// Arrived more than once.
    pub packets_duplicated: u64,
    /// Longest silence of a session in the predictive part, median over the sessions.
    pub gap_us_p50: u64,
    /// 99th percentile.
    pub gap_us_p99: u64,
    /// Longest of all.
    pub gap_us_max: u64,
    /// Packets of a gateway that had given the session away, over all parts.
    pub owner_violations: u64,
    /// Sequence numbers used twice, over all parts.
    pub seq_reuse: u64,
    /// ESP packets that the observer saw, both ways.
    pub packets_observed: u64,
    /// Part by part.
    pub parts: Vec<Part>,
    /// What should have been otherwise; empty if all is well.
    pub failures: Vec<String>,
    /// Whether all is well.
    pub ok: bool,
}

impl Part {
    /// Puts together what was found.
    pub fn new(
        part: &'static str,
        outcomes: Outcomes,
        transfer_seconds: f64,
        pauses: Spread,
        packets_expected: u64,
        traffic: &Traffic,
    ) -> Self {
        Self {
            part,
            outcomes,
            transfer_seconds,
            seconds: traffic.seconds,
            packets_expected,
            packets_sent: traffic.sent,
            packets_lost: traffic.lost,
            packets_duplicated: traffic.duplicated,
            packets_reordered: traffic.reordered,
            gap_us_p50: traffic.gaps.p50,
            gap_us_p99: traffic.gaps.p99,
            gap_us_max: traffic.gaps.max,
            pause_us_p50: pauses.p50,
            pause_us_p99: pauses.p99,
            pause_us_max: pauses.max,
            owner_violations: traffic.wire.owner_violations,
            seq_reuse: traffic.wire.seq_reuse,
            handovers: traffic.wire.handovers,
        }
    }

    /// What no part may show, whatever happens in it.
    fn failures(&self) -> Vec<String> {
        let Self { part, outcomes, .. } = self;
        let Outcomes { sessions, moved, refused, aborted, in_doubt, lost, .. } = *outcomes;
        let mut failures = Vec::new();
        let mut expect = |holds: bool, text: String| {
            if !holds {
                failures.push(format!("{part}: {text}"));
            }
        };
        expect(
            sessions == moved + refused + aborted + in_doubt + lost,
            format!("of {sessions} sessions some have no outcome: {outcomes:?}"),
        );
        expect(lost == 0, format!("{lost} sessions lost"));
        expect(in_doubt == 0, format!("{in_doubt} sessions still in doubt"));
        expect(
            self.packets_sent * 100 >= self.packets_expected * 95,
            format!(
                "only {} of {} packets sent: the machine is too busy",
                self.packets_sent, self.packets_expected
            ),
        );
        for (figure, what) in [
            (self.packets_lost, "packets lost"),
            (self.packets_duplicated, "packets duplicated"),
            (self.owner_violations, "packets of a gateway that is not the owner"),
            (self.seq_reuse, "sequence numbers used twice"),
        ] {
            expect(figure == 0, format!("{figure} {what}"));
        }
        failures
    }
}

impl Report {
    /// The figures of all parts together, and what should have been otherwise.
    pub fn new(
        sessions: usize,
        rate: u32,
        seconds: f64,
        observed: &observer::Figures,
        parts: Vec<Part>,
        mut failures: Vec<String>,
    ) -> Self {
        failures.extend(parts.iter().flat_map(Part::failures));
        let sum = |figure: fn(&Part) -> u64| parts.iter().map(figure).sum::<u64>();
        let count = |figure: fn(&Outcomes) -> usize| {
            parts.iter().map(|part| figure(&part.outcomes)).sum::<usize>()
        };
        let planned = parts.first();
        Self {
            sessions,
            rate,
            moved: count(|o| o.moved),
            refused: count(|o| o.refused),
            aborted: count(|o| o.aborted),
            in_doubt: count(|o| o.in_doubt),
            lost: count(|o| o.lost),
            seconds,
            traffic_seconds: parts.iter().map(|part| part.seconds).sum(),
            packets_expected: sum(|p| p.packets_expected),
            packets_sent: sum(|p| p.packets_sent),
            packets_lost: sum(|p| p.packets_lost),
            packets_duplicated: sum(|p| p.packets_duplicated),
            gap_us_p50: planned.map_or(0, |p| p.gap_us_p50),
            gap_us_p99: planned.map_or(0, |p| p.gap_us_p99),
            gap_us_max: planned.map_or(0, |p| p.gap_us_max),
            owner_violations: observed.owner_violations,
            seq_reuse: observed.seq_reuse,
            packets_observed: observed.to_users + observed.to_gateways,
            ok: failures.is_empty(),
            parts,
            failures,
        }
    }

    /// For a person.
    pub fn table(&self) -> String {
        let head = [
            "part", "sessions", "moved", "refused", "aborted", "settled", "time", "sent", "lost",
            "twice", "gap p50", "p99", "max", "owners", "reuse",
        ];
        let rows: Vec<Vec<String>> = self.parts.iter().map(row).collect();
        let mut text = table(&head, &rows);
        text.push_str(&format!(
            "\nA session is silent for {} ms between two packets anyway ({} packets/s each way).\n\
             gap: longest silence of each session. settled: was in doubt after the crash, then \
             settled by both journals.\nowners: packets from a gateway that had given the session \
             away; reuse: sequence numbers used twice; both as an observer\nsaw them in {} packets \
             on the wire.\n",
            1000 / self.rate.max(1),
            self.rate,
            self.packets_observed
        ));
        text
    }
}

fn row(part: &Part) -> Vec<String> {
    let o = &part.outcomes;
    let numbers = [o.sessions, o.moved, o.refused, o.aborted, o.settled].map(|n| n.to_string());
    let packets = [part.packets_sent, part.packets_lost, part.packets_duplicated];
    std::iter::once(part.part.to_owned())
        .chain(numbers)
        .chain([human_micros((part.transfer_seconds * 1e6) as u64)])
        .chain(packets.map(|n| n.to_string()))
        .chain([part.gap_us_p50, part.gap_us_p99, part.gap_us_max].map(human_micros))
        .chain([part.owner_violations, part.seq_reuse].map(|n| n.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(change: impl FnOnce(&mut Part)) -> Part {
        let traffic = Traffic { seconds: 1.0, sent: 400, ..Traffic::default() };
        let outcomes = Outcomes { sessions: 10, moved: 10, ..Outcomes::default() };
        let mut part = Part::new("predictive", outcomes, 0.1, Spread::default(), 400, &traffic);
        change(&mut part);
        part
    }

    fn report(parts: Vec<Part>) -> Report {
        Report::new(10, 20, 2.0, &observer::Figures::default(), parts, Vec::new())
    }

    #[test]
    fn what_is_well_is_well() {
        let report = report(vec![part(|_| ()), part(|p| p.outcomes.moved = 10)]);
        assert!(report.ok, "{:?}", report.failures);
        assert_eq!((report.moved, report.packets_sent), (20, 800));
        assert_eq!(report.table().lines().filter(|l| l.starts_with("predictive")).count(), 2);
    }

    #[test]
    fn each_figure_that_is_wrong_fails_the_demo() {
        let wrong: [fn(&mut Part); 8] = [
            |p| p.packets_lost = 1,
            |p| p.packets_duplicated = 1,
            |p| p.owner_violations = 1,
            |p| p.seq_reuse = 1,
            |p| p.packets_sent = 379,
            |p| p.outcomes.moved = 9,
            |p| (p.outcomes.moved, p.outcomes.lost) = (9, 1),
            |p| (p.outcomes.moved, p.outcomes.in_doubt) = (9, 1),
        ];
        for (case, change) in wrong.into_iter().enumerate() {
            let report = report(vec![part(change)]);
            assert!(!report.ok && report.failures.len() == 1, "{case}: {:?}", report.failures);
        }
    }
}
