"""One PPO update as work: its shapes, and how much arithmetic they need. Plain Python, no jax."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """Shapes of an update of a Llama-shaped policy.

    The value function, the reward model and the reference are networks of their own, as large as
    the policy. Completions have a fixed length: nobody stops early.
    """

    width: int
    layers: int
    vocab: int
    heads: int = 4
    kv_heads: int = 4
    ff_width: int = 0  # 0: four times the width
    prompt: int = 8
    length: int = 24  # tokens of a completion
    episodes: int = 64
    epochs: int = 4
    minibatches: int = 4

    def __post_init__(self):
        if not self.ff_width:
            object.__setattr__(self, "ff_width", 4 * self.width)

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"d {self.width}, {self.layers} layers, vocab {self.vocab}"

    @property
    def head_width(self) -> int:
        """Of one attention head."""
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        """Of one text, prompt and completion."""
        return self.prompt + self.length


SIZES = {
    "64": Work(64, 2, 64),
    "128": Work(128, 4, 256),
    "256": Work(256, 6, 2048, heads=8, kv_heads=8),
    "512": Work(512, 8, 4096, heads=8, kv_heads=8),
}


def forward_flops(work: Work, *, logits: int, sequences: int = 1) -> int:
    """Floating-point operations of the matrix products of one forward pass.

    With width D, L layers, keys of width E, feed-forward width F, T tokens, M of them with logits
    over V:

    `T L (4 D^2 + 4 D E + 6 D F) + 2 L D T (T + 1) + 2 M D V`

    two for each multiplication; attention is counted up to each token itself, as a causal one needs
    it. Norms, softmax and the like are left out: a few in a hundred.

    >>> forward_flops(Work(2, 1, 5, heads=1, kv_heads=1, ff_width=3, prompt=1, length=1), logits=1)
    180
    """
    d, layers, t = work.width, work.layers, work.tokens
    keys = work.kv_heads * work.head_width
    linear = t * layers * (4 * d * d + 4 * d * keys + 6 * d * work.ff_width)
    attention = 2 * layers * d * t * (t + 1)
    return sequences * (linear + attention + 2 * logits * d * work.vocab)


def rollout_flops(work: Work) -> int:
    """Floating-point operations of sampling all episodes with a cache.

    One pass of the policy over all but the last token of each: that one is only drawn.

    >>> work = Work(2, 1, 5, heads=1, kv_heads=1, ff_width=3, prompt=1, length=2, episodes=1)
    >>> rollout_flops(work)
    200
    """
    passed = replace(work, length=work.length - 1)
    return forward_flops(passed, logits=work.length, sequences=work.episodes)


def update_flops(work: Work) -> dict[str, int]:
    """Floating-point operations that an update needs, by part; `whole` is their sum.

    Rollout: `rollout_flops`. Scoring: one pass of reference, value function and
    reward model. Learning: of policy and value function a pass forward, and one backward that costs
    two, for every episode in every epoch.
    """
    n = work.episodes
    policy = forward_flops(work, logits=work.length, sequences=n)
    trunk = forward_flops(work, logits=0, sequences=n)
    learnt = work.epochs * (policy + trunk)
    parts = {
        "rollout": rollout_flops(work),
        "scoring": policy + 2 * trunk,
        "forward": learnt,
        "backward": 2 * learnt,
    }
    return parts | {"whole": sum(parts.values())}
