"""The host's own forward pass computes what transformers computes, and `quality` makes the same figures of it.

tiny-llama is held to fixtures/reference.json and, with a quantized file beside it, to divergences and likeliest tokens
that are worked out here from transformers' logits. SmolLM2 is read from its GGUF and compared token by token with
transformers on the folder that `convert` makes of it. Small random models of each family (those of check_families.py,
and some that llama.cpp cannot compute: sliding windows, other activations, other layers without rotary embeddings) go
through the test program `logits`.
"""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import subprocess

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import check_families
import llama
from check_families import NOTICED, SEED, Case, distance, load, logits_of, make
from common import FIXTURES, TINY, Check, ToolError, smollm_gguf
from perplexity import windows_of

EVAL = FIXTURES / "text" / "eval.txt"
TINY_PERPLEXITY = 5e-4
SMOLLM_PERPLEXITY = 1e-3
LOG_PROBABILITY = 1e-3
# Only the order of sums differs, by 2e-5 at most so far.
LOGIT = 1e-4
# Of a mean over some thousand tokens: relative, and what float32 leaves of a sum of tens of thousands of terms.
DIVERGENCE = (1e-3, 1e-6)
# Windows and tokens of a window of SmolLM2's text: above 2000 tokens are scored.
SMOLLM_WINDOWS = (8, 256)
TINY_WINDOWS = (8, 256)

WINDOW = {"use_sliding_window": True, "sliding_window": 16}
LISTED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 8.0, "beta_slow": 2.0,
        "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}


@dataclasses.dataclass
class Other:
    """A model that llama.cpp cannot compute, and what makes another one of it: changes to config.json that have to
    move the logits, lest the comparison could not tell."""

    case: Case
    unlike: dict


