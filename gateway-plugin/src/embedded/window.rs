//! The replay window (RFC 4303 section 3.4.3) and the inference of the high half
//! of extended sequence numbers (RFC 4303 appendix A), on the very
//! [`ReplayWindow`] that a context carries: nothing is converted at a move.

use protocol_spec::{context::ReplayWindow, limits::MAX_REPLAY_WINDOW};

/// Smallest window that RFC 4303 allows.
pub const MIN_WINDOW: u32 = 32;

/// What a window says of a number, before or after authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen yet.
    Fresh,
    /// Seen already.
    Replayed,
    /// Left of the window: nobody knows whether it was seen.
    TooOld,
}

/// A window of `size` packets that has seen nothing.
pub fn empty(size: u32) -> ReplayWindow {
    ReplayWindow { size, highest: 0, bitmap: vec![0; words(size)] }
}

/// Whether the parts of a window fit together. One that came from elsewhere is
/// asked before it is used.
pub fn is_sound(window: &ReplayWindow) -> bool {
    let unused = (window.size as usize).next_multiple_of(32) - window.size as usize;
    (MIN_WINDOW..=MAX_REPLAY_WINDOW).contains(&window.size)
        && window.bitmap.len() == words(window.size)
        && window.bitmap.last().is_some_and(|last| last.leading_zeros() as usize >= unused)
}

/// The whole sequence number of a packet that shows `low`; `None` where it would
/// lie before the first.
pub fn infer(window: &ReplayWindow, esn: bool, low: u32) -> Option<u64> {
    if !esn {
        return Some(u64::from(low));
    }
    // RFC 4303 appendix A2.2, in its names: T is the highest number, Bl the low
    // half of the window's left edge.
    let (th, tl) = (window.highest >> 32, low_half(window.highest));
    let bl = tl.wrapping_sub(window.size.saturating_sub(1));
    let high = if tl >= window.size.saturating_sub(1) {
        // Case A: the window lies in one subspace.
        if low >= bl { Some(th) } else { th.checked_add(1) }
    } else if low >= bl {
        // Case B: it began in the subspace before.
        th.checked_sub(1)
    } else {
        Some(th)
    }?;
    (high <= u64::from(u32::MAX)).then_some(high << 32 | u64::from(low))
}

/// What the window says of a number. Asked before decryption, so that replays
/// cost little, and again after it.
pub fn check(window: &ReplayWindow, number: u64) -> Verdict {
    if number > window.highest {
        return Verdict::Fresh;
    }
    let back = window.highest - number;
    // A sender begins with 1.
    if number == 0 || back >= u64::from(window.size) {
        return Verdict::TooOld;
    }
    match window.bitmap.get((back / 32) as usize) {
        Some(word) if word & 1 << (back % 32) == 0 => Verdict::Fresh,
        _ => Verdict::Replayed,
    }
}

/// Marks a number as received. Only for one that was authenticated and fresh.
pub fn accept(window: &mut ReplayWindow, number: u64) {
    if number > window.highest {
        shift(window, number - window.highest);
        window.highest = number;
    }
    let back = window.highest - number;
    if let Some(word) = window.bitmap.get_mut((back / 32) as usize) {
        *word |= 1 << (back % 32);
    }
}

/// Moves every mark `by` places away from the highest number.
fn shift(window: &mut ReplayWindow, by: u64) {
    if by >= u64::from(window.size) {
        window.bitmap.fill(0);
        return;
    }
    let (whole, bits) = ((by / 32) as usize, (by % 32) as u32);
    for i in (0..window.bitmap.len()).rev() {
        let at = |i: usize| window.bitmap.get(i).copied().unwrap_or(0);
        let upper = if i >= whole { at(i - whole) << bits } else { 0 };
        let lower = if bits > 0 && i > whole { at(i - whole - 1) >> (32 - bits) } else { 0 };
        if let Some(word) = window.bitmap.get_mut(i) {
            *word = upper | lower;
        }
    }
    let unused = (window.size as usize).next_multiple_of(32) - window.size as usize;
    if let Some(last) = window.bitmap.last_mut() {
        *last &= u32::MAX >> unused;
    }
}

fn words(size: u32) -> usize {
    size.div_ceil(32) as usize
}

fn low_half(number: u64) -> u32 {
    (number & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests;
