//! One of the two processes of a measurement: a daemon with an embedded gateway
//! inside, so that nothing but the protocol is between two sets of sessions.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use cxtp::service::config::Config;
use gateway_plugin::embedded::{EmbeddedGateway, GatewayConfig, SessionShape};
use protocol_spec::{
    codec,
    id::{Name, SessionEpoch},
    message::PctdEntry,
};

use super::bare::{self, End};

/// Sessions that are set up at one time.
const CHUNK: u32 = 4096;
/// How often it is looked whether the daemon is still there.
const LOOK_UP: Duration = Duration::from_millis(500);
/// Some address of an end user; no packet is sent there.
const USER: ([u8; 4], u16) = ([127, 0, 0, 1], 9);

#[derive(Parser)]
#[command(name = "measured")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A daemon with a gateway
    Node {
        #[arg(long)]
        config: PathBuf,
        /// Sessions that it has at the start
        #[arg(long)]
        sessions: u32,
        #[arg(long)]
        relay: SocketAddr,
        /// Where the other one relays to
        #[arg(long, num_args = 2, value_names = ["NAME", "ADDRESS"])]
        neighbour: Vec<String>,
    },
    /// The end of a bare stream
    Bare {
        #[arg(long)]
        pki: PathBuf,
        #[arg(long)]
        name: Name,
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// The process; it ends when it is killed.
pub fn measured_main(args: Vec<OsString>) -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let run = || match Cli::try_parse_from(args)?.command {
        Command::Node { config, sessions, relay, neighbour } => {
            node(&config, sessions, relay, &neighbour)
        }
        Command::Bare { pki, name, listen } => {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(bare::serve(&End { pki, name }, listen))
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measured: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn gateway(sessions: u32, relay: SocketAddr, neighbour: &[String]) -> Result<EmbeddedGateway> {
    let [name, address] = neighbour else { bail!("a neighbour has a name and an address") };
    let gateway = EmbeddedGateway::start(GatewayConfig {
        relay,
        neighbours: vec![(name.parse()?, address.parse()?)],
        ..GatewayConfig::default()
    })?;
    let at = gateway.addresses()?.outer;
    let shape = SessionShape::default();
    for begin in (0..sessions).step_by(CHUNK as usize) {
        let indices = begin..sessions.min(begin + CHUNK);
        let contexts = indices.filter_map(|index| shape.context(1, index, at, USER.into()));
        for provisioned in gateway.provision(contexts.collect()) {
            provisioned?;
        }
    }
    ensure!(gateway.held_sessions() == sessions as usize, "not all sessions could be set up");
    Ok(gateway)
}

/// Octets of one session in a PCTD.
///
/// # Errors
/// If no context can be made.
pub fn bytes_per_context() -> Result<usize> {
    let context = SessionShape::default().context(1, 0, USER.into(), USER.into());
    let context = context.context("no random numbers")?;
    let profile = context.profile();
    let grants = profile.children.iter().filter_map(|child| {
        child.usage.grant(Duration::from_secs(1), protocol_spec::limits::GRANT_SPAN)
    });
    let entry = PctdEntry { epoch: SessionEpoch(1), grants: grants.collect(), context };
    Ok(codec::encode(&entry)?.len())
}

fn node(config: &Path, sessions: u32, relay: SocketAddr, neighbour: &[String]) -> Result<()> {
    let gateway = gateway(sessions, relay, neighbour)?;
    let config = Config::load(config)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let service = cxtp::service::start(config, Box::new(gateway)).await?;
        while service.is_running() {
            tokio::time::sleep(LOOK_UP).await;
        }
        bail!("the daemon stopped by itself")
    })
}
