//! Kills daemons and a gateway in real transfers.

use integration::{
    crash::{self, Crashes, Victim},
    process::Program,
};

fn program() -> Program {
    Program::at(env!("CARGO_BIN_EXE_demo"))
}

/// Replay one run with `CXTP_SEED=N`.
fn seed() -> u64 {
    std::env::var("CXTP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4067)
}

#[test]
fn after_each_kill_of_a_daemon_each_session_has_one_owner() {
    let crashes = Crashes { sessions: 1000, rate: 5, rounds: 20, seed: seed() };
    let report = crash::run(&crashes, &program()).unwrap();
    println!("{}", serde_json::to_string(&report).unwrap());
    assert_eq!(report.rounds.len(), 20);
    assert_eq!((report.owner_violations, report.seq_reuse), (0, 0));
    assert_eq!(report.packets_duplicated, 0);
    assert!(report.rounds.iter().all(|round| round.one_owner == report.sessions));
    // The kills hit what they are meant to hit.
    let killed = |victim| report.rounds.iter().filter(|round| round.killed == victim).count();
    assert!(killed(Victim::Source) > 0 && killed(Victim::Target) > 0);
    let cut = report.rounds.iter().filter(|round| round.stayed > 0 && round.moved > 0).count();
    let in_doubt: usize = report.rounds.iter().map(|round| round.in_doubt).sum();
    println!("{cut} kills fell into the middle; {in_doubt} sessions were seen in doubt");
    assert!(cut > 0, "no kill fell into the middle of a transfer");
}

#[test]
fn sessions_of_a_killed_gateway_are_lost_and_say_why() {
    let lost = crash::lose_gateway(60, &program()).unwrap();
    println!("{}", serde_json::to_string(&lost).unwrap());
    assert_eq!((lost.held, lost.lost, lost.going_on), (30, 30, 30));
    assert!(lost.reason.contains("gateway"), "{}", lost.reason);
}
