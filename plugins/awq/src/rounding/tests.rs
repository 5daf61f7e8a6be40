use llm_quantize_plugin_api::kernels::Serial;
use ndarray::{Array2, s};
use proptest::prelude::*;

use super::*;

/// AutoAWQ's rule for a group, in its own order of steps and in double precision but for the
/// stored scale.
fn by_the_rule(group: &[f32]) -> (f32, u8, Vec<u8>) {
    let low = group.iter().copied().fold(f32::INFINITY, f32::min);
    let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = f16_to_f32(f32_to_f16((high - low).max(1e-5) / 15.0));
    let zero = (-(f64::from(low) / f64::from(scale)).round_ties_even()).clamp(0.0, 15.0);
    let codes = group.iter().map(|x| {
        let steps = (f64::from(*x) / f64::from(scale)).round_ties_even();
        (steps + zero).clamp(0.0, 15.0) as u8
    });
    (scale, zero as u8, codes.collect())
}

fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() * next()).collect()
}

#[test]
fn a_group_worked_out_by_hand() {
    // From -1 to 2: a scale of 0.2 as half precision, a zero of 5.
    let mut group = [0.0f32; 32];
    (group[0], group[1], group[2], group[3]) = (-1.0, 2.0, 0.31, -0.29);
    let weight = Array2::from_shape_vec((1, 32), group.to_vec()).unwrap();
    let solution = round_to_nearest(&Serial, weight.view(), 32);
    assert_eq!(solution.zeros[[0, 0]], 5);
    assert_eq!(f32_to_f16(solution.scales[[0, 0]]), [0x66, 0x32]);
    assert_eq!(solution.codes.row(0).to_vec()[..5], [0, 15, 7, 4, 5]);
}

#[test]
fn groups_of_one_sign_have_zero_in_their_range() {
    let weight = Array2::from_elem((1, 64), 0.5f32);
    let solution = round_to_nearest(&Serial, weight.view(), 32);
    assert_eq!((solution.zeros[[0, 0]], solution.codes[[0, 0]]), (0, 15));
    assert!((solution.dequantize()[[0, 0]] - 0.5).abs() < 1e-3);
    let solution = round_to_nearest(&Serial, (-weight).view(), 32);
    assert_eq!((solution.zeros[[0, 0]], solution.codes[[0, 0]]), (15, 0));
}

#[test]
fn extremes_have_a_scale() {
    let mut weight = Array2::zeros((2, 32));
    weight[[1, 0]] = f32::MAX;
    weight[[1, 1]] = f32::MIN;
    let solution = round_to_nearest(&Serial, weight.view(), 32);
    assert!(solution.scales[[0, 0]] > 0.0 && solution.scales[[0, 0]] < 1e-6);
    assert_eq!(solution.dequantize().row(0).sum(), 0.0);
    assert_eq!(solution.scales[[1, 0]], 65_504.0);
    assert_eq!((solution.codes[[1, 0]], solution.codes[[1, 1]]), (15, 0));
}

proptest! {
    #[test]
    fn every_group_follows_the_rule(
        seed in any::<u64>(),
        rows in 1usize..70,
        group in prop::sample::select(vec![32usize, 64, 100, 128]),
        groups in 1usize..4,
    ) {
        let inputs = group * groups;
        let weight = Array2::from_shape_vec((rows, inputs), numbers(seed, rows * inputs)).unwrap();
        let solution = round_to_nearest(&Serial, weight.view(), group);
        for row in 0..rows {
            for number in 0..groups {
                let part = s![row, number * group..(number + 1) * group];
                let (scale, zero, codes) = by_the_rule(&weight.slice(part).to_vec());
                prop_assert_eq!(solution.scales[[row, number]], scale);
                prop_assert_eq!(solution.zeros[[row, number]], zero);
                for (found, code) in solution.codes.slice(part).iter().zip(codes) {
                    // A quotient in single precision may fall on the other side of a tie.
                    prop_assert!(found.abs_diff(code) == 0 || close_to_tie(&weight, row, scale));
                }
            }
        }
    }
}

/// Whether any number of a row is within rounding of the middle between two codes.
fn close_to_tie(weight: &Array2<f32>, row: usize, scale: f32) -> bool {
    weight.row(row).iter().any(|x| {
        let steps = f64::from(*x) / f64::from(scale);
        ((steps - steps.floor()) - 0.5).abs() < 1e-5
    })
}

#[test]
fn instructions_and_tasks_do_not_matter() {
    let weight = Array2::from_shape_vec((70, 96), numbers(7, 70 * 96)).unwrap();
    let whole = round_to_nearest(&Serial, weight.view(), 32);
    let level = Level::detect();
    for row in [0, 31, 32, 69] {
        let alone = round_to_nearest(&Serial, weight.slice(s![row..=row, ..]), 32);
        assert_eq!(alone.codes.row(0), whole.codes.row(row), "{level:?}");
    }
}
