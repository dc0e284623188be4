//! How fast SAs are installed, beside a bare loop that sends the same octets.

use std::time::{Duration, Instant};

use gateway_plugin::xfrm::{Kernel, KernelSa, SaId, encoded};
use netlink_sys::{Socket, SocketAddr};

use crate::common::{fresh_namespace, plain};

/// Short rounds, and many. A busy machine disturbs some: so the ratio is read in two
/// ways, of the best rounds and as the middle one of all, and one has to reach.
const SAS: u32 = 500;
const ROUNDS: usize = 20;
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

/// How often the first fits into the second, in the middle one of all rounds.
fn ratio(ours: &[Duration], theirs: &[Duration]) -> f64 {
    let mut ratios: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| theirs.as_secs_f64() / ours.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// Microseconds of one SA in the rounds.
fn each(times: &[Duration]) -> serde_json::Value {
    let mut each: Vec<u128> = times.iter().map(|time| time.as_micros() / u128::from(SAS)).collect();
    each.sort_unstable();
    let rank = |percent: usize| each[(each.len() * percent).div_ceil(100) - 1];
    serde_json::json!({ "p50": rank(50) as u64, "p99": rank(99) as u64, "max": rank(100) as u64 })
}

fn best(times: &[Duration]) -> f64 {
    times.iter().min().unwrap().as_secs_f64()
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
    let rate = |times: &[Duration]| f64::from(SAS) / best(times);
    let middle = ratio(&ours, &batched);
    let of_best = rate(&ours) / rate(&batched);
    println!(
        "SAs installed per second, best round: {:.0}; bare loop in batches {:.0} (ratio {of_best:.2}, middle {middle:.2}), one by one {:.0} (middle {:.2})",
        rate(&ours),
        rate(&batched),
        rate(&single),
        ratio(&ours, &single)
    );
    println!("counters of SAs per second: read {:.0}, set {:.0}", rate(&reads), rate(&writes));
    // For who measures and does not judge.
    println!(
        "figures: {}",
        serde_json::json!({
            "per_s": rate(&ours), "bare_per_s": rate(&batched),
            "ratio_p50": middle, "ratio_best": of_best,
            "counters_read_per_s": rate(&reads), "counters_set_per_s": rate(&writes),
            "us": each(&ours), "bare_us": each(&batched),
        })
    );
    assert!(middle.max(of_best) >= REACHED, "{of_best:.2}, {middle:.2} of a bare loop");
}
