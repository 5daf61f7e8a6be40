use super::*;
use crate::error::ExitCode;
use crate::graph::Site;
use crate::graph::testing::{ATTENTION_BIASES, HEAD_NORMS, config, graph, graph_of, tensors, with};
use serde_json::{Value, json};

const fn norm(weight: usize) -> Norm {
    Norm {
        weight,
        plus_one: false,
    }
}

/// Which linear layers of the last block have biases, in order.
fn biases(graph: &Graph) -> Vec<bool> {
    let stages = graph.blocks[3].stages.iter();
    let linears = stages.flat_map(|stage| &stage.linears);
    linears.map(|linear| linear.bias.is_some()).collect()
}

fn attentions(graph: &Graph) -> Vec<&Attention> {
    let first = graph.blocks.iter().map(|block| &block.stages[0].then);
    first
        .map(|then| match then {
            Then::Attention(attention) => attention,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_llama_has_all_its_parts() {
    let graph = graph("LlamaForCausalLM", json!({"rms_norm_eps": 1e-5})).unwrap();
    assert_eq!((graph.family, graph.blocks.len()), ("Llama", 4));
    assert_eq!((graph.heads, graph.kv_heads, graph.head_dim), (2, 1, 4));
    assert_eq!((graph.context, graph.norm_epsilon), (2048, 1e-5));
    assert_eq!(graph.rotary.frequencies, [1.0, 0.01]);
    assert_eq!((graph.embedding, graph.final_norm.weight), (0, 1));
    assert_eq!(graph.head.weight, 2);
    let block = &graph.blocks[1];
    assert_eq!(block.norm, norm(12));
    let inputs: Vec<usize> = block.stages.iter().map(Stage::inputs).collect();
    assert_eq!(inputs, [8, 8, 8, 12]);
    assert_eq!(block.stages[1].then, Then::AddAndNorm(norm(17)));
    assert_eq!(block.stages[2].then, Then::Gate(Activation::Silu));
    assert_eq!(block.stages[3].then, Then::Add);
    let key = &block.stages[0].linears[1];
    assert_eq!(key.name, "model.layers.1.self_attn.k_proj.weight");
    assert_eq!((key.weight, key.inputs, key.outputs), (14, 8, 4));
    assert!(biases(&graph).iter().all(|bias| !bias));
}

#[test]
fn weights_are_found_at_their_sites() {
    let graph = graph("LlamaForCausalLM", json!({})).unwrap();
    let site = |name: &str| graph.site_of(name);
    let expected = Site::Block { block: 2, stage: 0 };
    assert_eq!(
        site("model.layers.2.self_attn.v_proj.weight"),
        Some(expected)
    );
    let expected = Site::Block { block: 3, stage: 3 };
    assert_eq!(site("model.layers.3.mlp.down_proj.weight"), Some(expected));
    assert_eq!(site("lm_head.weight"), Some(Site::Head));
    for name in ["model.norm.weight", "model.embed_tokens.weight", "x"] {
        assert_eq!(site(name), None, "{name}");
    }
}

#[test]
fn the_head_may_be_the_embeddings() {
    let own = tensors();
    let mut without = tensors();
    without.remove(2);
    let llama = |tied: bool| config("LlamaForCausalLM", &json!({"tie_word_embeddings": tied}));
    let tied = graph_of(llama(true), without.clone()).unwrap();
    assert_eq!(tied.head.weight, tied.embedding);
    assert_eq!(tied.site_of("model.embed_tokens.weight"), Some(Site::Head));
    // A head that is there counts.
    assert_eq!(graph_of(llama(true), own).unwrap().head.weight, 2);
    let error = graph_of(llama(false), without.clone()).unwrap_err();
    assert!(error.message.contains("no tensor \"lm_head.weight\""));
    // The default of the family.
    let smollm3 = config("SmolLM3ForCausalLM", &json!({}));
    assert!(graph_of(smollm3, without.clone()).is_ok());
    assert!(graph_of(config("MistralForCausalLM", &json!({})), without).is_err());
}

#[test]
fn biases_follow_the_family_and_its_flags() {
    let biased = || with(tensors(), &ATTENTION_BIASES);
    let flag = json!({"attention_bias": true});
    let of = |architecture, extra: &Value, tensors| {
        biases(&graph_of(config(architecture, extra), tensors).unwrap())
    };
    let all = [true, true, true, true, false, false, false];
    let qkv = [true, true, true, false, false, false, false];
    let none = [false; 7];
    assert_eq!(of("LlamaForCausalLM", &flag, biased()), all);
    // Without the flag they are ignored, as transformers does; Mistral has none at all.
    assert_eq!(of("LlamaForCausalLM", &json!({}), biased()), none);
    assert_eq!(of("MistralForCausalLM", &flag, biased()), none);
    assert_eq!(of("Qwen2ForCausalLM", &json!({}), biased()), qkv);
    let qwen3 = || with(biased(), &HEAD_NORMS);
    assert_eq!(of("Qwen3ForCausalLM", &flag, qwen3()), all);
    assert_eq!(of("Qwen3ForCausalLM", &json!({}), qwen3()), none);
    let mlp = [
        ("mlp.gate_proj.bias", 12),
        ("mlp.up_proj.bias", 12),
        ("mlp.down_proj.bias", 8),
    ];
    let extra = json!({"mlp_bias": true});
    let expected = [false, false, false, false, true, true, true];
    assert_eq!(
        of("LlamaForCausalLM", &extra, with(tensors(), &mlp)),
        expected
    );
    let error = graph("Qwen2ForCausalLM", json!({})).unwrap_err();
    assert!(
        error
            .message
            .contains("model.layers.0.self_attn.q_proj.bias")
    );
}

#[test]
fn heads_of_qwen3_have_norms_and_a_size_of_their_own() {
    let normed = || with(tensors(), &HEAD_NORMS);
    let graph = graph_of(config("Qwen3ForCausalLM", &json!({})), normed()).unwrap();
    let attention = attentions(&graph)[0];
    assert_eq!(attention.q_norm, Some(norm(39)));
    assert_eq!(attention.k_norm, Some(norm(40)));
    let silent = json!({"head_dim": null});
    let error = graph_of(config("Qwen3ForCausalLM", &silent), normed()).unwrap_err();
    // 128 elements, not 8 / 2.
    assert!(error.message.contains("[256, 8]"), "{error}");
}

#[test]
fn windows_are_those_of_the_family() {
    let windows = |architecture: &str, extra: Value| {
        let tensors = with(tensors(), &ATTENTION_BIASES);
        let graph = graph_of(config(architecture, &extra), tensors).unwrap();
        let windows = attentions(&graph).into_iter().map(|a| a.window);
        windows.collect::<Vec<_>>()
    };
    let (llama, mistral) = ("LlamaForCausalLM", "MistralForCausalLM");
    let (qwen2, smollm3) = ("Qwen2ForCausalLM", "SmolLM3ForCausalLM");
    assert_eq!(windows(llama, json!({"sliding_window": 5})), [None; 4]);
    assert_eq!(windows(mistral, json!({"sliding_window": 5})), [Some(5); 4]);
    assert_eq!(windows(mistral, json!({})), [Some(4096); 4]);
    assert_eq!(windows(mistral, json!({"sliding_window": null})), [None; 4]);
    assert_eq!(windows(qwen2, json!({"sliding_window": 5})), [None; 4]);
    let upper = json!({"sliding_window": 5, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows(qwen2, upper.clone()), [None, None, None, Some(5)]);
    let mut listed = upper;
    listed["layer_types"] = json!([
        "full_attention",
        "sliding_attention",
        "full_attention",
        "full_attention"
    ]);
    assert_eq!(windows(qwen2, listed), [None, Some(5), None, None]);
    // SmolLM 3 has none by default, and then in the layers without rotary embeddings.
    let used = json!({"use_sliding_window": true});
    assert_eq!(windows(smollm3, used), [None; 4]);
    let used = json!({"use_sliding_window": true, "sliding_window": 7});
    assert_eq!(windows(smollm3, used), [None, None, None, Some(7)]);
}

#[test]
fn smollm3_leaves_out_rotary_embeddings() {
    let rotary = |extra: Value| {
        let graph = graph("SmolLM3ForCausalLM", extra).unwrap();
        attentions(&graph)
            .into_iter()
            .map(|attention| attention.rotary)
            .collect::<Vec<_>>()
    };
    assert_eq!(rotary(json!({})), [true, true, true, false]);
    let interval = json!({"no_rope_layer_interval": 2});
    assert_eq!(rotary(interval), [true, false, true, false]);
    let listed = json!({"no_rope_layers": [0, 1, 1, 1], "no_rope_layer_interval": 2});
    assert_eq!(rotary(listed), [false, true, true, true]);
    let other = graph("LlamaForCausalLM", json!({"no_rope_layers": [0, 0, 0, 0]})).unwrap();
    assert!(attentions(&other).iter().all(|attention| attention.rotary));
}

#[test]
fn activations_by_all_their_names() {
    for (name, expected) in [
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
    ] {
        let graph = graph("LlamaForCausalLM", json!({"hidden_act": name})).unwrap();
        assert_eq!(graph.blocks[0].stages[2].then, Then::Gate(expected));
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let (llama, qwen2) = ("LlamaForCausalLM", "Qwen2ForCausalLM");
    for (architecture, extra, part) in [
        ("GptOssForCausalLM", json!({}), "GptOssForCausalLM"),
        (llama, json!({"hidden_act": "relu"}), "\"relu\""),
        (llama, json!({"num_local_experts": 8}), "mixture of experts"),
        (llama, json!({"partial_rotary_factor": 0.5}), "not 1"),
        (
            llama,
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
            "not 1",
        ),
        (llama, json!({"is_causal": false}), "is_causal"),
        (
            llama,
            json!({"rope_scaling": {"rope_type": "longrope"}}),
            "longrope",
        ),
        (
            qwen2,
            json!({"layer_types": ["chunked_attention", "", "", ""]}),
            "chunked_attention",
        ),
    ] {
        let error = graph(architecture, extra).unwrap_err();
        assert_eq!(error.class, ExitCode::UnsupportedConversion, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
    let error = graph("GptOssForCausalLM", json!({})).unwrap_err();
    assert!(
        error
            .advice()
            .contains("LlamaForCausalLM, MistralForCausalLM")
    );
    let error = graph_of(json!({"model_type": "mamba"}), Vec::new()).unwrap_err();
    assert!(error.message.contains("mamba"));
    assert!(graph_of(json!({}), Vec::new()).is_err());
}

#[test]
fn impossible_models_are_refused() {
    let (llama, qwen2) = ("LlamaForCausalLM", "Qwen2ForCausalLM");
    let full = "full_attention";
    let sliding = "sliding_attention";
    for (architecture, extra, part) in [
        (llama, json!({"hidden_size": null}), "hidden_size"),
        (llama, json!({"num_attention_heads": 0}), "no possible size"),
        (
            llama,
            json!({"num_attention_heads": 3, "num_key_value_heads": 2}),
            "share",
        ),
        (llama, json!({"head_dim": 3}), "even"),
        (llama, json!({"head_dim": 8}), "[16, 8]"),
        (llama, json!({"head_dim": 4_000_000_000u64}), "says"),
        (
            llama,
            json!({"num_hidden_layers": 4_000_000_000u64}),
            "layers.4.",
        ),
        (llama, json!({"vocab_size": 11}), "[11, 8]"),
        (
            llama,
            json!({"architectures": "LlamaForCausalLM", "model_type": 3}),
            "string",
        ),
        (llama, json!({"architectures": [3]}), "list of names"),
        (qwen2, json!({"layer_types": [full]}), "1 entries"),
        (
            qwen2,
            json!({"layer_types": [full, full, full, sliding]}),
            "no window",
        ),
        (qwen2, json!({"layer_types": 3}), "not a list"),
        (
            "SmolLM3ForCausalLM",
            json!({"no_rope_layers": [1]}),
            "list of 4",
        ),
    ] {
        let error = graph(architecture, extra).unwrap_err();
        assert_eq!(error.class, ExitCode::Validation, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}

#[test]
fn gemmas_norms_and_embeddings_are_its_own() {
    let graph = graph("GemmaForCausalLM", json!({"hidden_act": "gelu"})).unwrap();
    assert_eq!(graph.embedding_scale, 8f32.sqrt());
    assert!(graph.final_norm.plus_one && graph.blocks[0].norm.plus_one);
    let gate = &graph.blocks[0].stages[2].then;
    assert_eq!(*gate, Then::Gate(Activation::GeluTanh));
    let both = json!({"use_bidirectional_attention": true});
    assert!(super::super::testing::graph("GemmaForCausalLM", both).is_err());
}

#[test]
fn phis_layers_that_read_the_same_are_one() {
    let mut fused: Vec<(String, Vec<u64>)> = tensors();
    fused.retain(|(name, _)| {
        let parts = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"];
        !parts.iter().any(|part| name.contains(part))
    });
    for layer in 0..4 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        fused.push((name("self_attn.qkv_proj"), vec![16, 8]));
        fused.push((name("mlp.gate_up_proj"), vec![24, 8]));
    }
    let graph = graph_of(config("Phi3ForCausalLM", &json!({})), fused).unwrap();
    let stages = &graph.blocks[3].stages;
    assert_eq!(stages[0].linears.len(), 1);
    assert_eq!(
        (stages[0].linears[0].outputs, stages[2].linears[0].outputs),
        (16, 24)
    );
    assert!(matches!(&stages[0].then, Then::Attention(a) if a.window.is_none()));
}
