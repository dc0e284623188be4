//! Files: new ones are created exclusively and synced; private ones are nobody
//! else's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::outcome::Problem;

/// Mode of a file with a key or a sealed session.
pub(super) const PRIVATE: u32 = 0o600;
/// Mode of a file that anybody may read.
pub(super) const PUBLIC: u32 = 0o644;

/// A file that was not there before. It goes away again unless it is kept.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl NewFile {
    /// Creates it, empty.
    pub(super) fn create(path: &Path, mode: u32) -> Result<Self, Problem> {
        let at = path.display();
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(
            |error| match error.kind() {
                io::ErrorKind::AlreadyExists => Problem::file(format!(
                    "{at} is there already and is not overwritten: choose another name, or move \
                     it away"
                )),
                io::ErrorKind::NotFound => {
                    Problem::file(format!("{at} cannot be made: its directory is not there"))
                }
                _ => Problem::file(format!("{at} cannot be made: {error}")),
            },
        )?;
        // The umask can only have taken rights away.
        Ok(Self { file, path: path.to_owned(), kept: false })
    }

    /// Writes it out to the disk.
    pub(super) fn write(&mut self, octets: &[u8]) -> Result<(), Problem> {
        let written = self.file.write_all(octets).and_then(|()| self.file.sync_all());
        written.map_err(|error| {
            Problem::file(format!("{} cannot be written: {error}", self.path.display()))
        })
    }

    /// Lets it stay.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // Best effort: an empty or half file that stays is refused by its reader.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Files that come to be together or not at all.
#[derive(Default)]
pub(super) struct NewFiles(Vec<(NewFile, Zeroizing<Vec<u8>>)>);

impl NewFiles {
    /// Creates one more; it is filled by [`NewFiles::write`].
    pub(super) fn add(
        &mut self,
        path: &Path,
        mode: u32,
        octets: impl Into<Vec<u8>>,
    ) -> Result<(), Problem> {
        let octets = Zeroizing::new(octets.into());
        self.0.push((NewFile::create(path, mode)?, octets));
        Ok(())
    }

    /// Fills them all and says their names.
    pub(super) fn write(mut self) -> Result<Vec<String>, Problem> {
        for (file, octets) in &mut self.0 {
            file.write(octets)?;
        }
        let names = self.0.iter().map(|(file, _)| file.path.display().to_string()).collect();
        self.0.into_iter().for_each(|(file, _)| file.keep());
        Ok(names)
    }
}

/// Reads a file that is not longer than it may be.
pub(super) fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let at = path.display();
    let cannot = |error: io::Error| Problem::file(format!("{at} cannot be read: {error}"));
    let file = File::open(path).map_err(cannot)?;
    let mut octets = Zeroizing::new(Vec::new());
    file.take(limit as u64 + 1).read_to_end(&mut octets).map_err(cannot)?;
    if octets.len() > limit {
        return Err(Problem::file(format!(
            "{at} is longer than {limit} octets: it is not the file that is wanted here"
        )));
    }
    Ok(octets)
}

/// Reads a private key in PEM, which nobody but its owner may be able to read.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let at = path.display();
    let about = fs::metadata(path)
        .map_err(|error| Problem::file(format!("{at} cannot be read: {error}")))?;
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Problem::file(format!(
            "{at} holds a private key and has mode {mode:04o}, so others may use it: chmod 600 {at}"
        )));
    }
    let octets = read(path, 64 << 10)?;
    match std::str::from_utf8(&octets) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Problem::file(format!("{at} is not a key in PEM: it holds no text"))),
    }
}

#[cfg(test)]
#[path = "files/tests.rs"]
mod tests;
