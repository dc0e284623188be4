//! `cargo bench -p protocol-spec`: what a frame of contexts costs to write and to
//! read, a session.

use std::{hint::black_box, time::Duration};

use protocol_spec::{
    id::{BatchId, SessionEpoch},
    message::{Message, Pctd, PctdEntry},
    samples,
    transfer::TransferMode,
};

const SESSIONS: usize = 800;
const ROUNDS: u32 = 200;

fn main() {
    let entries = (0..SESSIONS)
        .map(|_| {
            let context = samples::context(7);
            let grants = samples::grants(&context);
            PctdEntry { epoch: SessionEpoch(1), grants, context }
        })
        .collect();
    let (batch, mode) = (BatchId([1; 16]), TransferMode::Predictive);
    let message = Message::Pctd(Pctd { batch, mode, entries });
    let Ok(frame) = message.to_frame() else { panic!("the sample is not too large") };
    let encode = best(|| drop(black_box(message.to_frame())));
    let decode = best(|| drop(black_box(Message::from_frame(black_box(&frame)))));
    let per_session = |time: Duration| time.as_nanos() / SESSIONS as u128;
    println!("octets a session: {}", frame.len() / SESSIONS);
    println!("encode: {} ns a session", per_session(encode));
    println!("decode: {} ns a session", per_session(decode));
}

/// The shortest of many rounds: the one that nothing else disturbed.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn best(mut act: impl FnMut()) -> Duration {
    let round = |_| {
        let start = std::time::Instant::now();
        act();
        start.elapsed()
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}
