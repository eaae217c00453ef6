"""One real PPO run of TRL 1.9.2 per case: `python worker.py cases.npz answers.npz`.

Everything that trains is TRL's own, with the defaults of its `PPOConfig`. Ours are only the sizes
and the rate, the weights it starts from, the tokens that sampling draws, and the order of rows in
each epoch; what the trainer made of them is handed back.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from llamas import Networks, exact, networks
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

Arrays = dict[str, np.ndarray]
Calls = dict[str, list[tuple[Arrays, Arrays]]]  # by function: what went in, what came out
WATCHED = ("batch_generation", "selective_log_softmax", "get_reward", "masked_whiten")


def tokenizer(case: dict[str, Any]) -> PreTrainedTokenizerFast:
    """A word for every id; the trainer only pads with it and asks for special ids."""
    core = Tokenizer(WordLevel({f"t{i}": i for i in range(case["vocab"])}, unk_token="t1"))
    special = {"pad_token": f"t{case['pad']}", "eos_token": f"t{case['eos']}"}
    return PreTrainedTokenizerFast(tokenizer_object=core, padding_side="left", **special)


def trainer(case: dict[str, Any], prompts: np.ndarray, nets: Networks, folder: str) -> PPOTrainer:
    """TRL's trainer with its defaults but for sizes, the rate, and what the case asks for."""
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    args = PPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        num_sample_generations=0,
        stop_token="eos",
        **quiet,
        **case["args"],
    )
    texts = [row[row != case["pad"]].tolist() for row in prompts]
    rows = [{"input_ids": x, "attention_mask": [1] * len(x)} for x in texts]
    models = (nets.policy, nets.reference, nets.reward)
    return PPOTrainer(args, tokenizer(case), *models, rows, nets.value, eval_dataset=rows)


def recorder(calls: list[tuple[Arrays, Arrays]], call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, whose tensors going in and coming out are kept."""

    def tensors(values: tuple[Any, ...]) -> list[np.ndarray]:
        found = [x for x in values if isinstance(x, torch.Tensor)]
        return [x.detach().numpy().copy() for x in found]

    def recorded(*args: Any, **kwargs: Any) -> Any:
        out = call(*args, **kwargs)
        calls.append((tensors(args), tensors(out if isinstance(out, tuple) else (out,))))
        return out

    return recorded


@contextlib.contextmanager
def watching(calls: Calls) -> Iterator[None]:
    """Keeps what the functions that `PPOTrainer.train` calls are given and give."""
    with contextlib.ExitStack() as stack:
        for name in WATCHED:
            call = recorder(calls[name], getattr(ppo_trainer, name))
            stack.enter_context(mock.patch.object(ppo_trainer, name, call))
        yield


@contextlib.contextmanager
def drawing(completions: np.ndarray, orders: np.ndarray) -> Iterator[None]:
    """Sampling draws these tokens [updates, B, T]; each epoch takes the next of these orders."""
    columns = iter(np.moveaxis(completions, 1, 2).reshape(-1, completions.shape[1]))
    rows = iter(orders.reshape(-1, orders.shape[-1]))

    def multinomial(probs: torch.Tensor, num_samples: int) -> torch.Tensor:
        return torch.tensor(next(columns))[:, None]

    with (
        mock.patch.object(torch, "multinomial", multinomial),
        mock.patch.object(np.random, "permutation", lambda size: next(rows)),
    ):
        yield
    assert next(columns, None) is None and next(rows, None) is None


def weights(prefix: str, model: torch.nn.Module) -> Arrays:
    """Every parameter of a model, by its name."""
    named = model.state_dict().items()
    return {f"{prefix}.{name}": x.detach().numpy().copy() for name, x in named}


def observe(ppo: PPOTrainer, nets: Networks, found: Arrays, logged: list[dict[str, float]]) -> None:
    """Keeps metrics, optimizer steps so far and weights whenever an update is logged."""

    def log(metrics: dict[str, float]) -> None:
        step = int(next(iter(ppo.optimizer.state.values()))["step"])
        logged.append(metrics | {"steps": step})
        for name in ("policy", "value"):
            found.update(weights(f"after.{len(logged)}.{name}", getattr(nets, name)))

    ppo.log = log


def rollouts(calls: Calls, updates: int) -> Arrays:
    """What the calls mean, [updates, B, ...]."""
    first = lambda name, i: [*range(i, len(calls[name]), len(calls[name]) // updates)]
    inputs = lambda name, i, n: np.stack([calls[name][k][0][n] for k in first(name, i)])
    outputs = lambda name, i, n=0: np.stack([calls[name][k][1][n] for k in first(name, i)])
    last = len(calls["masked_whiten"]) // updates - 1  # of an update; rewards may come before
    return {
        "sequences": outputs("batch_generation", 0),
        "log_probs": outputs("selective_log_softmax", 0),
        "ref_log_probs": outputs("selective_log_softmax", 1),
        "values": outputs("get_reward", 0)[..., 0],  # of all positions
        "scores": outputs("get_reward", 1, 1),
        "raw_advantages": inputs("masked_whiten", last, 0),
        "advantages": outputs("masked_whiten", last),
    }


def answer(case: dict[str, Any], arrays: Arrays) -> Arrays:
    """Weights before the run and after each update, what it learnt from, and its metrics."""
    torch.set_default_dtype(getattr(torch, case["dtype"]))
    nets = networks(case["model"], case["seed"], case["value_bias"])
    found: Arrays = {}
    for name, model in nets._asdict().items():
        found |= weights(f"before.{name}", model)
    logged: list[dict[str, float]] = []
    calls: Calls = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, exact(case["dtype"] == "float64"):
        ppo = trainer(case, arrays["prompts"], nets, folder)
        observe(ppo, nets, found, logged)
        with watching(calls), drawing(arrays["completions"], arrays["orders"]):
            ppo.train()
    return found | rollouts(calls, len(logged)) | {"metrics": np.array(json.dumps(logged))}


def main() -> None:
    questions, answers = sys.argv[1:]
    with np.load(questions) as file:
        arrays = {name: file[name] for name in file.files}
    results: Arrays = {}
    for name, case in json.loads(str(arrays["cases"])).items():
        own = {k.split("|")[1]: x for k, x in arrays.items() if k.split("|")[0] == name}
        results |= {f"{name}|{key}": x for key, x in answer(case, own).items()}
    np.savez(answers, **results)


if __name__ == "__main__":
    main()
