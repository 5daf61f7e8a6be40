//! What is folded into norms, biases and rows: the model computes the same.

use llm_quantize_plugin_api::{ElementType, Fold, Statistic};
use ndarray::{Axis, azip};

use super::*;
use crate::quantize::plan::tests::{add_biases, request};

/// Inputs of a group.
const GROUP: usize = 64;
/// Elements of a head, and how many heads of channels share one of values, in the small model.
const HEAD: usize = 64;
const SHARED_BY: usize = 2;

/// How the weights of the changed model look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weights {
    /// As the small model's.
    Usual,
    /// One number in each group of a row: wherever the grid lies, that is on it.
    Sparse,
}

/// The small model, with other weights, with biases of what factors are folded into, and with
/// statistics of inputs among which some channels are large.
pub fn model(weights: Weights, biases: bool) -> TestModel {
    let full = TestModel::tiny_llama();
    let mut model = TestModel::default();
    model.set_config(full.model().config.clone());
    for (index, tensor) in full.model().tensors.iter().enumerate() {
        let bytes = match weights {
            Weights::Sparse if tensor.name.ends_with("proj.weight") => sparse(&tensor.shape),
            _ => full.tensor_bytes(index).to_vec(),
        };
        model.add_tensor(&tensor.name, "BF16", &tensor.shape, bytes);
    }
    model.set_sites(full.model().sites.clone());
    if biases {
        let numbers = |rows| (0..rows).map(|row| (row % 23) as f32 / 8.0 - 1.3);
        add_biases(&mut model, |rows| bf16(numbers(rows)));
    }
    calibrate(&mut model);
    model
}

fn bf16(numbers: impl Iterator<Item = f32>) -> Vec<u8> {
    let numbers: Vec<f32> = numbers.collect();
    let mut bytes = vec![0; 2 * numbers.len()];
    convert::from_f32(ElementType::BF16, &numbers, &mut bytes).unwrap();
    bytes
}

fn sparse(shape: &[u64]) -> Vec<u8> {
    let (rows, cols) = (shape[0] as usize, shape[1] as usize);
    let numbers = (0..rows * cols).map(|at| {
        let (row, column) = (at / cols, at % cols);
        let group = column / GROUP;
        match column % GROUP == (row * 13 + group * 7) % GROUP {
            true if row % 3 == 0 => -1.5,
            true => 1.0 + (row % 7) as f32 / 8.0,
            false => 0.0,
        }
    });
    bf16(numbers)
}

/// A statistic's rows and numbers.
pub type Numbers = (usize, Vec<f32>);

/// The Gram matrix and the mean magnitudes of some tokens.
pub fn statistics(inputs: usize, seed: u64) -> [Numbers; 2] {
    let mut state = seed;
    let mut tokens = Array2::from_shape_fn((120, inputs), |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    });
    for (channel, mut column) in tokens.axis_iter_mut(Axis(1)).enumerate() {
        // Heads that share values are alike, so that shared factors help them.
        let size = 40f32.powf((channel % HEAD * 29 % 64) as f32 / 64.0);
        column.iter_mut().for_each(|x| *x *= size);
    }
    let gram = tokens.t().dot(&tokens).iter().copied().collect();
    let magnitudes = tokens.mapv(f32::abs).mean_axis(Axis(0)).unwrap();
    [(inputs, gram), (1, magnitudes.to_vec())]
}

fn calibrate(model: &mut TestModel) {
    for site in model.model().sites.clone() {
        let info = &model.model().tensors[site.layers[0]];
        let (name, inputs) = (info.name.clone(), info.cols() as usize);
        let statistics = statistics(inputs, site.layers[0] as u64);
        let kinds = [Statistic::Gram, Statistic::MeanMagnitude];
        for (kind, (rows, numbers)) in kinds.into_iter().zip(statistics) {
            model.set_statistic(&name, kind, rows, numbers);
        }
    }
}

/// Without ranges that are cut, so that no weight is far off.
fn unclipped() -> PlanRequest {
    request(&[("clip", "false"), ("grid", "4")])
}

