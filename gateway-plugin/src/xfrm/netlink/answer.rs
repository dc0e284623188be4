//! What the kernel answers to a request.

use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED};
use nix::errno::Errno;
use thiserror::Error;

use super::message::{Attributes, HEADER_LEN, Malformed, Received, word};

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Characters of the kernel's explanation that are kept.
const EXPLANATION: usize = 200;

/// What an answer to one request was.
pub type Answered = Result<(), NetlinkError>;

/// Why a request was not done, or it is not known whether it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetlinkError {
    /// The kernel said no.
    #[error("the kernel refused: {errno}{}{explanation}", if explanation.is_empty() { "" } else { ": " })]
    Refused {
        /// Its error number.
        errno: Errno,
        /// Its explanation (ext-ack), where it gave one.
        explanation: String,
    },
    /// No answer came in time.
    #[error("the kernel did not answer within {0:?}")]
    Silent(Duration),
    /// The receive queue was too small and something was thrown away.
    #[error("the kernel's answer was lost because the receive queue was full: ask again")]
    Lost,
    /// A dump that went on while its table changed, more than once.
    #[error("the table kept changing while it was listed: ask again")]
    Interrupted,
    /// A request that is longer than a length field can say.
    #[error("the request is too long for netlink")]
    TooLong,
    /// The socket itself failed.
    #[error("netlink socket: {doing}: {errno}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// Octets that are not netlink.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl NetlinkError {
    /// The kernel's error number, where it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// What an `NLMSG_ERROR` or `NLMSG_DONE` says.
pub(super) fn result(message: Received<'_>) -> Answered {
    let Some((code, rest)) = message.payload.split_first_chunk::<4>() else {
        // A dump may end without a result.
        return match message.kind {
            NLMSG_DONE => Ok(()),
            _ => Err(Malformed("a result without its number").into()),
        };
    };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(());
    }
    Err(NetlinkError::Refused {
        errno: Errno::from_raw(code.wrapping_neg()),
        explanation: explanation(message.kind, message.flags, rest),
    })
}

/// The kernel's words in a result; empty where there are none.
fn explanation(kind: u16, flags: u16, rest: &[u8]) -> String {
    if flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    let echoed = match (kind, rest.first_chunk::<HEADER_LEN>()) {
        (NLMSG_DONE, _) => 0,
        (_, None) => return String::new(),
        (_, Some(_)) if flags & NLM_F_CAPPED != 0 => HEADER_LEN,
        (_, Some(header)) => (word(header, 0) as usize).next_multiple_of(4),
    };
    let Ok(attributes) = Attributes::after(rest, echoed) else { return String::new() };
    attributes
        .flatten()
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| {
            String::from_utf8_lossy(text)
                .chars()
                .filter(|letter| !letter.is_control())
                .take(EXPLANATION)
                .collect()
        })
        .unwrap_or_default()
}
