//! The detectors of these tests detect: each is shown what it must find.
#![cfg(feature = "service")]

mod common;

use common::{Capture, KEY_MARK, Panics, Peak, leaks_key, resident};
use tracing::Level;

#[test]
fn a_key_is_found_in_whatever_form() {
    let key = [KEY_MARK; 36];
    let hex: String = key.iter().map(|octet| format!("{octet:02x}")).collect();
    for text in [
        format!("{key:?}"),
        format!("{key:02x?}"),
        format!("{key:#04x?}"),
        format!("key={hex}"),
        hex.to_uppercase(),
        "sk_d: xcXFxcXFxcXFxcXF".to_owned(),
        "sk_d: XFxcXFxcXFxcXFxcXF".to_owned(),
        String::from_utf8_lossy(&key).into_owned(),
    ] {
        assert!(leaks_key(&text), "{text}");
    }
    let innocent = format!("{:?}", protocol_spec::samples::context(KEY_MARK));
    assert!(!leaks_key(&innocent), "a redacted context: {innocent}");
    assert!(!leaks_key("session=f0f0f0f0f0f0f0f00000000000000001 epoch=197 spi=0xc5c50001"));
}

#[test]
fn a_line_of_the_log_is_caught_with_its_level() {
    let log = Capture::begin();
    tracing::warn!(target: "cxtp::test", peer = "gw-x", "something to see");
    assert!(log.has(Level::WARN, &["something to see", "gw-x"]));
    assert!(!log.has(Level::ERROR, &["something to see"]));
    assert!(!log.has(Level::WARN, &["something else"]));
    assert_eq!((log.loud(), log.leak()), (1, None));
    tracing::trace!(target: "cxtp::test", key = ?[KEY_MARK; 16], "a slip");
    assert!(log.leak().unwrap().contains("a slip"));
    assert_eq!(log.loud(), 1, "a warning");
}

#[test]
fn memory_that_was_taken_and_given_back_is_seen() {
    let memory = Peak::watch(resident);
    let mut octets = vec![0_u8; 64 << 20];
    octets.iter_mut().step_by(4096).for_each(|octet| *octet = 1);
    assert!(octets.contains(&1));
    assert!(memory.growth() >> 20 >= 60);
    drop(octets);
    assert!(memory.growth() >> 20 >= 60);
}

#[test]
fn a_panic_of_a_thread_is_seen() {
    let panics = Panics::watch();
    std::thread::spawn(|| panic!("on purpose")).join().unwrap_err();
    let seen = panics.seen();
    assert!(seen.iter().any(|panic| panic.contains("on purpose")), "{seen:?}");
}
