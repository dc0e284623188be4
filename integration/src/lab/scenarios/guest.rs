//! The guest itself: what every other scenario takes for granted.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// Where nothing may be written: the host's file system.
const READ_ONLY: &[&str] = &["/lab-was-here", "/etc/lab-was-here", "/mnt/lab/bin/lab-was-here"];

/// What the kernel must take, as one line of a shell.
const FEATURES: &[(&str, &str)] = &[
    (
        "esp",
        "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 reqid 1 mode tunnel \
         replay-window 128 flag esn aead 'rfc4106(gcm(aes))' \
         0x00112233445566778899aabbccddeeff00112233 128",
    ),
    (
        "ah",
        "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto ah spi 0x101 mode transport \
         auth-trunc 'hmac(sha256)' 0x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff 128",
    ),
    (
        "nftables",
        "nft 'add table inet t; add chain inet t c { type filter hook prerouting priority raw; }; add rule inet t c meta l4proto esp queue num 3'",
    ),
    (
        "netdev",
        "ip link add d0 type dummy && nft 'add table netdev t; add chain netdev t c { type filter hook ingress device d0 priority 0; }; add rule netdev t c ether daddr set 02:00:00:00:00:01 fwd to d0'",
    ),
    ("netem", "tc qdisc add dev d0 root netem delay 5ms loss 1%"),
    ("xfrm_interface", "ip link add x0 type xfrm if_id 7"),
];

/// Runs it.
///
/// # Errors
/// What the guest lacks, or what it could write.
pub fn run(_: &[PathBuf]) -> Result<Value> {
    for place in READ_ONLY {
        if fs::write(place, "x").is_ok() {
            bail!("the guest can write {place} on the host");
        }
    }
    let mut found = serde_json::Map::new();
    let mut missing = Vec::new();
    for (name, line) in FEATURES {
        let output = Command::new("sh").args(["-c", line]).output()?;
        found.insert((*name).into(), output.status.success().into());
        if !output.status.success() {
            missing.push(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split_whitespace().next().unwrap_or_default().parse()?;
    let passed = missing.is_empty();
    Ok(json!({ "passed": passed, "features": found, "missing": missing, "seconds": uptime }))
}
