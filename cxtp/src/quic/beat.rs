//! Heartbeats: a datagram at a steady pace on the control connection, each with
//! the echo of the newest one heard. That the peer is dead is QUIC's to find out
//! by its idle timeout; beats tell how it is, and which life of it.

use std::time::Duration;

use bytes::Bytes;
use protocol_spec::{
    id::GatewayEpoch,
    limits::MAX_DATAGRAM,
    message::{Heartbeat, Message},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::close::{Code, Ended};

/// What was heard of a peer lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Newest beat of the peer, with its life.
    pub heard: Option<(u64, GatewayEpoch)>,
    /// Newest beat of ours that the peer has echoed.
    pub echoed: Option<u64>,
}

/// Sends and hears beats until the connection ends.
pub(super) async fn beat(
    connection: quinn::Connection,
    this: GatewayEpoch,
    peer: GatewayEpoch,
    pace: Duration,
    pulse: watch::Sender<Pulse>,
) -> Ended {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                number += 1;
                let echo = pulse.borrow().heard;
                let frame = Message::Heartbeat(Heartbeat { number, epoch: this, echo }).to_frame();
                // A beat that does not go out is a beat missed, nothing more.
                if let Ok(frame) = frame {
                    let _ = connection.send_datagram(Bytes::copy_from_slice(&frame));
                }
            }
            datagram = connection.read_datagram() => {
                let heard = match datagram {
                    Ok(datagram) => hear(&datagram),
                    Err(error) => return Ended::lost(error),
                };
                match heard {
                    //= spec CXTP-2.6-2
                    Ok(Some(beat)) if beat.epoch == peer => pulse.send_modify(|pulse| {
                        // Datagrams may overtake one another.
                        if pulse.heard.is_none_or(|(newest, _)| beat.number > newest) {
                            pulse.heard = Some((beat.number, beat.epoch));
                        }
                        let ours = beat.echo.filter(|(_, epoch)| *epoch == this);
                        pulse.echoed = pulse.echoed.max(ours.map(|(number, _)| number));
                    }),
                    Ok(_) => {}
                    Err(ended) => return ended,
                }
            }
        }
    }
}

fn hear(datagram: &[u8]) -> Result<Option<Heartbeat>, Ended> {
    //= spec CXTP-2.6-1
    if datagram.len() > MAX_DATAGRAM {
        return Err(Ended::new(Code::TooLong, "a datagram is longer than any may be"));
    }
    match Message::from_frame(datagram) {
        Ok(Some(Message::Heartbeat(beat))) => Ok(Some(beat)),
        Ok(Some(other)) => Err(Ended::new(
            Code::Malformed,
            format!("{} came in a datagram; it belongs on a stream", other.kind().name()),
        )),
        Ok(None) => Ok(None),
        Err(error) => Err(Ended::bad_frame(&error)),
    }
}
