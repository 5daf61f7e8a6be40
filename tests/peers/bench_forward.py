"""The forward pass of SmolLM2 against torch: ours and transformers' in turns, on as many threads and the same batch.

Usage: bench_forward.py --bench BINARY --model FOLDER [--threads 2] [--rounds 3] [--samples 4] [--length 512]

BINARY is the benchmark `forward` of the tests' crate (`cargo bench -p llm-quantize-tests --bench forward --no-run`
prints its path). Torch runs in float32 with `inference_mode`, with its own and its plain attention; the better one
counts. Loading is not counted on either side. Prints each round's seconds, the medians, and ours as multiples of
torch's speed. Exits with 1 if torch is faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time


def ours(args):
    env = os.environ | {
        "LLM_QUANTIZE_BENCH_MODEL": args.model,
        "LLM_QUANTIZE_BENCH_THREADS": str(args.threads),
        "LLM_QUANTIZE_BENCH_SAMPLES": str(args.samples),
        "LLM_QUANTIZE_BENCH_LENGTH": str(args.length),
        "LLM_QUANTIZE_BENCH_RUNS": "3",
    }
    command = [args.bench]
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


class Torch:
    """transformers' model, timed in both ways of computing attention."""

    def __init__(self, args):
        import torch
        import transformers

        self.torch = torch
        torch.set_num_threads(args.threads)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        count = args.samples * args.length
        ids = [i * 7919 % self.model.config.vocab_size for i in range(count)]
        self.ids = torch.tensor(ids).reshape(args.samples, args.length)

    def seconds(self, run):
        """The median of three runs."""
        times = []
        for _ in range(3):
            start = time.perf_counter()
            with self.torch.inference_mode():
                run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def measure(self):
        found = {}
        for way in ("sdpa", "eager"):
            self.model.set_attn_implementation(way)
            found[f"{way}_s"] = self.seconds(lambda: self.model.model(input_ids=self.ids, use_cache=False))
            found[f"{way}_logits_s"] = self.seconds(lambda: self.model(input_ids=self.ids, use_cache=False))
        return found

    def peak(self):
        """GFLOP/s of a large product."""
        a = self.torch.rand(2048, 2048)
        best = min(self.seconds(lambda: a @ a.T) for _ in range(3))
        return 2e-9 * 2048**3 / best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="the benchmark's binary")
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    args = parser.parse_args()
    torch = Torch(args)
    rounds = []
    for index in range(args.rounds):
        rounds.append(ours(args) | torch.measure() | {"mkl_peak_gflops": torch.peak()})
        print(f"round {index + 1}: {json.dumps({key: round(value, 3) for key, value in rounds[-1].items()})}", flush=True)
    middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    print(f"medians: {json.dumps({key: round(value, 3) for key, value in middle.items()})}")
    blocks = min(middle["sdpa_s"], middle["eager_s"]) / middle["forward_s"]
    logits = min(middle["sdpa_logits_s"], middle["eager_logits_s"]) / (middle["forward_s"] + middle["head_s"])
    gram = middle["gram_s"] / middle["forward_s"]
    print(f"torch's time over ours: {blocks:.2f} for the blocks, {logits:.2f} with logits")
    print(f"linear layers at {middle['linear_percent_of_peak']:.0f} % of the peak of gemm; Gram matrices {gram:.2f} of a pass")
    sys.exit(0 if min(blocks, logits) > 1 else 1)


if __name__ == "__main__":
    main()
