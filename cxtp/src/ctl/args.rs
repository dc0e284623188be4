//! What can be typed.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, builder::PossibleValue};
use clap_complete::Shell;
use protocol_spec::id::{BatchId, Name, Role, SessionId};

use super::outcome::Exit;
use crate::{engine::Standing, service::api};

/// Moves live IPsec sessions between security gateways: asks and tells the
/// `cxtpd` of this machine over its control socket.
#[derive(Debug, Parser)]
#[command(name = "cxtpctl", version, disable_help_subcommand = true)]
pub(super) struct Cli {
    /// Control socket of the daemon
    #[arg(
        long,
        global = true,
        help_heading = "General options",
        value_name = "PATH",
        env = "CXTP_SOCKET",
        hide_env_values = true,
        default_value = "/run/cxtp/control.sock"
    )]
    pub(super) socket: PathBuf,
    /// Print one JSON object as the last line on stdout (`watch`: one a line)
    #[arg(long, global = true, help_heading = "General options")]
    pub(super) json: bool,
    /// Give up after so long [default: 30, and 600 for what moves sessions; `watch` has none]
    #[arg(
        long,
        global = true,
        help_heading = "General options",
        value_name = "SECONDS",
        value_parser = seconds
    )]
    pub(super) timeout: Option<Duration>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The daemon, its gateway, its peers, its sessions counted by state
    Status {
        /// Wait until the daemon answers and its gateway and all its peers are up
        #[arg(long)]
        wait: bool,
    },
    /// Lists sessions
    Sessions {
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<Standing>,
    },
    /// One session with everything but its keys
    Show {
        /// Its id
        session: SessionId,
    },
    /// Moves sessions to another gateway while their traffic goes on
    ///
    /// Waits until each session has moved or its transfer has ended otherwise,
    /// and says how. A session that the target refuses, or whose transfer is
    /// aborted, goes on here. Ending cxtpctl does not end the batch: use `cancel`.
    Transfer {
        #[command(flatten)]
        which: Which,
        /// Gateway that takes them
        #[arg(long, value_name = "GATEWAY")]
        to: Name,
        /// `predictive`: this gateway sends; `reactive`: the target asks for them
        #[arg(long, value_enum, default_value = "predictive")]
        mode: Mode,
    },
    /// Carries out a controller's signed order here: takes sessions from their source
    Pull {
        /// File that `cxtpctl order issue` wrote
        #[arg(long, value_name = "FILE")]
        order: PathBuf,
    },
    /// Stops a batch: what is not committed goes on here
    Cancel {
        /// Its id, as `watch` and `transfer` say it
        batch: BatchId,
    },
    /// Asks a target whether it would take sessions, and why not; touches nothing
    Preflight {
        #[command(flatten)]
        which: Which,
        /// Gateway that is asked
        #[arg(long, value_name = "GATEWAY")]
        to: Name,
    },
    /// Ends the doubt about a session by your word; says what it risks first
    Resolve {
        /// Its id
        session: SessionId,
        /// `resume-here`: the target does not have it; `release-here`: the target has it
        #[arg(value_enum)]
        resolution: Resolution,
        /// Do not ask: the risk is understood
        #[arg(long)]
        yes: bool,
    },
    /// Hands a session out into a file, sealed to the gateway that may take it
    ///
    /// The session pauses here, and the file works once: the session is in doubt until
    /// that gateway has taken the file with `put`, or until it is resolved.
    Get {
        /// Its id
        session: SessionId,
        /// Gateway that may take it
        #[arg(long, value_name = "GATEWAY")]
        to: Name,
        /// New file for it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Takes a session out of a file that `get` wrote for this gateway
    Put {
        /// The file
        file: PathBuf,
    },
    /// Shows events as they happen
    Watch {
        /// End after so many events
        #[arg(long, value_name = "EVENTS")]
        count: Option<u64>,
    },
    /// Makes a public key infrastructure for tests, and configurations with it
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Pki {
        #[command(subcommand)]
        command: PkiCommand,
    },
    /// A controller's orders
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Order {
        #[command(subcommand)]
        command: OrderCommand,
    },
    /// Prints the completions for a shell
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Prints the manual page, or writes the pages of all commands
    Man {
        /// Directory for all pages
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// Makes a certificate authority
    Init {
        /// Directory for it, made if need be
        #[arg(long)]
        dir: PathBuf,
        /// Days that its certificate is valid
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u16).range(1..=7300))]
        days: u16,
    },
    /// Issues a certificate for cxtp://ROLE/NAME with its key
    ///
    /// A gateway also gets a key pair to which sessions are sealed (NAME.seal.key,
    /// NAME.seal.pub), a controller one to sign orders with (NAME.order.key,
    /// NAME.order.pub).
    Issue {
        /// Directory that `init` made
        #[arg(long)]
        dir: PathBuf,
        /// What it may do
        #[arg(value_enum)]
        role: RoleArg,
        /// What it is called
        name: Name,
        /// Days that the certificate is valid
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3650))]
        days: u16,
    },
    /// Prints a configuration of cxtpd for a gateway with an embedded gateway
    Config(ConfigArgs),
}

