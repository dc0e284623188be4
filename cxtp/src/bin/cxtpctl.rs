//! `cxtpctl`: asks and tells a running `cxtpd`, and makes what one needs to
//! start. Everything is in [`cxtp::ctl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    cxtp::ctl::main(std::env::args_os())
}
