"""libllama loads every file we write and predicts what the reference predicts.

tiny-llama is compared with fixtures/reference.json (transformers, float32): top logits and greedy text at F32,
perplexity at F16. Every level of both models is loaded with its blocks validated, its file type read back, and its
perplexity on held-out prose held to a bound relative to the unquantized file.
"""

import json
import math

import numpy as np

import gguf_file
import imatrix
import llama
from common import FIXTURES, LEVELS, NEED_IMATRIX, Check

LOGIT_TOLERANCE = 0.02
PERPLEXITY_TOLERANCE = 0.005
# Perplexity of a level relative to the 16-bit file may be at most this, by the level's bits. A broken mixture or a
# wrong scale is orders of magnitude off. SmolLM2's weights come from a Q4_1 file: they lie on a 4-bit grid that the
# other grids meet badly, so its bounds are wide (Q5_1 costs it 17 %, Q4_1 nearly nothing). Q2_K_S is made with an
# importance matrix that means nothing. Ternary types are for models trained so: they leave nothing of SmolLM2, with
# llama-quantize's bytes, and all that can be asked is a number.
BOUNDS = {
    "tiny": {"F32": 1.005, "F16": 1.005, "BF16": 1.005, "Q8": 1.01, "Q6": 1.02, "Q5": 1.03, "Q4": 1.05, "Q3": 1.10, "Q2": 1.25,
             "IQ4": 1.05, "MXFP4": 1.10, "TQ1": 6, "TQ2": 6},
    "smollm": {"F32": 1.005, "F16": 1.005, "BF16": 1.005, "Q8": 1.03, "Q6": 1.05, "Q5": 1.30, "Q4": 1.40, "Q3": 1.60, "Q2": 1.80,
               "Q2_K_S": 8,
               "IQ4": 1.40, "MXFP4": 4, "TQ1": math.inf, "TQ2": math.inf},
}
# context, windows: enough to tell levels apart in seconds
SAMPLE = {"tiny": (512, 16), "smollm": (256, 4)}


def eval_text():
    return (FIXTURES / "text" / "eval.txt").read_bytes().decode()


def reference_checks(check, work, expected):
    """tiny-llama against transformers' numbers."""
    out = work / "llama-reference"
    with llama.Model(check.quantize(check.model("tiny", work), "F32", out)) as model:
        ids = model.tokenize(expected["prompt"])
        check.verdict("tiny F32 prompt ids", [] if ids == expected["prompt_ids"] else [f"{ids}"], f"{len(ids)} ids")
        logits = model.logits(ids)[-1]
        top = [int(i) for i in np.argsort(-logits)[:5]]
        worst = max(abs(float(logits[i]) - want) for i, want in zip(expected["top5_next"], expected["top5_logits"]))
        problems = [] if top == expected["top5_next"] and worst <= LOGIT_TOLERANCE else [f"{top} {logits[top]}"]
        check.verdict("tiny F32 top 5 tokens and logits", problems, f"largest difference {worst:.5f}")
        text = model.greedy(ids, 16)
        check.verdict("tiny F32 greedy text", [] if text == expected["greedy_16"] else [f"{text}"],
                      repr(model.detokenize(text).decode(errors="replace")))
    with llama.Model(check.quantize(check.model("tiny", work), "F16", out)) as model:
        ids = model.tokenize(eval_text())
        problems = [] if len(ids) == expected["text_tokens"] else [f"{len(ids)} tokens, not {expected['text_tokens']}"]
        check.verdict("tiny F16 token count of eval.txt", problems, f"{len(ids)}")
        for entry in expected["ppl"]:
            ppl = llama.perplexity(model, ids, entry["ctx"], entry["windows"])
            off = ppl / entry["ppl"] - 1
            problems = [] if abs(off) <= PERPLEXITY_TOLERANCE else [f"more than {PERPLEXITY_TOLERANCE:.1%} off"]
            check.verdict(f"tiny F16 perplexity, context {entry['ctx']}", problems,
                          f"{ppl:.4f}, reference {entry['ppl']}, {off:+.4%}")


def every_level(check, name, work, levels):
    """Loads each level and bounds its perplexity relative to F16's."""
    source = check.model(name, work)
    weights = work / f"{name}-imatrix.gguf"
    ids, base = None, None
    runs = [("F16", ())] + [(level, ()) for level in levels if level != "F16"]
    # Neither model has experts, which MXFP4 is for: without the mixture all tensors have it.
    runs += [(level, ["pure=true"]) for level in levels if level == "MXFP4_MOE"]
    for level, sets in runs:
        label = " ".join([name, level, *sets])
        out = work / "llama-levels"
        needed = weights if level in NEED_IMATRIX else None
        path = check.attempt(label, check.quantize, source, level, out, needed, sets)
        if path is None:
            continue
        if not weights.exists():
            imatrix.write_gguf(weights, imatrix.synthetic(gguf_file.GgufFile(path).tensors))
        size = path.stat().st_size
        try:
            with llama.Model(path) as model:
                ids = ids or model.tokenize(eval_text()[:40000])
                ctx, windows = SAMPLE[name]
                ppl = llama.perplexity(model, ids, ctx, windows)
                file_type = int(model.meta()["general.file_type"])
                bits = 8 * model.size / model.n_params
        except llama.LlamaError as error:
            check.verdict(label, [str(error)])
            continue
        finally:
            path.unlink()
        base = base or ppl
        problems = [] if file_type == llama.FTYPES[level] else [f"file type {file_type}"]
        bounds = BOUNDS[name]
        bound = bounds.get(level) or bounds[level.partition("_")[0]]
        if not (ppl / base <= bound and math.isfinite(ppl)):
            problems.append(f"perplexity more than {bound} times F16's")
        check.verdict(label, problems, f"perplexity {ppl:.3f}, {ppl / base:.4f} of F16's, {bits:.3f} bits a weight, {size} bytes")


def main():
    check = Check(__doc__.splitlines()[0], levels={"nargs": "+", "default": LEVELS})
    expected = json.loads((FIXTURES / "reference.json").read_text())
    print(f"reference: {expected['how']}")
    with check.folder() as work:
        if "tiny" in check.args.models:
            check.attempt("tiny reference", reference_checks, check, work, expected["tiny-llama"])
        for name in check.args.models:
            check.attempt(f"{name} levels", every_level, check, name, work, check.args.levels)
    check.finish()


if __name__ == "__main__":
    main()
