//! The thread that writes the journal.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use super::{super::thread::Thread, Journal};
use crate::engine::Record;

/// Writes that may wait for the disk.
const QUEUE: usize = 1024;

/// How long the end waits for what is being written.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// How long nothing was written when the journal is tidied: never within a move.
const IDLE: Duration = Duration::from_secs(1);

/// What a [`Scribe`] says of a ticket.
pub type Written = (u64, Result<(), String>);

/// One write that waits for the disk.
struct Order {
    ticket: u64,
    records: Vec<Record>,
    unix: u64,
}

/// The thread that writes the journal.
pub struct Scribe {
    orders: Option<SyncSender<Order>>,
    waiting: Arc<AtomicUsize>,
    thread: Thread,
}

impl Scribe {
    /// Starts it; `done` hears of every ticket, in order.
    ///
    /// # Errors
    /// What the system says of a new thread.
    pub fn start(
        journal: Box<dyn Journal>,
        done: impl Fn(Written) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, queue) = sync_channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&waiting);
        let thread = Thread::start("journal", move || write_all(journal, &queue, &counted, &done))?;
        Ok(Self { orders: Some(orders), waiting, thread })
    }

    /// Whether so much waits for the disk that nothing new should begin: a queue
    /// that is full fails commits.
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > QUEUE / 2
    }

    /// Has records written. `false` if the queue is full or the thread is gone:
    /// then they are not written.
    pub fn write(&self, ticket: u64, records: Vec<Record>, unix: u64) -> bool {
        let order = Order { ticket, records, unix };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok());
        if !sent {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.orders = None;
        self.thread
            .end(LAST_WRITE, "the disk does not answer; nothing was said that is not written");
    }
}

fn write_all(
    mut journal: Box<dyn Journal>,
    queue: &Receiver<Order>,
    waiting: &AtomicUsize,
    done: &dyn Fn(Written),
) {
    let mut tidy = true;
    loop {
        let patience = if tidy { Duration::from_secs(3600) } else { IDLE };
        let first = match queue.recv_timeout(patience) {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => {
                if !std::mem::replace(&mut tidy, true)
                    && let Err(error) = journal.tidy()
                {
                    tracing::warn!(%error, "the journal is opened again before the next write");
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut tickets = vec![first.ticket];
        let (mut records, mut unix) = (first.records, first.unix);
        while let Ok(next) = queue.try_recv() {
            tickets.push(next.ticket);
            records.extend(next.records);
            unix = unix.max(next.unix);
        }
        waiting.fetch_sub(tickets.len(), Ordering::Relaxed);
        tidy = false;
        let result = journal.append(&records, unix).map_err(|error| error.to_string());
        for ticket in tickets {
            done((ticket, result.clone()));
        }
    }
}