/// What a stored vector lacks of the original: the factors that were folded into it.
fn lacks(model: &TestModel, folder: &Folder<'_>, name: &str) -> Vec<f32> {
    let (before, after) = (original(model, name), folder.numbers(name));
    let lacks: Vec<f32> = before.iter().zip(&after).map(|(b, a)| b / a).collect();
    for ((lacks, before), after) in lacks.iter().zip(&before).zip(&after) {
        assert!((lacks * after - before).abs() <= 1e-6 * before.abs());
    }
    lacks
}

/// How unlike each other factors are.
fn range(factors: &[f32]) -> f32 {
    let high = factors.iter().copied().fold(0.0, f32::max);
    high / factors.iter().copied().fold(f32::INFINITY, f32::min)
}

/// For each channel of attention's output, the row of the values that it gathers.
fn gathered() -> impl Iterator<Item = usize> {
    (0..256).map(|channel| channel / HEAD / SHARED_BY * HEAD + channel % HEAD)
}

/// The layers of a block, with the factors that their weights must have for the same outputs: of
/// their inputs, and the inverses of their outputs'. The factors must be unlike each other, at
/// `least` so much.
fn expected(
    model: &TestModel,
    folder: &Folder<'_>,
    block: u32,
    least: f32,
) -> Vec<(String, Vec<f32>, Option<Vec<f32>>)> {
    let full = |part: &str| format!("model.layers.{block}.{part}");
    let of = |part: &str| lacks(model, folder, &full(part));
    let (inputs, wide) = (
        of("input_layernorm.weight"),
        of("post_attention_layernorm.weight"),
    );
    let (values, up) = (of("self_attn.v_proj.bias"), of("mlp.up_proj.bias"));
    let attention: Vec<f32> = gathered().map(|row| values[row]).collect();
    for factors in [&inputs, &wide, &values, &up] {
        assert!(range(factors) > least, "{factors:?}");
    }
    [
        ("self_attn.q_proj", &inputs, None),
        ("self_attn.k_proj", &inputs, None),
        ("self_attn.v_proj", &inputs, Some(&values)),
        ("self_attn.o_proj", &attention, None),
        ("mlp.gate_proj", &wide, None),
        ("mlp.up_proj", &wide, Some(&up)),
        ("mlp.down_proj", &up, None),
    ]
    .map(|(layer, inputs, outputs)| {
        let name = full(&format!("{layer}.weight"));
        (name, inputs.clone(), outputs.cloned())
    })
    .into()
}

/// A weight with its factors.
fn folded(weight: Array2<f32>, inputs: &[f32], outputs: Option<&[f32]>) -> Array2<f32> {
    let mut weight = weight * ndarray::aview1(inputs);
    for (mut row, by) in weight.outer_iter_mut().zip(outputs.into_iter().flatten()) {
        row.iter_mut().for_each(|w| *w /= by);
    }
    weight
}

/// With the factors that are read from norms and biases, every stored weight is the original's,
/// but for the rounding to the grid.
#[test]
fn a_folded_model_computes_the_same() {
    let model = model(Weights::Usual, true);
    let (_, files) = built(&model, &unclipped());
    let folder = Folder::open(&files);
    for block in 0..2 {
        for (name, inputs, outputs) in expected(&model, &folder, block, 1.5) {
            let exact = folded(original(&model, &name), &inputs, outputs.as_deref());
            let (stored, scales) = (folder.numbers(&name), folder.scales(&name).unwrap());
            for ((row, column), number) in stored.indexed_iter() {
                let step = scales[[row, column / GROUP]];
                let off = (number - exact[[row, column]]).abs();
                assert!(
                    off <= 0.51 * step,
                    "{name}: {row} {column}, {off} of {step}"
                );
            }
        }
    }
    // Nothing else was changed.
    for name in ["model.norm.weight", "lm_head.weight"] {
        assert_eq!(folder.numbers(name), original(&model, name));
    }
}

