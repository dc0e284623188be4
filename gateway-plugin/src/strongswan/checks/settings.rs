//! What `strongswan.conf` and `swanctl.conf` say: vici does not tell it. The
//! running charon may have read an older file.
//!
//! The format is that of strongswan.conf(5): `name = value`, `name { ... }`,
//! comments behind `#`, quoted values, `include PATTERN`; what comes later wins.
//! Of what may be a secret only the name is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use thiserror::Error;
use zeroize::Zeroizing;

/// Most octets in one file.
const MAX_FILE: u64 = 1 << 20;
/// Most files, with all that they include.
const MAX_FILES: usize = 1000;
/// Deepest nesting of sections, and of includes.
const MAX_DEPTH: usize = 16;
/// Names whose values are not kept, and sections none of whose values are.
const SECRET: [&str; 6] = ["secret", "secrets", "pin", "password", "passphrase", "data"];

/// Why a file could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path}:{line}: {problem}")]
pub struct SettingsError {
    /// Which file.
    pub path: PathBuf,
    /// Where in it; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// Values by their path, such as `charon.plugins.ha.local`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, String>,
    sections: BTreeSet<String>,
    files: usize,
    /// Files, and folders in which files were looked for, as they were then.
    looked_at: Vec<(PathBuf, Option<Stamp>)>,
}

/// By what a file is seen to be another one: when it was written, its length, its
/// number.
type Stamp = (SystemTime, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}

impl Settings {
    /// Reads a file and what it includes.
    ///
    /// # Errors
    /// [`SettingsError`] says in which line what is wrong.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        settings.add_file(path, &[], 0)?;
        Ok(settings)
    }

    /// Reads text that includes no file.
    ///
    /// # Errors
    /// [`SettingsError`] says in which line what is wrong.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        let reader = Reader { path: Path::new("(text)"), depth: MAX_DEPTH };
        reader.read(text, &[], &mut settings)?;
        Ok(settings)
    }

    /// Whether the files are still those that were read.
    pub fn is_current(&self) -> bool {
        self.looked_at.iter().all(|(path, then)| stamp(path) == *then)
    }

    /// The value at this path.
    pub fn value(&self, path: &str) -> Option<&str> {
        self.values.get(path).map(String::as_str)
    }

    /// A value of charon: `charon-systemd` looks under its own name first.
    pub fn charon(&self, daemon: &str, path: &str) -> Option<&str> {
        self.value(&format!("{daemon}.{path}")).or_else(|| self.value(&format!("charon.{path}")))
    }

    /// Whether charon's switch is on; `default` where it is not set. As charon
    /// reads it, what is no word for either is no.
    pub fn charon_flag(&self, daemon: &str, path: &str, default: bool) -> bool {
        let word = self.charon(daemon, path).map(str::to_ascii_lowercase);
        word.map_or(default, |word| matches!(word.as_str(), "yes" | "true" | "enabled" | "1"))
    }

    /// Whether there is a section at this path.
    pub fn has_section(&self, path: &str) -> bool {
        self.sections.contains(path)
    }

    /// Values whose path begins and ends so, with what stands between.
    pub fn between<'a>(
        &'a self,
        front: &'a str,
        back: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.values.iter().filter_map(move |(path, value)| {
            let middle = path.strip_prefix(front)?.strip_suffix(back)?;
            Some((middle, value.as_str()))
        })
    }

    fn add_file(
        &mut self,
        path: &Path,
        around: &[String],
        depth: usize,
    ) -> Result<(), SettingsError> {
        let fail = |problem: String| SettingsError { path: path.to_owned(), line: 0, problem };
        self.files += 1;
        if self.files > MAX_FILES || depth > MAX_DEPTH {
            return Err(fail("too many files include each other".to_owned()));
        }
        // Taken before, so that what is written meanwhile is seen.
        self.looked_at.push((path.to_owned(), stamp(path)));
        let length = fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
        if length > MAX_FILE {
            return Err(fail(format!("{length} octets are too many")));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(|e| fail(e.to_string()))?);
        Reader { path, depth }.read(&text, around, self)
    }

    fn include(
        &mut self,
        pattern: &Path,
        around: &[String],
        depth: usize,
    ) -> Result<(), SettingsError> {
        let name = pattern.file_name().unwrap_or_default().to_string_lossy();
        if !name.contains(['*', '?', '[']) {
            // As charon does, a file that is not there is passed over.
            if pattern.exists() {
                return self.add_file(pattern, around, depth);
            }
            self.looked_at.push((pattern.to_owned(), None));
            return Ok(());
        }
        let parent = pattern.parent().unwrap_or(Path::new("."));
        self.looked_at.push((parent.to_owned(), stamp(parent)));
        let Ok(folder) = fs::read_dir(parent) else {
            return Ok(());
        };
        let mut files: Vec<_> = folder
            .flatten()
            .filter(|entry| matches_pattern(&name, &entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files.iter().try_for_each(|file| self.add_file(file, around, depth))
    }
}

/// Whether a file's name fits a pattern with `*` and `?`.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (mut rest, mut name) = (pattern.as_bytes(), name.as_bytes());
    // Where to go on if what follows the last star does not fit here.
    let mut retry: Option<(&[u8], &[u8])> = None;
    if rest.first() == Some(&b'*') && name.first() == Some(&b'.') {
        return false;
    }
    loop {
        match (rest.split_first(), name.split_first()) {
            (Some((b'*', behind)), _) => {
                retry = Some((behind, name));
                rest = behind;
            }
            (Some((p, behind)), Some((n, tail))) if p == n || *p == b'?' => {
                (rest, name) = (behind, tail);
            }
            (None, None) => return true,
            _ => match retry {
                Some((behind, [_, tail @ ..])) => {
                    retry = Some((behind, tail));
                    (rest, name) = (behind, tail);
                }
                _ => return false,
            },
        }
    }
}

