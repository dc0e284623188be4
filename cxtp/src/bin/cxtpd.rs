//! The daemon beside a gateway.

use std::process::ExitCode;

fn main() -> ExitCode {
    cxtp::service::daemon_main(std::env::args_os())
}
