//! Scenarios that run in the guest.

pub mod addresses;
pub mod baseline;
pub mod guest;
pub mod kernel_tests;
pub mod moves;
pub mod refusals;
pub mod sabotage;
pub mod users;

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

/// A scenario on a kernel of its own.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Whether `cargo verify` runs it without `--full`.
    pub quick: bool,
    /// Seconds that it may take.
    pub limit: u64,
    /// What is built for it: packages whose ignored kernel tests it runs.
    pub tests_of: &'static [&'static str],
    /// What runs in the guest, with the programs built for it.
    #[serde(skip)]
    pub run: fn(&[PathBuf]) -> Result<Value>,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "guest",
        shows: "the guest boots, has ESP and nftables, and cannot write to the host",
        quick: true,
        limit: 30,
        tests_of: &[],
        run: guest::run,
    },
    Scenario {
        name: "kernel-tests",
        shows: "our own tests that need a kernel with ESP",
        quick: true,
        limit: 400,
        tests_of: &["gateway-plugin"],
        run: kernel_tests::run,
    },
    Scenario {
        name: "strongswan-baseline",
        shows: "no move: what the lab itself does to traffic, all figures zero",
        quick: true,
        limit: 120,
        tests_of: &[],
        run: baseline::plain,
    },
    Scenario {
        name: "strongswan-nat",
        shows: "no move: two users behind NAT, all figures zero",
        quick: true,
        limit: 120,
        tests_of: &[],
        run: baseline::nat,
    },
    Scenario {
        name: "strongswan-ipv6",
        shows: "no move: IPv6 outside and inside, EAP, ESN, all figures zero",
        quick: true,
        limit: 120,
        tests_of: &[],
        run: baseline::ipv6,
    },
    Scenario {
        name: "observer-sabotage",
        shows: "every detector is tripped on purpose",
        quick: true,
        limit: 120,
        tests_of: &[],
        run: sabotage::scenario,
    },
    Scenario {
        name: "mono-lan-predictive",
        shows: "a user moves between gateways with one address and notices nothing",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: moves::mono_lan_predictive,
    },
    Scenario {
        name: "multi-lan",
        shows: "a user moves between gateways with different addresses, by MOBIKE",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: moves::multi_lan,
    },
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
