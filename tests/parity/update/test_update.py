"""Two whole PPO updates of TRL 1.9.2 and ours, under `preset=trl1`, end in the same parameters."""

import numpy as np
import pytest

from .accumulated import first_update
from .gaps import first_lessons, masks, movement, tensor_gaps, worst
from .known import DIFFERENCES, FLIPPED, SAME, logged
from .ours import first_lessons as our_first_lessons
from .ours import updates
from .setting import (
    ACCUMULATED,
    BATCH,
    COMPARED,
    LENGTH,
    PLAIN,
    UPDATES,
    WHITENED,
    WITHOUT_BIAS,
    composed,
)
from .table import PAGE

pytestmark = pytest.mark.parity
PARAMETERS = {"float32": 1e-4, "float64": 1e-10}
CHANGE = {"float32": 1e-3, "float64": 1e-10}  # Adam makes much of a gradient near 0
START = {"float32": 1e-5, "float64": 1e-10}
each = lambda cases: pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


@each(COMPARED)
def test_the_new_parameters_are_trls(case, answers):
    answer, config = answers[case.id], composed(case)
    for i, (state, _) in enumerate(updates(answer, config, case.dtype, UPDATES), start=1):
        gap = worst(tensor_gaps(state.params, answer, i, config))
        assert gap.parameters < PARAMETERS[case.dtype], (i, gap)
        assert gap.change < CHANGE[case.dtype], (i, gap)


@each(PLAIN)
def test_both_learn_from_the_same(case, answers):
    theirs = first_lessons(answers[case.id])
    ours = our_first_lessons(answers[case.id], composed(case), case.dtype)
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        # Hugging Face samples from logits in float32, whatever the model's precision.
        bound = START["float32" if name == "log_probs" else case.dtype]
        np.testing.assert_allclose(ours[name], x, rtol=0, atol=bound, err_msg=name)


@each(COMPARED)
def test_the_update_is_a_real_one(case, answers):
    """Nothing that could differ is switched off: clips act, KL and loss are not 0, all moves."""
    answer, config = answers[case.id], composed(case)
    metrics = logged(answer)
    assert [row["steps"] for row in metrics] == [8, 16]
    for row in metrics:
        assert 0 < row["policy/clipfrac_avg"] < 1 and 0 < row["val/clipfrac_avg"] < 1
        assert abs(row["objective/kl"]) > 0.01 and row["loss/value_avg"] > 0.1
    for i in range(UPDATES):
        lengths = masks(answer, i)[0].sum(1)
        assert len(set(lengths)) > 4 and 0 < metrics[i]["val/num_eos_tokens"] < BATCH
    for name, moved in movement(answer, 1, config).items():
        assert moved > 3e-3, name


@pytest.mark.parametrize("switch", FLIPPED)
def test_a_flipped_switch_is_seen(switch, answers):
    (_, case), count = WHITENED, FLIPPED[switch]
    config = composed(case, switch)
    state, _ = updates(answers[case.id], config, case.dtype, count)[-1]
    gap = worst(tensor_gaps(state.params, answers[case.id], count, config))
    assert gap.change > 1e-3 > 1e6 * CHANGE[case.dtype], gap


def test_metrics_of_the_same_name_agree_or_differ_as_we_say(answers):
    case, config = PLAIN[0], composed(PLAIN[0])
    ours = [metrics for _, metrics in updates(answers[case.id], config, case.dtype, UPDATES)]
    for i, (mine, theirs) in enumerate(zip(ours, logged(answers[case.id]))):
        for name in SAME:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, err_msg=name)
        # TRL logs the scores after the penalty for a missing end, we as the reward gave them.
        unfinished = 1 - theirs["val/num_eos_tokens"] / BATCH
        for name in ("objective/scores", "objective/rlhf_reward"):
            np.testing.assert_allclose(mine[name] - unfinished, theirs[name], atol=1e-5)
        # TRL counts a pad as a token of log-probability 1.
        pads = LENGTH - masks(answers[case.id], i)[0].sum(1).mean()
        name = "objective/entropy"
        np.testing.assert_allclose(mine[name] - pads, theirs[name], rtol=1e-5)
        # Its means over tokens are over pads too, where the policy stands still.
        assert theirs["policy/approxkl_avg"] < 0.8 * mine["policy/approxkl_avg"]
        assert 1 < theirs["val/ratio"] < mine["val/ratio"]
        assert abs(theirs["policy/entropy_avg"] - mine["policy/entropy_avg"]) > 1e-3


def test_with_accumulated_gradients_trl_has_no_minibatches(answers):
    """One step an epoch; on the last batch of a pass over the prompts, one at every part of it."""
    case, config = ACCUMULATED, composed(ACCUMULATED)
    answer = answers[case.id]
    assert [row["steps"] for row in logged(answer)] == [4, 4 + 8]
    (state, _), *_ = updates(answer, config, case.dtype, 1)
    assert worst(tensor_gaps(state.params, answer, 1, config)).change > 0.1
    state = first_update(answer, config, case.dtype)
    assert worst(tensor_gaps(state.params, answer, 1, config)).change < CHANGE[case.dtype]


def test_float64_sees_what_trl_adds_to_the_temperature(answers):
    case, config = PLAIN[1], composed(PLAIN[1])
    plain = lambda hparams, dtype: hparams
    (state, _), *_ = updates(answers[case.id], config, case.dtype, 1, adapt=plain)
    gap = worst(tensor_gaps(state.params, answers[case.id], 1, config))
    assert 1e-9 < gap.parameters < PARAMETERS["float32"] and gap.change < CHANGE["float32"]


def test_the_bias_of_our_value_head_is_not_in_trls(answers):
    case, config = WITHOUT_BIAS, composed(WITHOUT_BIAS)
    (state, _), *_ = updates(answers[case.id], config, case.dtype, 1)
    gaps = tensor_gaps(state.params, answers[case.id], 1, config)
    assert worst(gaps, "policy").change < CHANGE[case.dtype]
    assert abs(state.params["value"]["head"]["bias"]) > 1e-4
    assert gaps["value.head.weight_d"].change > 1e-2


def test_the_page_lists_every_case_switch_and_difference():
    page = PAGE.read_text()
    for text in [case.title for case in COMPARED] + list(FLIPPED):
        assert text in page, f"{text}: run python -m tests.parity.update.table"
    for test, texts in DIFFERENCES.items():
        assert test in globals() and all(text in page for text in texts), test
