//! `cargo verify [--full]`: every check of the repository.

use std::process::ExitCode;

fn main() -> ExitCode {
    integration::verify::main(std::env::args_os().skip(1))
}
