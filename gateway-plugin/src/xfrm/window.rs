//! Replay windows: ours (bit `i` says that `highest - i` was received) and the
//! kernel's two. Its legacy word of 32 bits is ours; its bitmap is a ring in which
//! number `n` has bit `(n - 1) mod size` (RFC 6479's idea, seen in Linux).

#[cfg(test)]
mod tests;

use protocol_spec::context::ReplayWindow;

/// A window of `size` packets that has seen nothing.
pub fn empty(size: u32) -> ReplayWindow {
    ReplayWindow { size, highest: 0, bitmap: vec![0; words(size)] }
}

/// The ring of `ring_words` words that holds `window`. `ring_words` may be more
/// than the window needs: the kernel keeps what an SA was made with.
pub fn to_ring(window: &ReplayWindow, ring_words: usize) -> Vec<u32> {
    let mut ring = vec![0; ring_words];
    for back in (0..window.size).filter(|back| bit(&window.bitmap, *back)) {
        set(&mut ring, ring_bit(window.highest as u32, back, window.size));
    }
    ring
}

/// Our window of `size` packets with `highest` from the kernel's ring.
pub fn from_ring(size: u32, highest: u64, ring: &[u32]) -> ReplayWindow {
    let mut window = ReplayWindow { size, highest, bitmap: vec![0; words(size)] };
    for back in 0..size {
        if bit(ring, ring_bit(highest as u32, back, size)) {
            set(&mut window.bitmap, back);
        }
    }
    window
}

/// The kernel's word for a window of at most 32 packets.
pub fn to_legacy(window: &ReplayWindow) -> u32 {
    window.bitmap.first().copied().unwrap_or_default() & mask(window.size)
}

/// Our window from the kernel's word.
pub fn from_legacy(size: u32, highest: u32, word: u32) -> ReplayWindow {
    let mut window = empty(size.min(32));
    window.highest = u64::from(highest);
    if let Some(first) = window.bitmap.first_mut() {
        *first = word & mask(size);
    }
    window
}

/// The same window with another size. Of numbers that come into sight at the far
/// end nobody knows whether they were received, so they count as received: a
/// packet too few is better than a replay.
pub fn resized(window: &ReplayWindow, size: u32) -> ReplayWindow {
    let mut other = ReplayWindow { size, highest: window.highest, bitmap: vec![0; words(size)] };
    for back in 0..size {
        let unknown = back >= window.size && u64::from(back) < window.highest;
        if unknown || bit(&window.bitmap, back) {
            set(&mut other.bitmap, back);
        }
    }
    other
}

/// Words of a bitmap for so many packets.
pub fn words(size: u32) -> usize {
    size.div_ceil(32) as usize
}

/// Where in the ring number `highest - back` stands. The kernel reckons with the
/// low 32 bits of the highest number alone, also with ESN. (So a window whose size
/// is no power of two slips inside the kernel when its numbers pass a multiple of
/// 2^32; Linux 6.1 then refuses good packets, whoever set the window.)
fn ring_bit(highest: u32, back: u32, size: u32) -> u32 {
    let top = highest.wrapping_sub(1) % size;
    if back <= top { top - back } else { size - (back - top) }
}

fn bit(bitmap: &[u32], at: u32) -> bool {
    bitmap.get((at / 32) as usize).is_some_and(|word| word >> (at % 32) & 1 == 1)
}

fn set(bitmap: &mut [u32], at: u32) {
    if let Some(word) = bitmap.get_mut((at / 32) as usize) {
        *word |= 1 << (at % 32);
    }
}

fn mask(size: u32) -> u32 {
    if size >= 32 { u32::MAX } else { (1 << size) - 1 }
}
