//! The progress of a job or a download: a bar on a terminal, else a line for each layer
//! or tenth.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{Ui, bytes, duration};
use crate::cli::args::Verbosity;
use crate::job::{JobProgress, Work, WorkUnit};
use crate::system;

/// How often the figures change on a terminal.
const TICK: Duration = Duration::from_millis(200);
/// Before this an estimate is a guess.
const SETTLED: Duration = Duration::from_secs(1);

/// Shows how far a job is.
#[derive(Debug)]
pub struct Bar {
    ui: Arc<Ui>,
    label: &'static str,
    running: OnceLock<(Arc<Figures>, Option<ProgressBar>)>,
}

/// What the figures are made of.
#[derive(Debug)]
struct Figures {
    start: Instant,
    unit: WorkUnit,
    amount: AtomicU64,
    /// Done by an earlier run: it says nothing about this one's speed.
    amount_before: u64,
    amount_done: AtomicU64,
    layers: u64,
    layers_done: AtomicU64,
    /// What has no layers: tenths that a line has told.
    tenths_told: AtomicU64,
}

impl Bar {
    /// A bar that appears when the job begins; `label` is a verb such as
    /// `Quantizing`.
    pub fn new(ui: Arc<Ui>, label: &'static str) -> Self {
        Self {
            ui,
            label,
            running: OnceLock::new(),
        }
    }

    fn show(&self, figures: &Arc<Figures>) -> Option<ProgressBar> {
        if !self.ui.is_terminal() || !self.ui.shows(Verbosity::Normal) {
            return None;
        }
        // All of it before the first tick, which is the first time that it is drawn.
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(figures.amount.load(Relaxed).max(1)), target)
            .with_prefix(self.label)
            .with_style(style(self.ui.colours(), Arc::clone(figures)));
        bar.set_position(figures.amount_before);
        bar.enable_steady_tick(TICK);
        self.ui.set_bar(Some(bar.clone()));
        Some(bar)
    }
}

impl JobProgress for Bar {
    fn begin(&self, work: Work) {
        let figures = Arc::new(Figures {
            start: Instant::now(),
            unit: work.unit,
            amount: AtomicU64::new(work.amount),
            amount_before: work.amount_done,
            amount_done: AtomicU64::new(work.amount_done),
            layers: work.layers as u64,
            layers_done: AtomicU64::new(work.layers_done as u64),
            tenths_told: AtomicU64::new(0),
        });
        self.running.get_or_init(|| {
            let bar = self.show(&figures);
            (figures, bar)
        });
    }

    fn bytes(&self, done: u64) {
        self.advance(WorkUnit::Bytes, done);
    }

    fn tokens(&self, done: u64) {
        self.advance(WorkUnit::Tokens, done);
    }

    fn layer(&self, done: usize, _total: usize) {
        let Some((figures, bar)) = self.running.get() else {
            return;
        };
        figures.layers_done.fetch_max(done as u64, Relaxed);
        if bar.is_none() {
            self.tell(figures);
        }
    }

    fn took(&self, step: &str, time: Duration) {
        self.ui
            .debug(&format!("{step}: {:.3} s", time.as_secs_f64()));
    }

    fn end(&self) {
        if self.clear()
            && let Some((figures, _)) = self.running.get()
        {
            // What the bar said at last stays, as a line.
            self.tell(figures);
        }
    }

    fn note(&self, message: &str) {
        self.ui.info(message);
    }

    fn warn(&self, message: &str) {
        self.ui.warn(message);
    }
}

impl Drop for Bar {
    /// A job that fails does not reach its end; its bar must not stay.
    fn drop(&mut self) {
        self.clear();
    }
}

impl Bar {
    /// There are so many bytes more to do than was said at the beginning.
    pub fn add_work(&self, bytes: u64) {
        if let Some((figures, bar)) = self.running.get() {
            figures.amount.fetch_add(bytes, Relaxed);
            if let Some(bar) = bar {
                bar.inc_length(bytes);
            }
        }
    }

    /// Some more work of this kind is done; the bar moves if it measures that.
    fn advance(&self, unit: WorkUnit, done: u64) {
        if let Some((figures, bar)) = self.running.get()
            && figures.unit == unit
        {
            figures.amount_done.fetch_add(done, Relaxed);
            match bar {
                Some(bar) => bar.inc(done),
                None if figures.reached_a_tenth() => self.tell(figures),
                None => {}
            }
        }
    }

    fn tell(&self, figures: &Figures) {
        let line = figures.line(self.label, figures.start.elapsed(), system::rss());
        self.ui.raw(Verbosity::Normal, &line);
    }

    /// Takes the bar off the screen; whether it was there.
    fn clear(&self) -> bool {
        let Some((_, Some(bar))) = self.running.get() else {
            return false;
        };
        if bar.is_finished() {
            return false;
        }
        self.ui.set_bar(None);
        bar.finish_and_clear();
        true
    }
}

impl Figures {
    /// Hundredths of the work that are done.
    fn percent(&self) -> u64 {
        let amount = self.amount.load(Relaxed);
        let done = u128::from(self.amount_done.load(Relaxed).min(amount));
        match amount {
            0 => 100,
            all => u64::try_from(done * 100 / u128::from(all)).unwrap_or(100),
        }
    }

    /// Whether another tenth is done, of what has no layers to be counted. Tells each
    /// tenth to one caller.
    fn reached_a_tenth(&self) -> bool {
        let tenth = self.percent() / 10;
        self.layers == 0 && self.tenths_told.fetch_max(tenth, Relaxed) < tenth
    }

