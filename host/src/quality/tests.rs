use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use llm_quantize_plugin_api::ModelView;

use super::*;
use crate::job::{CancelFlag, JobProgress, Threads};

/// Counts the work that is told.
#[derive(Default)]
struct Told {
    amount: AtomicU64,
    tokens: AtomicU64,
    layers: AtomicU64,
}

impl JobProgress for Told {
    fn begin(&self, work: Work) {
        self.amount.store(work.amount, Relaxed);
    }
    fn bytes(&self, _: u64) {}
    fn tokens(&self, done: u64) {
        self.tokens.fetch_add(done, Relaxed);
    }
    fn layer(&self, done: usize, total: usize) {
        assert_eq!(total, 8);
        self.layers.store(done as u64, Relaxed);
    }
    fn end(&self) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

fn tiny_llama() -> Subject {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llama");
    let path = path.to_str().unwrap();
    let source = SourceModel::open(path, &[], ModelView::HuggingFace).unwrap();
    Subject::new("tiny", source).unwrap()
}

/// Five windows of tokens in no order.
fn windows() -> Windows {
    Windows {
        dataset: "numbers".into(),
        length: 24,
        tokens: (0..120).map(|i| i * 641 % 2048).collect(),
    }
}

fn measure_with(max_memory: u64, cancel: &CancelFlag, told: &Told) -> Result<Vec<Measured>> {
    let threads = Threads::new(2)?;
    let context = Context {
        threads: &threads,
        cancel,
        progress: told,
        max_memory,
    };
    measure(&tiny_llama(), &[tiny_llama()], &windows(), &context)
}

#[test]
fn all_that_was_announced_is_done() {
    let told = Told::default();
    let measured = measure_with(u64::MAX, &CancelFlag::default(), &told).unwrap();
    let lengths = measured.iter().map(|model| model.log_probabilities.len());
    assert_eq!(lengths.collect::<Vec<_>>(), [5 * 23, 5 * 23]);
    assert_eq!(told.amount.into_inner(), told.tokens.into_inner());
    assert_eq!(told.layers.into_inner(), 8);
}

#[test]
fn little_memory_makes_small_batches_with_the_same_numbers() {
    let (original, windows) = (tiny_llama(), windows());
    let models = [tiny_llama()];
    let batch = |budget| memory::batch(&original, &models, &windows, budget);
    assert_eq!(batch(u64::MAX).unwrap(), 5);
    // The least that does.
    let (mut low, mut high) = (0, 1 << 40);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match batch(middle) {
            Ok(_) => high = middle,
            Err(_) => low = middle,
        }
    }
    assert_eq!(batch(high).unwrap(), 1);
    assert_eq!(batch(low).unwrap_err().class, ExitCode::OutOfMemory);
    let of = |budget| measure_with(budget, &CancelFlag::default(), &Told::default()).unwrap();
    let (small, large) = (of(high), of(u64::MAX));
    let pairs = small[0].log_probabilities.iter();
    for (a, b) in pairs.zip(&large[0].log_probabilities) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn an_interrupt_ends_it() {
    let cancel = CancelFlag::default();
    cancel.shared().store(true, Relaxed);
    let error = measure_with(u64::MAX, &cancel, &Told::default()).unwrap_err();
    assert_eq!(error.class, ExitCode::Interrupted);
    assert_eq!(error.message, "interrupted");
}
