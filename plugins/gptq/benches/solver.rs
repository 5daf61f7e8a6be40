//! Throughput of the solver beside that of plain matrix products:
//! `cargo bench -p llm-quantize-gptq --bench solver -- 4096x4096 4096x14336`.
//!
//! Shapes are outputs × inputs. The machine's peak is taken to be a product of two 1024 × 1024
//! matrices on all threads. Everything takes turns, so that whatever else the machine does hits all
//! alike; figures are medians over the rounds, and the ratio is the median of each round's ratio.
//!
//! Operations are counted as the algorithm needs them, an addition and a multiplication being two;
//! searches, trials, conversions and the reading of matrices are not counted, but timed:
//! * factor: `K³ / 3`;
//! * pass: `N K²` for the pass itself and as much each for the square of the outputs and for the
//!   error of rounding to nearest, `3 N K²`;
//! * a sweep: `2 N K²` for products with `H`, more.

#![allow(clippy::print_stdout)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use llm_quantize_gptq::solver::{Factor, Grid, Settings, solve};
use llm_quantize_plugin_api::kernels::Parallel;
use llm_quantize_plugin_api::kernels::gram::{add_gram, mirror};
use llm_quantize_plugin_api::kernels::product::{Before, multiply};
use ndarray::Array2;

const ROUNDS: usize = 3;
const GROUP: usize = 128;

/// All cores.
struct Threads(usize);

impl Parallel for Threads {
    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0.min(count) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            break;
                        }
                        task(index);
                    }
                });
            }
        });
    }
}

fn main() {
    // `cargo bench` says so; `cargo test` only wants to know that everything runs.
    let measured = std::env::args().any(|arg| arg == "--bench");
    let arguments = std::env::args().skip(1);
    let mut shapes: Vec<(usize, usize)> = arguments.filter_map(|arg| shape(&arg)).collect();
    if shapes.is_empty() {
        shapes.push(if measured { (4096, 4096) } else { (64, 256) });
    }
    let threads = Threads(std::thread::available_parallelism().map_or(1, usize::from));
    println!("{} threads; GFLOP/s (part of the peak)", threads.0);
    for (outputs, inputs) in shapes {
        race(&threads, outputs, inputs, if measured { ROUNDS } else { 1 });
    }
}

fn shape(text: &str) -> Option<(usize, usize)> {
    let (outputs, inputs) = text.split_once('x')?;
    Some((outputs.parse().ok()?, inputs.parse().ok()?))
}

/// Runs everything in turns and prints a line for each contender.
fn race(threads: &Threads, outputs: usize, inputs: usize, rounds: usize) {
    let x = matrix(2 * inputs.min(2048), inputs);
    let mut gram = Array2::zeros((inputs, inputs));
    add_gram(threads, x.view(), gram.view_mut());
    mirror(gram.view_mut());
    drop(x);
    let weight = matrix(outputs, inputs);
    let grid = Grid {
        bits: 4,
        symmetric: true,
        lowest_zero: 1,
    };
    let full = Settings::new(grid, GROUP);
    let mut pass = full;
    pass.refine.rounds = 0;

    let (n, k) = (outputs as f64, inputs as f64);
    let names = ["peak", "factor", "pass", "default"];
    let sweeps = f64::from(full.refine.rounds);
    let operations = [
        2.0 * 1024f64.powi(3) * threads.0 as f64,
        k * k * k / 3.0,
        3.0 * n * k * k,
        (3.0 + 2.0 * sweeps) * n * k * k,
    ];
    let square = matrix(1024, 1024);
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let mut seconds = [0.0; 4];
        seconds[0] = time(|| peak(threads, &square));
        let mut factor = None;
        seconds[1] = time(|| factor = Factor::new(threads, gram.view(), 1, &full).ok());
        let Some(factor) = factor else {
            panic!("the Gram matrix has no factor")
        };
        for (seconds, settings) in seconds[2..].iter_mut().zip([pass, full]) {
            *seconds = time(|| {
                let solved = solve(threads, &factor, weight.view(), &settings, &|| false);
                assert!(solved.is_ok_and(|(_, error)| error < 0.1));
            });
        }
        for i in 0..4 {
            rates[i].push(operations[i] / seconds[i] / 1e9);
        }
    }
    for i in 0..4 {
        let ratios = rates[i].iter().zip(&rates[0]).map(|(a, b)| a / b).collect();
        let (rate, ratio) = (median(rates[i].clone()), median(ratios));
        println!(
            "{outputs} x {inputs} {:8} {rate:8.1} ({ratio:.2}) {:8.3} s",
            names[i],
            operations[i] / rate / 1e9
        );
    }
}

/// A product on each thread.
fn peak(threads: &Threads, square: &Array2<f32>) {
    threads.for_each(threads.0, &|_| {
        let mut c = Array2::<f32>::zeros(square.dim());
        multiply(
            square.view(),
            square.view(),
            1.0,
            Before::Forget,
            c.view_mut(),
        );
        std::hint::black_box(&c);
    });
}

fn time(task: impl FnOnce()) -> f64 {
    let start = Instant::now();
    task();
    start.elapsed().as_secs_f64()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Numbers without a pattern that matters.
fn matrix(rows: usize, columns: usize) -> Array2<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    Array2::from_shape_fn((rows, columns), |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    })
}