/// What goes into a configuration.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Directory that `init` made
    #[arg(long)]
    pub(super) dir: PathBuf,
    /// Gateway that it is for
    pub(super) name: Name,
    /// Address and UDP port where it listens for its peers
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: SocketAddr,
    /// Socket of its embedded gateway (cxtp-gateway)
    #[arg(long, value_name = "PATH")]
    pub(super) gateway_socket: PathBuf,
    /// What kind of gateway listens there
    #[arg(long, value_name = "KIND", value_parser = ["embedded", "linux"], default_value = "embedded")]
    pub(super) gateway_kind: String,
    /// A gateway that it moves sessions to and from; may be repeated
    #[arg(long = "peer", value_name = "NAME=HOST:PORT", value_parser = peer)]
    pub(super) peers: Vec<(Name, String)>,
    /// A controller whose orders count; may be repeated
    #[arg(long = "controller", value_name = "NAME")]
    pub(super) controllers: Vec<Name>,
    /// Let the peers ask for sessions (with an order): needed for `--mode reactive`
    #[arg(long)]
    pub(super) allow_pull: bool,
    /// Directory for journal and control socket [default: /var/lib/cxtp and /run/cxtp]
    #[arg(long, value_name = "DIR")]
    pub(super) home: Option<PathBuf>,
    /// New file for it [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum OrderCommand {
    /// Signs an order with which a target takes sessions from their source, once
    Issue(OrderArgs),
}

/// What is ordered.
#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    /// The controller's key, as `pki issue` wrote it (NAME.order.key)
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// The controller
    #[arg(long, value_name = "NAME")]
    pub(super) controller: Name,
    /// A session that shall move; may be repeated
    #[arg(long = "session", value_name = "SESSION", required = true, num_args = 1..)]
    pub(super) sessions: Vec<SessionId>,
    /// Where they are
    #[arg(long, value_name = "GATEWAY")]
    pub(super) from: Name,
    /// Where they shall go
    #[arg(long, value_name = "GATEWAY")]
    pub(super) to: Name,
    /// How long the order counts
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) expires_in: u32,
    /// New file for it
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
}

/// Which sessions: some, or all that are active here.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// Ids of sessions
    #[arg(value_name = "SESSION")]
    sessions: Vec<SessionId>,
    /// All that are active here
    #[arg(long)]
    all: bool,
}

impl Which {
    /// As the control API wants them: `None` for all; none of them twice.
    pub(super) fn into_ids(self) -> Option<Vec<String>> {
        let mut seen = std::collections::BTreeSet::new();
        (!self.all).then(|| {
            self.sessions.iter().filter(|id| seen.insert(**id)).map(ToString::to_string).collect()
        })
    }
}

/// Where a session may stand that is listed.
impl ValueEnum for Standing {
    fn value_variants<'a>() -> &'a [Self] {
        use Standing::{Active, InDoubt, Lost, Moved, Moving, Paused, Staged};
        &[Active, Paused, Staged, Moving, InDoubt, Moved, Lost]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

/// How a transfer begins.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Mode {
    Predictive,
    Reactive,
}

impl From<Mode> for api::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Predictive => Self::Predictive,
            Mode::Reactive => Self::Reactive,
        }
    }
}

/// How a doubt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Resolution {
    ResumeHere,
    ReleaseHere,
}

impl From<Resolution> for api::Resolution {
    fn from(resolution: Resolution) -> Self {
        match resolution {
            Resolution::ResumeHere => Self::ResumeHere,
            Resolution::ReleaseHere => Self::ReleaseHere,
        }
    }
}

/// Roles in the protocol.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleArg {
    Gateway,
    Controller,
    Client,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Gateway => Self::Gateway,
            RoleArg::Controller => Self::Controller,
            RoleArg::Client => Self::Client,
        }
    }
}

/// The whole command with the exit codes in its help.
pub(super) fn command() -> clap::Command {
    let codes = Exit::ALL.map(|(exit, meaning)| format!("  {}  {meaning}", exit.code()));
    Cli::command().after_help(format!("Exit codes:\n{}", codes.join("\n")))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| *time >= Duration::from_millis(1))
        .ok_or_else(|| "write a number of seconds above 0, such as 5 or 0.5".to_owned())
}

fn peer(text: &str) -> Result<(Name, String), String> {
    let (name, address) =
        text.split_once('=').ok_or("write NAME=HOST:PORT, such as b=192.0.2.2:4067")?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port {
        Ok((name, address.to_owned()))
    } else {
        Err(format!("`{address}` names no port: write HOST:PORT, such as 192.0.2.2:4067"))
    }
}
