//! Each pair of formats by its route; exact ones keep every number.

use super::{LAYERS, Place};

/// A conversion that must keep every number of every tensor.
fn exact(place: &Place, source: &str, options: &[&str], target: &str, more: &[&str], level: &str) {
    let case = format!("{source} {options:?} to {target} {more:?}");
    let path = place.quantize(source, "source", &[options, &["--overwrite"]].concat());
    let arguments = [more, &["--route", "exact", "--overwrite"]].concat();
    let made = place.convert(&path, target, "made", &arguments);
    assert_eq!(made.counts(), [LAYERS, 0, 0, 0], "{case}");
    assert_eq!(made.level, level, "{case}");
    assert!(place.numbers(&path) == place.numbers(&made.path), "{case}");
}

#[test]
fn gptq_goes_into_awq_gguf_and_other_gptq() {
    let place = Place::new();
    let four = ["-q", "4bit", "--group-size", "64"];
    let asymmetric = [&four[..], &["--set", "sym=false"]].concat();
    exact(&place, "gptq", &four, "awq", &[], "4bit");
    exact(&place, "gptq", &four, "gguf", &[], "Q4_0");
    exact(
        &place,
        "gptq",
        &four,
        "gptq",
        &["--set", "format=gptq_v2"],
        "4bit",
    );
    exact(
        &place,
        "gptq",
        &four,
        "gptq",
        &["--group-size", "32"],
        "4bit",
    );
    exact(&place, "gptq", &asymmetric, "awq", &[], "4bit");
    exact(&place, "gptq", &asymmetric, "gguf", &[], "Q5_0");
    exact(&place, "gptq", &asymmetric, "gptq", &["-q", "8bit"], "8bit");
}

#[test]
fn other_bits_go_into_what_holds_them() {
    let place = Place::new();
    for (bits, format, level) in [
        ("2bit", "gguf", "Q4_0"),
        ("3bit", "gguf", "Q4_0"),
        ("3bit", "awq", "4bit"),
        ("8bit", "gguf", "Q8_0"),
    ] {
        let options = ["-q", bits, "--group-size", "32"];
        exact(&place, "gptq", &options, format, &[], level);
    }
}

#[test]
fn awq_goes_into_gptq_and_gguf() {
    let place = Place::new();
    for group in ["32", "128", "-1"] {
        let options = ["-q", "4bit", "--group-size", group];
        exact(&place, "awq", &options, "gptq", &[], "4bit");
    }
    let options = ["-q", "4bit", "--group-size", "64"];
    exact(&place, "awq", &options, "gguf", &[], "Q5_0");
}

#[test]
fn asymmetric_groups_are_near_exact_in_q4_1() {
    let place = Place::new();
    let source = place.quantize("awq", "source", &["-q", "4bit", "--group-size", "64"]);
    let made = place.convert(&source, "gguf", "made", &[]);
    assert_eq!(
        (made.level.as_str(), made.counts()),
        ("Q4_1", [0, LAYERS, 0, 0])
    );
    let told = made.routes["largest_relative_change"].as_f64().unwrap();
    assert!(told > 1e-4 && told < 1e-3, "{told}");
    let (before, after) = (place.numbers(&source), place.numbers(&made.path));
    let mut largest = 0.0f64;
    for (name, before) in &before {
        let numbers = |bytes: &[u8]| -> Vec<f64> {
            let numbers = bytes.as_chunks::<4>().0.iter();
            numbers
                .map(|bytes| f32::from_le_bytes(*bytes).into())
                .collect()
        };
        let (before, after) = (numbers(before), numbers(&after[name]));
        for (before, after) in before.chunks(64).zip(after.chunks(64)) {
            let most = before.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            let change = before.iter().zip(after).map(|(a, b)| (a - b).abs());
            largest = largest.max(change.fold(0.0, f64::max) / most.max(f64::MIN_POSITIVE));
        }
    }
    // What is told is what is found; the sum of both in single precision may round, too.
    assert!(
        largest > 0.9 * told && largest < told + 1e-6,
        "{largest}, told {told}"
    );
}

#[test]
fn blocks_of_gguf_go_into_gptq_and_awq() {
    let place = Place::new();
    for (level, format, made_level) in [
        ("Q4_0", "awq", "4bit"),
        ("Q4_0", "gptq", "4bit"),
        ("Q8_0", "gptq", "8bit"),
        ("Q5_0", "gptq", "8bit"),
    ] {
        let source = place.quantize("gguf", "source", &["-q", level, "--overwrite"]);
        let made = place.convert(&source, format, "made", &["--overwrite"]);
        let case = format!("{level} to {format}");
        // Embeddings and head stay in 16 bits.
        assert_eq!(made.counts(), [LAYERS, 0, 2, 0], "{case}");
        assert_eq!(made.level, made_level, "{case}");
        let (before, after) = (place.numbers(&source), place.numbers(&made.path));
        for (name, before) in before.iter().filter(|(name, _)| name.contains("_proj")) {
            assert!(before == &after[name], "{case}: {name}");
        }
    }
}

#[test]
fn what_is_not_quantized_is_quantized() {
    let place = Place::new();
    let source = place.quantize("gguf", "source", &["-q", "BF16"]);
    let made = place.convert(&source, "awq", "made", &["--set", "method=rtn"]);
    assert!(made.routes.is_null(), "{}", made.routes);
}

#[test]
fn a_plan_tells_the_routes() {
    let place = Place::new();
    let source = place.quantize("gptq", "source", &["-q", "4bit"]);
    let planned = place.try_convert(&source, "gguf", "made", &["--dry-run"]);
    let planned = planned.expect_code(0).json();
    assert_eq!(planned["routes"]["exact"], LAYERS);
    assert!(!place.path().join("made.gguf").exists());
}

#[test]
fn quantizing_anew_takes_a_text() {
    let place = Place::new();
    let source = place.quantize("gguf", "source", &["-q", "Q4_K_M"]);
    let arguments = [
        "--force",
        "--calibration-samples",
        "2",
        "--calibration-length",
        "64",
    ];
    let made = place.convert(&source, "gptq", "made", &arguments);
    assert_eq!(made.counts(), [0, 0, 2, LAYERS]);
    let meta = &super::config(&made.path)["quantization_config"]["meta"];
    assert_eq!(meta["method"], "gptq");
    assert_eq!(meta["calibration"]["samples"], 2);
}
