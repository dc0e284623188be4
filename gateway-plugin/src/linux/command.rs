//! The command `cxtp-linux`, as a function.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, mpsc::sync_channel},
};

use clap::Parser;
use nix::sys::signal::SigSet;
use protocol_spec::{id::SessionId, profile::Capabilities};

use super::{
    LinuxGateway,
    config::{Config, Daemon},
    daemon::{DaemonEvent, IkeDaemon},
    gateway::Place,
    kernel::Live,
    kernel_only::{self, FEATURES, KernelOnly},
    steer::Steered,
    voice::Voice,
};
use crate::{
    holder::{GatewayServer, program, random},
    ike::tap::Tap,
    steering::{Mode, Steering},
    strongswan::{Charon, CharonSettings},
    xfrm::{Follower, Group, Kernel, Transforms},
};

/// Events of the daemon that wait.
const EVENTS: usize = 8192;
/// The kernel's widest replay window.
const MAX_WINDOW: u32 = 4096;

/// A security gateway of the Linux kernel, with strongSwan above it or alone.
///
/// It holds what a killed `cxtpd` must find again; `cxtpd` moves the sessions
/// through its socket.
#[derive(Parser)]
#[command(name = "cxtp-linux", version, after_help = EXAMPLE)]
struct Arguments {
    /// The settings, a TOML file.
    #[arg(long, value_name = "FILE", default_value = "/etc/cxtp/linux.toml")]
    config: PathBuf,
    /// Only check the settings.
    #[arg(long)]
    check: bool,
}

const EXAMPLE: &str = "Example of the file:
  name = \"gw-a\"
  socket = \"/run/cxtp/gateway.sock\"
  [network]
  outer = [\"wan\"]
  inner = \"lan\"
  own = [\"192.0.2.2\"]
  [neighbours.gw-b]
  inner = \"10.0.0.2\"
  outer = \"192.0.2.3\"

It needs CAP_NET_ADMIN and CAP_NET_RAW. When it is ready it prints one line.
SIGTERM ends it; its sessions go on. CXTP_LOG=debug shows more.";

/// Runs the Linux gateway until SIGTERM or SIGINT. `args` begin with the name of
/// the program.
pub fn linux_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match program::parse::<Arguments>(args) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    // Before any thread begins, so that all of them leave signals to us.
    let done = program::end_signals().and_then(|signals| {
        let config = Config::load(&arguments.config)?;
        if arguments.check {
            program::say(&format!("{}: nothing is wrong", arguments.config.display()));
            return Ok(());
        }
        run(config, &signals)
    });
    program::finish("cxtp-linux", done)
}

fn run(config: Config, signals: &SigSet) -> Result<(), String> {
    program::stay_in_memory();
    let socket = config.socket.clone();
    let gateway = open(config)?;
    let server = GatewayServer::start(gateway, &socket).map_err(|error| error.to_string())?;
    program::say(&format!("ready socket={}", socket.display()));
    let signal = signals.wait().map_err(|error| error.to_string())?;
    tracing::info!(%signal, "ending; the sessions go on");
    drop(server);
    Ok(())
}

fn open(config: Config) -> Result<LinuxGateway, String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let mut kernel = Kernel::open().map_err(text)?;
    let capabilities = capabilities(&mut kernel, &config)?;
    let bypass = Box::new(Kernel::open().map_err(text)?);
    let shared = config.steering.shared.clone();
    let neighbours = config.neighbours();
    let moving = match config.steering.mode {
        Mode::Address => shared.clone(),
        Mode::None | Mode::Shared(_) => Vec::new(),
    };
    let steering = Steering::open(config.steering, bypass).map_err(text)?;
    let place = Place {
        shared,
        own: config.own,
        require: config.require,
        max_sessions: config.max_sessions,
        drain: config.drain,
        life: life()?,
    };
    let (sender, events) = sync_channel::<DaemonEvent>(EVENTS);
    let mut voice = None;
    let daemon: Box<dyn IkeDaemon> = match config.daemon {
        Daemon::None => {
            let local = place.shared.iter().chain(&place.own).copied().collect();
            kernel_only::follow(
                Follower::of(&[Group::Sas, Group::Policies, Group::Expiry]).map_err(text)?,
                sender,
            )
            .map_err(text)?;
            Box::new(KernelOnly::new(capabilities, local, new_id))
        }
        Daemon::Strongswan {
            vici,
            ha: (ours, charons),
            hands_out,
            strongswan_conf,
            swanctl_conf,
        } => {
            let settings = CharonSettings {
                vici,
                ours,
                charons,
                segments: 16,
                hands_out,
                child_transforms: capabilities.child_transforms,
                strongswan_conf,
                swanctl_conf,
            };
            let locals = place.shared.iter().chain(&place.own).copied().collect();
            let room = usize::try_from(place.max_sessions).unwrap_or(usize::MAX);
            let tap = Arc::new(Tap::start(locals, room).map_err(|error| {
                format!("IKE cannot be listened to: {error} (CAP_NET_RAW is needed)")
            })?);
            voice = Some(Voice::new(Arc::clone(&tap)));
            Box::new(Charon::start(settings, sender, new_id, tap).map_err(text)?)
        }
    };
    let steered = Box::new(Steered::new(steering, neighbours, moving));
    let record = config.socket.with_file_name("sessions.redb");
    let tables = Box::new(Live::new(kernel).map_err(text)?);
    LinuxGateway::start(place, tables, steered, daemon, voice, events, &record).map_err(text)
}

fn capabilities(kernel: &mut Kernel, config: &Config) -> Result<Capabilities, String> {
    let found: Transforms = kernel.transforms().map_err(|error| error.to_string())?;
    Ok(Capabilities {
        features: FEATURES.iter().copied().collect(),
        child_transforms: found.numbers(),
        ike_transforms: BTreeSet::new(),
        max_replay_window: MAX_WINDOW,
        max_sessions: config.max_sessions,
    })
}

/// Which life of the kernel's tables this is: they end with the boot.
fn life() -> Result<[u8; 16], String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .map(u128::to_be_bytes)
        .map_err(|error| format!("{path}: {error}"))
}

fn new_id() -> SessionId {
    let octets = random::octets().unwrap_or_else(|| {
        tracing::error!("the operating system has no random numbers: no session can be named");
        std::process::abort()
    });
    SessionId(octets)
}
