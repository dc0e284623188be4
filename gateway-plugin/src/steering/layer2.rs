//! Receiving frames for a MAC address that gateways share.

use std::process::Command;

use super::{Layer2, SteeringError, command::run, ruleset::colons};

/// Makes an interface receive them.
pub(super) fn receive(interface: &str, method: Layer2) -> Result<(), SteeringError> {
    let (arguments, fine) = match method {
        Layer2::Multicast(mac) => (
            vec!["maddress".into(), "add".into(), colons(&mac), "dev".into(), interface.into()],
            // It has it since our last start.
            "File exists",
        ),
        Layer2::Flooded(_) => {
            (["link", "set", "dev", interface, "promisc", "on"].map(String::from).to_vec(), "")
        }
    };
    let mut command = Command::new("ip");
    command.args(&arguments);
    match run(command, String::new()) {
        Err(why) if fine.is_empty() || !why.contains(fine) => {
            Err(SteeringError::Command { command: format!("ip {}", arguments.join(" ")), why })
        }
        _ => Ok(()),
    }
}
