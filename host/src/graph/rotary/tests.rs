use super::*;
use llm_quantize_plugin_api::hf_config::Config;
use serde_json::{Value, json};

#[test]
fn frequencies_are_those_of_transformers() {
    let data: Value = serde_json::from_str(include_str!("../testdata/rotary.json")).unwrap();
    for case in data["cases"].as_array().unwrap() {
        let config = json!({"rope_parameters": case["rope_parameters"]});
        let config = Config::new(&config, "config.json");
        let rope = Rope::from_config(&config, 4096, 1.0).unwrap();
        let head_dim = case["head_dim"].as_u64().unwrap() as usize;
        let found = rotary(&rope, head_dim).unwrap();
        let close = |a: f32, b: &Value| {
            let b = b.as_f64().unwrap();
            ((f64::from(a) - b) / b).abs() < 5e-7
        };
        let expected = case["frequencies"].as_array().unwrap();
        assert_eq!(found.frequencies.len(), expected.len());
        for (pair, (a, b)) in found.frequencies.iter().zip(expected).enumerate() {
            assert!(close(*a, b), "{}, pair {pair}: {a} {b}", case["name"]);
        }
        assert!(
            close(found.magnitude, &case["magnitude"]),
            "{}",
            case["name"]
        );
    }
}

#[test]
fn infinite_frequencies_are_refused() {
    let yarn = YarnScaling {
        factor: 2.0,
        original_context: 4096,
        ..YarnScaling::default()
    };
    let rope = Rope {
        theta: 1.0,
        scaling: RopeScaling::Yarn(yarn),
    };
    let error = rotary(&rope, 16).unwrap_err();
    assert_eq!(error.class, crate::ExitCode::Validation);
}