/// Where weights lie on the grid, nothing is lost but the digits that a scale lacks.
#[test]
fn weights_on_the_grid_are_folded_exactly() {
    let model = model(Weights::Sparse, true);
    // Little is lost without factors, either, but the search finds some.
    let (_, files) = built(&model, &request(&[("clip", "false")]));
    let folder = Folder::open(&files);
    for block in 0..2 {
        for (name, inputs, outputs) in expected(&model, &folder, block, 1.05) {
            let exact = folded(original(&model, &name), &inputs, outputs.as_deref());
            let stored = folder.numbers(&name);
            azip!((stored in &stored, exact in &exact) {
                let off = (stored - exact).abs();
                assert!(off <= exact.abs() / 2048.0, "{name}: {stored} {exact}");
            });
        }
    }
}

/// Without a bias nobody sees the factors of rows, but they show in the weights: what the columns
/// of one layer have more, the rows of the other have less. Heads that share values share factors.
#[test]
fn rows_and_columns_cancel() {
    let model = model(Weights::Usual, false);
    let (_, files) = built(&model, &unclipped());
    let folder = Folder::open(&files);
    // How many times the original a part of a weight is.
    let times = |stored: &Array2<f32>, exact: &Array2<f32>, axis: Axis| -> Vec<f32> {
        let parts = stored.axis_iter(axis).zip(exact.axis_iter(axis));
        parts.map(|(a, b)| a.dot(&b) / b.dot(&b)).collect()
    };
    for block in 0..2 {
        for (before, norm, rows, columns) in [
            (
                "self_attn.v_proj",
                "input_layernorm",
                gathered().collect(),
                "self_attn.o_proj",
            ),
            (
                "mlp.up_proj",
                "post_attention_layernorm",
                (0..512).collect::<Vec<usize>>(),
                "mlp.down_proj",
            ),
        ] {
            let full = |part: &str| format!("model.layers.{block}.{part}.weight");
            let inputs = lacks(&model, &folder, &full(norm));
            let before = full(before);
            let exact = folded(original(&model, &before), &inputs, None);
            let divided = times(&folder.numbers(&before), &exact, Axis(0));
            let after = full(columns);
            let multiplied = times(&folder.numbers(&after), &original(&model, &after), Axis(1));
            assert!(range(&multiplied) > 1.5, "{after}");
            for (column, row) in rows.into_iter().enumerate() {
                let product = multiplied[column] * divided[row];
                assert!(
                    (product - 1.0).abs() < 0.15,
                    "{after}: column {column} {}, row {row} {}",
                    multiplied[column],
                    divided[row]
                );
            }
        }
    }
}

/// With nothing to fold factors into, and whole ranges, the search rounds to the nearest.
#[test]
fn without_a_place_for_factors_weights_are_rounded() {
    let mut model = model(Weights::Usual, false);
    let mut sites = model.model().sites.clone();
    for site in &mut sites {
        site.fold = Fold::Nowhere;
    }
    model.set_sites(sites);
    let weights = |request: &PlanRequest| built(&model, request).1.remove(0);
    assert_eq!(weights(&unclipped()), weights(&rounding()));
}

/// Norms that have no room in their type for any factor stay, and so do the weights.
#[test]
fn norms_without_room_stay() {
    let usual = model(Weights::Usual, false);
    let mut model = TestModel::default();
    model.set_config(usual.model().config.clone());
    for (index, tensor) in usual.model().tensors.iter().enumerate() {
        match tensor.name.ends_with("layernorm.weight") {
            // The largest number of half precision in every channel.
            true => {
                let largest = [0xFF, 0x7B].repeat(256);
                model.add_tensor(&tensor.name, "F16", &tensor.shape, largest);
            }
            false => {
                let bytes = usual.tensor_bytes(index).to_vec();
                model.add_tensor(&tensor.name, "BF16", &tensor.shape, bytes);
            }
        }
    }
    model.set_sites(usual.model().sites.clone());
    calibrate(&mut model);
    let (_, searched) = built(&model, &unclipped());
    let (_, rounded) = built(&model, &rounding());
    let (searched, rounded) = (Folder::open(&searched), Folder::open(&rounded));
    for name in ["input_layernorm", "self_attn.q_proj", "mlp.gate_proj"] {
        let name = format!("model.layers.0.{name}.weight");
        assert_eq!(searched.numbers(&name), rounded.numbers(&name), "{name}");
    }
    // Factors of rows have room.
    let name = "model.layers.0.mlp.down_proj.weight";
    assert!(searched.numbers(name) != rounded.numbers(name));
}
