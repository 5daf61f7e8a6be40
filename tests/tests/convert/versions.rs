//! AutoAWQ's layouts of one model: each gives the others' numbers.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use llm_quantize_tests::safetensors::{Tensor, read_safetensors, write_safetensors};
use serde_json::{Value, json};

use super::{LAYERS, Place, config, weights};

const EXACT: [&str; 3] = ["--route", "exact", "--overwrite"];
const GEMV: [&str; 2] = ["--set", "version=gemv"];

fn version(folder: &Path) -> Value {
    config(folder)["quantization_config"]["version"].clone()
}

/// The folder in `gemv` and in `gemv_fast`.
fn others(place: &Place, gemm: &Path) -> [PathBuf; 2] {
    let made = place.convert(gemm, "awq", "gemv", &[&EXACT[..], &GEMV].concat());
    assert_eq!(made.counts(), [LAYERS, 0, 0, 0]);
    let fast = place.path().join("fast");
    fs::create_dir_all(&fast).unwrap();
    for entry in fs::read_dir(&made.path).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), fast.join(entry.file_name())).unwrap();
    }
    let mut config = config(&fast);
    config["quantization_config"]["version"] = json!("gemv_fast");
    fs::write(fast.join("config.json"), config.to_string()).unwrap();
    let file = fast.join("model.safetensors");
    let tensors = read_safetensors(&file);
    let tensors: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| fastened(tensor, &tensors))
        .collect();
    write_safetensors(&file, &tensors);
    [made.path, fast]
}

/// A tensor of `gemv` as `gemv_fast` has it.
fn fastened(tensor: &Tensor, all: &[Tensor]) -> Tensor {
    let Some((module, part)) = tensor.name.rsplit_once('.') else {
        return tensor.clone();
    };
    let find = |part: &str| all.iter().find(|t| t.name == format!("{module}.{part}"));
    match (part, find("scales")) {
        ("qweight", Some(_)) => interleaved(tensor),
        ("scales", Some(_)) => transposed(tensor, &halves(tensor)),
        ("qzeros", Some(scales)) => {
            let zeros = nibbles(tensor.bytes());
            let products = zeros.iter().zip(halves(scales));
            let products: Vec<f32> = products
                .map(|(zero, scale)| -scale * f32::from(*zero))
                .collect();
            transposed(&scales.renamed(&tensor.name), &products)
        }
        _ => tensor.clone(),
    }
}

fn nibbles(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| [byte & 15, byte >> 4])
        .collect()
}

fn halves(tensor: &Tensor) -> Vec<f32> {
    let numbers = tensor.bytes().as_chunks().0.iter();
    numbers
        .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
        .collect()
}

/// Numbers of a matrix, laid out by columns.
fn transposed(tensor: &Tensor, numbers: &[f32]) -> Tensor {
    let [rows, columns] = tensor.shape()[..] else {
        panic!("{} is no matrix", tensor.name)
    };
    let places = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
    let bytes = places.flat_map(|place| f16::from_f32(numbers[place]).to_le_bytes());
    Tensor::new(&tensor.name, "F16", &[columns, rows], bytes.collect())
}

/// Of four outputs 64 inputs each in turn; of these, field `8a + 4c + b` of every 32 has input
/// `8b + 2a + c`.
fn interleaved(tensor: &Tensor) -> Tensor {
    let [outputs, words] = tensor.shape()[..] else {
        panic!("{} is no matrix", tensor.name)
    };
    let inputs = 8 * words;
    let codes = nibbles(tensor.bytes());
    let mut fields = Vec::with_capacity(codes.len());
    for four in (0..outputs).step_by(4) {
        for start in (0..inputs).step_by(32).collect::<Vec<_>>().chunks(2) {
            for output in four..four + 4 {
                for start in start {
                    for field in 0..32 {
                        let (a, c, b) = (field / 8, field / 4 % 2, field % 4);
                        fields.push(codes[output * inputs + start + 8 * b + 2 * a + c]);
                    }
                }
            }
        }
    }
    let bytes = fields.chunks(2).map(|pair| pair[0] | pair[1] << 4);
    Tensor::new(&tensor.name, "I16", &[outputs / 4, inputs], bytes.collect())
}

#[test]
fn every_layout_comes_back_as_the_usual_one() {
    let place = Place::new();
    for group in ["32", "64", "128", "-1"] {
        let options = ["-q", "4bit", "--group-size", group, "--overwrite"];
        let gemm = place.quantize("awq", "gemm", &options);
        let [gemv, fast] = others(&place, &gemm);
        assert_eq!(
            (version(&gemm), version(&gemv)),
            (json!("gemm"), json!("gemv"))
        );
        assert!(weights(&gemv) != weights(&gemm));
        for other in [&gemv, &fast] {
            let back = place.convert(other, "awq", "back", &EXACT);
            assert_eq!(back.counts(), [LAYERS, 0, 0, 0], "{group}: {other:?}");
            assert!(weights(&back.path) == weights(&gemm), "{group}: {other:?}");
            let arguments = [&EXACT[..], &GEMV].concat();
            let again = place.convert(other, "awq", "again", &arguments);
            assert!(weights(&again.path) == weights(&gemv), "{group}: {other:?}");
        }
    }
}

#[test]
fn every_layout_goes_into_other_formats() {
    let place = Place::new();
    let gemm = place.quantize("awq", "gemm", &["-q", "4bit", "--group-size", "64"]);
    let numbers = place.numbers(&gemm);
    for other in others(&place, &gemm) {
        for format in ["gptq", "gguf"] {
            let made = place.convert(&other, format, "made", &EXACT);
            let same = place.numbers(&made.path) == numbers;
            assert!(same, "{other:?} to {format}");
        }
    }
}

/// The layout is that of whatever is quantized, not of conversions alone.
#[test]
fn models_are_quantized_into_the_other_layout() {
    let place = Place::new();
    let options = ["-q", "4bit", "--group-size", "64"];
    let gemm = place.quantize("awq", "gemm", &options);
    let gemv = place.quantize("awq", "gemv", &[&options[..], &GEMV].concat());
    assert!(place.numbers(&gemv) == place.numbers(&gemm));
    let report = place.try_convert(&gemm, "awq", "no", &["--set", "version=gemv_fast"]);
    assert!(report.expect_code(2).stderr.contains("gemv"));
}
