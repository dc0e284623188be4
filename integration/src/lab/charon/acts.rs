//! What a scenario has a charon do to show that a session works.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Charon, EXCHANGE, IkeSa};

impl Charon {
    /// Waits for an exchange of DPD, which needs `silence` without traffic.
    ///
    /// # Errors
    /// If none is made or answered.
    pub fn liveness(&self, silence: Duration) -> Result<()> {
        let from = self.said()?.len();
        self.wait_for_line(from, "sending DPD request", silence * 2 + EXCHANGE)?;
        self.wait_for_line(from, "parsed INFORMATIONAL response", EXCHANGE)
    }

    /// Has it rekey a Child SA and waits until only the new one is there.
    ///
    /// # Errors
    /// If that does not come.
    pub fn rekey_child(&self, name: &str) -> Result<()> {
        let find = |sas: &[IkeSa]| sas.iter().find_map(|sa| sa.child(name).cloned());
        let old = find(&self.sas()?).with_context(|| format!("no Child SA {name}"))?;
        self.swanctl(&["--rekey", "--child", name])?;
        self.wait_for_sas(&format!("a rekeyed Child SA {name}"), |sas| {
            find(sas).filter(|new| new.spi_in != old.spi_in && new.spi_out != old.spi_out)
        })
        .map(drop)
    }

    /// Has it rekey an IKE SA and waits until only the new one is there.
    ///
    /// # Errors
    /// If that does not come.
    pub fn rekey_ike(&self, name: &str) -> Result<()> {
        let only = |sas: &[IkeSa]| match sas {
            [sa] if sa.established() && sa.name == name => Some(sa.clone()),
            _ => None,
        };
        let old = only(&self.sas()?).with_context(|| format!("not one IKE SA {name}"))?;
        self.swanctl(&["--rekey", "--ike", name])?;
        self.wait_for_sas(&format!("a rekeyed IKE SA {name}"), |sas| {
            only(sas).filter(|new| new.spis != old.spis)
        })
        .map(drop)
    }

    /// The same of one among other connections.
    ///
    /// # Errors
    /// If that does not come.
    pub fn rekey_ike_of(&self, name: &str) -> Result<()> {
        let of = |sas: &[IkeSa]| {
            let mut found = sas.iter().filter(|sa| sa.name == name);
            let sa = found.next().filter(|sa| sa.established()).cloned();
            if found.next().is_some() { None } else { sa }
        };
        let old = of(&self.sas()?).with_context(|| format!("not one IKE SA {name}"))?;
        self.swanctl(&["--rekey", "--ike", name])?;
        let new = |sas: &[IkeSa]| of(sas).filter(|new| new.spis != old.spis);
        self.wait_for_sas(&format!("a rekeyed IKE SA {name}"), new).map(drop)
    }
}