OTHERS = {
    "llama-yarn-all-keys": Other(Case("Llama", torch.float32, rope=YARN), {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "llama-gelu": Other(Case("Llama", torch.float32, {"hidden_act": "gelu"}), {"hidden_act": "silu"}),
    "llama-gelu-tanh": Other(Case("Llama", torch.float32, {"hidden_act": "gelu_pytorch_tanh"}), {"hidden_act": "silu"}),
    "mistral-window": Other(Case("Mistral", torch.bfloat16, {"sliding_window": 16}), {"sliding_window": None}),
    "qwen2-upper-windows": Other(Case("Qwen2", torch.bfloat16, {**WINDOW, "max_window_layers": 2}),
                                 {"use_sliding_window": False, "layer_types": None}),
    "qwen3-listed-windows": Other(Case("Qwen3", torch.float32, {"head_dim": 32, **LISTED}),
                                  {"use_sliding_window": False, "layer_types": None}),
    "qwen3-biases": Other(Case("Qwen3", torch.float32, {"head_dim": 32, "attention_bias": True}), {"attention_bias": False}),
    "smollm3-every-second": Other(Case("SmolLM3", torch.bfloat16, {"num_hidden_layers": 4, "no_rope_layer_interval": 2}),
                                  {"no_rope_layers": [1, 1, 1, 1]}),
    "smollm3-windows": Other(Case("SmolLM3", torch.float32, {"num_hidden_layers": 4, **WINDOW}),
                             {"use_sliding_window": False, "layer_types": None}),
}
# Models that are converted, but not run: no activations of experts are collected.
NOT_RUN = ("mixtral", "qwen3moe")


# -- perplexity and divergence ------------------------------------------------------------------------------------------


def quality(check, models, windows, context, *more):
    return check.run("quality", *models, "--data", EVAL, "--windows", windows, "--context", context, *more)


def reference_perplexity(check, expected):
    for entry in expected["ppl"]:
        row, = quality(check, [TINY], entry["windows"], entry["ctx"])
        off = row["perplexity"] / entry["ppl"] - 1
        check.verdict(f"tiny perplexity, context {entry['ctx']}", [] if abs(off) <= TINY_PERPLEXITY else ["too far off"],
                      f"{row['perplexity']:.4f}, reference {entry['ppl']}, {off:+.4%}")


def text_windows(folder, windows, context):
    return windows_of(AutoTokenizer.from_pretrained(folder), EVAL, windows, context)


def log_softmax(folder, ids):
    """Log-probabilities of all tokens at all positions that are scored, in double precision."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return torch.stack([torch.log_softmax(model(window[None]).logits[0, :-1].double(), -1) for window in ids])


def at_targets(logs, ids):
    return logs.gather(-1, ids[:, 1:, None])[..., 0]


def converted(check, model, work, name):
    """A folder of float32 weights, exactly those that a file decodes to."""
    document = check.run("convert", model, "hf", "-q", "F32", "-o", work / "float32", "-n", name, "--overwrite")
    return pathlib.Path(document["output_path"])


def divergences(check, work):
    """A file of four bits beside tiny-llama, against transformers on the weights that it decodes to."""
    windows, context = TINY_WINDOWS
    file = check.quantize(TINY, "Q4_K_M", work / "forward", name="tiny-Q4_K_M.gguf")
    rows = quality(check, [TINY, file], windows, context)
    ids = text_windows(TINY, windows, context)
    ours, theirs = log_softmax(TINY, ids), log_softmax(converted(check, file, work, "tiny-q4"), ids)
    each = (ours.exp() * (ours - theirs)).sum(-1).flatten()
    want = {
        "perplexity": math.exp(-at_targets(theirs, ids).mean()),
        "kl_divergence": float(each.mean()), "kl_divergence_error": float(each.std() / math.sqrt(each.numel())),
        "top1_agreement": float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()),
    }
    relative, absolute = DIVERGENCE
    problems = [f"{key} is {rows[1][key]}, not {value}" for key, value in want.items()
                if abs(rows[1][key] - value) > relative * value + absolute]
    check.verdict("tiny Q4_K_M figures", problems, ", ".join(f"{key} {rows[1][key]:.6f}" for key in want))


def smollm(check, work):
    windows, context = SMOLLM_WINDOWS
    lines = work / "smollm-tokens.jsonl"
    row, = quality(check, [smollm_gguf()], windows, context, "--per-token", lines)
    folder = converted(check, smollm_gguf(), work, "smollm2-float32")
    ids = text_windows(folder, windows, context)
    theirs = at_targets(log_softmax(folder, ids), ids).numpy()
    shutil.rmtree(folder)
    ours, problems = np.full(theirs.shape, np.nan), []
    for line in map(json.loads, lines.read_text().splitlines()):
        if line["token"] != ids[line["window"], line["position"]]:
            problems.append(f"another token in window {line['window']} at {line['position']}")
        ours[line["window"], line["position"] - 1] = line["original"]
    worst = np.abs(ours - theirs).max()
    if not worst <= LOG_PROBABILITY:
        problems.append(f"above {LOG_PROBABILITY}")
    check.verdict("smollm log-probabilities", problems, f"largest difference {worst:.1e} of {ours.size} tokens")
    perplexity = math.exp(-theirs.mean())
    off = row["perplexity"] / perplexity - 1
    check.verdict("smollm perplexity", [] if abs(off) <= SMOLLM_PERPLEXITY else ["too far off"],
                  f"{row['perplexity']:.4f}, transformers {perplexity:.4f}, {off:+.5%}")


# -- families -----------------------------------------------------------------------------------------------------------


def our_logits(check, folder, ids):
    program = pathlib.Path(check.binary).with_name("logits")
    done = subprocess.run([program, folder], input=" ".join(map(str, ids)).encode(), capture_output=True, timeout=120)
    if done.returncode != 0:
        raise ToolError(f"{program} {folder}: {done.stderr.decode()}")
    return np.frombuffer(done.stdout, "<f4").reshape(len(ids), -1)


def compare_family(check, name, case, unlike, work):
    folder = work / "forward-families" / name
    model = make(case, folder)
    ids = np.random.default_rng(SEED).integers(1, 2048, check_families.POSITIONS).tolist()
    theirs = logits_of(model, ids)
    ours = our_logits(check, folder, ids)
    worst = float(np.abs(ours - theirs).max())
    problems = [] if worst <= LOGIT else [f"above {LOGIT}"]
    detail = f"largest difference {worst:.1e}, deviation {theirs.std():.2f}"
    if unlike:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **unlike}))
        moved = distance(logits_of(load(folder)[0], ids), theirs)
        detail += f", {moved:.2f} with {', '.join(unlike)} changed"
        if not moved > NOTICED:
            problems.append(f"{unlike} changes too little for the comparison to notice")
    check.verdict(f"{name}: logits", problems, detail)


def not_run(check, name, work):
    """What `quality` says of a model that this program cannot run."""
    case, folder = check_families.CASES[name], work / "forward-families" / name
    make(case, folder)
    done = subprocess.run([check.binary, "quality", folder, "--data", EVAL], capture_output=True, text=True, timeout=120)
    problems = [] if done.returncode == 8 else [f"exit code {done.returncode}"]
    if f'"{case.classes}ForCausalLM"' not in done.stderr:
        problems.append("its architecture is not named")
    check.verdict(f"{name} is refused", problems, " ".join(done.stderr.split())[:160])


def main():
    families = [*check_families.CASES, *OTHERS]
    check = Check(__doc__.splitlines()[0], families={"nargs": "*", "choices": families, "default": families})
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(llama.cores())
    expected = json.loads((FIXTURES / "reference.json").read_text())
    with check.folder() as work:
        if "tiny" in check.args.models:
            check.attempt("tiny reference", reference_perplexity, check, expected["tiny-llama"])
            check.attempt("tiny divergence", divergences, check, work)
        if "smollm" in check.args.models:
            check.attempt("smollm", smollm, check, work)
        for name in check.args.families:
            if name in NOT_RUN:
                check.attempt(name, not_run, check, name, work)
                continue
            other = OTHERS.get(name) or Other(check_families.CASES[name], {})
            check.attempt(name, compare_family, check, name, other.case, other.unlike, work)
    check.finish()


if __name__ == "__main__":
    main()
