"""AutoAWQ's other layouts, written by GPTQModel's own packers out of a folder in the layout gemm."""

import json
import shutil
import types

import gptqmodel_client as client

import torch
from safetensors.torch import save_file

import awq
import gptq

# Fields of a module that a packer reads beside its arguments.
BITS = 4


def packers():
    with client.quiet():
        from gptqmodel.nn_modules.qlinear.gemv_awq import AwqGEMVLinear
        from gptqmodel.nn_modules.qlinear.gemv_fast_awq import AwqGEMVFastLinear
    return {"gemv": AwqGEMVLinear, "gemv_fast": AwqGEMVFastLinear}


def packed(packer, parts, group):
    """The tensors that a packer makes of a layer in gemm: {part: tensor}."""
    weight = torch.from_numpy(awq.dequantize(parts))
    _, zeros = awq.codes(parts)
    linear = types.SimpleNamespace(in_features=weight.shape[1], weight=types.SimpleNamespace(data=weight, device=weight.device), bias=None)
    buffers = {}
    layer = types.SimpleNamespace(bits=BITS, group_size=group, in_features=weight.shape[1], zeros_name="qzeros", buffers=buffers)

    def register(name, tensor):
        buffers[name] = tensor
        setattr(layer, name, tensor)

    layer.register_buffer = register
    scales = torch.from_numpy(parts["scales"].T.astype("float32"))
    packer.pack(layer, linear, scales, torch.from_numpy(zeros.T.astype("float32")))
    return {part: buffers[part].contiguous() for part in awq.PARTS}


def write(gemm, out, version):
    """A copy of a folder, in one file, with its layers in another version."""
    packer = packers()[version]
    config = json.loads((gemm / "config.json").read_text())
    group = config["quantization_config"]["group_size"]
    tensors = gptq.read_tensors(gemm)
    for name, parts in awq.layers(tensors).items():
        tensors |= {f"{name}.{part}": tensor for part, tensor in packed(packer, parts, group).items()}
    shutil.copytree(gemm, out, dirs_exist_ok=True)
    config["quantization_config"]["version"] = version
    (out / "config.json").write_text(json.dumps(config))
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
