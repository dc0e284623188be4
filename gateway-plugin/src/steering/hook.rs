//! A program of the operator's for what steering cannot do itself.

use std::{net::IpAddr, path::PathBuf, process::Command};

use protocol_spec::id::SessionId;

use super::{SteeringError, Traffic, command::run};

/// The hook program, if there is one.
///
/// It is run with the event as its only argument (`arrived`, `released`, `take`,
/// `give-up`) and in its environment `CXTP_SESSION`, `CXTP_INNER` (prefixes,
/// separated by blanks), `CXTP_LOCAL`, `CXTP_REMOTE`, or `CXTP_ADDRESS`; no
/// others but `PATH`. Exit status 0 is success; what it complains of on its
/// standard error is in our error.
pub(super) struct Hook(Option<PathBuf>);

impl Hook {
    pub(super) fn new(program: Option<PathBuf>) -> Self {
        Self(program)
    }

    /// Something happened to a session.
    pub(super) fn session(
        &self,
        event: &str,
        session: SessionId,
        traffic: &Traffic,
    ) -> Result<(), SteeringError> {
        let inner: Vec<_> =
            traffic.inner.iter().map(|p| format!("{}/{}", p.address, p.bits)).collect();
        self.run(
            event,
            &[
                ("CXTP_SESSION", session.to_string()),
                ("CXTP_INNER", inner.join(" ")),
                ("CXTP_LOCAL", traffic.local.to_string()),
                ("CXTP_REMOTE", traffic.remote.to_string()),
            ],
        )
    }

    /// Something happened to a whole address.
    pub(super) fn address(&self, event: &str, address: IpAddr) -> Result<(), SteeringError> {
        self.run(event, &[("CXTP_ADDRESS", address.to_string())])
    }

    fn run(&self, event: &str, environment: &[(&str, String)]) -> Result<(), SteeringError> {
        let Some(program) = &self.0 else { return Ok(()) };
        let mut command = Command::new(program);
        command
            .arg(event)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(environment.iter().map(|(name, value)| (name, value)));
        run(command, String::new()).map_err(|why| SteeringError::Command {
            command: format!("{} {event}", program.display()),
            why,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn hook(script: &str) -> (tempfile::TempDir, Hook) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (folder, Hook::new(Some(path)))
    }

    #[test]
    fn it_is_told_the_event_and_the_address() {
        let (folder, hook) = hook("echo $1 $CXTP_ADDRESS > $(dirname $0)/said");
        hook.address("take", "192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("said")).unwrap(), "take 192.0.2.1\n");
    }

    #[test]
    fn its_failure_is_ours() {
        let (_folder, hook) = hook("exit 3");
        let error = hook.address("take", "192.0.2.1".parse().unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("hook take` failed: exit status: 3"));
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let (_folder, hook) = hook("exec sleep 100");
        let error = hook.address("take", "192.0.2.1".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("took longer than 3s"), "{error}");
    }
}
