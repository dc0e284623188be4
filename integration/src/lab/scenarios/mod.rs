//! Scenarios that run in the guest.

pub mod addresses;
pub mod baseline;
pub mod charon_crash;
pub mod counters;
pub mod crash;
pub mod crossing;
pub mod families;
pub mod guest;
pub mod hostile;
pub mod kernel_sas;
pub mod kernel_tests;
pub mod message_ids;
pub mod mixed;
pub mod mobike;
pub mod mono_lan;
pub mod moves;
pub mod refusals;
pub mod sabotage;
mod steps;
pub mod ten_minutes;
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
        name: "mono-lan-lossless",
        shows: "a user moves: no packet lost or twice, one owner, no new IKE SA; any gap",
        quick: true,
        limit: 180,
        tests_of: &[],
        run: mono_lan::lossless,
    },
    Scenario {
        name: "mono-lan-predictive",
        shows: "one of three users moves between gateways with one address, the others stay",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: mono_lan::predictive,
    },
    Scenario {
        name: "mono-lan-reactive",
        shows: "the same, and the target asks for the session",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: mono_lan::reactive,
    },
    Scenario {
        name: "transport-mode",
        shows: "a kernel SA in transport mode is refused before anything is touched",
        quick: false,
        limit: 120,
        tests_of: &[],
        run: kernel_sas::transport_mode,
    },
    Scenario {
        name: "ah-kernel",
        shows: "a kernel SA of AH is refused before anything is touched",
        quick: false,
        limit: 120,
        tests_of: &[],
        run: kernel_sas::ah,
    },
    Scenario {
        name: "ipv6",
        shows: "a move with IPv6 outside and inside",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: families::ipv6,
    },
    Scenario {
        name: "ipv6-in-ipv4",
        shows: "a move with IPv6 inside and IPv4 outside",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: families::ipv6_in_ipv4,
    },
    Scenario {
        name: "children",
        shows: "a move of an IKE SA with three Child SAs: ESN, AES-CBC with HMAC, if_id",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: families::children,
    },
    Scenario {
        name: "nat",
        shows: "a user behind NAT moves, and once more after its port has changed",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: mobike::nat,
    },
    Scenario {
        name: "multi-lan",
        shows: "a user follows by MOBIKE to a gateway with another address, and back",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: mobike::multi_lan,
    },
    Scenario {
        name: "nat-multi-lan",
        shows: "a user behind NAT is not moved to another address, and is told why",
        quick: false,
        limit: 120,
        tests_of: &[],
        run: mobike::nat_multi_lan,
    },
    Scenario {
        name: "response-lost",
        shows: "an answer that was lost before a move is repeated after it, octet by octet",
        quick: false,
        limit: 120,
        tests_of: &[],
        run: mobike::response_lost,
    },
    Scenario {
        name: "daemon-crash",
        shows: "`kill -9` of cxtpd and of cxtp-linux on either side at every step of a transfer",
        quick: false,
        limit: 560,
        tests_of: &[],
        run: crash::daemons,
    },
    Scenario {
        name: "charon-crash-target",
        shows: "`kill -9` of the target's charon at every step of a transfer",
        quick: false,
        limit: 560,
        tests_of: &[],
        run: charon_crash::of_target,
    },
    Scenario {
        name: "charon-crash-source",
        shows: "`kill -9` of the source's charon at every step of a transfer",
        quick: false,
        limit: 560,
        tests_of: &[],
        run: charon_crash::of_source,
    },
    Scenario {
        name: "rekey-crossing",
        shows: "rekeys of both kinds by either side at every step of a transfer",
        quick: false,
        limit: 560,
        tests_of: &[],
        run: crossing::rekeys,
    },
    Scenario {
        name: "dpd-crossing",
        shows: "a user's DPD at every step of a transfer",
        quick: false,
        limit: 300,
        tests_of: &[],
        run: crossing::dpd_by_user,
    },
    Scenario {
        name: "dpd-crossing-gateway",
        shows: "a gateway's DPD at every step of a transfer",
        quick: false,
        limit: 300,
        tests_of: &[],
        run: crossing::dpd_by_gateway,
    },
    Scenario {
        name: "counters",
        shows: "moves at number 0 and near 2^32, where a rekey is asked for; window 32",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: counters::plain,
    },
    Scenario {
        name: "counters-esn",
        shows: "a move over 2^32 with ESN; window 128",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: counters::esn,
    },
    Scenario {
        name: "counters-loss",
        shows: "moves under loss and reordering; window 2048",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: counters::loss,
    },
    Scenario {
        name: "message-id-sync",
        shows: "a new owner agrees with a stock user on Message IDs that it does not know",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: message_ids::scenario,
    },
    Scenario {
        name: "message-id-sync-stock",
        shows: "stock gateways have no such sessions: who requires one refuses the others",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: refusals::message_id_sync,
    },
    Scenario {
        name: "mixed",
        shows: "a user goes from the kernel to an embedded gateway, and back",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: mixed::scenario,
    },
    Scenario {
        name: "hostile-local",
        shows: "somebody else on the HA port, a charon that stops, flushed rules: nothing leaks",
        quick: false,
        limit: 240,
        tests_of: &[],
        run: hostile::scenario,
    },
    Scenario {
        name: "pools",
        shows: "nobody gets the address of a user that moved away, at neither gateway",
        quick: false,
        limit: 300,
        tests_of: &[],
        run: addresses::pools,
    },
    Scenario {
        name: "certificates",
        shows: "the same of users with certificates",
        quick: false,
        limit: 300,
        tests_of: &[],
        run: addresses::certificates,
    },
    Scenario {
        name: "eap",
        shows: "the same of users who prove themselves by EAP",
        quick: false,
        limit: 300,
        tests_of: &[],
        run: addresses::eap,
    },
    Scenario {
        name: "refusals",
        shows: "a target that lacks something says what and how to cure it; nothing is left",
        quick: false,
        limit: 300,
        tests_of: &[],
        run: refusals::all,
    },
    Scenario {
        name: "refusals-multi-lan",
        shows: "a user without MOBIKE does not leave for another address",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: refusals::multi_lan,
    },
    Scenario {
        name: "spi-collision",
        shows: "SPIs that are in use at the target are seen before the pause",
        quick: false,
        limit: 300,
        tests_of: &[],
        run: refusals::spi_collision,
    },
    Scenario {
        name: "mono-lan-gateway",
        shows: "a whole gateway is emptied, and the shared address follows",
        quick: false,
        limit: 180,
        tests_of: &[],
        run: mono_lan::gateway,
    },
    Scenario {
        name: "ten-minutes",
        shows: "the page for operators, whose commands run as they stand",
        quick: false,
        limit: 240,
        tests_of: &[],
        run: ten_minutes::follow,
    },
    Scenario {
        name: "hundred-users",
        shows: "50 of 100 users move in one batch, back and forth ten times",
        quick: false,
        limit: 840,
        tests_of: &[],
        run: users::hundred,
    },
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
