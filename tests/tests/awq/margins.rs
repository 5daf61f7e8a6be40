//! What the search buys over rounding to the nearest, as data.

use std::path::Path;

use half::bf16;
use llm_quantize_tests::safetensors::{read_safetensors, write_safetensors};
use llm_quantize_tests::{copy_folder, fixture, run_json, text, tiny_llama};
use serde_json::Value;

use super::awq;

/// How far group sizes and options lead away from the source on the held-out text. Divergences, as
/// the perplexity of a model that is off so little is a matter of chance. Measured, with some room.
struct Margin {
    /// Whether channels are made unlike each other.
    uneven: bool,
    options: &'static [&'static str],
    /// Rounded to the nearest at least.
    rounded: f64,
    /// By the search at most as a share of that.
    share_at_most: f64,
}

const MARGINS: [Margin; 4] = [
    Margin {
        uneven: false,
        options: &["--group-size", "128"],
        rounded: 0.011,
        share_at_most: 0.88,
    },
    Margin {
        uneven: false,
        options: &["--group-size", "32"],
        rounded: 0.007,
        share_at_most: 0.95,
    },
    Margin {
        uneven: true,
        options: &["--group-size", "128"],
        rounded: 0.25,
        share_at_most: 0.05,
    },
    // By factors alone.
    Margin {
        uneven: true,
        options: &["--group-size", "32", "--set", "clip=false"],
        rounded: 0.1,
        share_at_most: 0.08,
    },
];

/// Nats at 128 inputs a group: rounding loses at least so many, the search at most.
const LOSS: [f64; 2] = [0.007, 0.004];

/// The built-in model with channels of unlike sizes: norms are multiplied with powers of two, and
/// the weights of what reads them divided by these. It computes the same.
fn uneven_llama(folder: &Path) {
    copy_folder(&tiny_llama(), folder);
    let path = folder.join("model.safetensors");
    let mut tensors = read_safetensors(&path);
    for tensor in &mut tensors {
        let sign = match tensor.name.rsplit('.').nth(1) {
            Some("input_layernorm" | "post_attention_layernorm") => 1,
            Some("q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj") => -1,
            _ => continue,
        };
        let channels = tensor.shape().last().copied().unwrap();
        let numbers = tensor.bytes().as_chunks().0.iter();
        let numbers: Vec<f32> = numbers
            .map(|number| bf16::from_le_bytes(*number).to_f32())
            .collect();
        for (at, number) in numbers.into_iter().enumerate() {
            let power = (at % channels * 7 % 5) as i32 - 2;
            tensor.set_bf16(at, number * 2f32.powi(sign * power));
        }
    }
    write_safetensors(&path, &tensors);
}

/// How some models do beside their source.
fn quality(models: &[&Path]) -> Vec<Value> {
    let data = text(&fixture("text/eval.txt"));
    let options = ["--data", &data, "--windows", "24", "--context", "512"];
    let models: Vec<String> = models.iter().map(|model| text(model)).collect();
    let models: Vec<&str> = models.iter().map(String::as_str).collect();
    let rows = run_json([&["quality"][..], &models, &options].concat());
    rows.expect_code(0).json().as_array().unwrap().clone()
}

#[test]
fn the_search_beats_rounding_to_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let uneven = dir.path().join("uneven");
    uneven_llama(&uneven);
    for (place, margin) in MARGINS.iter().enumerate() {
        let source = match margin.uneven {
            true => uneven.clone(),
            false => tiny_llama(),
        };
        let folders = ["rtn", "awq"].map(|method| {
            let name = format!("{place}-{method}");
            let method = format!("method={method}");
            let options = [margin.options, &["--set", &method]].concat();
            awq(&source, dir.path(), &name, &options).expect_code(0);
            dir.path().join(name)
        });
        let rows = quality(&[&source, &folders[0], &folders[1]]);
        let figure = |row: usize, key: &str| rows[row][key].as_f64().unwrap();
        let [rounded, searched] = [1, 2].map(|row| figure(row, "kl_divergence"));
        let losses = [1, 2].map(|row| (figure(row, "perplexity") / figure(0, "perplexity")).ln());
        let what = format!(
            "{} {:?}: {rounded:.5}, {searched:.5}; nats {losses:.4?}",
            margin.uneven, margin.options
        );
        println!("{what}");
        assert!(rounded > margin.rounded, "{what}");
        assert!(searched < margin.share_at_most * rounded, "{what}");
        if place == 0 {
            assert!(losses[0] > LOSS[0] && losses[1] < LOSS[1], "{what}");
        }
    }
}
