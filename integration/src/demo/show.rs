//! What a person sees while the demo runs: on stderr, so that stdout is the result.

use std::{borrow::Cow, time::Duration};

use cxtp::service::api::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// The screen of a demo. Draws nothing where stderr is no terminal, but then says
/// in a line when a step has ended.
pub struct Show {
    terminal: bool,
    quiet: bool,
}

/// A step that runs.
pub struct Step<'a> {
    show: &'a Show,
    bar: ProgressBar,
    name: Cow<'static, str>,
}

impl Show {
    /// For a person, or with `quiet` for a script.
    pub fn new(quiet: bool) -> Self {
        Self { terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()), quiet }
    }

    /// A step with a number of sessions.
    pub fn step(&self, name: impl Into<Cow<'static, str>>, sessions: usize) -> Step<'_> {
        let bar = ProgressBar::new(sessions as u64);
        let style = ProgressStyle::with_template("{prefix:<44} {bar:30} {pos}/{len}  {elapsed}");
        self.begin(bar, style, name.into())
    }

    /// A step that only takes its time.
    pub fn wait(&self, name: impl Into<Cow<'static, str>>) -> Step<'_> {
        let style = ProgressStyle::with_template("{prefix:<44} {spinner}  {elapsed}");
        let bar = ProgressBar::new_spinner();
        self.begin(bar, style, name.into())
    }

    fn begin(
        &self,
        bar: ProgressBar,
        style: Result<ProgressStyle, indicatif::style::TemplateError>,
        name: Cow<'static, str>,
    ) -> Step<'_> {
        if self.quiet || !self.terminal {
            bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_string());
        bar.enable_steady_tick(Duration::from_millis(100));
        Step { show: self, bar, name }
    }
}

impl Step<'_> {
    /// How far it is.
    pub fn at(&self, progress: Progress) {
        self.bar.set_length(progress.sessions as u64);
        self.bar.set_position(progress.ended as u64);
    }

    /// It has ended, with this result.
    pub fn done(self, result: &str) {
        self.bar.finish_and_clear();
        if !self.show.quiet {
            eprintln!("{:<44} {result}", self.name);
        }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
    }
}
