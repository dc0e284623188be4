//! How fast SAs are installed, beside a bare loop that sends the same octets.

use std::time::{Duration, Instant};

use gateway_plugin::xfrm::{Kernel, KernelSa, SaId, encoded};
use netlink_sys::{Socket, SocketAddr};

use crate::common::{fresh_namespace, plain};

const SAS: u32 = 2000;
const ROUNDS: usize = 5;
const REACHED: f64 = 0.8;
/// Messages in one send of the bare loop; as many as ours.
const TOGETHER: usize = 96;

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Sends messages that are ready and reads one answer for each.
fn bare(messages: &[Vec<u8>], together: usize) {
    let mut socket = Socket::new(6).unwrap();
    socket.bind_auto().unwrap();
    socket.set_cap_ack(true).unwrap();
    socket.set_rx_buf_sz(8 << 20).unwrap();
    let kernel = SocketAddr::new(0, 0);
    let mut answer = vec![0; 32 << 10];
    for some in messages.chunks(together) {
        socket.send_to(&some.concat(), &kernel, 0).unwrap();
        for _ in some {
            let len = socket.recv(&mut &mut answer[..], 0).unwrap();
            assert!(len >= 20 && answer[4] == 2 && answer[16..20] == [0; 4], "refused");
        }
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn installing_keeps_up_with_a_bare_loop() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let sas: Vec<KernelSa> = (0x10000..0x10000 + SAS).map(plain).collect();
    let ids: Vec<SaId> = sas.iter().map(|sa| sa.id).collect();
    let ready: Vec<Vec<u8>> = sas.iter().map(|sa| encoded(sa).unwrap().to_vec()).collect();
    let (mut ours, mut batched, mut single) = (Vec::new(), Vec::new(), Vec::new());
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(timed(|| assert!(kernel.install(&sas).iter().all(Result::is_ok))));
        let mut counters = Vec::new();
        reads.push(timed(|| counters = kernel.counters(&ids)));
        let orders: Vec<_> =
            ids.iter().copied().zip(counters.into_iter().map(Result::unwrap)).collect();
        writes.push(timed(|| assert!(kernel.set_counters(&orders).iter().all(Result::is_ok))));
        assert!(kernel.remove(&ids).iter().all(Result::is_ok));
        batched.push(timed(|| bare(&ready, TOGETHER)));
        assert!(kernel.remove(&ids).iter().all(Result::is_ok));
        single.push(timed(|| bare(&ready, 1)));
        assert!(kernel.remove(&ids).iter().all(Result::is_ok));
    }
    let rate = |times| f64::from(SAS) / median(times);
    let (ours, batched, single) = (rate(ours), rate(batched), rate(single));
    println!(
        "SAs installed per second: {ours:.0}; bare loop in batches {batched:.0} (ratio {:.2}), one by one {single:.0} (ratio {:.2})",
        ours / batched,
        ours / single
    );
    println!("counters of SAs per second: read {:.0}, set {:.0}", rate(reads), rate(writes));
    assert!(ours / batched >= REACHED, "{:.2} of a bare loop", ours / batched);
}
