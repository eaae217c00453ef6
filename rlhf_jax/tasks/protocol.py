"""What a text task is: data as arrays, a codec between text and tokens, and its rewards."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.tasks.tree import Tree
from rlhf_jax.types import PairBatch, ScoreFn, Sequences, SpecialTokens


class TextCodec(NamedTuple):
    """Text to token ids and back. `encode` adds no BOS or EOS; `decode` drops special tokens."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int
    serialized: str = ""  # of a trained tokenizer; empty where the vocabulary is fixed
    ends: bool = True  # False: texts have a fixed length, and EOS is never drawn

    @property
    def special(self) -> SpecialTokens:
        """The three special tokens together."""
        return SpecialTokens(pad=self.pad_id, bos=self.bos_id, eos=self.eos_id)


class Enumerable(NamedTuple):
    """The completions of a task that are few enough to be listed. P prompts, S completions each."""

    tree: Tree
    prompts: Sequences  # [P, k], all different and of one length
    gold: np.ndarray  # [P, S] float32, true reward of every completion
    source: np.ndarray  # [P, S] float32, log-probabilities of what texts and pairs are drawn from
    number: int = 0  # of the instance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A text task. Arrays are numpy (int32 tokens, bool masks); only `gold` is traced.

    Texts start with BOS; complete ones end with EOS. Texts and pairs are padded on the right,
    prompts on the left. `gold` is the task's true reward inside the compiled program, `judge` an
    independent scorer of texts on the host; either may be None.
    """

    name: str
    codec: TextCodec
    train_text: Sequences  # [N, L]
    heldout_text: Sequences
    train_pairs: PairBatch
    heldout_pairs: PairBatch
    train_prompts: Sequences  # [N, P], left-padded
    eval_prompts: Sequences
    gold: ScoreFn | None = None
    judge: Callable[[list[str]], list[float]] | None = None
    # Further rewards that are computed inside the compiled program, by the name `task.reward` has.
    rewards: Mapping[str, ScoreFn] = dataclasses.field(default_factory=dict)
    exact: Enumerable | None = None  # where all completions can be listed
    # Where the optimum is known but completions are too many to list: (beta, texts [N, L], their
    # log-probabilities [N]) to the distance from the optimum of the policy that wrote them.
    sampled_gap: Callable[[float, np.ndarray, np.ndarray], Mapping[str, float]] | None = None
    # Known truths about the task and its data, e.g. {"entropy_per_token": 1.2,
    # "bayes_pair_accuracy": 0.87}; shown beside what training reached.
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Lines worth telling the user once (rows skipped, files read, cache used).
    notes: tuple[str, ...] = ()

    @property
    def in_graph(self) -> dict[str, ScoreFn]:
        """Every reward that is computed inside the compiled program, but for the reward model."""
        return dict(self.rewards) | ({} if self.gold is None else {"gold": self.gold})

    def fingerprint(self) -> str:
        """A hash of all data that stages are trained and measured on: equal ones can be shared.

        Only `eval_prompts` are left out: no stage that is cached sees them.
        """
        digest = hashlib.sha256(f"{self.name} {self.codec.vocab_size}".encode())
        pairs = (self.train_pairs, self.heldout_pairs)
        texts = [self.train_text, self.heldout_text, self.train_prompts]
        texts += [side for batch in pairs for side in (batch.chosen, batch.rejected)]
        arrays = [array for text in texts for array in (text.tokens, text.mask)]
        arrays += [number for batch in pairs for number in (batch.margin, batch.prompt_length)]
        arrays += [batch.confidence for batch in pairs if batch.confidence is not None]
        for array in map(np.asarray, arrays):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def listed(task: Task) -> Enumerable:
    """The completions of a task, where they are listed."""
    assert task.exact is not None, f"{task.name} is not listed"
    return task.exact
