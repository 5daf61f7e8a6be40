"""A small model with experts, as a GGUF file of random weights: no family that we convert has them, but GGUF sources may."""

import gguf
import numpy as np

ARCH, LAYERS, EXPERTS, WIDTH, INNER, VOCABULARY = "qwen3moe", 9, 4, 256, 512, 320


def write(path):
    """Weights in F32, heavy-tailed; what a quantizer needs of the metadata."""
    writer = gguf.GGUFWriter(path, arch=ARCH)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_expert_feed_forward_length(INNER)
    writer.add_head_count(8)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    rng = np.random.default_rng(7)

    def add(name, *shape):
        writer.add_tensor(name + ".weight", (rng.standard_t(4, shape) * 0.02).astype(np.float32))

    add("token_embd", VOCABULARY, WIDTH)
    add("output", VOCABULARY, WIDTH)
    add("output_norm", WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        add(block + "attn_norm", WIDTH)
        add(block + "ffn_norm", WIDTH)
        for name, rows in (("q", WIDTH), ("k", WIDTH // 4), ("v", WIDTH // 4), ("output", WIDTH)):
            add(block + "attn_" + name, rows, WIDTH)
        add(block + "ffn_gate_inp", EXPERTS, WIDTH)
        add(block + "ffn_gate_exps", EXPERTS, INNER, WIDTH)
        add(block + "ffn_up_exps", EXPERTS, INNER, WIDTH)
        add(block + "ffn_down_exps", EXPERTS, WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
