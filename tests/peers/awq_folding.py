"""Factors that AWQ folds into a model, read back from what it wrote, and the model with them but before any rounding.

Norms say which factors their layers' inputs have. Those of values and of up projections are in rows of quantized weights,
where rounding hides them; so the model gets biases, which are stored as they are."""

import json
import re
import shutil

import torch
from safetensors.torch import save_file

import gptq

PROJECTION = re.compile(r"(model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj)\.weight")


def add_biases(source, out):
    """A copy of a Llama whose projections have biases, none of them zero."""
    shutil.copytree(source, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"attention_bias": True, "mlp_bias": True}))
    tensors = gptq.read_tensors(out)
    random = torch.Generator().manual_seed(7)
    for name, weight in list(tensors.items()):
        if match := PROJECTION.fullmatch(name):
            bias = torch.rand(len(weight), generator=random) * 0.2 + 0.05
            sign = torch.randint(0, 2, (len(weight),), generator=random) * 2 - 1
            tensors[f"{match[1]}.bias"] = (bias * sign).to(weight.dtype)
    # Tensors may be views of the file that is being replaced.
    save_file(tensors, out / "new", {"format": "pt"})
    (out / "new").replace(out / "model.safetensors")


def folded(before, after, config):
    """The source's tensors in float32 with the factors that its AWQ folder has, and those factors by their places:
    `W x = (W f) (x / f)` for each of them."""
    state = {name: tensor.float() for name, tensor in before.items()}
    found = {}

    def fold(name):
        state[name] = after[name].float()
        found[name] = before[name].float() / state[name]
        return found[name]

    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        attention, mlp = f"{block}.self_attn", f"{block}.mlp"
        inputs, wide = fold(f"{block}.input_layernorm.weight"), fold(f"{block}.post_attention_layernorm.weight")
        for kind in "qkv":
            state[f"{attention}.{kind}_proj.weight"] *= inputs
        for kind in ("gate", "up"):
            state[f"{mlp}.{kind}_proj.weight"] *= wide
        values, up = fold(f"{attention}.v_proj.bias"), fold(f"{mlp}.up_proj.bias")
        state[f"{attention}.v_proj.weight"] /= values[:, None]
        state[f"{attention}.o_proj.weight"] *= values.view(groups, 1, -1).expand(-1, heads // groups, -1).reshape(-1)
        state[f"{mlp}.up_proj.weight"] /= up[:, None]
        state[f"{mlp}.down_proj.weight"] *= up
    return state, found
