"""TRL's side: one process of its environment answers all cases."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import tempfile

import numpy as np

from ..asking import peers_root
from .setting import (
    ARGS,
    CASES,
    LLAMA,
    SPECIAL,
    VOCAB,
    Case,
    completions,
    composed,
    orders,
    prompts,
)
from .weights import Arrays

PEER = "trl_ppo"
WORKER = pathlib.Path(__file__).parent / "peer" / "worker.py"


def question(case: Case) -> dict:
    """What the worker is told of a case, beside its arrays."""
    model = LLAMA | {f"{name}_token_id": i for name, i in SPECIAL._asdict().items()}
    model["num_hidden_layers"] = case.layers
    return {
        "dtype": case.dtype,
        "seed": 0,
        "value_bias": case.value_bias,
        "vocab": VOCAB,
        "pad": SPECIAL.pad,
        "eos": SPECIAL.eos,
        "model": model,
        "args": ARGS | case.args,
    }


def drawn(case: Case) -> Arrays:
    """Prompts, completions and orders of a case."""
    rows = orders(composed(case))
    return {"prompts": prompts(), "completions": completions(), "orders": rows}


def run(questions: str, answers: str) -> None:
    # Not ours: flags and paths of this process mean nothing in the peer's.
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(peers_root() / PEER / "bin" / "python"), str(WORKER), questions, answers]
    done = subprocess.run(command, env=kept | quiet, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{WORKER.name} failed:\n{done.stderr[-4000:]}")


def ask() -> dict[str, Arrays]:
    """Runs TRL once over all cases: its answers by the case's id."""
    cases = {str(i): case for i, case in enumerate(CASES)}
    arrays = {f"{i}|{k}": x for i, case in cases.items() for k, x in drawn(case).items()}
    spec = json.dumps({i: question(case) for i, case in cases.items()})
    with tempfile.TemporaryDirectory() as folder:
        paths = f"{folder}/questions.npz", f"{folder}/answers.npz"
        np.savez(paths[0], cases=spec, **arrays)
        run(*paths)
        with np.load(paths[1]) as file:
            found: dict[str, Arrays] = {case.id: {} for case in CASES}
            for key in file.files:
                i, name = key.split("|")
                found[cases[i].id][name] = file[key]
    return found
