//! Tests of the whole solver.

mod broken;
mod naive;

use llm_quantize_plugin_api::kernels::Serial;
use llm_quantize_plugin_api::kernels::float16::{f16_to_f32, f32_to_f16};
use ndarray::{Array2, s};
use proptest::prelude::*;

use super::*;

const SYMMETRIC: Grid = Grid {
    bits: 4,
    symmetric: true,
    lowest_zero: 1,
};

/// Numbers between −3 and 3, most of them small.
fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    Array2::from_shape_fn((rows, columns), |_| next() + next() + next())
}

/// Inputs whose channels depend on each other, and are of different sizes.
fn inputs(tokens: usize, columns: usize, seed: u64) -> Array2<f32> {
    let hidden = numbers(tokens, columns / 2 + 1, seed);
    let mix = numbers(columns / 2 + 1, columns, seed + 1);
    let mut x = hidden.dot(&mix) + 0.3 * numbers(tokens, columns, seed + 2);
    for (c, mut column) in x.columns_mut().into_iter().enumerate() {
        column *= 0.2 + (c * 7 % 11) as f32 / 5.0;
    }
    x
}

fn gram(columns: usize, seed: u64) -> Array2<f32> {
    let x = inputs(4 * columns, columns, seed);
    x.t().dot(&x)
}

/// The relative error of outputs, in double precision.
fn error(weight: &Array2<f32>, solution: &Solution, gram: &Array2<f32>) -> f64 {
    let gram = gram.mapv(f64::from);
    let square = |w: Array2<f32>| {
        let w = w.mapv(f64::from);
        (&w.dot(&gram) * &w).sum()
    };
    square(weight - &solution.dequantize()) / square(weight.clone())
}

fn solved(weight: &Array2<f32>, gram: &Array2<f32>, settings: &Settings) -> (Solution, f64) {
    let factor = Factor::new(&Serial, gram.view(), 100, settings).unwrap();
    solve(&Serial, &factor, weight.view(), settings, &|| false).unwrap()
}

/// The pass alone, with scales from end to end.
fn plain(grid: Grid, group: usize, order: Order) -> Settings {
    let mut settings = Settings::new(grid, group);
    settings.order = order;
    settings.refine.rounds = 0;
    settings.scales.steps = 0;
    settings.scales.signed = false;
    settings.scales.trials = false;
    settings
}

const ORDERS: [Order; 3] = [Order::InOrder, Order::GroupAware, Order::Static];

#[test]
fn the_pass_is_gptq() {
    for (inputs, group) in [
        (64, 16),
        (96, 32),
        (192, 64),
        (200, 100),
        (144, 48),
        (80, 80),
        (7, 7),
    ] {
        let (weight, gram) = (numbers(9, inputs, 1), gram(inputs, 2));
        for order in ORDERS {
            let settings = plain(SYMMETRIC, group, order);
            let (solution, _) = solved(&weight, &gram, &settings);
            let (codes, scales) = naive::gptq(&weight, &gram, &settings);
            assert_eq!(solution.scales, scales, "{inputs} {group} {order:?}");
            assert_eq!(solution.codes, codes, "{inputs} {group} {order:?}");
        }
    }
}

#[test]
fn the_reported_error_is_that_of_the_solution() {
    let (weight, gram) = (numbers(70, 160, 3), gram(160, 4));
    for order in ORDERS {
        for rounds in 0..3 {
            let mut settings = Settings::new(SYMMETRIC, 32);
            settings.order = order;
            settings.refine.rounds = rounds;
            let (solution, reported) = solved(&weight, &gram, &settings);
            let exact = error(&weight, &solution, &gram);
            assert!((exact / reported - 1.0).abs() < 1e-3, "{exact} {reported}");
        }
    }
}

#[test]
fn wide_groups_are_refined_too() {
    let (weight, gram) = (numbers(5, 640, 14), gram(640, 15));
    let mut settings = Settings::new(SYMMETRIC, 640);
    let (solution, reported) = solved(&weight, &gram, &settings);
    let exact = error(&weight, &solution, &gram);
    assert!((exact / reported - 1.0).abs() < 1e-3, "{exact} {reported}");
    settings.refine.rounds = 0;
    assert!(reported < 0.98 * solved(&weight, &gram, &settings).1);
}

