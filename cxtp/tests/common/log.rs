//! Catches the log, as an operator would read it, and looks for keys in it.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, Once},
};

use tracing::Level;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Every octet of every key of a session in these tests.
pub(crate) const KEY_MARK: u8 = 0xc5;

/// Octets of lines that are kept; older ones are dropped, but were looked at.
const KEPT: usize = 4 << 20;

static LOG: Mutex<Log> = Mutex::new(Log::new());
static SUBSCRIBER: Once = Once::new();

struct Log {
    lines: VecDeque<String>,
    octets: usize,
    /// Warnings and errors.
    loud: usize,
    leak: Option<String>,
}

impl Log {
    const fn new() -> Self {
        Self { lines: VecDeque::new(), octets: 0, loud: 0, leak: None }
    }

    fn take(&mut self, text: &[u8]) {
        let line = String::from_utf8_lossy(text).trim_end().to_owned();
        if leaks_key(&line) {
            self.leak.get_or_insert_with(|| line.clone());
        }
        if is_at(&line, Level::ERROR) || is_at(&line, Level::WARN) {
            self.loud += 1;
        }
        self.octets += line.len();
        self.lines.push_back(line);
        while self.octets > KEPT {
            self.octets -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }
}

fn is_at(line: &str, level: Level) -> bool {
    line.trim_start().starts_with(level.as_str())
}

/// Whether a text holds a piece of a key: as hexadecimal digits, as a list of
/// numbers, in base 64 or as it is.
pub(crate) fn leaks_key(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let digits = digits.to_ascii_lowercase();
    let signs: Vec<String> = vec![
        format!("{KEY_MARK:02x}").repeat(4),
        format!("0x{KEY_MARK:02x}").repeat(3),
        KEY_MARK.to_string().repeat(4),
        // Four groups of the base 64 of repeated marks, by where the text begins.
        "xcxfxcxf".to_owned(),
    ];
    signs.iter().any(|sign| digits.contains(sign.as_str()))
        || text.contains(&String::from_utf8_lossy(&[KEY_MARK; 4]).into_owned())
}

/// The log since the last [`Capture::begin`].
pub(crate) struct Capture;

impl Capture {
    /// Begins to catch the log, and forgets what was before.
    pub(crate) fn begin() -> Self {
        SUBSCRIBER.call_once(|| {
            // Ours in all detail, so that a key has nowhere to hide.
            let filter = Targets::new().with_default(LevelFilter::INFO).with_targets(
                ["cxtp", "gateway_plugin", "protocol_spec"].map(|ours| (ours, LevelFilter::TRACE)),
            );
            tracing_subscriber::fmt()
                .with_ansi(false)
                .without_time()
                .with_max_level(LevelFilter::TRACE)
                .with_writer(Sink)
                .finish()
                .with(filter)
                .init();
        });
        *LOG.lock().unwrap() = Log::new();
        Self
    }

    /// Whether a line of this level has all these words.
    pub(crate) fn has(&self, level: Level, words: &[&str]) -> bool {
        let log = LOG.lock().unwrap();
        let fits =
            |line: &&String| is_at(line, level) && words.iter().all(|word| line.contains(word));
        log.lines.iter().any(|line| fits(&line))
    }

    /// How many warnings and errors there were.
    pub(crate) fn loud(&self) -> usize {
        LOG.lock().unwrap().loud
    }

    /// The first line with a key in it.
    pub(crate) fn leak(&self) -> Option<String> {
        LOG.lock().unwrap().leak.clone()
    }

    /// The last lines, but for the finest, for the message of a test that fails.
    pub(crate) fn tail(&self) -> String {
        let log = LOG.lock().unwrap();
        let lines = log.lines.iter().filter(|line| !is_at(line, Level::TRACE));
        let all: Vec<_> = lines.map(String::as_str).collect();
        all[all.len().saturating_sub(60)..].join("\n")
    }
}

/// Where the subscriber writes: one call for each line.
#[derive(Clone, Copy)]
struct Sink;

impl io::Write for Sink {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if let Ok(mut log) = LOG.lock() {
            log.take(text);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Sink {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        *self
    }
}
