"""Measures every comparison and writes docs/parity.md: `python -m tests.parity.table`."""

from __future__ import annotations

import pathlib

from .asking import missing, version
from .cases import Case, Gap, compare, evaluate
from .draws import DRAWS
from .registry import CASES, DIFFERENCES, PEERS, ask_all

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "parity.md"
HEAD = f"""# Parity with TRL and rlax

Written by `python -m tests.parity.table`; do not edit. Every function of ours below is run beside
the peer's own code, in the peer's own pinned environment, on the same random inputs: {DRAWS} draws
each, with ragged masks, random numbers on padding, random settings, and edges among them (all
tokens real, one token a row, policy equal to sampler, no advantage, a policy far off, a policy
nearly certain). Gradients are with respect to the log-probabilities, logits, values or scores that
the function takes. `tests/parity/setup.sh && pytest tests/parity` repeats it.

## Differences on purpose

Each is pinned by a test: once the difference named here is bridged, both sides agree within the
same tolerances; or, where the peer's number is lost or not a number, ours is shown to be there.

| Difference | Peer | Who is right |
|---|---|---|
"""
MIDDLE = """
## Every comparison

**Value** and **Gradient** are `max |ours - theirs| / max |theirs|` over the array of a draw, the
largest over the draws. Where a value is the mean of terms of either sign, its scale is at least the
mean size of these terms (of `beta kl_k3`, at least `beta`: TRL's `exp(d) - d - 1` is a difference
of such terms); where value and gradient are sums over the vocabulary that may vanish (an entropy, a
KL), at least 1 nat. The tests fail above 1e-6 in float32 and 1e-10 in float64. A case without a
float64 row is one whose peer computes in float32 or in integers; "-" is not differentiable.

| Ours | Peer | Version | Precision | Draws | Value | Gradient |
|---|---|---|---|---|---|---|
"""
FOOT = """
## Not compared here

- TRL 1.9.2 computes the rewards, the advantages, the clipped surrogate and the clipped value loss
  of PPO inline in `PPOTrainer.train`, where no function can be called alone; whole updates
  agree: see [parity_update.md](parity_update.md).
- `log_clip_loss`, `best_of_group`, `best_of_n_kl`, the KL controllers and `kl_k2` have no
  counterpart in these versions.
- SAPO, VESPO, `top_entropy_quantile`, off-policy masking and vLLM's corrections of TRL's GRPO, and
  the DPO variants not listed, have no counterpart here.
"""


def number(gap: float | None) -> str:
    if gap is None:
        return "-"
    return f"{gap:.0e}" if gap else "0"


def row(case: Case, dtype: str, gap: Gap) -> str:
    cells = (
        f"`{case.ours}`",
        f"`{case.theirs}`",
        version(case.peer),
        dtype,
        DRAWS,
        number(gap.value),
        number(gap.gradient),
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def main() -> None:
    for peer in PEERS:
        if reason := missing(peer):
            raise SystemExit(reason)
    answers, errors = {}, {}
    for peer in PEERS:
        found, failed = ask_all(peer)
        answers, errors = answers | found, errors | failed
    if errors:
        raise SystemExit("\n".join(f"{key}:\n{text}" for key, text in errors.items()))
    rows = [
        row(case, dtype, compare(evaluate(case, dtype), answers[case.id, dtype], case.terms))
        for case in CASES
        for dtype in case.dtypes
    ]
    pinned = [
        f"| {case.title} | `{case.theirs}`, {version(case.peer)} | {case.right} |\n"
        for case in DIFFERENCES
    ]
    PAGE.write_text(HEAD + "".join(pinned) + MIDDLE + "".join(rows) + FOOT)
    print(f"wrote {PAGE} ({len(rows)} comparisons, {len(pinned)} differences)")


if __name__ == "__main__":
    main()
