"""What a cheaper way to compute costs in exactness: a table in benchmarks/README.md.

    python -m benchmarks.precision

The models of benchmarks.ppo_update with random weights read the same random texts, once as float32
does it and once otherwise: `model.dtype=bfloat16` (operands of matrix products, which are summed
in float32) and `model.attention=xla`. `run.matmul_precision` changes nothing on a CPU; its errors
are among what benchmarks/accelerator.sh writes. Writes benchmarks/results/precision.json.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from benchmarks.markdown import put_table
from benchmarks.ppo_update_work import SIZES, Work
from benchmarks.records import PAGE, RESULTS
from rlhf_jax import runtime
from rlhf_jax.config import RunConfig
from rlhf_jax.io.run_dir import run_facts, write_json

WAYS = {
    "`model.dtype=bfloat16`": {"dtype": "bfloat16"},
    "`model.attention=xla`": {"attention": "xla"},
}
HEAD = [
    "size",
    "switch",
    "log-probability of a token: largest error, nats",
    "root mean square",
    "loss, relative error",
    "gradient, relative error (of its norm)",
]


class Outcome(NamedTuple):
    """Of one forward and backward pass."""

    log_probs: Any  # [B, T] of the completion's tokens
    loss: Any  # their negative mean
    gradient: Any  # all parameters in a row


def outcome(work: Work, run: RunConfig, **how: str) -> Outcome:
    """What a model of this size says of random texts, and its gradient."""
    import jax
    from jax.flatten_util import ravel_pytree

    from benchmarks.ppo_update_setup import BOS, EOS, pipeline_of
    from rlhf_jax.ops.distributions import log_probs_of

    model = pipeline_of(work, run, **how).model
    shape, first = (work.episodes, work.tokens), max(BOS, EOS) + 1
    texts = jax.random.randint(jax.random.key(1), shape, first, work.vocab)
    window = (work.prompt - 1, work.tokens - 1)

    def loss(params: Any) -> tuple[Any, Any]:
        logits = model.apply(params, texts, texts >= 0, window=window).logits
        log_probs = log_probs_of(logits, texts[:, work.prompt :])
        return -log_probs.mean(), log_probs

    params = jax.jit(model.init)(jax.random.key(0))
    (value, log_probs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return Outcome(log_probs, value, ravel_pytree(gradient)[0])


def errors(rough: Outcome, exact: Outcome) -> dict[str, float]:
    """How far one is from the other.

    >>> import numpy as np
    >>> exact = Outcome(np.array([1.0, 2.0]), 2.0, np.array([3.0, 4.0]))
    >>> errors(Outcome(np.array([1.0, 2.5]), 2.1, np.array([3.0, 4.5])), exact)["gradient"]
    0.1
    """
    import numpy as np

    apart = np.asarray(rough.log_probs) - np.asarray(exact.log_probs)
    gradient = np.asarray(rough.gradient) - np.asarray(exact.gradient)
    return {
        "largest_nats": float(np.abs(apart).max()),
        "rms_nats": float(np.sqrt(np.square(apart).mean())),
        "loss": float(abs(rough.loss / exact.loss - 1)),
        "gradient": float(np.linalg.norm(gradient) / np.linalg.norm(np.asarray(exact.gradient))),
    }


def line(found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    numbers = [f"{found[k]:.1g}" for k in ("largest_nats", "rms_nats", "loss", "gradient")]
    return [Work(**found["work"]).name, found["switch"], *numbers]


def main() -> None:
    """Compares every size and way."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    run, rows = RunConfig(device="cpu", threads=1), []
    runtime.setup(run)
    runtime.connect(run)
    for size in ("64", "128", "256"):
        exact = outcome(SIZES[size], run)
        for switch, how in WAYS.items():
            found = errors(outcome(SIZES[size], run, **how), exact)
            rows.append({"work": vars(SIZES[size]), "switch": switch} | found)
            print(" | ".join(line(rows[-1])), flush=True)
    write_json(RESULTS / "precision.json", {"rows": rows, "facts": run_facts()})
    put_table(PAGE, "precision", HEAD, [line(row) for row in rows])


if __name__ == "__main__":
    main()
