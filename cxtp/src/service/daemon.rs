//! One daemon from start to end, in a process of its own or inside another.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use gateway_plugin::{
    GatewayPlugin,
    holder::{RemoteGateway, stay_in_memory},
};
use protocol_spec::id::Name;
use rustls::pki_types::UnixTime;
use thiserror::Error;
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::{
    clock::{Clock, unix_time},
    config::{Config, ConfigError, LogConfig},
    control::{Control, ControlError},
    driver::{Desk, Driver, Ears},
    hands::Hands,
    journal::{JournalError, Scribe, Store},
    seal::{SealError, SealKey},
};
use crate::{
    engine::Engine,
    quic::{
        Setup, Transport,
        tls::{Credentials, TlsError, read_private},
    },
};

/// Inputs of each kind that may wait for the driver.
const INPUTS: usize = 4096;
/// Events that a slow watcher may be behind.
const EVENTS: usize = 8192;

/// Why a daemon does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The seal key.
    #[error("seal.key {}: {error}", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: SealError,
    },
    /// The UDP address.
    #[error("listen {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Threads.
    #[error("the system gives no thread: {0}")]
    Thread(io::Error),
}

/// A daemon that runs.
pub struct Service {
    address: SocketAddr,
    stop: CancellationToken,
    driver: JoinHandle<()>,
    control: JoinHandle<()>,
}

impl Service {
    /// Where it listens for peers.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: nothing new begins, what is committed is given a few seconds, peers
    /// hear Bye.
    pub async fn stop(self) {
        self.stop.cancel();
        // A task that panicked has said so already.
        let _ = self.driver.await;
        let _ = self.control.await;
    }

    /// Whether its tasks are at work.
    pub fn is_running(&self) -> bool {
        !self.driver.is_finished() && !self.control.is_finished()
    }
}

/// Starts a daemon in this process, beside this gateway.
///
/// # Errors
/// [`StartError`] says what to mend.
pub async fn start(config: Config, gateway: Box<dyn GatewayPlugin>) -> Result<Service, StartError> {
    let config = Arc::new(config);
    let clock = Clock::start();
    let now = clock.moment();
    let credentials =
        Credentials::load(&config.tls, config.name(), UnixTime::since_unix_epoch(unix_time()))?;
    let seal_key = config.seal_key.as_deref().map(load_seal_key).transpose()?;
    let (store, recovered) = Store::open(&config.state_dir, config.engine.tombstone, now.unix)?;
    let control = Control::bind(&config.control_socket, config.control_mode)?;

    let (inbound_sender, inbound) = mpsc::channel(INPUTS);
    let (heard_sender, heard) = mpsc::channel(INPUTS);
    let (written_sender, written) = mpsc::channel(INPUTS);
    let (ask_sender, asks) = mpsc::channel(INPUTS);
    let (events, _) = broadcast::channel(EVENTS);
    let stop = CancellationToken::new();

    let setup = Setup {
        name: config.name().clone(),
        epoch: recovered.gateway_epoch,
        credentials,
        listen: config.listen,
        gateways: config.peers.iter().map(|(n, peer)| (n.clone(), peer.address.clone())).collect(),
        controllers: config.engine.controllers.keys().cloned().collect::<BTreeSet<Name>>(),
        clients: config.accept_clients,
        times: config.transport,
    };
    let unusable = |error| StartError::Listen { address: config.listen, error };
    let transport = Transport::bind(setup, inbound_sender).map_err(unusable)?;
    let address = transport.local_addr().map_err(unusable)?;
    tracing::info!(
        name = %config.name(), %address, life = recovered.gateway_epoch.0,
        records = recovered.records.len(), "started"
    );
    let driver = Driver {
        engine: Engine::new(config.engine.clone(), recovered, now),
        transport,
        // The driver being gone ends the threads as well.
        hands: Hands::start(gateway, config.gateway.kind.sessions_at_once(), move |heard| {
            drop(heard_sender.blocking_send(heard));
        })
        .map_err(StartError::Thread)?,
        scribe: Scribe::start(Box::new(store), move |written| {
            drop(written_sender.blocking_send(written));
        })
        .map_err(StartError::Thread)?,
        events: events.clone(),
        desk: Desk::default(),
        config: Arc::clone(&config),
        clock,
    };
    let driver = tokio::spawn({
        let stop = stop.clone();
        let ears = Ears { inbound, heard, written, asks, stop: stop.clone() };
        async move {
            driver.run(ears).await;
            stop.cancel();
        }
    });
    let control = tokio::spawn(control.serve(config, seal_key, ask_sender, events, stop.clone()));
    Ok(Service { address, stop, driver, control })
}

fn load_seal_key(path: &Path) -> Result<SealKey, StartError> {
    let octets = read_private(path)?;
    let text = std::str::from_utf8(&octets).unwrap_or_default().trim();
    SealKey::from_text(text).map_err(|error| StartError::Seal { path: path.to_owned(), error })
}

/// Moves live IKEv2/IPsec sessions between this host's security gateway and others.
///
/// Exit status: 0 after SIGTERM or SIGINT, or a configuration that is good; 1 if it
/// cannot start; 2 for a wrong command line.
#[derive(Debug, Parser)]
#[command(name = "cxtpd", version)]
struct Args {
    /// The configuration, in TOML. `CXTP__SECTION__KEY` in the environment
    /// overrides a key of it.
    #[arg(long, value_name = "FILE", default_value = "/etc/cxtp/cxtpd.toml")]
    config: PathBuf,
    /// Prints the effective configuration and ends, or says what is wrong with it.
    #[arg(long)]
    check: bool,
}

/// The command `cxtpd`.
pub fn daemon_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = Args::parse_from(args);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cxtpd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    if args.check {
        check(&config)?;
        print!("{}", config.effective());
        return Ok(());
    }
    log(&config.log)?;
    stay_in_memory();
    let gateway = Box::new(RemoteGateway::new(&config.gateway.socket));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let service = start(config, gateway).await?;
        let ended = async {
            while service.is_running() {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        };
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to end"),
            signal = tokio::signal::ctrl_c() => { signal?; tracing::info!("told to end") },
            () = ended => anyhow::bail!("the daemon stopped by itself; its log says why"),
        }
        service.stop().await;
        Ok(())
    })
}

/// What can be found wrong without starting: files that do not fit.
fn check(config: &Config) -> Result<(), StartError> {
    Credentials::load(&config.tls, config.name(), UnixTime::since_unix_epoch(unix_time()))?;
    config.seal_key.as_deref().map(load_seal_key).transpose()?;
    Ok(())
}

fn log(config: &LogConfig) -> ConfigResult {
    let value = |error: &dyn std::fmt::Display| ConfigError::Value {
        key: "log.filter".into(),
        value: config.filter.clone(),
        problem: error.to_string(),
        cure: "write directives such as `info` or `cxtp=debug`".into(),
    };
    let filter: Targets = config.filter.parse().map_err(|error| value(&error))?;
    let colours = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(colours)
        .with_writer(io::stderr);
    let set = if config.json {
        builder.json().finish().with(filter).try_init()
    } else {
        builder.finish().with(filter).try_init()
    };
    set.map_err(|error| value(&error))
}

type ConfigResult = Result<(), ConfigError>;
