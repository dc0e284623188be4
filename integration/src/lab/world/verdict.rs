//! What every scenario ends with: proof that the session lives, and the judgement of all figures.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::World;
use crate::lab::{
    charon::{EXCHANGE, config::CONNECTION},
    logs,
    report::Report,
    traffic::Traffic,
};

/// The share of the rate that must have been sent.
const SENT: f64 = 0.95;
/// Folders in which keys may stand.
const SECRET_FOLDERS: &[&str] = &["swanctl", "pki"];

impl World {
    /// Shows that DPD, a rekey of each Child SA and one of the IKE SA work for a user
    /// (from 1), and that packets pass afterwards.
    ///
    /// # Errors
    /// What does not work.
    pub fn still_works(&mut self, user: usize) -> Result<()> {
        let flow = self.flow(user)?;
        let charon = self.users.get(user - 1).context("no such end user")?;
        charon.liveness(Duration::from_secs(self.setup.vpn.dpd.into()))?;
        for child in &self.setup.vpn.children {
            charon.rekey_child(&child.name)?;
        }
        charon.rekey_ike(CONNECTION)?;
        self.note_keys()?;
        let traffic = Traffic::start(&[flow], 100)?;
        let flows = traffic.wait_for_packets(20, EXCHANGE);
        let tally = traffic.stop()?;
        flows.context("after the rekeys")?;
        self.report.packets_sent += tally.sent;
        self.report.packets_lost += tally.lost;
        self.report.packets_duplicated += tally.duplicated;
        Ok(())
    }

    /// Notes the keys that all kernels have now.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn note_keys(&mut self) -> Result<()> {
        for node in self.net.nodes() {
            self.keys.note(node)?;
        }
        Ok(())
    }

    /// Ends the scenario: gathers all figures. What may not be zero is for the caller
    /// to say.
    ///
    /// # Errors
    /// If a figure cannot be had.
    pub fn gather(mut self) -> Result<Report> {
        self.note_keys()?;
        let mut report = std::mem::take(&mut self.report);
        for node in self.net.nodes() {
            let errors = self.net.xfrm_errors(node)?;
            if !errors.is_empty() {
                report.xfrm_errors.insert(node.to_owned(), errors.into_iter().collect());
            }
        }
        for user in &self.users {
            report.deletes_seen += logs::unexpected_deletes(&user.said()?);
        }
        for site in &mut self.sites {
            site.check()?;
        }
        let Self { users, gateways, sites, tap, keys, folder, .. } = self;
        drop((sites, users, gateways));
        let seen = tap.stop()?.seen();
        report.seen(&seen);
        report.more.insert("findings".into(), seen.findings.clone().into());
        report.expect(seen.untracked == 0, || "packets could not be judged".into());
        report.expect(seen.esp_to_users > 0, || "the observer saw no ESP".into());
        report.expect(!keys.is_empty(), || "no key to look for".into());
        report.keys_looked_for = keys.len() as u64;
        let leaks = keys.search(&folder, SECRET_FOLDERS)?;
        report.key_leaks = leaks.len() as u64;
        report.more.insert("key_leaks_in".into(), leaks.into());
        let share = report.sent_share;
        report.expect(share >= SENT, || format!("only {share:.2} of the traffic was sent"));
        Ok(report)
    }

    /// Ends a scenario in which nothing may be lost, leak or be seen: gathers all
    /// figures and judges them.
    ///
    /// # Errors
    /// If a figure cannot be had.
    pub fn finish(self) -> Result<Report> {
        let mut report = self.gather()?;
        for (name, figure) in report.zeros() {
            report.expect(figure == 0, || format!("{name} is {figure}"));
        }
        report.passed = report.failures.is_empty();
        Ok(report)
    }
}