#[test]
fn everything_that_is_done_for_quality_pays() {
    for (bits, symmetric) in [(4, true), (4, false), (3, true), (2, false)] {
        let grid = Grid {
            bits,
            symmetric,
            lowest_zero: 1,
        };
        let (weight, gram) = (numbers(64, 128, 5), gram(128, 6));
        let full = Settings::new(grid, 32);
        let of = |change: &dyn Fn(&mut Settings)| {
            let mut settings = full;
            change(&mut settings);
            error(&weight, &solved(&weight, &gram, &settings).0, &gram)
        };
        let best = of(&|_| {});
        let one = of(&|s| s.refine.rounds = 1);
        let pass = of(&|s| s.refine.rounds = 0);
        let untried = of(&|s| {
            s.refine.rounds = 0;
            s.scales.trials = false
        });
        let plain = of(&|s| *s = plain(grid, 32, Order::GroupAware));
        let rounded = round_to_nearest(&Serial, weight.view(), &full);
        let rounded = error(&weight, &rounded, &gram);
        let all = [best, one, pass, untried, plain, rounded];
        assert!(all.is_sorted(), "{bits} {symmetric}: {all:?}");
        assert!(best < 0.8 * plain && plain < 0.7 * rounded, "{all:?}");
    }
}

#[test]
fn negative_scales_serve_groups_that_lean_to_one_side() {
    let mut weight = numbers(16, 32, 7) * 0.3;
    weight.column_mut(3).fill(2.0);
    weight.slice_mut(s![8.., 3]).fill(-2.0);
    let gram = Array2::eye(32);
    let mut settings = Settings::new(SYMMETRIC, 32);
    let (solution, signed) = solved(&weight, &gram, &settings);
    assert!(solution.scales.slice(s![..8, ..]).iter().all(|s| *s < 0.0));
    assert!(solution.scales.slice(s![8.., ..]).iter().all(|s| *s > 0.0));
    settings.scales.signed = false;
    let (solution, unsigned) = solved(&weight, &gram, &settings);
    assert!(solution.scales.iter().all(|s| *s > 0.0));
    assert!(signed < unsigned);
}

#[test]
fn the_order_does_not_matter_where_columns_do_not_know_each_other() {
    let (weight, gram) = (
        numbers(10, 96, 8),
        Array2::from_diag(&numbers(1, 96, 9).row(0).mapv(|x| x * x)),
    );
    let solutions = ORDERS.map(|order| {
        let mut settings = plain(SYMMETRIC, 32, order);
        settings.scales.steps = 20;
        solved(&weight, &gram, &settings).0
    });
    assert_eq!(solutions[0], solutions[1]);
    assert_eq!(solutions[0], solutions[2]);
}

#[test]
fn only_the_proportions_of_the_gram_matrix_matter() {
    let (weight, gram) = (numbers(10, 64, 10), gram(64, 11));
    let settings = Settings::new(SYMMETRIC, 32);
    let solution = solved(&weight, &gram, &settings);
    for scale in [2f32.powi(-90), 2f32.powi(90)] {
        assert_eq!(solved(&weight, &(&gram * scale), &settings).0, solution.0);
    }
}

/// Real threads that take tasks in turn, or one that takes them backwards.
struct Threads(usize);

impl Parallel for Threads {
    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.0 == 1 {
            return (0..count).rev().for_each(task);
        }
        std::thread::scope(|scope| {
            for thread in 0..self.0 {
                scope.spawn(move || (thread..count).step_by(self.0).for_each(task));
            }
        });
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let (weight, gram) = (numbers(300, 288, 12), gram(288, 13));
    let settings = Settings::new(SYMMETRIC, 96);
    let expected = solved(&weight, &gram, &settings);
    for threads in [1, 2, 5] {
        let threads = Threads(threads);
        let factor = Factor::new(&threads, gram.view(), 100, &settings).unwrap();
        let found = solve(&threads, &factor, weight.view(), &settings, &|| false).unwrap();
        assert_eq!(found, expected);
        let nearest = round_to_nearest(&threads, weight.view(), &settings);
        assert_eq!(nearest, round_to_nearest(&Serial, weight.view(), &settings));
    }
}

/// Checks what every solution promises.
fn check(solution: &Solution, grid: Grid) {
    for scale in &solution.scales {
        assert!(scale.is_finite() && *scale != 0.0, "{scale}");
        assert_eq!(f16_to_f32(f32_to_f16(*scale)), *scale);
    }
    let [first, last] = grid.zeros();
    assert!(
        solution
            .zeros
            .iter()
            .all(|zero| (first..=last).contains(zero))
    );
    assert!(solution.codes.iter().all(|code| *code <= grid.highest()));
}

fn grids() -> impl Strategy<Value = Grid> {
    let bits = prop::sample::select(vec![2, 3, 4, 8]);
    (bits, any::<bool>(), 0u8..2).prop_map(|(bits, symmetric, lowest_zero)| Grid {
        bits,
        symmetric,
        lowest_zero,
    })
}

