"""Quantizes a Hugging Face folder with GPTQModel on the CPU; a program of its own, so that its memory can be measured.

Usage: gptqmodel_quantize.py MODEL TOKENS.npy OUT [--bits 4] [--group 64] [--asym] [--format gptq] [--act-order]
TOKENS.npy holds one calibration sample a row. The last line of stdout is a JSON object: seconds to load, quantize, save.
"""

import argparse
import json
import os
import time

# GPTQModel starts (cores + 1) / 2 workers but wants two of them for loading: without this it fails on two cores.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="", GPTQMODEL_CPU_WORKERS="2")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("out")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--asym", action="store_true")
    parser.add_argument("--format", default="gptq")
    parser.add_argument("--act-order", action="store_true", help="desc_act, which excludes GPTQModel's group-aware order")
    return parser.parse_args()


def main():
    args = arguments()
    import numpy as np
    from gptqmodel import GPTQModel, QuantizeConfig

    samples = np.load(args.tokens).tolist()
    # Its group-aware order, which is its default, excludes the order by activations and whole rows as groups.
    order = {"desc_act": args.act_order, **({"act_group_aware": False} if args.act_order or args.group == -1 else {})}
    config = QuantizeConfig(bits=args.bits, group_size=args.group, sym=not args.asym, format=args.format, **order)
    times = [time.monotonic()]
    model = GPTQModel.load(args.model, config, device="cpu")
    times.append(time.monotonic())
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples], batch_size=1)
    times.append(time.monotonic())
    model.save(args.out)
    times.append(time.monotonic())
    print()
    print(json.dumps(dict(zip(("load_s", "quantize_s", "save_s"), np.diff(times).round(1).tolist()))), flush=True)


main()
