//! How much memory the process takes, at most, while something goes on.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Watches the resident memory of this process: both daemons, the hostile peer
/// and the test itself.
pub(crate) struct Memory {
    begun: u64,
    peak: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Memory {
    /// Begins to watch.
    pub(crate) fn watch() -> Self {
        let begun = resident();
        let peak = Arc::new(AtomicU64::new(begun));
        let ended = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&peak), Arc::clone(&ended));
        let watcher = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                seen.fetch_max(resident(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self { begun, peak, ended, watcher: Some(watcher) }
    }

    /// By how many MiB it grew at most.
    pub(crate) fn growth_mib(&self) -> u64 {
        let peak = self.peak.fetch_max(resident(), Ordering::Relaxed).max(resident());
        peak.saturating_sub(self.begun) >> 20
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

/// Resident octets (proc(5), the second number of `statm`).
fn resident() -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap();
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * u64::try_from(page).unwrap()
}