/// Rows of a weight, one of a kind for each: ordinary ones and such as no model should have.
fn strange(columns: usize, seed: u64) -> Array2<f32> {
    let mut weight = numbers(9, columns, seed);
    let scales = [1.0, 0.0, 1e-10, 1e-42, 1e6, 1e30, 1e38, 1.0, 1.0];
    for (mut row, scale) in weight.rows_mut().into_iter().zip(scales) {
        row *= scale;
    }
    weight.row_mut(7).fill(0.25);
    weight.slice_mut(s![8, ..columns / 2]).fill(0.0);
    weight
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_row_is_worse_than_rounded_to_nearest(
        grid in grids(),
        (inputs, group) in prop::sample::select(vec![(1, 1), (8, 4), (40, 8), (64, 64), (96, 32)]),
        order in prop::sample::select(ORDERS.to_vec()),
        rounds in 0u32..2,
        tokens in 1usize..120,
        seed in 0u64..1000,
    ) {
        let x = super::tests::inputs(tokens, inputs, seed);
        let gram = x.t().dot(&x);
        let weight = numbers(5, inputs, seed + 9);
        let mut settings = Settings::new(grid, group);
        settings.order = order;
        settings.refine.rounds = rounds;
        let (solution, reported) = solved(&weight, &gram, &settings);
        let nearest = round_to_nearest(&Serial, weight.view(), &settings);
        check(&solution, grid);
        check(&nearest, grid);
        prop_assert!(reported.is_finite());
        for row in 0..5 {
            let of = |solution: &Solution| {
                let part = Solution {
                    codes: solution.codes.slice(s![row..=row, ..]).to_owned(),
                    scales: solution.scales.slice(s![row..=row, ..]).to_owned(),
                    zeros: solution.zeros.slice(s![row..=row, ..]).to_owned(),
                };
                error(&weight.slice(s![row..=row, ..]).to_owned(), &part, &gram)
            };
            let (ours, theirs) = (of(&solution), of(&nearest));
            prop_assert!(ours <= theirs * 1.001 + 1e-7, "{ours} {theirs}");
        }
    }

    #[test]
    fn strange_weights_give_sound_solutions(
        grid in grids(),
        group in prop::sample::select(vec![8, 32, 64]),
        order in prop::sample::select(ORDERS.to_vec()),
        seed in 0u64..1000,
    ) {
        let (weight, gram) = (strange(64, seed), gram(64, seed));
        let mut settings = Settings::new(grid, group);
        settings.order = order;
        let (solution, _) = solved(&weight, &gram, &settings);
        check(&solution, grid);
        check(&round_to_nearest(&Serial, weight.view(), &settings), grid);
        // The ordinary rows do not suffer, and zeros stay zeros.
        let rows = solution.dequantize();
        prop_assert!(rows.row(1).iter().all(|w| *w == 0.0));
        let alone = weight.slice(s![..1, ..]).to_owned();
        let (alone, _) = solved(&alone, &gram, &settings);
        prop_assert_eq!(alone.codes.row(0), solution.codes.row(0));
    }

    #[test]
    fn rounding_to_nearest_is_what_the_field_calls_so(
        grid in grids(), seed in 0u64..1000, group in prop::sample::select(vec![1, 5, 30]),
    ) {
        let weight = numbers(3, 30, seed);
        let settings = Settings::new(grid, group);
        let solution = round_to_nearest(&Serial, weight.view(), &settings);
        let highest = f32::from(grid.highest());
        for ((row, g), scale) in solution.scales.indexed_iter() {
            let weights = weight.slice(s![row, g * group..(g + 1) * group]);
            let low = weights.iter().copied().fold(0.0, f32::min);
            let high = weights.iter().copied().fold(0.0, f32::max);
            let zero = f32::from(solution.zeros[[row, g]]);
            // Half precision is coarser below its normal numbers.
            let coarse = |exact: f32| (6e-8 / exact).max(1e-3);
            if grid.symmetric {
                let exact = 2.0 * high.max(-low) / highest;
                prop_assert!((scale / exact - 1.0).abs() < coarse(exact));
            } else {
                let exact = (high - low) / highest;
                let steps = -low / exact;
                let first = f32::from(grid.lowest_zero);
                prop_assert!((zero - steps.max(first)).abs() < 0.501 + steps * coarse(exact) / 2.0);
                prop_assert!(scale / exact > 1.0 - coarse(exact));
                prop_assert!(steps < first || scale / exact < highest / (highest - 1.0) * 1.5);
            }
            for (i, w) in weights.iter().enumerate() {
                let steps = f32::from(solution.codes[[row, g * group + i]]) - zero;
                let missed = (w - scale * steps).abs();
                let inside = (w / scale + zero).clamp(0.0, highest) - zero;
                prop_assert!(missed <= (w - scale * inside).abs() + scale.abs() * 0.501);
            }
        }
    }
}
