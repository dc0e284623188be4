//! `cargo measure`: figures, as a table, a JSON object and a plot.

use std::process::ExitCode;

use integration::{args, measure, process};

fn main() -> ExitCode {
    let args = args::of_process();
    process::become_role(&args).unwrap_or_else(|| measure::main(args))
}
