//! Whole addresses that move (mode `Address`), members that come and go (mode
//! `Shared`), and a ruleset that was flushed.

use std::net::IpAddr;

use protocol_spec::id::Name;

use super::{Mode, Steering, SteeringError, ledger::Ledger, link::Links, ruleset};

impl Steering {
    /// Puts a shared address on the outer interfaces and tells the network, a few
    /// times (mode `Address`).
    ///
    /// # Errors
    /// [`SteeringError`] if it is no shared address, or the kernel refuses.
    pub fn take(&mut self, address: IpAddr) -> Result<(), SteeringError> {
        self.check_address(address)?;
        for link in self.links.outer.clone() {
            self.routes.add_address(address, &link)?;
            self.announcer.announce(&link, address, link.mac)?;
        }
        self.hook.address("take", address)
    }

    /// Removes a shared address from the outer interfaces. Succeeds if it was not
    /// there.
    ///
    /// # Errors
    /// [`SteeringError`] if it is no shared address, or the kernel refuses.
    pub fn give_up(&mut self, address: IpAddr) -> Result<(), SteeringError> {
        self.check_address(address)?;
        self.announcer.withdraw(address);
        for link in self.links.outer.clone() {
            self.routes.remove_address(address, &link)?;
        }
        self.hook.address("give-up", address)
    }

    /// Says which gateways share the addresses from now on (mode `Shared`): the
    /// clients that nobody knows are divided anew among them. Every gateway must
    /// be told the same.
    ///
    /// # Errors
    /// [`SteeringError`] if this gateway is not among them, or the kernel refuses.
    pub fn set_members(&mut self, members: Vec<Name>) -> Result<(), SteeringError> {
        if !members.contains(&self.config.name) {
            return Err(SteeringError::Config {
                key: "members",
                why: "this gateway must be among the members".to_owned(),
            });
        }
        self.config.members = members;
        self.share_unknown()
    }

    /// Loads the ruleset again and puts back what is missing in its sets, as after
    /// `nft flush ruleset` or when an interface went away and came back. Cheap
    /// enough to be called every second. Returns for how many sessions something
    /// was missing.
    ///
    /// # Errors
    /// [`SteeringError`] if the rules cannot be loaded.
    pub fn repair(&mut self) -> Result<usize, SteeringError> {
        // Policies are not looked at here, and made anew with the next that is named.
        self.passing.clear();
        let links = Links::find(&self.config)?;
        if links == self.links && self.stands() {
            self.routes.ensure_rules(self.config.preference)?;
            return Ok(0);
        }
        self.links = links;
        ruleset::load(&self.config, &self.links, &self.quiet())?;
        self.rules = self.nft.rules()?;
        let missing = self.ledger.missing_in(&Ledger::read(&mut self.nft)?);
        for result in self.nft.apply(&missing) {
            result?;
        }
        self.share_unknown()?;
        self.routes.ensure_rules(self.config.preference)?;
        Ok(missing.len())
    }

    /// Whether all rules and elements are there. To load them takes long, and
    /// nobody is steered meanwhile.
    fn stands(&mut self) -> bool {
        // Where nobody else changed anything since all was seen to stand, it still does:
        // to read many thousands of elements takes long as well.
        let foreign = self.nft.foreign().ok();
        if foreign.is_some() && foreign == self.foreign {
            return true;
        }
        let stands = self.nft.rules().is_ok_and(|rules| rules == self.rules)
            && Ledger::read(&mut self.nft)
                .is_ok_and(|found| self.ledger.missing_in(&found).is_empty());
        self.foreign = foreign.filter(|_| stands);
        stands
    }

    /// The ruleset as it is loaded here, for a person to read.
    pub fn ruleset(&self) -> String {
        ruleset::render(&self.config, &self.links, &self.quiet())
    }

    fn check_address(&self, address: IpAddr) -> Result<(), SteeringError> {
        let why = match self.config.mode {
            Mode::Address if self.config.is_shared(address) => return Ok(()),
            Mode::Address => format!("{address} is not among the shared addresses"),
            Mode::None | Mode::Shared(_) => "whole addresses move in mode `address`".to_owned(),
        };
        Err(SteeringError::Config { key: "shared", why })
    }
}