/// One text on its way into [`Settings`].
struct Reader<'a> {
    path: &'a Path,
    depth: usize,
}

impl Reader<'_> {
    fn read(
        &self,
        text: &str,
        around: &[String],
        settings: &mut Settings,
    ) -> Result<(), SettingsError> {
        let mut open = around.to_vec();
        for (index, line) in text.lines().enumerate() {
            let fail = |problem: &str| SettingsError {
                path: self.path.to_owned(),
                line: index + 1,
                problem: problem.to_owned(),
            };
            let mut rest = line.trim_start();
            while !rest.is_empty() && !rest.starts_with('#') {
                if let Some(behind) = rest.strip_prefix('}') {
                    if open.len() == around.len() {
                        return Err(fail("a `}` without a section"));
                    }
                    open.pop();
                    rest = behind.trim_start();
                    continue;
                }
                if let Some(pattern) = rest.strip_prefix("include ") {
                    let pattern = pattern.split('#').next().unwrap_or_default().trim();
                    let pattern = Path::new(pattern.trim_matches('"'));
                    let folder = self.path.parent().unwrap_or(Path::new("."));
                    settings.include(&folder.join(pattern), &open, self.depth + 1)?;
                    break;
                }
                let end = rest.find(['=', '{', '#', '}']).unwrap_or(rest.len());
                let (name, behind) = rest.split_at(end);
                // A section may name others whose values it has as well; those
                // are not followed.
                let name = name.split(':').next().unwrap_or_default().trim();
                if name.is_empty() {
                    return Err(fail("a name is missing"));
                }
                if let Some(behind) = behind.strip_prefix('{') {
                    if open.len() == MAX_DEPTH {
                        return Err(fail("sections nested too deep"));
                    }
                    open.push(name.to_owned());
                    settings.sections.insert(open.join("."));
                    rest = behind.trim_start();
                } else if let Some(behind) = behind.strip_prefix('=') {
                    let (value, behind) = value(behind).ok_or_else(|| fail("a quote is open"))?;
                    let mut names = open.iter().map(String::as_str).chain([name]);
                    let hidden = names.any(|part| SECRET.contains(&part));
                    let shown = if hidden { "(not kept)" } else { value.trim() };
                    let path = [open.join("."), name.to_owned()].join(".");
                    let path = path.trim_start_matches('.').to_owned();
                    settings.values.insert(path, shown.to_owned());
                    rest = behind.trim_start();
                } else {
                    return Err(fail("neither a value nor a section"));
                }
            }
        }
        if open.len() == around.len() {
            Ok(())
        } else {
            let problem = format!("the section `{}` is not closed", open.join("."));
            Err(SettingsError { path: self.path.to_owned(), line: 0, problem })
        }
    }
}

/// The value at the front, and what comes behind it; `None` if a quote does not
/// end in this line.
fn value(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    match text.strip_prefix('"') {
        Some(quoted) => {
            let mut escaped = false;
            let end = quoted.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            Some((quoted.get(..end)?, quoted.get(end + 1..)?))
        }
        None => Some(text.split_at(text.find(['#', '}']).unwrap_or(text.len()))),
    }
}

#[cfg(test)]
mod tests;
