"""Does PPO updates of TRL 1.9.2's own PPOTrainer when told to, in its own environment.

A line of settings in, `ready`; then seconds a line. The trainer trains as a user's would; it waits
in the call with which it logs an update, once an update, so a turn is all that lies between two
such calls: rollout, scoring, learning and its own bookkeeping. Runs under the pins of
tests/parity/peers/trl_ppo.txt; knows nothing of rlhf_jax.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

PAD, BOS, EOS, PROMPTS = 0, 1, 2, 256


def llama(work: dict[str, Any]) -> LlamaConfig:
    """The network that ours is, with the embedding as its output head."""
    return LlamaConfig(
        vocab_size=work["vocab"],
        hidden_size=work["width"],
        num_hidden_layers=work["layers"],
        num_attention_heads=work["heads"],
        num_key_value_heads=work["kv_heads"],
        intermediate_size=work["ff_width"],
        max_position_embeddings=work["prompt"] + work["length"],
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        num_labels=1,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """A word for every id; the trainer only pads with it."""
    core = Tokenizer(WordLevel({f"t{i}": i for i in range(vocab)}, unk_token="t1"))
    special = {"pad_token": f"t{PAD}", "eos_token": f"t{EOS}"}
    return PreTrainedTokenizerFast(tokenizer_object=core, padding_side="left", **special)


def trainer(given: dict[str, Any], folder: str) -> PPOTrainer:
    """TRL's trainer: nothing is saved, evaluated or sent, and no one stops early."""
    work = given["work"]
    args = PPOConfig(
        output_dir=folder,
        use_cpu=given["device"] == "cpu",
        bf16=given["dtype"] == "bfloat16",
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        num_sample_generations=0,
        total_episodes=1_000_000 * work["episodes"],
        per_device_train_batch_size=work["episodes"],
        local_rollout_forward_batch_size=work["episodes"],
        num_ppo_epochs=work["epochs"],
        num_mini_batches=work["minibatches"],
        response_length=work["length"],
    )
    config = llama(work)
    policy, reference = LlamaForCausalLM(config), LlamaForCausalLM(config)
    reward, value = (LlamaForSequenceClassification(config) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(EOS + 1, work["vocab"], (PROMPTS, work["prompt"]), generator=generator)
    rows = [{"input_ids": x, "attention_mask": [1] * len(x)} for x in tokens.tolist()]
    models = (policy, reference, reward)
    return PPOTrainer(args, tokenizer(work["vocab"]), *models, rows, value, eval_dataset=rows)


def matmul_gflops(dtype: str, side: int = 2048, repeats: int = 10) -> float:
    """Of one large square product, the best of several."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = (torch.randn(side, side, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = time.monotonic()
        torch.sum(x @ y).item()
        best = min(best, time.monotonic() - start)
    return 2 * side**3 / best / 1e9


class Waiting:
    """Stands for the trainer's `log`: tells what the update took, waits for the next turn."""

    def __init__(self, given: dict[str, Any], out: Any):
        self.given, self.out, self.warm_up = given, out, 2
        self.start = time.monotonic()

    def __call__(self, metrics: dict[str, float]) -> None:
        took = time.monotonic() - self.start
        self.warm_up -= 1
        if self.warm_up >= 0:
            self.say("ready" if self.warm_up == 0 else None)
        else:
            self.say(took)
        if self.warm_up <= 0:
            self.wait()
        self.start = time.monotonic()

    def wait(self) -> None:
        """Answers questions until it is told to train on."""
        for line in sys.stdin:
            match line.strip():
                case "facts":
                    self.say(json.dumps(self.facts()))
                case "ceiling":
                    self.say(matmul_gflops(self.given["dtype"]))
                case _:
                    return
        raise SystemExit  # no more turns; the trainer would go on for ever

    def say(self, what: Any) -> None:
        """A line, if there is anything to say."""
        if what is not None:
            print(what, file=self.out, flush=True)

    def facts(self) -> dict[str, Any]:
        """Threads and memory of this process."""
        cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        facts = {"peak_memory_bytes": cuda or rss, "threads": torch.get_num_threads()}
        return facts | {"torch": torch.__version__}


def main() -> None:
    """Trains until there are no more turns; the first two updates are warm-up."""
    out, sys.stdout = sys.stdout, sys.stderr  # the trainer prints
    given = json.loads(sys.stdin.readline())
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        ppo = trainer(given, folder)
        ppo.log = Waiting(given, out)
        ppo.train()


if __name__ == "__main__":
    main()
