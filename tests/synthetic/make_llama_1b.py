"""Writes a synthetic Llama of 1.1 billion parameters as sharded bf16 safetensors, to measure speed and memory with.

The weights are deterministic noise with the shape of real ones: heavy tails, columns of unequal size, a spread of about
1/sqrt(inputs). The model says nothing sensible, but quantizers take the same paths as on a real one. Tokenizer files
are copied from a Hugging Face folder with 49152 tokens, such as the one that `llm-quantize convert` makes of SmolLM2.

Needs numpy only. Memory stays below 200 MB; disk is 2.1 GB at the full size.
Usage: python make_llama_1b.py OUT_DIR --tokenizer HF_DIR [--layers N] [--untied] [--shard-size BYTES]
"""

import argparse
import json
import pathlib
import shutil
import zlib

import numpy as np

HIDDEN, MLP, HEADS, KV_HEADS, VOCAB = 2048, 5632, 32, 4, 49152
HEAD_DIM = HIDDEN // HEADS
CHUNK = 1 << 22  # elements made at a time
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                   "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json")


def tensor_shapes(layers, untied):
    """(name, shape) in the order of the files."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "mlp.gate_proj.weight", (MLP, HIDDEN)
        yield prefix + "mlp.up_proj.weight", (MLP, HIDDEN)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, MLP)
    yield "model.norm.weight", (HIDDEN,)
    if untied:
        yield "lm_head.weight", (VOCAB, HIDDEN)


def to_bf16(values):
    """float32 to bf16 bits, rounding half to even."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def chunks(name, shape):
    """The tensor's bf16 bits, some rows at a time."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 1:
        yield to_bf16(np.exp(rng.normal(0.0, 0.2, shape)).astype(np.float32))
        return
    rows, width = shape
    columns = np.exp(rng.normal(0.0, 0.3, width)).astype(np.float32) / np.float32(np.sqrt(width))
    step = max(1, CHUNK // width)
    for first in range(0, rows, step):
        values = rng.standard_normal((min(step, rows - first), width), dtype=np.float32)
        values *= 1 + np.float32(0.05) * values * values  # the cubic term makes the tails heavy
        values *= columns
        yield to_bf16(values)


def plan_shards(tensors, shard_size):
    shards, used = [[]], 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        if shards[-1] and used + size > shard_size:
            shards.append([])
            used = 0
        shards[-1].append((name, shape, size))
        used += size
    return shards


def write_shard(path, shard):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, size in shard:
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape, _ in shard:
            for chunk in chunks(name, shape):
                file.write(chunk)


def write_config(out, layers, untied):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": HIDDEN, "intermediate_size": MLP,
        "head_dim": HEAD_DIM, "initializer_range": 0.02, "max_position_embeddings": 2048,
        "num_attention_heads": HEADS, "num_hidden_layers": layers, "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": not untied, "torch_dtype": "bfloat16",
        "use_cache": True, "vocab_size": VOCAB,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="Hugging Face folder to copy the tokenizer from")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--untied", action="store_true", help="write an output head of its own")
    parser.add_argument("--shard-size", type=int, default=500_000_000, help="bytes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    copied = [f for f in TOKENIZER_FILES if (args.tokenizer / f).exists()]
    if "tokenizer.json" not in copied:
        parser.error(f"no tokenizer.json in {args.tokenizer}")
    for name in copied:
        shutil.copyfile(args.tokenizer / name, args.out / name)
    shards = plan_shards(list(tensor_shapes(args.layers, args.untied)), args.shard_size)
    weight_map = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        write_shard(args.out / file, shard)
        weight_map |= {name: file for name, _, _ in shard}
    total = sum(size for shard in shards for _, _, size in shard)
    (args.out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")
    write_config(args.out, args.layers, args.untied)
    print(f"{args.out}: {total // 2} parameters, {total} bytes, {len(shards)} shards")


main()
