//! What the lab needs on the host: Debian's packages.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

/// Source of the guest's kernel.
pub const KERNEL_SOURCE: &str = "linux-source-6.1";

/// What builds the kernel.
const BUILD: &[&str] =
    &[KERNEL_SOURCE, "make", "gcc", "flex", "bison", "bc", "libelf-dev", "xz-utils"];

/// What scenarios run in the guest.
const RUN: &[&str] = &[
    "util-linux",
    "iproute2",
    "iputils-ping",
    "iputils-arping",
    "nftables",
    "tcpdump",
    "openssl",
    "strongswan-charon",
    "strongswan-swanctl",
    "libcharon-extra-plugins",
    "libcharon-extauth-plugins",
    "libstrongswan-standard-plugins",
    "libstrongswan-extra-plugins",
];

/// Why no scenario can run on a kernel here, if that is so.
pub fn obstacle() -> Option<String> {
    if !Path::new("/etc/debian_version").exists() {
        return Some("the lab needs Debian 12: its strongSwan and the source of its kernel".into());
    }
    if cfg!(not(target_arch = "x86_64")) {
        return Some("the lab needs an x86-64 machine: user-mode Linux runs on no other".into());
    }
    let missing = missing(RUN).unwrap_or_default();
    if !missing.is_empty() && !Uid::effective().is_root() {
        return Some(not_root(&missing));
    }
    None
}

/// Installs what scenarios need.
///
/// # Errors
/// What is missing and how to get it, if this process may not install it.
pub fn for_scenarios() -> Result<()> {
    ensure(RUN)
}

/// Installs what building the kernel needs.
///
/// # Errors
/// What is missing and how to get it, if this process may not install it.
pub fn for_kernel() -> Result<()> {
    ensure(BUILD)
}

/// The version of an installed package.
///
/// # Errors
/// If `dpkg-query` is not there.
pub fn version(package: &str) -> Result<Option<String>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Version}", package])
        .output()
        .context("cannot run dpkg-query: the lab needs Debian 12")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.strip_prefix("installed ").map(str::to_owned))
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for package in packages {
        if version(package)?.is_none() {
            missing.push(*package);
        }
    }
    Ok(missing)
}

fn not_root(missing: &[&str]) -> String {
    let list = missing.join(" ");
    format!("missing packages: run `apt-get install --no-install-recommends {list}` as root")
}

fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        bail!("{}", not_root(&missing));
    }
    eprintln!("installs {}", missing.join(" "));
    let apt = |args: &[&str]| {
        let output = Command::new("apt-get")
            .args(["-q", "-y", "--no-install-recommends"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .context("cannot run apt-get")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("apt-get {}: {}", args.join(" "), said.trim());
        }
        Ok(())
    };
    // Lists may be old: they are renewed only if the first try fails.
    let install = [&["install"], missing.as_slice()].concat();
    apt(&install).or_else(|_| {
        apt(&["update"])?;
        apt(&install)
    })
}
