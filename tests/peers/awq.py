"""The AWQ format (version gemm), read from its description alone with numpy: an oracle that shares no code with any client.

qweight  int32 [in, out/8]      a word has eight neighbouring outputs of one input; from the lowest field of four bits on,
                                these are the outputs 0, 2, 4, 6, 1, 3, 5, 7
qzeros   int32 [groups, out/8]  the same of the zeros
scales   float16 [groups, out]
weight[o, i] = (q[i, o] - zero[group of i, o]) * scale[group of i, o]
"""

import numpy as np
import torch

import gptq

PARTS = ("qweight", "qzeros", "scales")
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def unpack(words):
    """Fields of words along each row: int32 [rows, n] to int64 [rows, 8n]."""
    words = words.view(np.uint32).astype(np.int64)
    fields = np.empty((*words.shape, 8), np.int64)
    for slot, output in enumerate(ORDER):
        fields[..., output] = words >> (4 * slot) & 15
    return fields.reshape(len(words), -1)


def codes(parts):
    """q and zeros of one layer, int64 [in, out] and [groups, out]."""
    return unpack(parts["qweight"]), unpack(parts["qzeros"])


def dequantize(parts):
    """Weights float32 [out, in] of one layer; each is one float32 product, so exact equality can be asked for."""
    return decoded(*codes(parts), parts["scales"])


def decoded(q, zeros, scales):
    """Weights float32 [out, in] of codes [in, out], zeros and scales [groups, out]."""
    groups = np.arange(len(q)) // (len(q) // len(zeros))
    return np.ascontiguousarray(((q - zeros[groups]).astype(np.float32) * scales.astype(np.float32)[groups]).T)


def layers(tensors):
    """The quantized layers: {name: {part: numpy array}}; a layer that lacks a part is an error."""
    names = [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]
    return {name: {part: tensors[f"{name}.{part}"].numpy() for part in PARTS} for name in names}


def dequantized(folder):
    """The folder's tensors with every quantized layer as a float32 weight: what a client computes with."""
    tensors = gptq.read_tensors(folder)
    quantized = layers(tensors)
    state = {key: value for key, value in tensors.items() if key.rpartition(".")[0] not in quantized or key.endswith(".bias")}
    return state | {f"{name}.weight": torch.from_numpy(dequantize(parts)) for name, parts in quantized.items()}


def round_to_nearest(weight, group):
    """Codes [in, out], zeros [groups, out] and scales [groups, out] by AutoAWQ's rule, with zero in every range."""
    out, width = weight.shape
    values = weight.numpy().astype(np.float32).reshape(out, -1, width if group == -1 else group)
    low, high = np.minimum(values.min(-1), 0), np.maximum(values.max(-1), 0)
    scales = (np.maximum(high - low, np.float32(1e-5)) / np.float32(15)).astype(np.float16)
    wide = scales.astype(np.float32)
    zeros = np.clip(-np.round(low / wide), 0, 15)
    q = np.clip(np.round(values / wide[..., None]) + zeros[..., None], 0, 15)
    return q.reshape(out, width).T.astype(np.int64), zeros.T.astype(np.int64), scales.T


def nearest(weight, scales, zeros):
    """Codes [in, out] of a weight float32 [out, in] on the grids of these scales and zeros [groups, out]."""
    out, width = weight.shape
    values = weight.numpy().astype(np.float32).reshape(out, len(scales), -1)
    steps = np.round(values / scales.astype(np.float32).T[..., None])
    return np.clip(steps + zeros.T[..., None], 0, 15).reshape(out, width).T.astype(np.int64)
