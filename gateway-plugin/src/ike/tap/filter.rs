//! What the kernel lets through to the tap, so that ESP never wakes us.

use socket2::SockFilter;

/// One instruction of classic BPF: code, jump if true, jump if false, constant.
/// Jumps count from the next instruction.
type Instruction = (u16, u8, u8, u32);

const LOAD_OCTET: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
/// X becomes the length of the IPv4 header.
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const LOAD_HALF_AT_X: u16 = 0x48;
const LOAD_WORD_AT_X: u16 = 0x40;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// UDP from or to port 500, or 4500 with the non-ESP marker. The packet starts
/// with its IP header; only the first of IP fragments passes.
const PROGRAM: [Instruction; 29] = [
    (LOAD_OCTET, 0, 0, 0),
    (AND, 0, 0, 0xf0),
    (EQUAL, 0, 13, 0x40), // else 16
    // IPv4: UDP, first fragment
    (LOAD_OCTET, 0, 0, 9),
    (EQUAL, 0, 23, 17), // else 28
    (LOAD_HALF, 0, 0, 6),
    (ANY_BIT, 21, 0, 0x1fff), // 28
    (LOAD_HEADER_LENGTH, 0, 0, 0),
    // source port, destination port
    (LOAD_HALF_AT_X, 0, 0, 0),
    (EQUAL, 17, 0, 500), // 27
    (EQUAL, 3, 0, 4500), // 14
    (LOAD_HALF_AT_X, 0, 0, 2),
    (EQUAL, 14, 0, 500),  // 27
    (EQUAL, 0, 14, 4500), // else 28
    // 14: the marker
    (LOAD_WORD_AT_X, 0, 0, 8),
    (EQUAL, 11, 12, 0), // 27, else 28
    // 16: IPv6 without extension headers
    (EQUAL, 0, 11, 0x60), // else 28
    (LOAD_OCTET, 0, 0, 6),
    (EQUAL, 0, 9, 17), // else 28
    (LOAD_HALF, 0, 0, 40),
    (EQUAL, 6, 0, 500),  // 27
    (EQUAL, 3, 0, 4500), // 25
    (LOAD_HALF, 0, 0, 42),
    (EQUAL, 3, 0, 500),  // 27
    (EQUAL, 0, 3, 4500), // else 28
    // 25: the marker
    (LOAD_WORD, 0, 0, 48),
    (EQUAL, 0, 1, 0), // else 28
    // 27: the whole packet
    (RETURN, 0, 0, 0x4_0000),
    // 28: nothing
    (RETURN, 0, 0, 0),
];

/// The program as the socket takes it.
pub(super) fn program() -> Vec<SockFilter> {
    PROGRAM.iter().map(|(code, jt, jf, k)| SockFilter::new(*code, *jt, *jf, *k)).collect()
}

#[cfg(test)]
mod tests;
