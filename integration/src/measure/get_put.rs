//! GET and PUT: what the gateway of the Linux kernel and an unmodified charon need to
//! write a session down and to install it, beside the figures of the thesis that this
//! work comes from. In the lab's guest, with real tunnels.

pub(crate) mod guest;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Sheet, plot, plot::Series};
use crate::{
    lab::host,
    stats::{Spread, human_micros, table},
};

/// Tunnels when it is named, and when everything is measured.
pub(super) const FULL: &[u32] = &[10, 30, 100, 300, 1000];
pub(super) const QUICK: &[u32] = &[10, 100];
/// The kernel test that installs SAs beside a bare loop: its program and its name.
const INSTALL_TEST: (&str, &str) = ("kernel_xfrm-", "speed::installing_keeps_up_with_a_bare_loop");
/// D. Palomares, thesis, figure 3.4: one session of 10 to 1000 tunnels, in
/// microseconds, least and most. Native machines of 2010.
const THESIS_GET: [u64; 2] = [5_000, 15_000];
const THESIS_PUT: [u64; 2] = [2_000, 22_000];

/// What the guest found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Figures {
    /// One for each size.
    runs: Vec<Run>,
    /// SAs alone.
    install: Install,
    /// Why larger sizes are missing.
    stopped: Option<String>,
}

/// One size.
#[derive(Debug, Serialize, Deserialize)]
struct Run {
    /// Tunnels that are up.
    tunnels: usize,
    /// One session in a call.
    single: Calls,
    /// Ten sessions in a call, for each of them.
    batch: Calls,
}

/// What the calls of the plugin took for a session, in microseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Calls {
    /// At the source: it is written down.
    get: Spread,
    /// At the target: it is staged and activated.
    put: Spread,
    /// The first half of PUT, during which the session still runs at the source.
    stage: Spread,
    /// The second half, during which it does not.
    activate: Spread,
    /// At the source: it is stopped, and its last counters are read.
    pause: Spread,
    /// At the source: it is forgotten.
    release: Spread,
}

/// SAs that are installed by our netlink, and by a bare loop with the same octets.
#[derive(Debug, Serialize, Deserialize)]
struct Install {
    /// SAs per second by ours, in the best round.
    per_s: f64,
    /// The same of the bare loop.
    bare_per_s: f64,
    /// The first in relation to the second, median of all rounds.
    ratio_p50: f64,
    /// Of the best rounds.
    ratio_best: f64,
    /// Counters of SAs read per second.
    counters_read_per_s: f64,
    /// Counters of SAs set per second.
    counters_set_per_s: f64,
    /// One SA by ours in each round, in microseconds.
    us: Spread,
    /// The same of the bare loop.
    bare_us: Spread,
}

/// All figures, with what they are beside.
#[derive(Debug, Serialize)]
struct Beside<'a> {
    experiment: &'static str,
    processors: usize,
    thesis_get_us: [u64; 2],
    thesis_put_us: [u64; 2],
    /// Our p99 of the largest size in relation to the thesis' most.
    get_p99_of_thesis: f64,
    put_p99_of_thesis: f64,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// Boots a guest and measures there.
///
/// # Errors
/// What the guest says.
pub(super) fn measure(tunnels: &[u32]) -> Result<Sheet> {
    let mut tunnels: Vec<usize> = tunnels.iter().map(|count| *count as usize).collect();
    tunnels.sort_unstable();
    let found = host::measure("get-put", &tunnels)?;
    sheet(&serde_json::from_value(found)?)
}

fn sheet(figures: &Figures) -> Result<Sheet> {
    let of = |spread: fn(&Run) -> Spread, most: u64| {
        figures.runs.last().map_or(0.0, |run| spread(run).p99 as f64 / most as f64)
    };
    let beside = Beside {
        experiment: "get-put",
        processors: super::processors(),
        thesis_get_us: THESIS_GET,
        thesis_put_us: THESIS_PUT,
        get_p99_of_thesis: of(|run| run.single.get, THESIS_GET[1]),
        put_p99_of_thesis: of(|run| run.single.put, THESIS_PUT[1]),
        figures,
    };
    Ok(Sheet {
        name: "get-put",
        figures: serde_json::to_value(&beside)?,
        table: describe(figures),
        plot: draw(figures),
        missing: figures.stopped.clone(),
    })
}

