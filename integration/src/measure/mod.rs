//! `cargo measure`: figures, as a table, a JSON object and a plot.

pub mod bare;
pub(crate) mod get_put;
pub mod node;
pub mod plot;
pub mod transfer;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;

pub use node::measured_main;

use self::{
    plot::Series,
    transfer::{Run, Windows},
};
use crate::{
    demo::show::Show,
    lab::{self, obstacle},
    process::Program,
    stats::{human_micros, table},
};

/// Sizes when everything is measured: a few minutes at most.
const QUICK: [u32; 3] = [1_000, 10_000, 100_000];
/// Sizes when the experiment is named.
const FULL: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Experiment {
    /// Sessions moved per second, in relation to a bare stream
    Transfer,
    /// What it takes to write a session down and to install it, with a real charon
    GetPut,
}

#[derive(Parser)]
#[command(
    name = "measure",
    version,
    about = "Measures and draws; without a name, everything in sizes that take a few minutes",
    after_help = "Figures depend on the machine; compare only those of one run."
)]
struct Cli {
    /// Only this experiment, in all its sizes
    #[arg(value_enum)]
    experiment: Option<Experiment>,
    /// End with one JSON object
    #[arg(long)]
    json: bool,
    /// Sizes, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    sessions: Vec<u32>,
    /// Sessions paused at a time; more is faster, and each session pauses longer
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pause_window: u32,
    /// Sessions sent and not yet answered
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    staging_window: u32,
    /// Where table, JSON and plot go [default: target/measure]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// What was measured.
    pub experiment: &'static str,
    /// Processors of the machine.
    pub processors: usize,
    /// How much was open at a time.
    pub windows: Windows,
    /// One for each size.
    pub runs: Vec<Run>,
    /// One session alone, from the order to its end, median.
    pub single_us_p50: u64,
    /// 99th percentile.
    pub single_us_p99: u64,
}

/// `cargo measure`.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if lab::is_in_guest(&args) {
        return lab::main(args);
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match measure(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure: {error:#}");
            if cli.json {
                let error = format!("{error:#}");
                println!("{}", serde_json::json!({ "ok": false, "error": error }));
            }
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: &Cli) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("not optimised: use `cargo measure`, which builds for speed");
    }
    let out = cli.out.clone().unwrap_or_else(default_out);
    let mut sheets = Vec::new();
    if cli.experiment != Some(Experiment::GetPut) {
        sheets.push(measure_transfer(cli)?);
    }
    if cli.experiment != Some(Experiment::Transfer) {
        match obstacle().filter(|_| cli.experiment.is_none()) {
            Some(why) => eprintln!("get-put is left out: {why}"),
            None => sheets.push(measure_get_put(cli)?),
        }
    }
    for sheet in &sheets {
        keep(&out, sheet).with_context(|| format!("cannot write to {}", out.display()))?;
    }
    let missing: Vec<_> = sheets.iter().filter_map(|sheet| sheet.missing.clone()).collect();
    match &sheets[..] {
        [sheet] if cli.json => println!("{}", sheet.figures),
        _ if cli.json => {
            let all: serde_json::Map<_, _> =
                sheets.into_iter().map(|sheet| (sheet.name.to_owned(), sheet.figures)).collect();
            println!("{}", serde_json::Value::Object(all));
        }
        _ => {
            for Sheet { name, table, .. } in &sheets {
                let place = out.display();
                println!("\n{table}\nalso in {place}: {name}.json, {name}.txt, {name}.svg");
            }
        }
    }
    ensure!(missing.is_empty(), "not all was measured: {}", missing.join("; "));
    Ok(())
}

fn measure_get_put(cli: &Cli) -> Result<Sheet> {
    let tunnels = match (cli.sessions.as_slice(), cli.experiment) {
        ([], None) => get_put::QUICK,
        ([], Some(_)) => get_put::FULL,
        (given, _) => given,
    };
    let show = Show::new(cli.json);
    let step = show.wait("GET and PUT in a guest");
    let sheet = get_put::measure(tunnels)?;
    step.done("");
    Ok(sheet)
}

