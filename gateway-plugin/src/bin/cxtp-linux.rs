//! `cxtp-linux`: a gateway of the Linux kernel.

fn main() -> std::process::ExitCode {
    gateway_plugin::linux::linux_main(std::env::args_os())
}
