//! The log in front of the database: what was written last, a piece at a time.
//!
//! A session stands still while its record goes to the disk, and a transaction of
//! the database is many writes and syncs. So records first go behind each other
//! into a file whose room is there beforehand: one write, one sync. They are
//! folded into the database when nobody waits.
//!
//! Each *life* of the log has a number, which the database holds too and raises
//! in the transaction that takes the log's records in. What the file still holds
//! is then of an older life and means nothing; nothing has to be wiped.

use std::io;

use redb::StorageBackend;
use ring::digest::{Context, SHA256};
use thiserror::Error;

/// Octets of the file, which is never longer or shorter.
pub(super) const CAPACITY: usize = 1 << 20;
/// Frames begin at multiples of this: what is on disk is never written again,
/// not even as the beginning of a sector.
pub(super) const BLOCK: usize = 512;
/// Life, length and checksum, in front of what a frame holds.
const HEAD: usize = 8 + 4 + CHECK;
/// Octets of a checksum.
const CHECK: usize = 16;

/// Why the log cannot be read.
#[derive(Debug, Error)]
pub(super) enum Unread {
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not as it was left.
    #[error("{0}")]
    Damaged(&'static str),
}

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    file: Box<dyn StorageBackend>,
    life: u64,
    /// Where the next frame goes.
    at: usize,
}

impl Log {
    /// Makes room for a log that no database knows of yet, so that no write has
    /// to change more than octets.
    pub(super) fn make(file: Box<dyn StorageBackend>) -> Result<Self, Unread> {
        let mut old = vec![0; usize::try_from(file.len()?).unwrap_or(CAPACITY).min(CAPACITY)];
        file.read(0, &mut old)?;
        if life_at(&old).is_some() {
            return Err(Unread::Damaged("the database that it belongs to is gone"));
        }
        file.set_len(CAPACITY as u64)?;
        file.write(0, &vec![0; CAPACITY])?;
        file.sync_data()?;
        Ok(Self { file, life: 0, at: 0 })
    }

    /// What was written in this life, in order. A piece at the end that never
    /// came to the disk whole was not acknowledged and is not there.
    pub(super) fn read(
        file: Box<dyn StorageBackend>,
        life: u64,
    ) -> Result<(Self, Vec<Vec<u8>>), Unread> {
        if file.len()? < CAPACITY as u64 {
            return Err(Unread::Damaged("a part of it is missing"));
        }
        let mut octets = vec![0; CAPACITY];
        file.read(0, &mut octets)?;
        if life_at(&octets).is_some_and(|written| written > life) {
            return Err(Unread::Damaged("it is newer than the database beside it"));
        }
        let (mut at, mut pieces) = (0, Vec::new());
        while let Some(piece) = frame_at(&octets, at, life) {
            pieces.push(piece.to_vec());
            at += framed(piece.len());
        }
        // Nothing is written before what came before it is on disk, so only the
        // last frame may have been cut short.
        if (at..CAPACITY).step_by(BLOCK).any(|at| frame_at(&octets, at, life).is_some()) {
            return Err(Unread::Damaged("a record in its middle cannot be read"));
        }
        Ok((Self { file, life, at }, pieces))
    }

    /// Its life.
    pub(super) fn life(&self) -> u64 {
        self.life
    }

    /// Begins anew, once the database knows that it does.
    pub(super) fn begin(&mut self, life: u64) {
        (self.life, self.at) = (life, 0);
    }

    /// Whether a piece of so many octets still finds room.
    pub(super) fn takes(&self, octets: usize) -> bool {
        framed(octets) <= CAPACITY - self.at
    }

    /// Writes a piece, on disk when this returns. After a failure nothing may be
    /// assumed of it, and the log must be read again.
    pub(super) fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(framed(piece.len()));
        frame.extend(self.life.to_be_bytes());
        frame.extend(length.to_be_bytes());
        frame.extend(check(self.life, self.at, piece));
        frame.extend(piece);
        frame.resize(framed(piece.len()), 0);
        self.file.write(self.at as u64, &frame)?;
        self.file.sync_data()?;
        self.at += frame.len();
        Ok(())
    }
}

/// Octets that a piece takes in the file.
fn framed(octets: usize) -> usize {
    (HEAD + octets).next_multiple_of(BLOCK)
}

/// Which life wrote the first frame, if one is there.
fn life_at(octets: &[u8]) -> Option<u64> {
    let life = u64::from_be_bytes(*octets.first_chunk()?);
    frame_at(octets, 0, life).map(|_| life)
}

/// The piece in a frame of this life, if a whole one begins here.
fn frame_at(octets: &[u8], at: usize, life: u64) -> Option<&[u8]> {
    let rest = octets.get(at..)?.strip_prefix(&life.to_be_bytes())?;
    let (length, rest) = rest.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk::<CHECK>()?;
    let piece = rest.get(..u32::from_be_bytes(*length) as usize)?;
    // Zeroes are no frame, whatever the life.
    (!piece.is_empty() && *sum == check(life, at, piece)).then_some(piece)
}

/// Binds a piece to its life and place.
fn check(life: u64, at: usize, piece: &[u8]) -> [u8; CHECK] {
    let mut sum = Context::new(&SHA256);
    sum.update(&life.to_be_bytes());
    sum.update(&(at as u64).to_be_bytes());
    sum.update(piece);
    let mut check = [0; CHECK];
    check.copy_from_slice(&sum.finish().as_ref()[..CHECK]);
    check
}

#[cfg(test)]
mod tests;
