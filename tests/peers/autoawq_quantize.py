"""Quantizes a Hugging Face folder with AutoAWQ 0.2.9 on the CPU; a program of its own, in AutoAWQ's environment.

Usage: autoawq_quantize.py MODEL TOKENS.npy OUT [--group 64]
TOKENS.npy holds one calibration sample a row. The last line of stdout is a JSON object: seconds to load, quantize, save.

As published, AutoAWQ destroys what it quantizes on a CPU: its search keeps the weights to go back to with `.cpu()`, which
is no copy there, and then multiplies them in place. Here that call copies. It also spends half its time in the system's
kernel, which takes its memory back and gives it again; the caller should keep glibc from that (see `ENVIRONMENT` in
bench_awq.py).
"""

import argparse
import inspect
import json
import os
import textwrap
import time

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("out")
    parser.add_argument("--group", type=int, default=64)
    return parser.parse_args()


def repair(module):
    """Lets the search go back to weights that are a copy."""
    search = module.AwqQuantizer._compute_best_scale
    text = textwrap.dedent(inspect.getsource(search))
    if text.count("v.cpu()") != 1:
        raise RuntimeError("this AutoAWQ is not the one that is known to need a repair")
    names = {}
    exec(text.replace("v.cpu()", "v.cpu().clone()"), module.__dict__, names)
    module.AwqQuantizer._compute_best_scale = names["_compute_best_scale"]


def main():
    args = arguments()
    import numpy as np
    from awq import AutoAWQForCausalLM
    from awq.quantize import quantizer
    from transformers import AutoTokenizer

    repair(quantizer)
    samples = np.load(args.tokens)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    times = [time.monotonic()]
    model = AutoAWQForCausalLM.from_pretrained(args.model, device_map="cpu", torch_dtype="float32", use_cache=False)
    times.append(time.monotonic())
    config = {"zero_point": True, "q_group_size": args.group, "w_bit": 4, "version": "GEMM"}
    model.quantize(tokenizer, quant_config=config, calib_data=samples.tolist(), max_calib_samples=len(samples),
                   max_calib_seq_len=samples.shape[1])
    times.append(time.monotonic())
    model.save_quantized(args.out)
    tokenizer.save_pretrained(args.out)
    times.append(time.monotonic())
    print()
    print(json.dumps(dict(zip(("load_s", "quantize_s", "save_s"), np.diff(times).round(1).tolist()))), flush=True)


main()
