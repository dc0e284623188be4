//! `cargo demo`: live sessions move while they carry traffic.

use std::process::ExitCode;

use integration::{args, demo, process};

fn main() -> ExitCode {
    let args = args::of_process();
    process::become_role(&args).unwrap_or_else(|| demo::main(args))
}
