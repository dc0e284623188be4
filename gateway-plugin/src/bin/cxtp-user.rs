//! Embedded end users and their inner host as a process.

fn main() -> std::process::ExitCode {
    gateway_plugin::embedded::user_main(std::env::args_os())
}
