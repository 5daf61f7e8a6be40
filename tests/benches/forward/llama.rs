//! The graph of a plain Llama, from its configuration.

use llm_quantize::graph::{Activation, Attention, Block, Graph, Linear, Norm, Rotary, Stage, Then};
use llm_quantize_plugin_api::ModelDescription;

/// The graph of a model in Hugging Face's names.
pub fn graph(model: &ModelDescription) -> Graph {
    let number = |key: &str| model.config[key].as_u64().expect(key) as usize;
    let head_dim = number("head_dim");
    let theta = &model.config["rope_parameters"]["rope_theta"];
    let theta = theta.as_f64().expect("rope_theta") as f32;
    let frequency = |i| 1.0 / theta.powf(2.0 * i as f32 / head_dim as f32);
    let tied = model.config["tie_word_embeddings"].as_bool() == Some(true);
    let head = if tied {
        "model.embed_tokens"
    } else {
        "lm_head"
    };
    Graph {
        family: "llama",
        hidden: number("hidden_size"),
        heads: number("num_attention_heads"),
        kv_heads: number("num_key_value_heads"),
        head_dim,
        vocabulary: number("vocab_size"),
        context: number("max_position_embeddings"),
        norm_epsilon: model.config["rms_norm_eps"].as_f64().expect("epsilon") as f32,
        rotary: Rotary {
            frequencies: (0..head_dim / 2).map(frequency).collect(),
            magnitude: 1.0,
        },
        embedding: index(model, "model.embed_tokens"),
        blocks: (0..number("num_hidden_layers"))
            .map(|layer| block(model, layer))
            .collect(),
        final_norm: index(model, "model.norm"),
        head: linear(model, head),
    }
}

fn block(model: &ModelDescription, layer: usize) -> Block {
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let norm = |part: &str| Norm {
        weight: index(model, &name(part)),
    };
    let stage = |title, parts: &[&str], then| Stage {
        name: title,
        linears: parts
            .iter()
            .map(|part| linear(model, &name(part)))
            .collect(),
        then,
    };
    let attention = Attention {
        q_norm: None,
        k_norm: None,
        rotary: true,
        window: None,
    };
    let queries = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
    let gates = ["mlp.gate_proj", "mlp.up_proj"];
    let after = Then::AddAndNorm(norm("post_attention_layernorm"));
    Block {
        norm: norm("input_layernorm"),
        stages: vec![
            stage("attention input", &queries, Then::Attention(attention)),
            stage("attention output", &["self_attn.o_proj"], after),
            stage("feed-forward input", &gates, Then::Gate(Activation::Silu)),
            stage("feed-forward output", &["mlp.down_proj"], Then::Add),
        ],
    }
}

fn index(model: &ModelDescription, name: &str) -> usize {
    model.tensor_index(&format!("{name}.weight")).expect(name)
}

fn linear(model: &ModelDescription, name: &str) -> Linear {
    let weight = index(model, name);
    let shape = &model.tensors[weight].shape;
    Linear {
        name: format!("{name}.weight"),
        weight,
        bias: model.tensor_index(&format!("{name}.bias")),
        inputs: shape[1] as usize,
        outputs: shape[0] as usize,
    }
}
