//! Files in which not all layers can be taken over.

use super::{LAYERS, Place, config, tensors};

/// Q4_0 with keys of one block in Q6_K and the last layer of another in Q4_1.
const MIXED: [&str; 6] = [
    "-q",
    "Q4_0",
    "--set",
    r"tensor-type=blk\.0\.attn_k=q6_k",
    "--set",
    r"tensor-type=blk\.2\.ffn_down=q4_1",
];

const KEPT: [&str; 4] = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k_proj",
    "model.layers.0.self_attn.v_proj",
    "model.layers.2.mlp.down_proj",
];

#[test]
fn what_is_not_held_stays_in_16_bits_and_is_listed() {
    let place = Place::new();
    let source = place.quantize("gguf", "source", &MIXED);
    for format in ["awq", "gptq"] {
        let made = place.convert(&source, format, format, &[]);
        // Of the attention's input all layers are one in loaders, so all of them stay.
        assert_eq!(made.counts(), [LAYERS - 4, 0, 6, 0], "{format}");
        let tensors = tensors(&made.path);
        for module in KEPT {
            let find = |end: &str| tensors.iter().find(|t| t.name == format!("{module}{end}"));
            assert!(find(".qweight").is_none(), "{format}: {module}");
            assert_eq!(
                find(".weight").unwrap().dtype(),
                "BF16",
                "{format}: {module}"
            );
        }
        let quantization = &config(&made.path)["quantization_config"];
        for module in KEPT {
            let pattern = format!("-:^{}$", module.replace('.', r"\."));
            assert!(
                quantization["dynamic"][&pattern].is_object(),
                "{quantization}"
            );
        }
        if format == "awq" {
            let kept = quantization["modules_to_not_convert"].as_array().unwrap();
            assert!(
                KEPT.iter().all(|module| kept.iter().any(|k| k == module)),
                "{kept:?}"
            );
        }
        let (before, after) = (place.numbers(&source), place.numbers(&made.path));
        let kept = |name: &str| KEPT.iter().any(|module| name.starts_with(module));
        let layers = before.iter().filter(|(name, _)| name.contains("_proj"));
        for (name, before) in layers.filter(|(name, _)| !kept(name)) {
            assert_eq!(before, &after[name], "{format}: {name}");
        }
    }
}

#[test]
fn one_wide_layer_does_not_widen_all_others() {
    let place = Place::new();
    let options = ["-q", "Q4_0", "--set", r"tensor-type=blk\.1\.ffn_down=q8_0"];
    let source = place.quantize("gguf", "source", &options);
    let made = place.convert(&source, "gptq", "made", &[]);
    assert_eq!(
        (made.level.as_str(), made.counts()),
        ("4bit", [LAYERS - 1, 0, 3, 0])
    );
}

#[test]
fn kept_layers_go_into_gguf_as_they_are() {
    let place = Place::new();
    let source = place.quantize("gguf", "source", &MIXED);
    let awq = place.convert(&source, "awq", "awq", &[]);
    let back = place.convert(&awq.path, "gguf", "back", &[]);
    assert_eq!(
        (back.level.as_str(), back.counts()),
        ("Q4_0", [LAYERS - 4, 0, 0, 0])
    );
    assert_eq!(place.numbers(&awq.path), place.numbers(&back.path));
}
