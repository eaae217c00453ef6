"""DPO, KTO, ORPO and CPO of current TRL: their own losses, without their set-up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch_worker import bare
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl_stubs import IGNORED, PROMPT, LogProbModel, number


def texts(mask: torch.Tensor, token: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.full((len(mask), PROMPT + mask.shape[1]), token)
    kept = F.pad(mask.long(), (PROMPT, 0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": kept}


def dpo(log_probs, ref_log_probs, mask, beta, loss_type, label_smoothing=0.0) -> dict:
    """`DPOTrainer._compute_loss` on [2N, T]: the chosen texts, then the rejected ones."""
    trainer = bare(
        DPOTrainer,
        ref_model=LogProbModel(ref_log_probs),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        ld_alpha=None,
        precompute_ref_logps=False,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=number(beta),
        label_smoothing=number(label_smoothing),
        use_weighting=False,
    )
    loss = trainer._compute_loss(LogProbModel(log_probs), texts(mask), return_outputs=False)
    metrics = trainer._metrics["train"]
    rewards = [metrics["rewards/chosen"][-1], metrics["rewards/rejected"][-1]]
    return {"value": loss, "rewards": torch.tensor(rewards, dtype=loss.dtype)}


def dpo_pairwise(log_probs, ref_log_probs, mask, beta, loss_type, label_smoothing) -> torch.Tensor:
    """The mean of `dpo` on batches of one pair."""
    pairs = [x.unflatten(0, (2, -1)).unbind(1) for x in (log_probs, ref_log_probs, mask)]
    losses = [dpo(*pair, beta, loss_type, label_smoothing)["value"] for pair in zip(*pairs)]
    return torch.stack(losses).mean()


def kto(
    log_probs, ref_log_probs, mask, desirable, kl_log_probs, kl_ref_log_probs, kl_mask, **settings
) -> dict:
    """`KTOTrainer._compute_loss`; the KL comes from a second set of texts."""
    trainer = bare(
        KTOTrainer,
        ref_model=LogProbModel(ref_log_probs, kl_ref_log_probs),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        calculate_KL=True,
        precompute_ref_logps=False,
        loss_type="kto",
        **{name: number(x) for name, x in settings.items()},
    )
    batch = texts(mask) | {f"KL_{k}": x for k, x in texts(kl_mask, token=1).items()}
    model = LogProbModel(log_probs, kl_log_probs)
    batch |= {"label": desirable.long()}
    loss = trainer._compute_loss(model, batch, return_outputs=False)
    metrics = trainer._metrics["train"]
    rewards = [metrics["rewards/chosen"][-1], metrics["rewards/rejected"][-1]]
    return {"value": loss, "rewards": torch.tensor(rewards, dtype=loss.dtype)}


def pairs_of(tokens, mask, labels_mask) -> dict[str, torch.Tensor]:
    """The batch of `ORPOTrainer` and `CPOTrainer` from [2N, L] stacked texts."""
    labels = torch.where(labels_mask, tokens, IGNORED)
    parts = {"input_ids": tokens, "attention_mask": mask.long(), "labels": labels}
    chosen = {f"chosen_{name}": x.chunk(2)[0] for name, x in parts.items()}
    return chosen | {f"rejected_{name}": x.chunk(2)[1] for name, x in parts.items()}


def from_logits(trainer: Any, logits, tokens, mask, completion_mask) -> torch.Tensor:
    trainer.is_encoder_decoder = False
    model = lambda *_, **__: SimpleNamespace(logits=logits)
    batch = pairs_of(tokens, mask, completion_mask)
    return trainer.get_batch_loss_metrics(model, batch)[0]


def orpo(logits, tokens, mask, completion_mask, beta) -> torch.Tensor:
    """`ORPOTrainer.get_batch_loss_metrics`: odds-ratio term and NLL, from logits [2N, L, V]."""
    trainer = bare(ORPOTrainer, beta=number(beta), padding_value=0)
    return from_logits(trainer, logits, tokens, mask, completion_mask)


def orpo_term(chosen_log_probs, rejected_log_probs, beta) -> torch.Tensor:
    trainer = bare(ORPOTrainer, beta=number(beta))
    return -trainer.odds_ratio_loss(chosen_log_probs, rejected_log_probs)[0]


def cpo_trainer(loss_type, beta, margin=0.0, label_smoothing=0.0) -> CPOTrainer:
    return bare(
        CPOTrainer,
        loss_type=loss_type,
        beta=number(beta),
        simpo_gamma=number(margin),
        label_smoothing=number(label_smoothing),
        cpo_alpha=0.0,
        alpha=0.0,
        pad_token_id=0,
    )


def simpo(logits, tokens, mask, completion_mask, **settings) -> torch.Tensor:
    """`CPOTrainer.get_batch_loss_metrics` from logits [2N, L, V]."""
    return from_logits(cpo_trainer("simpo", **settings), logits, tokens, mask, completion_mask)


def cpo(chosen_log_probs, rejected_log_probs, loss_type, **settings) -> dict:
    """`CPOTrainer.cpo_loss` on log-probabilities of whole texts, per pair."""
    trainer = cpo_trainer(loss_type, **settings)
    losses, chosen, rejected = trainer.cpo_loss(chosen_log_probs, rejected_log_probs)
    return {"value": losses, "chosen_rewards": chosen, "rejected_rewards": rejected}
