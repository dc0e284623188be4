//! Messages without a kernel: round trips, what `ip xfrm` sends for the same, and
//! broken octets.

mod broken;
mod events;
mod golden;
mod samples;

use proptest::prelude::*;
use protocol_spec::context::Mode;

use self::samples::{plain, policies, sas, with};
use super::{
    decode::{self, NotOurs, ReplayForm},
    encode,
    netlink::{HEADER_LEN, Message},
    policy,
    sa::{Counters, KernelSa},
};

/// What stands behind a message's header.
fn payload(message: &Message) -> Vec<u8> {
    message.to_octets(1)[HEADER_LEN..].to_vec()
}

/// What the kernel would show of an SA that it was given.
fn shown(sa: &KernelSa, now: u64) -> Result<KernelSa, String> {
    let message = encode::new_sa(sa, now)?;
    match decode::sa(&payload(&message), now) {
        Ok(sa) => Ok(sa),
        Err(NotOurs::Foreign(foreign)) => Err(foreign.reason.into()),
        Err(NotOurs::Malformed(malformed)) => Err(malformed.to_string()),
    }
}

proptest! {
    #[test]
    fn an_sa_comes_back(sa in sas(), now in 2_000_000_000u64..3_000_000_000) {
        prop_assert_eq!(shown(&sa, now).unwrap(), sa);
    }

    #[test]
    fn counters_come_back(sa in sas(), more in 0..3usize, now in 2_000_000_000u64..3_000_000_000) {
        let size = sa.window_size;
        let form = if sa.esn || size > 32 {
            let words = size.div_ceil(32) as usize + more;
            ReplayForm::Ring { size, words, esn: sa.esn }
        } else {
            ReplayForm::Legacy { size: None }
        };
        let message = encode::set_counters(&sa.id, &sa.counters, form, now).unwrap();
        let event = decode::event(&payload(&message), now).unwrap_or_else(|_| panic!());
        prop_assert_eq!(event.id, Some(sa.id));
        if let ReplayForm::Ring { words, .. } = form {
            prop_assert_eq!(event.form, ReplayForm::Ring { size, words, esn: true });
            prop_assert_eq!(event.counters, sa.counters);
        } else {
            // Events do not tell the size of a legacy window: 32 is shown, and
            // what lies beyond the true one counts as received.
            let (found, set) = (event.counters.window, sa.counters.window);
            prop_assert_eq!((found.size, found.highest), (32, set.highest));
            prop_assert_eq!(super::window::resized(&found, size), set);
        }
    }

    #[test]
    fn a_policy_comes_back(policy in policies()) {
        let message = policy::new_policy(0x13, 0, &policy).unwrap();
        match policy::policy(&payload(&message)) {
            Ok(found) => prop_assert_eq!(found, policy),
            Err(_) => prop_assert!(false, "not read"),
        }
    }
}

#[test]
fn what_the_kernel_cannot_hold_is_refused_in_words() {
    let refused = |sa: KernelSa| encode::new_sa(&sa, 1_000).err().unwrap();
    let sized =
        |size, esn| KernelSa { esn, window_size: size, counters: Counters::new(size), ..plain(1) };
    assert!(refused(sized(0, true)).contains("ESN without a replay window"));
    assert!(refused(sized(4097, false)).contains("4097"));
    let mut beyond = plain(1);
    beyond.counters.sequence = 1 << 32;
    assert!(refused(beyond).contains("without ESN"));
    let mut families = plain(1);
    families.source = "2001:db8::1".parse().unwrap();
    assert!(refused(families).contains("family"));
    let mut broken = plain(1);
    broken.counters.window.bitmap.push(0);
    assert!(refused(broken).contains("bitmap of 2 words"));
    let mut short = plain(1);
    short.keys.encryption = samples::key(35);
    assert_eq!(refused(short), "keys of 35 and 0 octets where its transforms have 36 and 0");
    let mut unknown = plain(1);
    unknown.transforms.encryption = 77;
    assert!(refused(unknown).contains("encryption 77"));
}

#[test]
fn every_algorithm_of_the_table_comes_back() {
    let mut seen = 0;
    for (protocol, transforms) in super::probe::candidates() {
        let sa = with(protocol, transforms);
        assert_eq!(shown(&sa, 2_000_000_000).unwrap(), sa);
        seen += 1;
    }
    // Seven AEADs with three keys and one with one; seven hashes for AH and
    // beside two ciphers with one key and three with three.
    assert_eq!(seen, 7 * 3 + 1 + 7 * (1 + 2 + 3 * 3));
}

#[test]
fn what_a_copy_would_lose_is_named() {
    let mut message = encode::new_sa(&plain(1), 2_000_000_000).unwrap();
    message.number(22, 1400).attribute(28, &[0; 8]);
    let found = decode::sa(&payload(&message), 2_000_000_000);
    let Ok(found) = found else { panic!("not read") };
    assert_eq!(found.not_carried, ["traffic flow confidentiality padding", "hardware offload"]);
}

#[test]
fn an_sa_prints_without_its_keys() {
    let sa = KernelSa { mode: Mode::Beet, ..plain(1) };
    let text = format!("{sa:?}");
    assert!(text.contains("redacted") && !text.contains("[161, 162"), "{text}");
    let error = encode::new_sa(&KernelSa { esn: true, window_size: 0, ..sa }, 1).err().unwrap();
    assert!(!error.contains("161"));
}