    /// An amount of the work, for people.
    fn human(&self, amount: u64) -> String {
        match self.unit {
            WorkUnit::Bytes => bytes(amount),
            WorkUnit::Tokens => format!("{amount} tokens"),
        }
    }

    /// Without a bar: `Quantizing  53% 17/32 layers · …`.
    fn line(&self, label: &str, elapsed: Duration, memory: Option<u64>) -> String {
        let details = self.details(elapsed, memory);
        format!("{label} {:>3}% {details}", self.percent())
    }

    /// `17/32 layers · 1.9 GB/s · 0:08 elapsed · 0:07 left · 612 MB`; without layers
    /// `1.2 GB of 2.3 GB · …`, and no memory.
    fn details(&self, elapsed: Duration, memory: Option<u64>) -> String {
        let (all, done) = (self.amount.load(Relaxed), self.amount_done.load(Relaxed));
        let layers = self.layers_done.load(Relaxed);
        let fresh = done.saturating_sub(self.amount_before);
        let rate = fresh as f64 / elapsed.as_secs_f64().max(1e-3);
        // A token is through when it passed all layers.
        let shown = match self.unit {
            WorkUnit::Bytes => rate,
            WorkUnit::Tokens => rate / self.layers.max(1) as f64,
        };
        let mut text = match self.layers {
            0 => format!("{} of {} · ", self.human(done), self.human(all)),
            all => format!("{layers}/{all} layers · "),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{}/s · {} elapsed",
            self.human(shown as u64),
            duration(elapsed)
        );
        if elapsed >= SETTLED && rate > 0.0 {
            let left = all.saturating_sub(done) as f64 / rate;
            let left = duration(Duration::from_secs_f64(left.min(1e9)));
            let _ = write!(text, " · {left} left");
        }
        if let (Some(memory), true) = (memory, self.layers > 0) {
            let _ = write!(text, " · {}", bytes(memory));
        }
        text
    }
}

fn style(colours: bool, figures: Arc<Figures>) -> ProgressStyle {
    // Without colours what is left must look different from what is done.
    let (template, cells) = match colours {
        true => (
            "{prefix} {bar:20.green/black.bright} {percent:>3}% {details}",
            "━━",
        ),
        false => ("{prefix} {bar:20} {percent:>3}% {details}", "━─"),
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars(cells)
        .with_key(
            "details",
            move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
                let details = figures.details(figures.start.elapsed(), system::rss());
                let _ = out.write_str(&details);
            },
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    fn figures(bytes: u64, done: u64) -> Arc<Figures> {
        Arc::new(Figures {
            start: Instant::now(),
            unit: WorkUnit::Bytes,
            amount: AtomicU64::new(bytes),
            amount_before: 0,
            amount_done: AtomicU64::new(done),
            layers: 32,
            layers_done: AtomicU64::new(17),
            tenths_told: AtomicU64::new(0),
        })
    }

    #[test]
    fn a_line_has_all_figures() {
        let line = figures(28_600_000_000, 15_200_000_000).line(
            "Quantizing",
            Duration::from_secs(8),
            Some(612_000_000),
        );
        assert_eq!(
            line,
            "Quantizing  53% 17/32 layers · 1.9 GB/s · 0:08 elapsed · 0:07 left · 612 MB"
        );
    }

    #[test]
    fn a_download_has_no_layers() {
        let mut figures = Arc::into_inner(figures(250_000_000, 124_000_000)).unwrap();
        figures.layers = 0;
        let line = figures.line("Downloading", Duration::from_secs(10), Some(1));
        assert_eq!(
            line,
            "Downloading  49% 124 MB of 250 MB · 12 MB/s · 0:10 elapsed · 0:10 left"
        );
        assert!(figures.reached_a_tenth() && !figures.reached_a_tenth());
        figures.amount_done.fetch_add(1_000_000, Relaxed);
        assert!(figures.reached_a_tenth());
    }

    #[test]
    fn a_run_of_the_model_counts_tokens() {
        let mut figures = Arc::into_inner(figures(64_000, 32_000)).unwrap();
        figures.unit = WorkUnit::Tokens;
        let line = figures.line("Calibrating", Duration::from_secs(16), None);
        assert_eq!(
            line,
            "Calibrating  50% 17/32 layers · 62 tokens/s · 0:16 elapsed · 0:16 left"
        );
    }

    #[test]
    fn what_an_earlier_run_did_is_done_but_not_fast() {
        let mut resumed = figures(1000, 600);
        Arc::get_mut(&mut resumed).unwrap().amount_before = 500;
        let line = resumed.line("Quantizing", Duration::from_secs(10), None);
        assert_eq!(
            line,
            "Quantizing  60% 17/32 layers · 10 B/s · 0:10 elapsed · 0:40 left"
        );
    }

    #[test]
    fn no_estimate_without_a_basis() {
        let line = figures(100, 0).line("Quantizing", Duration::from_secs(5), None);
        assert_eq!(line, "Quantizing   0% 17/32 layers · 0 B/s · 0:05 elapsed");
        assert_eq!(figures(0, 0).percent(), 100);
    }

    #[test]
    fn the_bar_looks_as_documented() {
        let screen = InMemoryTerm::new(5, 120);
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let bar = ProgressBar::with_draw_target(Some(100), target);
        bar.set_prefix("Quantizing");
        bar.set_style(style(false, figures(100, 53)));
        bar.set_position(53);
        bar.tick();
        let shown = screen.contents();
        let start = "Quantizing ━━━━━━━━━━──────────  53% 17/32 layers · ";
        assert!(shown.starts_with(start), "{shown}");
    }
}
