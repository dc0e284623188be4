//! The command `cxtp-user`.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{RecvTimeoutError, channel},
    thread::Builder,
    time::Duration,
};

use clap::Parser;
use serde::Serialize;

use super::{
    super::{GatewayAdmin, RemoteGateway},
    FleetConfig, FleetReport, SessionShape, UserFleet,
};
use crate::holder::program::{end_signals, finish, parse, say};

/// Embedded end users and the inner host behind the gateways.
///
/// Sets sessions up at a gateway as IKE would, sends numbered packets both ways
/// and counts what was lost, duplicated, reordered and refused as replayed, and
/// the longest gap. End users follow their sessions when these move.
#[derive(Parser)]
#[command(name = "cxtp-user", version, after_help = EXAMPLE)]
struct UserArguments {
    /// Socket of the gateway where the sessions begin.
    #[arg(long, value_name = "PATH")]
    gateway: PathBuf,
    /// Socket of a gateway that sessions may move to; it is told where the inner
    /// host is. Repeat for each.
    #[arg(long = "other", value_name = "PATH")]
    others: Vec<PathBuf>,
    /// How many sessions.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// Packets per second, each way, of each session.
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Octets that each inner packet carries.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(20..=1400))]
    payload: u16,
    /// End after so many seconds; without it, after SIGTERM or SIGINT.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// AES key length.
    #[arg(long, default_value = "128", value_parser = ["128", "256"])]
    key_bits: String,
    /// Extended sequence numbers.
    #[arg(long)]
    esn: bool,
    /// Replay window in packets.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(32..=4096))]
    window: u32,
    /// IPv6 inside.
    #[arg(long)]
    v6: bool,
    /// Child SAs in each session.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    children: u32,
    /// Configuration name that the sessions were set up under.
    #[arg(long, default_value = "embedded")]
    configuration: String,
    /// First number of SPIs and inner addresses; fleets whose numbers differ do
    /// not collide.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    first: u32,
    /// UDP sockets that the end users share.
    #[arg(long, default_value_t = 16)]
    sockets: usize,
    /// Where the end users' sockets listen.
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// Where the inner host listens.
    #[arg(long, value_name = "ADDRESS:PORT")]
    host: Option<SocketAddr>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    /// With --json: also what was counted of each session.
    #[arg(long)]
    per_session: bool,
}

const EXAMPLE: &str = "Example:
  cxtp-user --gateway /run/user/1000/gw-a.sock --other /run/user/1000/gw-b.sock \\
      --sessions 1000 --seconds 10 --json";

/// Runs embedded end users for a time or until SIGTERM or SIGINT, then tells
/// what they counted. `args` begin with the name of the program.
pub fn user_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse::<UserArguments>(args) {
        Ok(arguments) => finish("cxtp-user", run(arguments)),
        Err(code) => code,
    }
}

fn run(arguments: UserArguments) -> Result<(), String> {
    let signals = end_signals()?;
    let connect = |path: &PathBuf| RemoteGateway::connect(path).map_err(|e| e.to_string());
    let mut home = connect(&arguments.gateway)?;
    let mut others = arguments.others.iter().map(connect).collect::<Result<Vec<_>, _>>()?;
    let mut others: Vec<&mut dyn GatewayAdmin> =
        others.iter_mut().map(|other| other as &mut dyn GatewayAdmin).collect();
    let config = FleetConfig {
        sessions: arguments.sessions,
        rate: arguments.rate,
        payload: arguments.payload.into(),
        shape: SessionShape {
            key_bits: if arguments.key_bits == "256" { 256 } else { 128 },
            esn: arguments.esn,
            window: arguments.window,
            inner_v6: arguments.v6,
            children: arguments.children,
            configuration: arguments.configuration,
        },
        first: arguments.first,
        sockets: arguments.sockets,
        bind: arguments.bind,
        host: arguments.host,
        ..FleetConfig::default()
    };
    let fleet = UserFleet::start(config, &mut home, &mut others).map_err(|e| e.to_string())?;
    tracing::info!(sessions = arguments.sessions, "sending");

    let (sender, ended) = channel();
    let wait = move || sender.send(signals.wait());
    let waiting = Builder::new().name("signals".to_owned()).spawn(wait);
    waiting.map_err(|error| format!("cannot wait for signals: {error}"))?;
    match arguments.seconds.map(Duration::from_secs) {
        Some(time) => match ended.recv_timeout(time) {
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(error) => return Err(error.to_string()),
        },
        None => drop(ended.recv().map_err(|error| error.to_string())?),
    }

    let report = fleet.stop();
    if arguments.json {
        let text = json(report, arguments.per_session).map_err(|error| error.to_string())?;
        say(&text);
    } else {
        say(&table(&report));
    }
    Ok(())
}

/// The report with the distribution of the sessions' longest gaps.
#[derive(Serialize)]
struct Summary {
    packets_sent: u64,
    packets_lost: u64,
    packets_duplicated: u64,
    packets_reordered: u64,
    packets_expected: f64,
    gap_us_p50: u64,
    gap_us_p99: u64,
    gap_us_max: u64,
    #[serde(flatten)]
    report: FleetReport,
}

fn json(mut report: FleetReport, per_session: bool) -> serde_json::Result<String> {
    let (gap_us_p50, gap_us_p99, gap_us_max) = report.gaps();
    if !per_session {
        report.per_session.clear();
    }
    serde_json::to_string(&Summary {
        packets_sent: report.up.sent + report.down.sent,
        packets_lost: report.up.lost + report.down.lost,
        packets_duplicated: report.up.duplicated + report.down.duplicated,
        packets_reordered: report.up.reordered + report.down.reordered,
        packets_expected: report.expected(),
        gap_us_p50,
        gap_us_p99,
        gap_us_max,
        report,
    })
}

fn table(report: &FleetReport) -> String {
    let mut lines = vec![format!(
        "{} sessions, {} packets/s each way, {:.1} s",
        report.sessions, report.rate, report.seconds
    )];
    lines.push(format!(
        "{:6}{:>12}{:>12}{:>8}{:>12}{:>10}{:>16}",
        "", "sent", "received", "lost", "duplicated", "reordered", "longest gap"
    ));
    for (way, counts) in [("up", &report.up), ("down", &report.down)] {
        lines.push(format!(
            "{way:6}{:>12}{:>12}{:>8}{:>12}{:>10}{:>13.1} ms",
            counts.sent,
            counts.received,
            counts.lost,
            counts.duplicated,
            counts.reordered,
            counts.longest_gap_us as f64 / 1000.0
        ));
    }
    lines.push(format!(
        "refused as replayed {}, forged {}, moves seen {}",
        report.replay_rejected, report.forged, report.roamed
    ));
    lines.join("\n")
}
