//! No move at all: what the lab itself does to traffic, and that every figure is zero
//! where nothing is wrong.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use serde_json::Value;

use crate::lab::{
    charon::config::{Auth, Child, Vpn},
    world::{Setup, World},
};

/// How long traffic runs after the baseline.
const SPAN: Duration = Duration::from_secs(4);
/// How long a TCP stream runs.
const TCP: Duration = Duration::from_secs(2);

/// One user, one gateway.
///
/// # Errors
/// What could not be done.
pub fn plain(_: &[PathBuf]) -> Result<Value> {
    quiet(Setup { gateways: 1, ..Setup::default() })
}

/// Two users behind a router with NAT.
///
/// # Errors
/// What could not be done.
pub fn nat(_: &[PathBuf]) -> Result<Value> {
    quiet(Setup { gateways: 1, users: 2, nat: true, ..Setup::default() })
}

/// IPv6 outside and inside, AES-CBC with HMAC and ESN, and a user who proves itself by
/// EAP.
///
/// # Errors
/// What could not be done.
pub fn ipv6(_: &[PathBuf]) -> Result<Value> {
    let child =
        Child { inner: "fd00:7::/64".into(), esp: "aes256-sha256-esn".into(), ..Child::plain() };
    let vpn = Vpn { children: vec![child], vips: "::".into(), auth: Auth::Eap, ..Vpn::default() };
    quiet(Setup { gateways: 1, ipv6: true, vpn, ..Setup::default() })
}

fn quiet(setup: Setup) -> Result<Value> {
    let mut world = World::build(setup)?;
    world.establish()?;
    let traffic = world.start_traffic(1000)?;
    world.baseline(&traffic);
    traffic.run_for(SPAN);
    world.stop_traffic(traffic)?;
    world.tcp(1, TCP)?;
    for user in 1..=world.setup.users {
        world.still_works(user)?;
    }
    Ok(serde_json::to_value(world.finish()?)?)
}
