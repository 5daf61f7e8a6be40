"""What a GPTQ folder must look like beside its source: files, configuration, and every tensor's name, type and shape."""

import json
import re

import numpy as np
import torch

import gptq

LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
# Values of these are the format's own; a client reads them before any tensor.
REQUIRED = {"bits", "group_size", "desc_act", "sym", "lm_head", "quant_method", "checkpoint_format"}


def problems(folder, source, bits, group, sym, checkpoint_format):
    """Lines about what is wrong, none of a good folder."""
    expected = {"bits": bits, "group_size": group, "sym": sym, "checkpoint_format": checkpoint_format,
                "desc_act": False, "lm_head": False, "quant_method": "gptq"}
    return [*files(folder, source), *_config(folder, source, expected), *_tensors(folder, source, expected)]


def files(folder, source):
    """Lines about the files beside configuration and weights: all are to be the source's."""
    def others(path):
        return {file.name: file for file in path.iterdir()
                if file.name not in ("config.json", "quantize_config.json") and ".safetensors" not in file.name}

    ours, theirs = others(folder), others(source)
    for name in sorted(ours.keys() ^ theirs.keys()):
        yield f"{name} is {'extra' if name in ours else 'missing'}"
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name].read_bytes() != theirs[name].read_bytes():
            yield f"{name} differs from the source's"


def _config(folder, source, expected):
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config", {})
    if config != json.loads((source / "config.json").read_text()):
        yield "config.json does not have the source's keys and values beside quantization_config"
    alone = json.loads((folder / "quantize_config.json").read_text())
    for where, document in (("config.json", quantization), ("quantize_config.json", alone)):
        for key in sorted(REQUIRED - document.keys()):
            yield f"{where} lacks {key}"
        for key, value in expected.items():
            if document.get(key) != value:
                yield f"{where} has {key} {document.get(key)!r}, not {value!r}"
    for key in sorted(quantization.keys() & alone.keys()):
        if quantization[key] != alone[key]:
            yield f"{key} is {quantization[key]!r} in config.json and {alone[key]!r} in quantize_config.json"


def _tensors(folder, source, expected):
    """Each linear layer of a block became four tensors, everything else is as it was."""
    ours, theirs = gptq.read_tensors(folder), gptq.read_tensors(source)
    for name, tensor in theirs.items():
        layer = name.removesuffix(".weight")
        if not LINEAR.fullmatch(name):
            kept = ours.pop(name, None)
            if kept is None or kept.dtype != tensor.dtype or not torch.equal(kept, tensor):
                yield f"{name} is not the source's"
            continue
        parts = {part: ours.pop(f"{layer}.{part}", None) for part in gptq.PARTS}
        missing = [part for part, value in parts.items() if value is None]
        if missing:
            yield f"{layer} lacks {missing}"
        else:
            yield from (f"{layer}: {line}" for line in _layer(parts, *tensor.shape, expected))
    if ours:
        yield f"there are more tensors: {sorted(ours)[:5]}"


def _layer(parts, out, width, expected):
    bits = expected["bits"]
    group = width if expected["group_size"] == -1 else expected["group_size"]
    groups = width // group
    shapes = {"qweight": (torch.int32, (width * bits // 32, out)), "qzeros": (torch.int32, (groups, out * bits // 32)),
              "scales": (torch.float16, (groups, out)), "g_idx": (torch.int32, (width,))}
    wrong = False
    for part, (dtype, shape) in shapes.items():
        if parts[part].dtype != dtype or tuple(parts[part].shape) != shape:
            wrong = True
            yield f"{part} is {parts[part].dtype} {tuple(parts[part].shape)}, not {dtype} {shape}"
    if wrong:
        return
    if not np.array_equal(parts["g_idx"].numpy(), np.arange(width) // group):
        yield "g_idx is not the number of each input's group"
    if not bool(torch.isfinite(parts["scales"]).all()):
        yield "scales are not finite"
    stored = gptq.unpack(parts["qzeros"].numpy().T.copy(), bits)
    if expected["sym"]:
        middle = 2 ** (bits - 1) - (expected["checkpoint_format"] == "gptq")
        if not np.all(stored == middle):
            yield f"zeros of a symmetric grid are not all stored as {middle}"
    elif expected["checkpoint_format"] == "gptq" and np.any(stored == 2**bits - 1):
        # Clients add 1 to whole words: a zero of 0, stored as all ones, would carry into its neighbour.
        yield "a zero of 0 is stored as -1, which clients read in different ways"
