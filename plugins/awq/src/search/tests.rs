use std::cell::Cell;

use llm_quantize_plugin_api::kernels::Serial;
use ndarray::{Array2, Axis};
use proptest::prelude::*;

use super::clip::clips;
use super::factors::{add_weight_magnitudes, shared, spread};
use super::*;
use crate::rounding::round_clipped;

const GROUP: usize = 32;

/// Two layers that share an input, and tokens of it.
struct Case {
    layers: [Array2<f32>; 2],
    gram: Array2<f32>,
    magnitudes: Vec<f32>,
}

fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    Array2::from_shape_fn((rows, columns), |_| next() * next())
}

impl Case {
    /// Channels are up to `outliers` times as large as others.
    fn new(seed: u64, outliers: f32) -> Self {
        let inputs = 2 * GROUP;
        let mut tokens = numbers(100, inputs, seed ^ 0xABCD);
        for (channel, mut column) in tokens.axis_iter_mut(Axis(1)).enumerate() {
            let size = outliers.powf((channel * 29 % 64) as f32 / 64.0);
            column.iter_mut().for_each(|x| *x *= size);
        }
        let magnitudes = tokens.mapv(f32::abs).mean_axis(Axis(0)).unwrap();
        Self {
            layers: [numbers(40, inputs, seed), numbers(24, inputs, seed + 1)],
            gram: tokens.t().dot(&tokens),
            magnitudes: magnitudes.to_vec(),
        }
    }

    fn views(&self) -> Vec<ArrayView2<'_, f32>> {
        self.layers.iter().map(|layer| layer.view()).collect()
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            gram: Prepared::new(&Serial, self.gram.view()),
            magnitudes: &self.magnitudes,
            group: GROUP,
        }
    }

    /// Of `shared_by` heads each of `head` channels.
    fn magnitudes(&self, head: usize, shared_by: usize) -> Magnitudes {
        let mut sums = vec![0.0; self.magnitudes.len()];
        for layer in &self.layers {
            add_weight_magnitudes(layer.view(), GROUP, &mut sums);
        }
        let inputs: Vec<f64> = self.magnitudes.iter().map(|x| f64::from(*x)).collect();
        Magnitudes::new(
            &shared(&inputs, head, shared_by),
            &shared(&sums, head, shared_by),
        )
    }

    fn search_on(&self, parallel: &dyn Parallel, effort: Effort) -> Found {
        let (views, inputs) = (self.views(), self.inputs());
        let magnitudes = self.magnitudes(inputs.gram.matrix().ncols(), 1);
        search(
            parallel,
            &views,
            &inputs,
            &magnitudes,
            &|f| f,
            effort,
            &|| false,
        )
    }

    fn search(&self, grid: u32, duo: bool) -> Found {
        self.search_on(&Serial, Effort { grid, duo })
    }

    /// What factors cost, by way of what is stored and decoded: the part of each layer's output
    /// energy.
    fn cost(&self, factors: &[f32]) -> f64 {
        let factors = ndarray::aview1(factors);
        let energy = |w: &Array2<f32>| f64::from((w.dot(&self.gram) * w).sum());
        let costs = self.layers.iter().map(|weight| {
            let whole = Array2::ones((weight.nrows(), weight.ncols() / GROUP));
            let scaled = weight * &factors;
            let stored = round_clipped(&Serial, scaled.view(), GROUP, whole.view());
            let change = stored.dequantize() / factors - weight;
            energy(&change) / energy(weight)
        });
        costs.sum()
    }
}

#[test]
fn outliers_are_helped_by_factors() {
    for seed in 1..6 {
        let case = Case::new(seed, 60.0);
        let found = case.search(10, true);
        assert!(found.loss < 0.75 * found.before, "{found:?}");
        assert!(found.exponents.inputs > 0.0, "{found:?}");
        // Weights' magnitudes are a chance more.
        let paper = case.search(10, false);
        assert!(found.loss < 1.02 * paper.loss, "{found:?} {paper:?}");
    }
}