fn measure_transfer(cli: &Cli) -> Result<Sheet> {
    let program = Program::current()?;
    let show = Show::new(cli.json);
    let sizes = match (cli.sessions.as_slice(), cli.experiment) {
        ([], None) => &QUICK[..],
        ([], Some(_)) => &FULL[..],
        (given, _) => given,
    };
    let windows = Windows { pause: cli.pause_window, staging: cli.staging_window };
    let step = show.wait("single sessions");
    let single = transfer::singles(&program, windows)?;
    step.done(&human_micros(single.p50));
    let mut runs = Vec::new();
    for sessions in sizes {
        let step = show.step(format!("{sessions} sessions"), *sessions as usize);
        let run = transfer::run(&program, *sessions, windows, |progress| step.at(progress))?;
        step.done(&format!("{:.0} sessions/s", run.sessions_per_s));
        runs.push(run);
    }
    Measured {
        experiment: "transfer",
        processors: processors(),
        windows,
        runs,
        single_us_p50: single.p50,
        single_us_p99: single.p99,
    }
    .sheet()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What came of an experiment.
struct Sheet {
    name: &'static str,
    figures: serde_json::Value,
    table: String,
    plot: String,
    /// What could not be measured, and why.
    missing: Option<String>,
}

impl Measured {
    fn sheet(&self) -> Result<Sheet> {
        Ok(Sheet {
            name: self.experiment,
            figures: serde_json::to_value(self)?,
            table: describe(self),
            plot: draw(self),
            missing: None,
        })
    }
}

/// `target/measure` beside the program, which stands in `target/PROFILE`.
fn default_out() -> PathBuf {
    let program = std::env::current_exe().ok();
    let target = program.as_deref().and_then(Path::parent).and_then(Path::parent);
    target.map_or_else(|| PathBuf::from("target/measure"), |target| target.join("measure"))
}

fn describe(measured: &Measured) -> String {
    let head = [
        "sessions",
        "sessions/s",
        "bytes each",
        "of bare stream",
        "pause p50",
        "pause p99",
        "source MiB",
        "target MiB",
    ];
    let row = |run: &Run| {
        vec![
            run.sessions.to_string(),
            format!("{:.0}", run.sessions_per_s),
            run.bytes_per_context.to_string(),
            format!("{:.3}", run.ratio_to_bare_stream),
            human_micros(run.pause_us_p50),
            human_micros(run.pause_us_p99),
            (run.rss_kib_source >> 10).to_string(),
            (run.rss_kib_target >> 10).to_string(),
        ]
    };
    let rows: Vec<_> = measured.runs.iter().map(row).collect();
    format!(
        "{}\nup to {} sessions paused and {} staged at a time; one session alone: p50 {}, p99 {}; \
         {} processors\n",
        table(&head, &rows),
        measured.windows.pause,
        measured.windows.staging,
        human_micros(measured.single_us_p50),
        human_micros(measured.single_us_p99),
        measured.processors
    )
}

fn keep(out: &Path, sheet: &Sheet) -> Result<()> {
    fs::create_dir_all(out)?;
    let file = |end: &str| out.join(format!("{}.{end}", sheet.name));
    fs::write(file("json"), serde_json::to_string_pretty(&sheet.figures)?)?;
    fs::write(file("txt"), &sheet.table)?;
    Ok(fs::write(file("svg"), &sheet.plot)?)
}

fn draw(measured: &Measured) -> String {
    let line = |name, colour, value: fn(&Run) -> f64| {
        let points = measured.runs.iter().map(|run| (f64::from(run.sessions), value(run)));
        Series { name, colour, points: points.collect() }
    };
    let bare = |run: &Run| run.bare_bytes_per_s / run.bytes_per_context as f64;
    plot::svg(
        "Sessions moved through the whole protocol, with both journals",
        "sessions in one transfer",
        "sessions per second",
        &[
            line("the same bytes on a bare QUIC stream", "gray", bare),
            line("moved", "navy", |run| run.sessions_per_s),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let run = Run {
            sessions: 1000,
            sessions_per_s: 50_000.0,
            bytes_per_context: 900,
            ratio_to_bare_stream: 0.25,
            bare_bytes_per_s: 180e6,
            moved_again: 0,
            pause_us_p50: 1500,
            pause_us_p99: 4000,
            rss_kib_source: 20_480,
            rss_kib_target: 30_720,
            rss_kib_source_before: 19_000,
        };
        Measured {
            experiment: "transfer",
            processors: 2,
            windows: Windows { pause: 64, staging: 2048 },
            runs: vec![run],
            single_us_p50: 2500,
            single_us_p99: 9000,
        }
    }

    #[test]
    fn a_run_becomes_table_object_and_plot() {
        let (out, sheet) = (tempfile::tempdir().unwrap(), measured().sheet().unwrap());
        let table = &sheet.table;
        assert!(table.contains("50000") && table.contains("0.250"), "{table}");
        keep(out.path(), &sheet).unwrap();
        let text = fs::read_to_string(out.path().join("transfer.json")).unwrap();
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["runs"][0]["rss_kib_target"], 30_720);
        let plot = fs::read_to_string(out.path().join("transfer.svg")).unwrap();
        assert_eq!(plot.matches("<circle").count(), 2);
    }
}
