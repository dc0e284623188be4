//! Remembers every panic of the process: one in a task of a daemon would
//! otherwise only end that task.

use std::{
    panic,
    sync::{Mutex, Once},
};

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

/// What panicked since [`Panics::watch`].
pub(crate) struct Panics;

impl Panics {
    /// Begins to watch, and forgets what was before.
    pub(crate) fn watch() -> Self {
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if let Ok(mut seen) = SEEN.lock() {
                    seen.push(info.to_string());
                }
                before(info);
            }));
        });
        SEEN.lock().unwrap().clear();
        Self
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        SEEN.lock().unwrap().clone()
    }
}
