"""transformers and libllama agree on our folders and files: token ids, logits, greedy text, weights.

For SmolLM2 the Hugging Face folder is the one that `convert` makes of its GGUF; for tiny-llama it is the fixture. Each
is compared with the GGUF that `quantize` makes of it. SmolLM2's weights are also compared one by one with what gguf-py
decodes from the GGUF that they came from.
"""

import json
import os

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import llama
from common import FIXTURES, Check, smollm_gguf

# Largest difference of a logit. F32: only the order of sums differs. BF16: libllama also rounds the inputs of each
# product to bf16, so a difference says little there; the likeliest token still has to agree almost everywhere.
F32_TOLERANCE = 0.002
BF16_TOP1_AGREEMENT = 0.95
PROMPTS = ["It is a truth universally acknowledged, that", "The capital of France is"]


def compare_ids(label, check, tokenizer, model):
    """Ids of whole texts, special tokens parsed, as transformers does by default."""
    texts = {"mixed.txt": FIXTURES / "text" / "mixed.txt", "eval.txt": FIXTURES / "text" / "eval.txt"}
    for name, path in texts.items():
        text = path.read_bytes().decode()
        theirs = tokenizer(text, add_special_tokens=False).input_ids
        ours = model.tokenize(text, parse_special=True)
        problems = []
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            problems = [f"at {at}: libllama {ours[at:at + 6]}, transformers {theirs[at:at + 6]} "
                        f"{tokenizer.decode(theirs[max(0, at - 4):at + 6])!r}"]
        if tokenizer.decode(theirs) != text:
            problems.append("transformers does not decode the ids to the text")
        check.verdict(f"{label} ids of {name}", problems, f"{len(theirs)} ids")
    theirs = tokenizer(PROMPTS[0]).input_ids
    ours = model.tokenize(PROMPTS[0], add_special=True, parse_special=True)
    check.verdict(f"{label} ids with special tokens added", [] if ours == theirs else [f"{ours} {theirs}"], f"{theirs}")


def compare_chat_template(label, check, tokenizer, model):
    ours, theirs = model.meta().get("tokenizer.chat_template"), tokenizer.chat_template
    # libllama's text buffer ends at 64 KiB, far above any template used here
    check.verdict(f"{label} chat template", [] if ours == theirs else [f"{ours!r} {theirs!r}"],
                  "none" if theirs is None else f"{len(theirs)} characters")
    if theirs:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
        check.verdict(f"{label} chat template renders", [] if "Hi" in text else [text], repr(text[-60:]))


def torch_logits(reference, ids):
    with torch.inference_mode():
        return reference(torch.tensor([ids])).logits[0].float().numpy()


def compare_f32(label, check, reference, tokenizer, model):
    text = (FIXTURES / "text" / "eval.txt").read_bytes().decode()
    samples = [tokenizer(p, add_special_tokens=False).input_ids for p in PROMPTS]
    samples.append(tokenizer(text[:4000], add_special_tokens=False).input_ids[:256])
    worst = max(float(np.abs(torch_logits(reference, ids) - model.logits(ids)).max()) for ids in samples)
    check.verdict(f"{label} F32 logits", [] if worst <= F32_TOLERANCE else [f"above {F32_TOLERANCE}"],
                  f"largest difference {worst:.6f} over {sum(map(len, samples))} positions")
    problems, shown = [], []
    for ids in samples[:2]:
        theirs = reference.generate(torch.tensor([ids]), max_new_tokens=12, min_new_tokens=12, do_sample=False,
                                    pad_token_id=0)[0, len(ids):].tolist()
        # transformers bars the end token when a minimum length is asked for; compare up to it
        ours = model.greedy(ids, 12)
        end = next((i for i, t in enumerate(ours) if t == tokenizer.eos_token_id), len(ours))
        if ours[:end] != theirs[:end]:
            problems.append(f"{ours} {theirs}")
        shown.append(tokenizer.decode(ours[:end]))
    check.verdict(f"{label} F32 greedy text", problems, repr(shown))
    return samples[-1]


def compare_bf16(label, check, reference, ids, model):
    theirs, ours = torch_logits(reference, ids), model.logits(ids)
    agreement = float((theirs.argmax(-1) == ours.argmax(-1)).mean())
    check.verdict(f"{label} BF16 likeliest tokens", [] if agreement >= BF16_TOP1_AGREEMENT else ["too few agree"],
                  f"{agreement:.1%} of {len(ids)} agree, largest logit difference {np.abs(theirs - ours).max():.4f}")


def compare_weights(check, folder):
    """Every tensor of the folder against gguf-py's decoding of the source GGUF, rounded to the folder's dtype."""
    reader = gguf.GGUFReader(smollm_gguf())
    config = json.loads((folder / "config.json").read_text())
    state = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    by_gguf_name = {names.get_name(name, (".weight",)): name for name in state}
    problems, dtypes = [], set()
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        for key, heads in (("attn_q.", "num_attention_heads"), ("attn_k.", "num_key_value_heads")):
            if key in tensor.name:  # GGUF pairs neighbouring rows of a head for its rotary embedding
                rows, width = values.shape
                values = values.reshape(config[heads], rows // config[heads] // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
        ours = state.get(by_gguf_name.get(tensor.name))
        if ours is None:
            problems.append(f"{tensor.name} is missing")
            continue
        dtypes.add(str(ours.dtype))
        if ours.shape != values.shape or not torch.equal(ours, values.to(ours.dtype)):
            problems.append(f"{tensor.name} differs")
    check.verdict("smollm folder's weights against gguf-py's decoding of the source", problems,
                  f"{len(reader.tensors)} tensors, {', '.join(sorted(dtypes))}")


def compare_model(check, name, work):
    folder = check.model(name, work)
    reference, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    reference.eval()
    problems = [f"{k}: {sorted(v)[:5]}" for k, v in info.items() if v and k.endswith("keys")]
    check.verdict(f"{name} folder loads in transformers", problems, f"{sum(p.numel() for p in reference.parameters())} parameters")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    out = work / f"transformers-{name}"
    with llama.Model(check.quantize(folder, "F32", out)) as model:
        compare_ids(name, check, tokenizer, model)
        compare_chat_template(name, check, tokenizer, model)
        ids = compare_f32(name, check, reference, tokenizer, model)
    with llama.Model(check.quantize(folder, "BF16", out)) as model:
        compare_bf16(name, check, reference, ids, model)
    if name == "smollm":
        compare_weights(check, folder)


def main():
    check = Check(__doc__.splitlines()[0])
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(llama.cores())
    with check.folder() as work:
        for name in check.args.models:
            check.attempt(name, compare_model, check, name, work)
    check.finish()


if __name__ == "__main__":
    main()
