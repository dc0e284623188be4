//! What `/proc` says of UDP sockets: who holds an address, what waits there.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

/// What waits at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// Octets of memory that unread datagrams take.
    pub(super) octets: u64,
    /// Datagrams that found no room, ever.
    pub(super) dropped: u64,
    /// Whose socket it is.
    pub(super) life: Life,
}

/// A process that has an address: one that is started anew is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(u64);

/// A line of `/proc/thread-self/net/udp`; `/proc/net` would be that of the main
/// thread's network namespace.
struct Line {
    queue: Queue,
    user: u32,
}

/// The queue of the socket at this address, in our network namespace; `None` if
/// nobody has it.
pub(super) fn queue(address: SocketAddr) -> Option<Queue> {
    line(address).map(|line| line.queue)
}

/// Who holds this address, in words.
pub(super) fn of(address: SocketAddr) -> String {
    let Some(line) = line(address) else {
        return "a process in sight of nobody (another network namespace?)".to_owned();
    };
    let processes: Vec<String> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| holds(*pid, line.queue.life))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        })
        .take(4)
        .collect();
    if processes.is_empty() {
        format!("a process of user {}", line.user)
    } else {
        format!("{} of user {}", processes.join(", "), line.user)
    }
}

fn holds(pid: u32, Life(inode): Life) -> bool {
    let link = format!("socket:[{inode}]");
    fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))
}

fn line(address: SocketAddr) -> Option<Line> {
    let (table, host) = match address.ip() {
        IpAddr::V4(ip) => {
            ("/proc/thread-self/net/udp", format!("{:08X}", u32::from_ne_bytes(ip.octets())))
        }
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let (words, _) = octets.as_chunks::<4>();
            let words = words.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
            ("/proc/thread-self/net/udp6", words.collect())
        }
    };
    let wanted = format!("{host}:{:04X}", address.port());
    let table = fs::read_to_string(table).ok()?;
    table.lines().find_map(|line| parse(line, &wanted))
}

/// `sl local remote st tx:rx tr:when retrnsmt uid timeout inode ref pointer drops`
fn parse(line: &str, wanted: &str) -> Option<Line> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(1)? != wanted {
        return None;
    }
    let (_, receiving) = fields.get(4)?.split_once(':')?;
    Some(Line {
        queue: Queue {
            octets: u64::from_str_radix(receiving, 16).ok()?,
            dropped: fields.get(12)?.parse().ok()?,
            life: Life(fields.get(9)?.parse().ok()?),
        },
        user: fields.get(7)?.parse().ok()?,
    })
}
