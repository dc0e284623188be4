//! The embedded gateway as a process.

fn main() -> std::process::ExitCode {
    gateway_plugin::embedded::gateway_main(std::env::args_os())
}
