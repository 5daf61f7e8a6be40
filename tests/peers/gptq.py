"""The GPTQ format, read from its description alone with numpy: an oracle that shares no code with any client.

qweight  int32 [in·bits/32, out]    down a column, the fields of `bits` bits of one output's inputs, as one stream of
                                    bits from the lowest of the first word; with 3 bits a field may span two words
qzeros   int32 [groups, out·bits/32]  along a row, the same stream over outputs; holds zero - 1 (modulo 2^bits) in the
                                    format "gptq", and zero itself in "gptq_v2"
scales   float16 [groups, out]
g_idx    int32 [in]                 the group of each input
weight[o, i] = (q[i, o] - zero[g_idx[i], o]) * scale[g_idx[i], o]
"""

import json
import pathlib

import numpy as np
import torch
from safetensors import safe_open

PARTS = ("qweight", "qzeros", "scales", "g_idx")


def unpack(words, bits):
    """Fields of a stream down each column: int32 [n·bits/32, columns] to int64 [n, columns]."""
    words = words.view(np.uint32).astype(np.uint64)
    start = np.arange(len(words) * 32 // bits) * bits
    word, shift = start // 32, (start % 32).astype(np.uint64)[:, None]
    following = words[np.minimum(word + 1, len(words) - 1)] << np.uint64(32)
    return ((words[word] | following) >> shift & np.uint64(2**bits - 1)).astype(np.int64)


def dequantize(parts, bits, zero_offset):
    """Weights float32 [out, in] of one layer; each is one float32 product, so exact equality can be asked for."""
    q = unpack(parts["qweight"], bits)
    zeros = (unpack(parts["qzeros"].T.copy(), bits).T + zero_offset) & (2**bits - 1)
    groups = parts["g_idx"].astype(np.int64)
    return np.ascontiguousarray(((q - zeros[groups]).astype(np.float32) * parts["scales"].astype(np.float32)[groups]).T)


def read_tensors(folder):
    """All tensors of a folder by name; the index, if there is one, has to name each tensor's file."""
    folder, found, files = pathlib.Path(folder), {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if name in found:
                    raise ValueError(f"{name} is in {path.name} and in {files[name]}")
                found[name], files[name] = file.get_tensor(name), path.name
    index = folder / "model.safetensors.index.json"
    if index.exists():
        if json.loads(index.read_text())["weight_map"] != files:
            raise ValueError(f"{index} does not agree with the files")
    elif len(set(files.values())) != 1:
        raise ValueError(f"{folder} has {len(set(files.values()))} files of tensors and no index")
    return found


def quantization_config(folder):
    """config.json's `quantization_config`, or None of a folder that is not quantized."""
    return json.loads((pathlib.Path(folder) / "config.json").read_text()).get("quantization_config")


def layers(tensors):
    """The quantized layers: {name: {part: numpy array}}; a layer that lacks a part is an error."""
    found = {}
    for key in tensors:
        name, _, part = key.rpartition(".")
        if part == "qweight":
            found[name] = {part: tensors[f"{name}.{part}"].numpy() for part in PARTS}
    return found


def dequantized(folder):
    """The folder's tensors with every quantized layer as a float32 weight: what a client computes with."""
    config, tensors = quantization_config(folder), read_tensors(folder)
    if config is None:
        return tensors
    offset = 0 if config.get("checkpoint_format") == "gptq_v2" else 1
    quantized = layers(tensors)
    state = {key: value for key, value in tensors.items() if key.rpartition(".")[0] not in quantized or key.endswith(".bias")}
    for name, parts in quantized.items():
        state[f"{name}.weight"] = torch.from_numpy(dequantize(parts, config["bits"], offset))
    return state


def round_to_nearest(weight, bits, group, sym):
    """Each weight at the nearest point of its group's grid (float32 [out, in]), with no calibration.

    The grids are those that GPTQModel starts from: symmetric ones span twice the largest magnitude, asymmetric ones the
    range from the least to the largest weight with zero in it. Scales are rounded to float16 as in a file.
    """
    out, width = weight.shape
    values = weight.numpy().astype(np.float32).reshape(out, -1, width if group == -1 else group)
    top = 2**bits - 1
    low, high = np.minimum(values.min(-1, keepdims=True), 0), np.maximum(values.max(-1, keepdims=True), 0)
    if sym:
        high = np.maximum(high, -low)
        low = -high
    scale = ((high - low) / top).astype(np.float16).astype(np.float32)
    scale[scale == 0] = 1
    zero = np.full_like(scale, 2 ** (bits - 1)) if sym else np.clip(np.round(-low / scale), 0, top)
    q = np.clip(np.round(values / scale) + zero, 0, top)
    return torch.from_numpy(((q - zero) * scale).reshape(out, width))
