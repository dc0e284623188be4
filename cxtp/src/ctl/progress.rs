//! How far a long request is, drawn on stderr where that is a terminal.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::service::api::{Line, Progress};

/// The look of a bar.
const TEMPLATE: &str = "{prefix} {bar:40} {pos}/{len} sessions, {msg}, {per_sec}, {eta} left";

/// A bar that appears with the first line of progress.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar over sessions that do `verb` (such as `moving`).
    pub(super) fn new(verb: &'static str) -> Self {
        let target = if stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        // The template is constant and a test reads it.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.set_prefix(verb);
        Self(bar)
    }

    /// Takes a line that came before the answer.
    pub(super) fn take(&self, line: &Line) {
        match line {
            Line::Progress(progress) => self.draw(*progress),
            // On a terminal, so that a person can cancel it from another one.
            Line::Event(event) if event.event == "batch-begun" => {
                let batch = event.fields.get("batch").and_then(|batch| batch.as_str());
                self.0.println(format!("batch {}", batch.unwrap_or_default()));
            }
            _ => {}
        }
    }

    fn draw(&self, progress: Progress) {
        self.0.set_length(progress.sessions as u64);
        self.0.set_position(progress.ended as u64);
        self.0.set_message(format!("{} moved", progress.moved));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
#[path = "progress/tests.rs"]
mod tests;
