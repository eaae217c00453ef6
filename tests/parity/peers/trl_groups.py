"""GRPO and RLOO of current TRL: their own losses and advantages, without their set-up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch_worker import bare
from trl import GRPOTrainer, RLOOTrainer
from trl_stubs import PROMPT, LogitModel, LogProbModel, number


def completion(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Prompt and completion as the trainers batch them; all tokens 0, for `LogProbModel`."""
    prompt = torch.zeros(len(mask), PROMPT, dtype=torch.long)
    return {
        "prompt_ids": prompt,
        "prompt_mask": prompt + 1,
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": mask.long(),
    }


def grpo_trainer(mask: torch.Tensor, **settings: Any) -> GRPOTrainer:
    """Defaults are TRL's, and a single step for the batch. Settings named as in `GRPOConfig`."""
    get = lambda name, default: number(settings.get(name, default))
    args = SimpleNamespace(
        use_bias_correction_kl=settings.get("use_bias_correction_kl", False),
        delta=get("delta", None),
        steps_per_generation=1,
        report_to=[],
    )
    return bare(
        GRPOTrainer,
        args=args,
        state=SimpleNamespace(global_step=0),
        loss_type=settings["loss_type"],
        importance_sampling_level=settings.get("importance_sampling_level", "token"),
        epsilon_low=get("epsilon", 0.2),
        epsilon_high=get("epsilon_high", get("epsilon", 0.2)),
        beta=get("beta", 0.0),
        max_completion_length=settings.get("max_completion_length", mask.shape[1]),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        use_adaptive_entropy=False,
        entropy_coef=get("entropy_coef", 0.0),
        _entropy_bonus_enabled="entropy_coef" in settings,
        current_gradient_accumulation_steps=1,
    )


def grpo(
    log_probs, advantages, mask, behavior_log_probs=None, ref_log_probs=None, **settings
) -> torch.Tensor:
    """`GRPOTrainer._compute_loss` on log-probabilities; without a sampler's, on-policy."""
    trainer = grpo_trainer(mask, **settings)
    inputs = completion(mask) | {"advantages": advantages, "num_items_in_batch": mask.sum()}
    if behavior_log_probs is not None:
        inputs["old_per_token_logps"] = behavior_log_probs
    if ref_log_probs is not None:
        inputs["ref_per_token_logps"] = ref_log_probs
    return trainer._compute_loss(LogProbModel(log_probs), inputs)


def grpo_clip_ratio(log_probs, advantages, mask, behavior_log_probs, **settings) -> torch.Tensor:
    """The fraction of clipped tokens that `GRPOTrainer._compute_loss` logs."""
    trainer = grpo_trainer(mask, **settings)
    given = {"advantages": advantages, "old_per_token_logps": behavior_log_probs}
    inputs = completion(mask) | given | {"num_items_in_batch": mask.sum()}
    trainer._compute_loss(LogProbModel(log_probs), inputs)
    return torch.tensor(trainer._metrics["train"]["clip_ratio/region_mean"][-1])


def grpo_from_logits(
    logits, tokens, advantages, mask, behavior_log_probs, temperature, **settings
) -> torch.Tensor:
    """The same from logits [B, T, V], with the temperature and the entropy bonus."""
    trainer = grpo_trainer(mask, **settings)
    inputs = completion(mask) | {
        "completion_ids": tokens,
        "advantages": advantages,
        "old_per_token_logps": behavior_log_probs,
        "num_items_in_batch": mask.sum(),
    }
    before = F.pad(logits, (0, 0, PROMPT - 1, 1))  # logits[:, t] predict token t of the completion
    return trainer._compute_loss(LogitModel(before, number(temperature)), inputs)


def rloo(log_probs, behavior_log_probs, advantages, mask, epsilon, epsilon_high) -> torch.Tensor:
    """`RLOOTrainer._compute_loss`: one ratio a text, from the summed log-probabilities."""
    trainer = bare(
        RLOOTrainer,
        args=SimpleNamespace(report_to=[]),
        state=SimpleNamespace(global_step=0),
        epsilon_low=number(epsilon),
        epsilon_high=number(epsilon_high),
    )
    old = (behavior_log_probs * mask).sum(1)
    inputs = completion(mask) | {"advantages": advantages, "old_logps": old}
    return trainer._compute_loss(LogProbModel(log_probs), inputs)


def advantages_of(trainer_class: type, generated: tuple, scores, **settings: Any) -> torch.Tensor:
    """`_generate_and_score_completions` with the generation given, up to the advantages."""
    config = dict(
        per_device_train_batch_size=scores.numel(),
        gradient_checkpointing_kwargs=None,
        steps_per_generation=1,
        gradient_accumulation_steps=1,
        report_to=[],
    )
    trainer = bare(
        trainer_class,
        args=SimpleNamespace(**config),
        state=SimpleNamespace(global_step=0),
        _generate=lambda prompts: generated,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        environment_factories=None,
        environments=None,
        tools=None,
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        num_iterations=1,
        use_vllm=False,
        num_generations=scores.shape[-1],
        reward_funcs=[lambda **_: scores.flatten().tolist()],
        reward_processing_classes=[None],
        reward_func_names=["given"],
        reward_weights=torch.ones(1),
        _pending_extra_logs={},
        _pending_metrics={},
        **{"beta": 0.0} | settings,
    )
    lists = {name: [] for name in ("prompt", "completion", "advantages")}
    trainer._logs = lists | {"rewards": {"given": []}, "extra": {}}
    out = trainer._generate_and_score_completions([{"prompt": "p"}] * scores.numel())
    return out["advantages"].view(scores.shape)


def grpo_advantages(scores, scale_rewards="group") -> torch.Tensor:
    ids = [[1]] * scores.numel()
    generated = ids, ids, None, ["c"] * scores.numel(), None, {}, None, []
    settings = dict(scale_rewards=scale_rewards, multi_objective_aggregation="sum_then_normalize")
    return advantages_of(GRPOTrainer, generated, scores, **settings)


def rloo_advantages(scores, log_probs=None, ref_log_probs=None, mask=None, beta=0.0):
    """With `beta`, the KL to the reference is taken off the scores first."""
    lengths = [1] * scores.numel() if mask is None else mask.sum(1).tolist()
    ids = [[1] * n for n in lengths]
    generated = ids, ids, ["c"] * scores.numel()
    zeros = torch.zeros(len(ids), max(lengths))
    reference = object()

    def given(self, model, *_, **__):
        if mask is None:
            return zeros, None, None
        return (ref_log_probs if model is reference else log_probs)[:, : max(lengths)], None, None

    trainer_class = type("Given", (RLOOTrainer,), {"_get_per_token_logps_and_entropies": given})
    settings = dict(
        beta=number(beta), ref_model=reference, reward_clip_range=None, normalize_advantages=False
    )
    return advantages_of(trainer_class, generated, scores, **settings)
