//! The commands `cxtp-gateway` and `cxtp-user`, as functions that any program
//! can become.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use nix::sys::signal::SigSet;
use protocol_spec::{context::Prefix, id::Name};

use super::{EmbeddedGateway, GatewayConfig, GatewayServer, Sabotage};
use crate::holder::program::{end_signals, finish, parse, say};

/// A security gateway in user space: ESP in UDP on real sockets, without root.
///
/// It holds the sessions; the daemon `cxtpd` moves them through the socket.
#[derive(Parser)]
#[command(name = "cxtp-gateway", version, after_help = EXAMPLE)]
struct GatewayArguments {
    /// Where the daemon and the end users' IKE speak to the gateway (a Unix
    /// socket, for this user and root alone).
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Where end users send ESP in UDP. `[::]:4500` serves IPv4 as well.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    outer: SocketAddr,
    /// Where the inner network sends raw IP packets, one in each UDP datagram.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    inner: SocketAddr,
    /// Where neighbours relay packets to.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    relay: SocketAddr,
    /// Work on this host's networks instead, with gateways of the kernel as
    /// neighbours: a file of settings as for cxtp-linux names them. Then `--outer` is
    /// the shared address or an own one, with port 4500; CAP_NET_ADMIN and CAP_NET_RAW
    /// are needed.
    #[cfg(feature = "linux")]
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Where packets from end users go; may also be set through the socket.
    #[arg(long, value_name = "ADDRESS:PORT")]
    inner_host: Option<SocketAddr>,
    /// A gateway that sessions move to or come from, and where it takes relayed
    /// packets. Repeat for each.
    #[arg(long = "neighbour", value_name = "NAME=ADDRESS:PORT", value_parser = neighbour)]
    neighbours: Vec<(Name, SocketAddr)>,
    /// A configuration name that is known here. Repeat for each; without any,
    /// every name is.
    #[arg(long = "configuration", value_name = "NAME")]
    configurations: Vec<String>,
    /// Inner addresses that this gateway hands out itself. Repeat for each.
    #[arg(long, value_name = "ADDRESS/BITS", value_parser = prefix)]
    hands_out: Vec<Prefix>,
    /// Most sessions at a time.
    #[arg(long, value_name = "COUNT", default_value_t = GatewayConfig::default().max_sessions)]
    max_sessions: usize,
    /// Break a rule on purpose.
    #[arg(long, hide = true, value_enum)]
    sabotage: Option<Sabotage>,
}

const EXAMPLE: &str = "Example:
  cxtp-gateway --socket /run/user/1000/gw-a.sock --outer 127.0.0.1:4501 \\
      --relay 127.0.0.1:7001 --neighbour gw-b=127.0.0.1:7002

When it is ready it prints one line with its addresses. SIGTERM ends it, and its
sessions with it. CXTP_LOG=debug shows more.";

/// Runs the embedded gateway until SIGTERM or SIGINT. `args` begin with the name
/// of the program.
pub fn gateway_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match parse::<GatewayArguments>(args) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    // Before any thread begins, so that all of them leave signals to us.
    finish("cxtp-gateway", end_signals().and_then(|signals| run_gateway(arguments, &signals)))
}

fn run_gateway(arguments: GatewayArguments, signals: &SigSet) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let configurations = arguments.configurations;
    // First of all: the address that is listened on may come with it.
    #[cfg(feature = "linux")]
    let network = match &arguments.network {
        Some(file) => {
            let around = crate::linux::Around::open(file)?;
            Some(Box::new(around) as Box<dyn super::network::Network>)
        }
        None => None,
    };
    #[cfg(not(feature = "linux"))]
    let network = None;
    let config = GatewayConfig {
        outer: arguments.outer,
        inner: arguments.inner,
        relay: arguments.relay,
        inner_host: arguments.inner_host,
        neighbours: arguments.neighbours,
        configurations: (!configurations.is_empty()).then(|| configurations.into_iter().collect()),
        hands_out: arguments.hands_out,
        max_sessions: arguments.max_sessions,
        sabotage: arguments.sabotage,
        ..GatewayConfig::default()
    };
    let gateway = EmbeddedGateway::start_on(config, network).map_err(text)?;
    let server = GatewayServer::start(gateway.clone(), &arguments.socket).map_err(text)?;
    let at = gateway.addresses().map_err(text)?;
    say(&format!("ready outer={} inner={} relay={}", at.outer, at.inner, at.relay));
    let signal = signals.wait().map_err(|error| error.to_string())?;
    tracing::info!(%signal, sessions = gateway.held_sessions(), "ending");
    drop(server);
    gateway.stop();
    Ok(())
}

fn neighbour(text: &str) -> Result<(Name, SocketAddr), String> {
    let (name, address) =
        text.split_once('=').ok_or("write NAME=ADDRESS:PORT, as gw-b=127.0.0.1:7002")?;
    let name = name.parse().map_err(|error: protocol_spec::id::BadName| error.to_string())?;
    let address =
        address.parse().map_err(|_| format!("`{address}` is not an address and a port"))?;
    Ok((name, address))
}

fn prefix(text: &str) -> Result<Prefix, String> {
    let (address, bits) = text.split_once('/').ok_or("write ADDRESS/BITS, as 10.9.0.0/16")?;
    let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is not an address"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits
        .parse()
        .ok()
        .filter(|bits| *bits <= most)
        .ok_or_else(|| format!("`{bits}` is not a number up to {most}"))?;
    Ok(Prefix { address, bits })
}
