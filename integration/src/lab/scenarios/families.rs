//! Moves of sessions that differ in what they carry: IP versions and Child SAs.

use std::path::PathBuf;

use anyhow::Result;
use cxtp::service::api::Mode;
use serde_json::Value;

use super::moves::one_move;
use crate::lab::{
    charon::config::{Child, Vpn},
    gateway::{Settings, Sharing},
    world::Setup,
};

fn child(name: &str, inner: &str, esp: &str, more: &str) -> Child {
    Child { name: name.into(), inner: inner.into(), esp: esp.into(), more: more.into() }
}

fn mono_lan(vpn: Vpn, ipv6: bool) -> Result<Value> {
    let settings = Settings { sharing: Sharing::Multicast, ..Settings::default() };
    let daemons = Some(settings);
    let setup = Setup { vpn, ipv6, moves: 1, shared: true, daemons, ..Setup::default() };
    one_move(setup, Mode::Predictive)
}

/// IPv6 outside and inside.
///
/// # Errors
/// What could not be done.
pub fn ipv6(_: &[PathBuf]) -> Result<Value> {
    mono_lan(inner_ipv6(), true)
}

/// IPv6 inside, IPv4 outside.
///
/// # Errors
/// What could not be done.
pub fn ipv6_in_ipv4(_: &[PathBuf]) -> Result<Value> {
    mono_lan(inner_ipv6(), false)
}

fn inner_ipv6() -> Vpn {
    let children = vec![Child { inner: "fd00:7::/64".into(), ..Child::plain() }];
    Vpn { children, vips: "::".into(), ..Vpn::default() }
}

/// One IKE SA with three Child SAs: one with ESN, one with AES-CBC and HMAC, one with
/// an interface id.
///
/// # Errors
/// What could not be done.
pub fn children(_: &[PathBuf]) -> Result<Value> {
    let children = vec![
        child("net", "192.168.7.0/24", "aes256gcm16-esn", ""),
        child("cbc", "192.168.8.0/24", "aes256-sha256", ""),
        child("other", "192.168.9.0/24", "aes128gcm16", "if_id_in = 7\n   if_id_out = 7"),
    ];
    mono_lan(Vpn { children, ..Vpn::default() }, false)
}
