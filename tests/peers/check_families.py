"""Every model family keeps its computation: from transformers to GGUF in libllama, and back to transformers.

Small models with random weights stand for the families. Each is written by transformers and quantized to F32; libllama
has to compute the same logits from the file, and `convert` has to give back every weight bit for bit and a
configuration with which transformers computes the same again. The same model under the older spelling of config.json
has to become the same file.

Random weights would also let errors pass that change nothing. So each comparison first shows that it would notice:
changed weights in any tensor, queries and keys left unpermuted, or another rotary embedding move the logits by far
more than the tolerance.
"""

import dataclasses
import json
import os
import pathlib
import shutil

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

import llama
from common import TINY, Check

POSITIONS = 64
# Largest difference of a logit from transformers', in units of the logits' standard deviation. Both sides compute in
# float32, so only the order of sums differs, by 2e-5 at most so far.
LIBLLAMA_TOLERANCE = 2e-3
GELU_TOLERANCE = 1e-2
# The same between the original folder and the one that `convert` makes. The weights are equal; GGUF keeps epsilon and
# the rotary numbers in float32.
FOLDER_TOLERANCE = 1e-5
# What a deliberate error moves at least, in the same unit.
NOTICED = 0.05
# The seed of weights and tokens; any will do.
SEED = 20
# Of 16 rotary pairs at theta 50000, two stay, in two the scaling fades in, the others have all of it.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "factor": 4.0}


@dataclasses.dataclass
class Case:
    """A model to make: the prefix of its transformers classes, the dtype of its weights, what its configuration has
    beyond the common sizes, and the keys of it that older versions of transformers did not write."""

    classes: str
    dtype: torch.dtype
    extra: dict = dataclasses.field(default_factory=dict)
    rope: dict = dataclasses.field(default_factory=lambda: {"rope_type": "default"})
    theta: float = 10000.0
    older_lacks: tuple = ()
    # Where libllama does not compute in float32 throughout: ggml looks GELU up in a table of half precision.
    tolerance: float = LIBLLAMA_TOLERANCE

    def config(self):
        sizes = {
            "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 2048, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
            "tie_word_embeddings": False, "rope_parameters": {"rope_theta": self.theta, **self.rope},
            "attn_implementation": "eager",
        }
        return getattr(transformers, self.classes + "Config")(**{**sizes, **self.extra})


