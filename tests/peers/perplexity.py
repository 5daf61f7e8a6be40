"""Perplexity of the weights in a folder, with transformers in float32: one yardstick for the output of every tool."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM

# Tokens computed at once: their logits are in memory, and a client's kernel decodes its weights for each call.
BATCH = 1024


def windows_of(tokenizer, path, count, length):
    """The first windows of a text as llm-quantize cuts them, int64 [count, length]: the text is tokenized as a whole, and
    each window is what the tokenizer begins every text with, followed by the next tokens. Fewer if the text ends."""
    start = tokenizer("").input_ids
    ids = tokenizer(path.read_bytes().decode(), add_special_tokens=False).input_ids
    piece = length - len(start)
    count = min(count, len(ids) // piece)
    return torch.tensor([start + ids[at * piece:(at + 1) * piece] for at in range(count)])


class Yardstick:
    """A model and windows of text; a window's first token is not scored."""

    def __init__(self, model, windows):
        self.model, self.windows = model.eval(), windows

    @classmethod
    def of_folder(cls, source, windows):
        return cls(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), windows)

    def losses(self, state=None):
        """Nats of each scored token with other weights, float64 [windows, length - 1]; a tensor too many or too few
        is an error."""
        if state is not None:
            missing, extra = self.model.load_state_dict(state, strict=False)
            tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
            if set(missing) - tied or extra:
                raise ValueError(f"weights are missing ({missing}) or unknown ({extra})")
        losses = []
        with torch.inference_mode():
            for ids in self.windows.split(max(1, BATCH // self.windows.shape[1])):
                logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
                losses.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none"))
        return torch.cat(losses).double().numpy()

    def perplexity(self, state=None):
        return float(np.exp(self.losses(state).mean()))
