//! Threads of the service that block: the gateway's and the journal's. The end of
//! the daemon waits for them, but not for ever.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{Builder, JoinHandle},
    time::Duration,
};

/// A thread that is waited for, within a bound.
pub(super) struct Thread {
    name: &'static str,
    handle: Option<JoinHandle<()>>,
    /// Closed by the end of the thread, in whatever way it comes.
    ended: Receiver<()>,
}

impl Thread {
    /// Starts one.
    ///
    /// # Errors
    /// What the system says of a new thread.
    pub(super) fn start(
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (alive, ended) = channel();
        let handle = Builder::new().name(name.to_owned()).spawn(move || {
            let _alive = alive;
            body();
        })?;
        Ok(Self { name, handle: Some(handle), ended })
    }

    /// Waits until it has ended, for `patience` at most; it was told to end
    /// before. One that does not is left behind, and the log says so: it ends
    /// with the process. `without` is what that means.
    pub(super) fn end(&mut self, patience: Duration, without: &str) -> bool {
        let Some(handle) = self.handle.take() else { return true };
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            let thread = self.name;
            tracing::warn!(thread, ?patience, "did not end in time and is left behind: {without}");
            return false;
        }
        // One that panicked has said so already.
        let _ = handle.join();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(20);

    /// A thread that ends when the sender is dropped.
    fn waits(name: &'static str) -> (Sender<()>, Thread) {
        let (go, wait) = channel();
        let thread = Thread::start(name, move || assert!(wait.recv().is_err())).unwrap();
        (go, thread)
    }

    #[test]
    fn a_thread_that_hangs_is_left_behind_and_one_that_ends_is_not() {
        let (go, mut hangs) = waits("hangs");
        assert!(!hangs.end(SOON, "nothing is lost"));
        assert!(hangs.end(SOON, "it was said once"));
        drop(go);
        let (go, mut ends) = waits("ends");
        drop(go);
        assert!(ends.end(LATE, "it ends"));
    }
}
