//! Progress, on standard error: a moving line on a terminal, plain lines elsewhere. Steps that
//! take less than a second are not shown.

use super::duration_us;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a step may take before it is shown.
const SHOW_AFTER: Duration = Duration::from_millis(700);

/// How often a plain line shows how far a step is.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not at all.
    Silent,
    /// A line when a step takes long.
    Lines,
    /// A moving line.
    Terminal,
}

impl Progress {
    /// The form that suits standard error; silent if `quiet`.
    pub(crate) fn unless(quiet: bool) -> Self {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Self::Silent,
            (_, true) => Self::Terminal,
            _ => Self::Lines,
        }
    }

    /// Begins a step. Dropping the value ends it silently.
    pub(crate) fn step(self, title: &str) -> Step {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(style("{spinner} {prefix} {wide_msg:.dim} {elapsed}"));
        bar.set_prefix(title.to_owned());
        Step {
            progress: self,
            title: title.to_owned(),
            begun: Instant::now(),
            announced: (self != Self::Silent).then(|| announce(self, &bar)),
            bar,
            line_at: Instant::now(),
        }
    }
}

/// Shows a step once it has lasted long enough.
fn announce(progress: Progress, bar: &ProgressBar) -> Sender<()> {
    let (over, wait) = channel();
    let bar = bar.clone();
    thread::spawn(move || {
        if wait.recv_timeout(SHOW_AFTER) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        match progress {
            Progress::Silent => {}
            Progress::Lines => super::note(&format!("{} ...", bar.prefix())),
            Progress::Terminal => {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.enable_steady_tick(Duration::from_millis(100));
            }
        }
    });
    over
}

/// A step in progress.
#[derive(Debug)]
pub(crate) struct Step {
    progress: Progress,
    title: String,
    begun: Instant,
    bar: ProgressBar,
    /// Dropping it keeps the step from being shown.
    announced: Option<Sender<()>>,
    line_at: Instant,
}

impl Step {
    /// Shows how far the step is, from 0 to 1 if that is known, and what it is doing.
    pub(crate) fn advance(&mut self, fraction: Option<f64>, detail: &str) {
        if let Some(fraction) = fraction {
            if self.bar.length().is_none() {
                self.bar.set_length(1000);
                self.bar
                    .set_style(style("{spinner} {prefix} {bar:25} {percent:>3}% {elapsed}"));
            }
            self.bar
                .set_position((fraction.clamp(0.0, 1.0) * 1000.0) as u64);
        }
        self.bar.set_message(detail.to_owned());
        if self.progress == Progress::Lines && self.line_at.elapsed() > LINE_EVERY {
            self.line_at = Instant::now();
            match fraction {
                Some(fraction) => {
                    super::note(&format!("{}: {:.0} %", self.title, fraction * 100.0));
                }
                None => super::note(&format!("{}: {detail}", self.title)),
            }
        }
    }

    /// Ends the step, and prints how long it took.
    pub(crate) fn done(self) -> Duration {
        let took = self.begun.elapsed();
        let (progress, title) = (self.progress, self.title.clone());
        drop(self);
        if progress != Progress::Silent {
            super::note(&format!(
                "{title}: {}",
                duration_us(took.as_micros() as u64)
            ));
        }
        took
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        drop(self.announced.take());
        self.bar.finish_and_clear();
    }
}

/// Templates are constants of ours; a bad one shows as the default.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Shows the progress of an image's build.
#[derive(Debug)]
pub(crate) struct ImageProgress {
    progress: Progress,
    step: Option<Step>,
}

impl ImageProgress {
    /// Tells it so.
    pub(crate) fn new(progress: Progress) -> Self {
        Self {
            progress,
            step: None,
        }
    }
}

impl hyperfork_image::Progress for ImageProgress {
    fn started(&mut self, step: &str) {
        self.step = Some(self.progress.step(step));
    }

    fn advanced(&mut self, fraction: Option<f64>, detail: &str) {
        if let Some(step) = &mut self.step {
            step.advance(fraction, detail);
        }
    }

    fn finished(&mut self, _: &str) {
        if let Some(step) = self.step.take() {
            step.done();
        }
    }
}
