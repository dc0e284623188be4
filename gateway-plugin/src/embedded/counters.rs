//! What a gateway counts.

use std::sync::atomic::{AtomicU64, Ordering};

use bincode::{Decode, Encode};
use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a gateway has counted since its start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        /// The same, as threads count.
        #[derive(Default)]
        pub(crate) struct Tallies { $(pub(crate) $name: AtomicU64,)* }

        impl Tallies {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// ESP packets opened and let through.
    opened,
    /// Inner packets sealed and sent.
    sealed,
    /// Dummy packets received (next header 59).
    dummies_received,
    /// Dummy packets sent to show an end user its new gateway.
    dummies_sent,
    /// Outer packets sent unopened to another gateway.
    relayed_outer,
    /// Inner packets sent to another gateway.
    relayed_inner,
    /// Packets held for a staged session or a used-up grant.
    held,
    /// Held packets dropped because a bound was reached.
    dropped_held,
    /// Packets whose number was received before.
    dropped_replayed,
    /// Packets left of the replay window.
    dropped_too_old,
    /// Packets whose integrity check failed.
    dropped_forged,
    /// Packets that are not what they should be.
    dropped_malformed,
    /// Packets that no policy allows.
    dropped_policy,
    /// Packets of an SA whose lifetime has ended.
    dropped_expired,
    /// Inner packets for an end user whose address is not known.
    dropped_no_remote,
    /// Outer packets for an SPI that nobody here knows.
    unknown_spi,
    /// Inner packets for an address that nobody here knows.
    unknown_inner,
    /// Packets that were relayed too often.
    dropped_hops,
    /// Datagrams on the relay socket from nobody that we know.
    dropped_strangers,
    /// IKE messages (four zero octets first), which an embedded gateway ignores.
    ignored_ike,
    /// NAT keepalives (RFC 3948 section 2.3).
    keepalives,
    /// Datagrams that the operating system would not take.
    send_failed,
    /// End users whose outer address changed.
    roamed,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
