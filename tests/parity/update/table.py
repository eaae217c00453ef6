"""Runs both sides and writes docs/parity_update.md: `python -m tests.parity.update.table`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np

from ..asking import missing, version
from .asking import PEER, ask
from .gaps import Gap, first_lessons, tensor_gaps, worst
from .known import DIFFERENCES, FLIPPED
from .ours import first_lessons as our_first_lessons
from .ours import updates
from .setting import (
    BATCH,
    COMPARED,
    LENGTH,
    PLAIN,
    PROMPT,
    UPDATES,
    WHITENED,
    Case,
    composed,
)
from .weights import Arrays

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "parity_update.md"
HEAD = f"""# Parity of a whole update with TRL

Written by `python -m tests.parity.update.table`; do not edit. `PPOTrainer.train` of {version(PEER)}
runs {UPDATES} updates of 4 epochs x 2 minibatches with the defaults of its `PPOConfig`
(`stop_token="eos"`, `missing_eos_penalty=1.0`), ours with `preset=trl1`; only sizes and the
learning rate are set beside these. Both start from the same random Llamas (policy, reference near
it, value model, reward model), draw the same tokens ({BATCH} left-padded prompts of 1 to {PROMPT}
tokens an update; completions that end at once, late, in the last of {LENGTH} slots, or never) and
take the rows of each epoch in the same order: TRL's sampling and shuffling are handed our tokens
and our order, and ours gets TRL's sampling log-probabilities. All else is each side's own code, on
the CPU. In float64 the casts to float32 inside both transformers are taken out.
`tests/parity/setup.sh {PEER} && pytest tests/parity/update` repeats it.

## New parameters

**Parameters** is `max |ours - theirs| / max |theirs|` of a tensor's new values, **Change** is
`|ours - theirs| / |theirs - before|` in Euclidean norm; each the largest over all tensors of policy
and value function. The tests fail above 1e-4 and 1e-3 in float32, above 1e-10 in float64.

| Case | Precision | Updates | Parameters | Change |
|---|---|---|---|---|
"""
LESSONS = """
## What the first update learns from

Largest difference of a number of ours from TRL's; the tests fail above 1e-5 in float32 and 1e-10 in
float64. (Hugging Face samples from float32 logits in either precision.)

| Precision | Log-probabilities | Of the reference | Values | Scores | Advantages | Whitened |
|---|---|---|---|---|---|---|
"""
SWITCHES = """
## Flipped settings

So that agreement means something: with one setting of ours changed, in float64, where the agreement
is below 1e-10.

| Changed | Updates | Parameters | Change |
|---|---|---|---|
"""
MIDDLE = """
## Differences on purpose

Each is pinned by a test.

| Difference | Who is right |
|---|---|
"""
FOOT = """
Not compared: the sampling itself. TRL may draw padding and BOS, and may end at once; ours never
draws padding or BOS, and ends at once only with `sampling.min_length=0`.
"""
ORDER = ("log_probs", "ref_log_probs", "values", "scores", "raw_advantages", "advantages")


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def shown(gap: Gap) -> tuple[str, str]:
    return f"{gap.parameters:.0e}", f"{gap.change:.0e}"


def compared(answer: Arrays, case: Case) -> Iterator[str]:
    config = composed(case)
    for i, (state, _) in enumerate(updates(answer, config, case.dtype, UPDATES), start=1):
        gap = worst(tensor_gaps(state.params, answer, i, config))
        yield row(case.title, case.dtype, i, *shown(gap))


def lessons(answer: Arrays, case: Case) -> str:
    ours = our_first_lessons(answer, composed(case), case.dtype)
    theirs = first_lessons(answer)
    apart = [np.abs(ours[name] - theirs[name]).max() for name in ORDER]
    return row(case.dtype, *(f"{x:.0e}" for x in apart))


def flipped(answer: Arrays, case: Case, switch: str, count: int) -> str:
    config = composed(case, switch)
    state, _ = updates(answer, config, case.dtype, count)[-1]
    return row(
        f"`{switch}`", count, *shown(worst(tensor_gaps(state.params, answer, count, config)))
    )


def page(answers: dict[str, Arrays]) -> str:
    """The page, all measured now."""
    case = WHITENED[1]
    parts = [
        HEAD,
        *(line for case in COMPARED for line in compared(answers[case.id], case)),
        LESSONS,
        *(lessons(answers[case.id], case) for case in PLAIN),
        SWITCHES,
        *(flipped(answers[case.id], case, *switch) for switch in FLIPPED.items()),
        MIDDLE,
        *(row(*texts) for texts in DIFFERENCES.values()),
        FOOT,
    ]
    return "".join(parts)


def main() -> None:
    if reason := missing(PEER):
        raise SystemExit(reason)
    PAGE.write_text(page(ask()))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
