//! `cargo lab`: one scenario.

use std::process::ExitCode;

use integration::{args, lab, process};

fn main() -> ExitCode {
    let args = args::of_process();
    process::become_role(&args).unwrap_or_else(|| lab::main(args))
}