fn describe(figures: &Figures) -> String {
    let head = [
        "tunnels",
        "GET p50",
        "p99",
        "PUT p50",
        "p99",
        "pause p50",
        "ten: GET p50",
        "PUT p50",
        "pause p50",
    ];
    let row = |run: &Run| {
        let (one, ten) = (&run.single, &run.batch);
        let of = [one.get.p50, one.get.p99, one.put.p50, one.put.p99, one.pause.p50];
        let of = of.into_iter().chain([ten.get.p50, ten.put.p50, ten.pause.p50]);
        std::iter::once(run.tunnels.to_string()).chain(of.map(human_micros)).collect()
    };
    let rows: Vec<Vec<String>> = figures.runs.iter().map(row).collect();
    let range =
        |[least, most]: [u64; 2]| format!("{} to {}", human_micros(least), human_micros(most));
    let install = &figures.install;
    format!(
        "{}\none session of these, or ten in one call (then for each); PUT is stage and activate; in \
         user-mode Linux, where every call of the system costs several times as much\n\
         the thesis, figure 3.4, 10 to 1000 tunnels on native machines: GET {}, PUT {}\n\
         SAs installed: {:.0}/s (each p50 {}, p99 {}), by a bare netlink loop {:.0}/s (p50 {}, p99 \
         {}): ratio {:.2}, of the best rounds {:.2}\n",
        table(&head, &rows),
        range(THESIS_GET),
        range(THESIS_PUT),
        install.per_s,
        human_micros(install.us.p50),
        human_micros(install.us.p99),
        install.bare_per_s,
        human_micros(install.bare_us.p50),
        human_micros(install.bare_us.p99),
        install.ratio_p50,
        install.ratio_best,
    )
}

fn draw(figures: &Figures) -> String {
    let line = |name, colour, micros: fn(&Run) -> u64| {
        let points = figures.runs.iter().map(|run| (run.tunnels as f64, micros(run) as f64 / 1e3));
        Series { name, colour, points: points.collect() }
    };
    plot::svg(
        "One session among many: GET and PUT with an unmodified charon",
        "tunnels that are up",
        "milliseconds",
        &[
            line("GET, the most of the thesis", "silver", |_| THESIS_GET[1]),
            line("PUT, the most of the thesis", "gray", |_| THESIS_PUT[1]),
            line("GET, median", "navy", |run| run.single.get.p50),
            line("PUT, median", "darkred", |run| run.single.put.p50),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_found_becomes_table_object_and_plot() {
        let spread = |p50: u64| Spread { p50, p99: 3 * p50, max: 4 * p50 };
        let calls = |n: u64| Calls {
            get: spread(1_000 * n),
            put: spread(2_000 * n),
            stage: spread(1_500 * n),
            activate: spread(500 * n),
            pause: spread(700 * n),
            release: spread(600 * n),
        };
        let install = Install {
            per_s: 9_700.0,
            bare_per_s: 10_000.0,
            ratio_p50: 0.97,
            ratio_best: 1.01,
            counters_read_per_s: 20_000.0,
            counters_set_per_s: 15_000.0,
            us: spread(103),
            bare_us: spread(100),
        };
        let runs = [10, 1000].map(|tunnels| Run { tunnels, single: calls(2), batch: calls(1) });
        let sheet = sheet(&Figures { runs: runs.into(), install, stopped: None }).unwrap();
        for text in ["1000", "2.0 ms", "12.0 ms", "9700/s", "0.97", "5.0 ms to 15.0 ms"] {
            assert!(sheet.table.contains(text), "no {text} in {}", sheet.table);
        }
        assert_eq!(sheet.figures["get_p99_of_thesis"], 0.4);
        assert_eq!(sheet.figures["runs"][1]["single"]["put"]["p99"], 12_000);
        assert_eq!(sheet.figures["install"]["ratio_p50"], 0.97);
        assert_eq!(sheet.plot.matches("<circle").count(), 8);
    }
}
