//! How much something takes, at most, while something goes on.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// The most that a figure came to while this was watching.
pub(crate) struct Peak {
    figure: Arc<dyn Fn() -> usize + Send + Sync>,
    begun: usize,
    most: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Peak {
    /// Begins to watch.
    pub(crate) fn watch(figure: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        let figure = Arc::new(figure);
        let begun = figure();
        let most = Arc::new(AtomicUsize::new(begun));
        let ended = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&most), Arc::clone(&ended));
        let watched = Arc::clone(&figure);
        let watcher = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                seen.fetch_max(watched(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { figure, begun, most, ended, watcher: Some(watcher) }
    }

    /// By how much it grew, at most.
    pub(crate) fn growth(&self) -> usize {
        let now = (self.figure)();
        self.most.fetch_max(now, Ordering::Relaxed).max(now).saturating_sub(self.begun)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

/// Resident octets of this process: both daemons, the hostile peer and the test
/// itself (proc(5), the second number of `statm`).
pub(crate) fn resident() -> usize {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap();
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * usize::try_from(page).unwrap()
}