#[test]
fn channels_without_inputs_change_nothing() {
    let mut case = Case::new(3, 10.0);
    case.gram.fill(0.0);
    case.magnitudes.fill(0.0);
    let found = case.search(5, true);
    assert_eq!(
        (found.exponents, found.loss, found.before),
        (Exponents::NONE, 0.0, 0.0)
    );
}

/// A broken calibration must not break the weights.
#[test]
fn statistics_that_are_no_numbers_give_no_factors() {
    for broken in [f32::NAN, f32::INFINITY] {
        let mut case = Case::new(3, 10.0);
        case.gram[[5, 5]] = broken;
        case.magnitudes[5] = broken;
        let found = case.search(5, true);
        assert_eq!(found.exponents, Exponents::NONE);
        let factors = case.magnitudes(2 * GROUP, 1).factors(found.exponents);
        assert_eq!(factors, [1.0; 2 * GROUP], "{broken}");
    }
}

/// One thread after the other, from the last task to the first.
struct Backwards;

impl Parallel for Backwards {
    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        for index in (0..count).rev() {
            std::thread::scope(|scope| {
                scope.spawn(|| task(index));
            });
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let mut case = Case::new(8, 30.0);
    // Several tasks.
    case.layers[0] = numbers(300, 2 * GROUP, 77);
    let effort = Effort { grid: 4, duo: true };
    let found = case.search_on(&Serial, effort);
    assert_eq!(found, case.search_on(&Backwards, effort));
    let factors = case.magnitudes(2 * GROUP, 1).factors(found.exponents);
    let scaled = &case.layers[0] * &ndarray::aview1(&factors);
    let of = |parallel: &dyn Parallel| {
        clips(
            parallel,
            scaled.view(),
            &factors,
            GROUP,
            case.gram.view(),
            6,
        )
    };
    assert_eq!(of(&Serial), of(&Backwards));
}

#[test]
fn a_cancelled_search_tries_nothing_more() {
    let case = Case::new(1, 10.0);
    let (views, inputs) = (case.views(), case.inputs());
    let magnitudes = case.magnitudes(inputs.gram.matrix().ncols(), 1);
    let effort = Effort {
        grid: 10,
        duo: true,
    };
    let (tried, asked) = (Cell::new(0), Cell::new(0));
    let count = |factors| {
        tried.set(tried.get() + 1);
        factors
    };
    let cancelled = || asked.replace(asked.get() + 1) >= 3;
    search(
        &Serial,
        &views,
        &inputs,
        &magnitudes,
        &count,
        effort,
        &cancelled,
    );
    assert_eq!(tried.get(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_is_found_that_is_worse_than_nothing(
        seed in 0u64..1 << 32,
        outliers in 1.0f32..100.0,
        grid in 1u32..6,
        duo in any::<bool>(),
    ) {
        let case = Case::new(seed, outliers);
        let found = case.search(grid, duo);
        prop_assert!(found.loss <= found.before);
        prop_assert!(found.exponents.inputs >= 0.0 && found.exponents.weights >= 0.0);
        prop_assert!(duo || found.exponents.weights == 0.0);
        // What is said of both is true.
        let factors = case.magnitudes(2 * GROUP, 1).factors(found.exponents);
        for (said, factors) in [(found.before, vec![1.0; 2 * GROUP]), (found.loss, factors)] {
            let true_cost = case.cost(&factors);
            prop_assert!((said / true_cost - 1.0).abs() < 2e-2, "{} {}", said, true_cost);
        }
    }

    /// Heads that share values share factors: nothing else is tried.
    #[test]
    fn shared_factors_are_searched_as_shared(
        seed in 0u64..1 << 32,
        (head, shared_by) in prop::sample::select(vec![(16, 2), (8, 4), (32, 2), (16, 4)]),
    ) {
        let case = Case::new(seed, 20.0);
        let magnitudes = case.magnitudes(head, shared_by);
        let tried = std::cell::RefCell::new(Vec::new());
        let to_channels = |factors: Vec<f32>| {
            let channels = spread(&factors, head, shared_by);
            tried.borrow_mut().push(channels.clone());
            channels
        };
        let effort = Effort { grid: 3, duo: true };
        let found = search(&Serial, &case.views(), &case.inputs(), &magnitudes, &to_channels, effort, &|| false);
        prop_assert!(found.loss <= found.before);
        let tried = tried.into_inner();
        prop_assert!(tried.len() > 4);
        for factors in &tried {
            prop_assert_eq!(factors.len(), 2 * GROUP);
            for (channel, factor) in factors.iter().enumerate() {
                // The same number of the first head that shares with this one.
                let first = channel / (head * shared_by) * (head * shared_by) + channel % head;
                prop_assert_eq!(*factor, factors[first]);
            }
        }
    }

    #[test]
    fn factors_are_centred_and_bounded(
        inputs in prop::collection::vec(prop_oneof![Just(0.0), 1e-9f64..1e9], 2..40),
        seed in 0u64..1 << 32,
        powers in (0.0f64..1.5, 0.0f64..1.5),
    ) {
        let weights = numbers(1, inputs.len(), seed).iter().map(|w| f64::from(w.abs())).collect::<Vec<_>>();
        let exponents = Exponents { inputs: powers.0, weights: powers.1 };
        let factors = Magnitudes::new(&inputs, &weights).factors(exponents);
        let low = factors.iter().copied().fold(f32::INFINITY, f32::min);
        let high = factors.iter().copied().fold(0.0, f32::max);
        prop_assert!(low >= 1.0 / 128.0 && high <= 128.0, "{} {}", low, high);
        prop_assert!((low * high - 1.0).abs() < 1e-5, "{} {}", low, high);
    }

    #[test]
    fn spreading_undoes_sharing(
        head in 1usize..9,
        shared_by in 1usize..5,
        groups in 1usize..4,
    ) {
        // What heads share already stays: means of the same numbers.
        let few: Vec<f32> = (0..head * groups).map(|i| 1.0 + i as f32).collect();
        let channels = spread(&few, head, shared_by);
        prop_assert_eq!(channels.len(), head * groups * shared_by);
        let channels: Vec<f64> = channels.iter().map(|x| f64::from(*x)).collect();
        let means = shared(&channels, head, shared_by);
        prop_assert!(means.iter().zip(&few).all(|(a, b)| *a == f64::from(*b)));
        prop_assert_eq!(means.len(), few.len());
    }

    /// A part of the range is taken only where that group alone loses less.
    #[test]
    fn ranges_are_never_worse_than_whole_ones(
        seed in 0u64..1 << 32,
        outliers in 1.0f32..100.0,
        steps in 0u32..8,
    ) {
        let case = Case::new(seed, outliers);
        let [weight, _] = &case.layers;
        let factors: Vec<f32> = (0..2 * GROUP).map(|i| 0.5 + (i % 5) as f32 / 4.0).collect();
        let scaled = weight * &ndarray::aview1(&factors);
        let found = clips(&Serial, scaled.view(), &factors, GROUP, case.gram.view(), steps);
        prop_assert!(found.iter().all(|clip| (0.5..=1.0).contains(clip)));
        prop_assert!(steps > 0 || found.iter().all(|clip| *clip == 1.0));
        let whole = Array2::ones(found.dim());
        let changes = [&found, &whole].map(|clips| {
            let stored = round_clipped(&Serial, scaled.view(), GROUP, clips.view());
            stored.dequantize() / ndarray::aview1(&factors) - weight
        });
        for row in 0..weight.nrows() {
            for group in 0..2 {
                let own = ndarray::s![group * GROUP..(group + 1) * GROUP];
                let gram = case.gram.slice(ndarray::s![
                    group * GROUP..(group + 1) * GROUP,
                    group * GROUP..(group + 1) * GROUP
                ]);
                let [clipped, rounded] = changes.each_ref().map(|change| {
                    let change = change.row(row);
                    let change = change.slice(own);
                    change.dot(&gram.dot(&change))
                });
                prop_assert!(clipped <= rounded * 1.0001 + 1e-9, "{} {}", clipped, rounded);
            }
        }
    }
}
