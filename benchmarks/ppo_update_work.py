"""One PPO update as work: its shapes, and how much arithmetic they need. Plain Python, no jax."""

from __future__ import annotations

from dataclasses import dataclass


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


def forward_flops(work: Work, *, tokens: int, asked: int, head: bool) -> int:
    """Floating-point operations of the matrix products of one text's forward pass.

    With width D, L layers, keys of width E, feed-forward width F, T tokens, logits over V for the
    last M of them:

    `(L - 1) (T (4 D^2 + 4 D E + 6 D F) + A(T)) + 4 T D E + M (4 D^2 + 6 D F) + A(T) - A(T - M)`

    and `2 M D V` for the head: the last layer has queries where it is asked alone. Two operations
    for each multiplication; attention, `A(t) = 2 D t (t + 1)`, is counted up to each token itself,
    as a causal one needs it. Norms, softmax and the like are left out: a few in a hundred.

    Args:
      tokens: T, that are read.
      asked: M, the positions whose outputs are needed.
      head: whether these are logits.

    >>> work = Work(2, 1, 5, heads=1, kv_heads=1, ff_width=3)
    >>> forward_flops(work, tokens=2, asked=2, head=True)
    200
    >>> forward_flops(work, tokens=2, asked=1, head=False)
    100
    """
    d, t = work.width, tokens
    keys = 4 * d * work.kv_heads * work.head_width
    own = 4 * d * d + 6 * d * work.ff_width  # queries, what leaves attention, feed-forward
    attention = lambda t: 2 * d * t * (t + 1)
    below = (work.layers - 1) * (t * (keys + own) + attention(t))
    last = t * keys + asked * own + attention(t) - attention(t - asked)
    return below + last + 2 * asked * d * work.vocab * head


def rollout_flops(work: Work) -> int:
    """Floating-point operations of sampling all episodes with a cache.

    One pass of the policy over all but the last token of each: that one is only drawn.

    >>> work = Work(2, 1, 5, heads=1, kv_heads=1, ff_width=3, prompt=1, length=2, episodes=3)
    >>> rollout_flops(work)
    600
    """
    return work.episodes * completions(work, head=True)


def completions(work: Work, *, head: bool) -> int:
    """Of a pass to the positions that predict a completion's tokens: its last is not read."""
    return forward_flops(work, tokens=work.tokens - 1, asked=work.length, head=head)


def update_flops(work: Work) -> dict[str, int]:
    """Floating-point operations that an update needs, by part; `whole` is their sum.

    Rollout: `rollout_flops`. Scoring: one pass of reference, value function and reward model, the
    latter up to the end of each text. Learning: of policy and value function a pass forward, and
    one backward that costs two, for every episode in every epoch.
    """
    n = work.episodes
    policy, values = (n * completions(work, head=head) for head in (True, False))
    scores = n * forward_flops(work, tokens=work.tokens, asked=1, head=False)
    learnt = work.epochs * (policy + values)
    parts = {
        "rollout": rollout_flops(work),
        "scoring": policy + values + scores,
        "forward": learnt,
        "backward": 2 * learnt,
    }
    return parts | {"whole": sum(parts.values())}


def gflop(work: Work) -> float:
    """Of a whole update.

    >>> round(gflop(SIZES["64"]), 1)
    13.6
    """
    return update_flops(work)["whole"] / 1e9
