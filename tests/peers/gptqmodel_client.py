"""GPTQModel as a client: loads folders on the CPU, hands out the weights that it unpacks, and runs the model.

Import this before torch is first used: it sets what GPTQModel reads from the environment.
"""

import contextlib
import os
import sys
import tempfile

# GPTQModel starts (cores + 1) / 2 workers but wants two of them for loading: without this it fails on two cores. Its
# kernels ask for torch.compile, which would take minutes of a C++ compiler for nothing.
os.environ.update(GPTQMODEL_CPU_WORKERS="2", TORCHDYNAMO_DISABLE="1")

import torch


@contextlib.contextmanager
def quiet():
    """Keeps what the library prints on both streams, to be shown only if something fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile("w+b") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            if failed:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 3000))
                sys.stderr.write(log.read().decode(errors="replace") + "\n")


def load(folder, dtype, backend="AUTO"):
    """The transformers model inside GPTQModel's wrapper, with the kernels that GPTQModel chooses."""
    with quiet():
        from gptqmodel import BACKEND, GPTQModel

        return GPTQModel.load(str(folder), device="cpu", dtype=dtype, backend=getattr(BACKEND, backend)).model


def quantized_modules(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "qweight")}


def unpacked(folder):
    """Weights as GPTQModel's plain torch kernel unpacks them: {layer: float32 [out, in]}."""
    weights = {}
    for name, module in quantized_modules(load(folder, torch.float16, "TORCH")).items():
        # The kernel multiplies in the scales' type; in float32 its products are exact, as ours are.
        module.scales.data = module.scales.data.float()
        with torch.inference_mode():
            weights[name] = type(module).dequantize_weight(module).T.float().contiguous()
    return weights


def unpacked_awq(qweight, qzeros):
    """Codes [in, out] and zeros [groups, out] of an AWQ layer as GPTQModel's kernels unpack them."""
    with quiet():
        from gptqmodel.quantization.awq.utils.packing_utils import reverse_awq_order, unpack_awq
    codes, zeros = reverse_awq_order(*unpack_awq(qweight, qzeros, 4), 4)
    return codes & 15, zeros & 15


def kernels(model):
    return sorted({type(module).__name__ for module in quantized_modules(model).values()})
