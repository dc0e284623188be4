//! What logs and other files tell: Deletes that reached an end user, and keys that
//! stand where none may be.

use std::{collections::HashSet, fs, path::Path, process::Command};

use anyhow::Result;

use super::net::{Namespace, output};

#[cfg(test)]
mod tests;

/// Deletes in an end user's log that no rekey explains. Whoever rekeys an SA has the
/// old one deleted, so each new SA of a rekey explains one Delete of its kind.
pub fn unexpected_deletes(log: &str) -> u64 {
    let (mut ike_rekeyed, mut child_rekeyed, mut found) = (0_u64, 0_u64, 0);
    for line in log.lines() {
        // charon writes of the two halves of a Child SA only when it is rekeyed.
        if line.contains(" inbound CHILD_SA ") && line.contains(" established with SPIs") {
            child_rekeyed += 1;
        } else if line.contains(" IKE_SA ") && line.contains(" rekeyed between ") {
            ike_rekeyed += 1;
        } else {
            let explained = if line.contains("received DELETE for IKE_SA") {
                &mut ike_rekeyed
            } else if line.contains("received DELETE for ESP CHILD_SA") {
                &mut child_rekeyed
            } else {
                continue;
            };
            match explained.checked_sub(1) {
                Some(left) => *explained = left,
                None => found += 1,
            }
        }
    }
    found
}

/// Keys of sessions, to be looked for where they may not be.
#[derive(Default)]
pub struct Keys {
    marks: HashSet<Mark>,
    count: usize,
}

/// As much of a key, in some form, as is looked for.
type Mark = [u8; 16];

impl Keys {
    /// Notes the keys of all SAs that a node's kernel has now.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn note(&mut self, node: &str) -> Result<()> {
        let states =
            Namespace::of(node).enter(|| output(Command::new("ip").args(["xfrm", "state"])))?;
        for word in states.split_whitespace() {
            // Also SPIs and sequence numbers are written so, but are shorter.
            if let Some(hex) = word.strip_prefix("0x")
                && let Some(key) = octets(hex)
                && key.len() >= 16
            {
                self.add(&key);
            }
        }
        Ok(())
    }

    /// Notes a key.
    pub fn add(&mut self, key: &[u8]) {
        let lower: String = key.iter().map(|octet| format!("{octet:02x}")).collect();
        let upper = lower.to_uppercase();
        let encoded = base64(key);
        let forms = [key, lower.as_bytes(), upper.as_bytes(), encoded.as_bytes()];
        self.marks.extend(forms.iter().filter_map(|form| form.first_chunk::<16>()));
        self.count += 1;
    }

    /// Notes a secret that is text.
    pub fn add_text(&mut self, secret: &str) {
        self.marks.extend(secret.as_bytes().first_chunk::<16>());
        self.count += 1;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none: nothing would ever be found.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The files below a folder in which a key stands, except in folders of these
    /// names.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn search(&self, folder: &Path, except: &[&str]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                if !except.iter().any(|name| entry.file_name() == *name) {
                    found.extend(self.search(&path, except)?);
                }
            } else if kind.is_file() && self.stands_in(&fs::read(&path)?) {
                found.push(path.display().to_string());
            }
        }
        Ok(found)
    }

    fn stands_in(&self, text: &[u8]) -> bool {
        let mut windows = text.windows(16).filter_map(|window| window.first_chunk::<16>());
        windows.any(|window| self.marks.contains(window))
    }
}

fn octets(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    Some(digits?.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    // The end, which may be padded, is not looked for.
    for triple in octets.chunks_exact(3) {
        let bits = triple.iter().fold(0_usize, |bits, octet| bits << 8 | usize::from(*octet));
        for shift in [18, 12, 6, 0] {
            text.push(char::from(DIGITS[bits >> shift & 63]));
        }
    }
    text
}
