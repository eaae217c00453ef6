"""Samples with `transformers` `generate` when told to, from weights that ours wrote.

A line of settings in, `ready`; then seconds a line. Runs under the pins of
tests/parity/peers/trl_ppo.txt; knows nothing of rlhf_jax.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import torch
from transformers import GenerationConfig, LlamaForCausalLM, __version__


def prompts_of(work: dict[str, int]) -> torch.Tensor:
    """The rows that ours samples from: `ppo_update_setup.task_of` draws the same."""
    tokens = np.random.default_rng(0).integers(3, work["vocab"], (256, work["prompt"]))
    tokens[:, 0] = 1
    return torch.tensor(tokens[: work["episodes"]])


@torch.inference_mode()
def main() -> None:
    """Loads the folder, samples twice to warm up, then once for each `again`."""
    given = json.loads(sys.stdin.readline())
    work, device = given["work"], "cuda" if given["device"] == "gpu" else "cpu"
    torch.set_num_threads(given["threads"])
    dtype = getattr(torch, given["dtype"])
    model = LlamaForCausalLM.from_pretrained(given["folder"], dtype=dtype).to(device).eval()
    prompts = prompts_of(work).to(device)
    sampling = GenerationConfig(
        max_new_tokens=work["length"],
        do_sample=True,
        temperature=0.7,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    mask = torch.ones_like(prompts)

    def sample() -> float:
        start = time.monotonic()
        found = model.generate(prompts, attention_mask=mask, generation_config=sampling)
        shape = tuple(found.cpu().shape)
        took = time.monotonic() - start
        assert shape == (work["episodes"], work["prompt"] + work["length"]), shape
        return took

    sample(), sample()
    print("ready", flush=True)
    for line in sys.stdin:
        match line.strip():
            case "facts":
                rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                facts = {"peak_memory_bytes": rss, "transformers": __version__}
                print(json.dumps(facts | {"torch": torch.__version__}), flush=True)
            case "logits":
                print(json.dumps(model(prompts).logits[0, -1, 2:].float().tolist()), flush=True)
            case _:
                print(sample(), flush=True)


if __name__ == "__main__":
    main()