# Qwen2's configuration has no head_dim; Llama's and Mistral's has it since 2024.
CASES = {
    "llama": Case("Llama", torch.bfloat16, older_lacks=("head_dim",)),
    "llama-rope-llama3": Case("Llama", torch.bfloat16, rope=LLAMA3, theta=50000.0),
    "llama-rope-linear": Case("Llama", torch.float32, rope=LINEAR),
    "llama-attention-bias": Case("Llama", torch.float32, {"attention_bias": True}),
    "llama-all-biases": Case("Llama", torch.bfloat16, {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": Case("Llama", torch.float32, {"tie_word_embeddings": True, "hidden_size": 64}, older_lacks=("head_dim",)),
    "llama-wide-heads": Case("Llama", torch.bfloat16, {"hidden_size": 64, "head_dim": 32}),
    "mistral": Case("Mistral", torch.bfloat16, {"sliding_window": None}, theta=1000000.0, older_lacks=("head_dim",)),
    "mistral-wide-heads": Case("Mistral", torch.float32, {"sliding_window": None, "head_dim": 64}),
    "qwen2": Case("Qwen2", torch.bfloat16, theta=1000000.0),
    "qwen2-tied-yarn": Case("Qwen2", torch.float32, {"tie_word_embeddings": True}, rope=YARN),
    "qwen3": Case("Qwen3", torch.bfloat16, {"head_dim": 64}, theta=1000000.0),
    "qwen3-tied": Case("Qwen3", torch.float32, {"head_dim": 16, "tie_word_embeddings": True}),
    # Norms multiply with one plus their weight; transformers scales the embeddings.
    "gemma": Case("Gemma", torch.bfloat16, {"head_dim": 32, "tie_word_embeddings": True}, tolerance=GELU_TOLERANCE),
    "gemma-wide-heads": Case("Gemma", torch.bfloat16, {"head_dim": 64, "num_key_value_heads": 1, "tie_word_embeddings": True},
                             tolerance=GELU_TOLERANCE),
    # Under another name than its own: of a model called Phi 3 libllama wants certain tokens in the vocabulary.
    "fused": Case("Phi3", torch.bfloat16, {"sliding_window": None}),
    "fused-tied": Case("Phi3", torch.float32, {"sliding_window": None, "tie_word_embeddings": True}),
    "mixtral": Case("Mixtral", torch.bfloat16, {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen3moe": Case("Qwen3Moe", torch.float32, {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True, "head_dim": 32,
                                                 "moe_intermediate_size": 64, "decoder_sparse_step": 1, "mlp_only_layers": []}),
    # llama.cpp leaves out the rotary embedding in every fourth layer
    "smollm3": Case("SmolLM3", torch.bfloat16, {"num_hidden_layers": 5, "tie_word_embeddings": True}, theta=2000000.0),
}


# -- the model ----------------------------------------------------------------------------------------------------------


def make(case, folder):
    """Writes the folder and returns the model as transformers loads it in float32. No tensor is left at a constant."""
    torch.manual_seed(SEED)
    model = getattr(transformers, case.classes + "ForCausalLM")(case.config())
    for name, tensor in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(tensor, std=0.5)
        elif tensor.dim() == 1:
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    model.to(case.dtype).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return load(folder)[0]


def load(folder):
    """The folder's model in float32, and what transformers says about its keys. (A model that was changed to bf16 in
    memory would have rounded rotary frequencies as well.)"""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager")
    return model.eval(), [f"{k}: {sorted(v)[:5]}" for k, v in info.items() if v and k.endswith("keys")]


def older_spelling(case, newer, folder):
    """The folder with config.json as transformers 4 wrote it: rope_theta and rope_scaling instead of rope_parameters,
    torch_dtype instead of dtype, no list of layer types."""
    shutil.copytree(newer, folder, dirs_exist_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    for key in ("layer_types",) + case.older_lacks:
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2))


def logits_of(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def distance(ours, theirs):
    """Largest difference in units of the reference's standard deviation."""
    return float(np.abs(ours - theirs).max() / theirs.std())


# -- would an error be noticed? -----------------------------------------------------------------------------------------


def interleaved(weights, head):
    """The weights with queries and keys permuted as GGUF has them for llama, which is an error in transformers."""
    wrong = dict(weights)
    for name, tensor in weights.items():
        if ".q_proj." in name or ".k_proj." in name:
            wrong[name] = tensor.reshape(tensor.shape[0] // head, 2, head // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
    return wrong


def deliberate_errors(case, model):
    """(what is wrong, the model with it), over the errors that a conversion may make. The model is right afterwards."""
    right = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}  # tied weights once

    def with_weights(weights, other=model):
        other.load_state_dict(weights, strict=False)
        return other

    for name, tensor in right.items():
        yield f"{name} with its first dimension reversed", with_weights({**right, name: tensor.flip(0)})
        if tensor.dim() == 1:
            neutral = torch.zeros_like(tensor) if name.endswith(".bias") else torch.ones_like(tensor)
            yield f"{name} left out", with_weights({**right, name: neutral})
    if any(".q_proj." in name for name in right):
        yield "queries and keys permuted", with_weights(interleaved(right, model.model.layers[0].self_attn.head_dim))
    with_weights(right)
    config = case.config()
    theta = case.theta * (2 if case.rope["rope_type"] == "default" else 1)
    config.rope_parameters = {"rope_type": "default", "rope_theta": theta}
    yield "another rotary embedding", with_weights(right, type(model)(config).eval())


def check_errors_show(label, check, case, model, ids):
    theirs = logits_of(model, ids)
    moved = {what: distance(logits_of(wrong, ids), theirs) for what, wrong in deliberate_errors(case, model)}
    problems = [f"{what}: only {by:.2e}" for what, by in moved.items() if not by > NOTICED]
    if not np.array_equal(logits_of(model, ids), theirs):
        problems.append("the model is not right afterwards")
    least = min(moved, key=moved.get)
    check.verdict(f"{label}: an error would show", problems, f"{len(moved)} errors, least {moved[least]:.2f} of {least}")


# -- comparisons --------------------------------------------------------------------------------------------------------


def compare_libllama(label, check, path, theirs, ids, tolerance):
    with llama.Model(path, n_ctx=256) as model:
        ours = model.logits(ids)
        architecture = model.meta()["general.architecture"]
    if ours.shape != theirs.shape:
        check.verdict(f"{label}: logits in libllama", [f"{ours.shape}, not {theirs.shape}"])
        return
    worst = distance(ours, theirs)
    agree = int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    problems = [] if worst < tolerance else [f"not below {tolerance}"]
    # Random weights have near ties, which a difference in the third digit may turn.
    if agree < len(ids) - (tolerance > LIBLLAMA_TOLERANCE):
        problems.append(f"the likeliest token differs at {len(ids) - agree} positions")
    check.verdict(f"{label}: logits in libllama", problems,
                  f"{architecture}, largest difference {worst:.1e} of their deviation, {agree} of {len(ids)} tokens agree")


def compare_weights(label, check, original, converted):
    """The folders' safetensors; what is bf16 in the original is the same number in float32."""
    theirs, ours = ({k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}
                    for folder in (original, converted))
    problems = [f"{name} is missing" for name in sorted(theirs.keys() - ours.keys())]
    problems += [f"{name} is new" for name in sorted(ours.keys() - theirs.keys())]
    for name in sorted(theirs.keys() & ours.keys()):
        want, have = theirs[name].float(), ours[name]
        if have.dtype != torch.float32 or have.shape != want.shape:
            problems.append(f"{name}: {have.dtype} {tuple(have.shape)}, not {want.dtype} {tuple(want.shape)}")
        elif not torch.equal(have.view(torch.int32), want.view(torch.int32)):
            problems.append(f"{name} differs in {int((have.view(torch.int32) != want.view(torch.int32)).sum())} numbers")
    check.verdict(f"{label}: weights come back", problems, f"{len(theirs)} tensors, {sum(v.numel() for v in theirs.values())} numbers")


def compare_folder(label, check, converted, model, theirs, ids):
    again, problems = load(converted)
    worst = distance(logits_of(again, ids), theirs)
    if not worst <= FOLDER_TOLERANCE:
        problems.append(f"above {FOLDER_TOLERANCE}")
    # A Mistral without a window is a Llama to GGUF; both classes compute the same.
    want = type(model).__name__.replace("Mistral", "Llama")
    if type(again).__name__ != want:
        problems.append(f"a {type(again).__name__}, not {want}")
    if again.config.tie_word_embeddings != model.config.tie_word_embeddings:
        problems.append(f"tie_word_embeddings is {again.config.tie_word_embeddings}")
    check.verdict(f"{label}: converted folder in transformers", problems,
                  f"{type(again).__name__}, largest difference {worst:.1e} of the logits' deviation")


def compare_repacked(label, check, folder, work):
    """Blocks of Q4_0 go into AWQ and back: the same bytes, whatever rows, stacks or norms the family has."""
    file = check.quantize(folder, "Q4_0", work / "repacked", name=f"{label}.gguf")
    document = check.run("convert", file, "awq", "--route", "exact", "-o", work / "repacked", "-n", label, "--overwrite")
    routes = document["metadata"]["routes"]
    back = check.run("convert", document["output_path"], "gguf", "--route", "exact", "-o", work / "repacked", "-n", f"{label}-back.gguf",
                     "--overwrite")["output_path"]
    first, last = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in (file, back))
    blocks = [name for name in first if name.startswith("blk.") and first[name].tensor_type.name == "Q4_0"]
    problems = [f"{name} has other bytes" for name in blocks if not np.array_equal(first[name].data, last[name].data)]
    problems += [f"{name} is in one of both only" for name in first.keys() ^ last.keys()]
    if not blocks or routes["exact"] < len(blocks):
        problems.append(f"{len(blocks)} tensors of blocks, routes {routes}")
    check.verdict(f"{label}: by AWQ and back", problems, f"{len(blocks)} stacks and matrices, {routes['exact']} layers: the same bytes")


def compare_case(check, name, case, work):
    # GGUF metadata names a model after its folder, so both spellings lie in folders of one name.
    newer, older = work / "newer" / name, work / "older" / name
    model = make(case, newer)
    older_spelling(case, newer, older)
    ids = np.random.default_rng(SEED).integers(1, 2048, POSITIONS).tolist()
    check_errors_show(name, check, case, model, ids)
    theirs = logits_of(model, ids)
    file = check.quantize(newer, "F32", work / "gguf", name=f"{name}.gguf")
    compare_libllama(name, check, file, theirs, ids, case.tolerance)
    other = check.quantize(older, "F32", work / "gguf", name=f"{name}-older.gguf")
    check.verdict(f"{name}: older spelling of config.json", [] if file.read_bytes() == other.read_bytes() else ["another file"],
                  f"{file.stat().st_size} bytes")
    document = check.run("convert", file, "hf", "-q", "F32", "-o", work / "converted", "-n", name, "--overwrite")
    converted = pathlib.Path(document["output_path"])
    compare_weights(name, check, newer, converted)
    compare_folder(name, check, converted, model, theirs, ids)
    check.attempt(f"{name}: by AWQ and back", compare_repacked, name, check, newer, work)


def main():
    check = Check(__doc__.splitlines()[0], families={"nargs": "+", "choices": list(CASES), "default": list(CASES)})
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(llama.cores())
    with check.folder() as work:
        for name in check.args.families:
            check.attempt(name, compare_case, check, name, CASES[name], work / "families")
    check.finish()


if __name__ == "__main__":
    main()
