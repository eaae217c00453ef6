"""The peers' side: where their environments are, and one process of each for all cases."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from .cases import Case, inputs
from .draws import Arrays
from .peers import protocol

HERE = pathlib.Path(__file__).parent
Key = tuple[str, str]  # the case's id and the dtype


def peers_root() -> pathlib.Path:
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(
        os.environ.get("RLHF_JAX_PEERS") or pathlib.Path(cache, "rlhf_jax", "peers")
    )


def missing(peer: str) -> str | None:
    """Why the peer cannot be asked; None if it can."""
    pins, made = HERE / "peers" / f"{peer}.txt", peers_root() / peer / "pins.txt"
    if made.exists() and made.read_text() == pins.read_text():
        return None
    state = "has other pins" if made.exists() else "is missing"
    return f"the environment {made.parent} {state}: run tests/parity/setup.sh {peer}"


def version(peer: str) -> str:
    """`package version` of a peer, as pinned."""
    package = peer.split("_")[0]
    pins = (HERE / "peers" / f"{peer}.txt").read_text().splitlines()
    return next(line.replace("==", " ") for line in pins if line.startswith(f"{package}=="))


def _question(id_: str, case: Case, dtype: str) -> dict[str, Any]:
    return {
        "id": id_,
        "function": case.call,
        "options": case.options,
        "wrt": list(case.wrt),
        "arrays": inputs(case, dtype),
    }


def _run(peer: str, questions: str, answers: str) -> None:
    python = peers_root() / peer / "bin" / "python"
    worker = HERE / "peers" / f"{peer}_worker.py"
    # Not ours: flags and paths of this process mean nothing in the peer's.
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    command = [str(python), str(worker), questions, answers]
    done = subprocess.run(command, env=kept | quiet, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{worker.name} failed:\n{done.stderr[-4000:]}")


def ask(peer: str, cases: Sequence[Case]) -> tuple[dict[Key, Arrays], dict[Key, str]]:
    """Runs the peer's worker once over all cases: its answers, and tracebacks where it has none."""
    keys = {f"{i}@{dtype}": (case, dtype) for i, case in enumerate(cases) for dtype in case.dtypes}
    with tempfile.TemporaryDirectory() as folder:
        paths = f"{folder}/questions.npz", f"{folder}/answers.npz"
        protocol.pack([_question(id_, *key) for id_, key in keys.items()], paths[0])
        _run(peer, *paths)
        answers, errors = protocol.unpack(paths[1])
    named = {id_: (case.id, dtype) for id_, (case, dtype) in keys.items()}
    return {named[k]: a for k, a in answers.items()}, {named[k]: e for k, e in errors.items()}
