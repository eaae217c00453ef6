"""Policy and value networks: shapes, gains, sharing and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import ConfigError, NetworkConfig
from rlhf_jax.models.actor_critic import make_actor_critic, matched
from rlhf_jax.models.functional import parameter_count


def made(sharing="separate", width=16, **changes):
    config = NetworkConfig(width=width, value_sharing=sharing, **changes)
    model = make_actor_critic(config, (5,), 3)
    return model, model.init(jax.random.key(0))


def test_layers_are_orthogonal_with_the_gains_asked_for():
    model = make_actor_critic(NetworkConfig(width=8), (8,), 4)
    params = model.init(jax.random.key(0))
    hidden = params["trunk"]["layers"][0]["kernel"]
    np.testing.assert_allclose(hidden.T @ hidden, 2.0 * np.eye(8), atol=1e-5)
    out = params["policy"]["out"]["kernel"]
    np.testing.assert_allclose(out.T @ out, 1e-4 * np.eye(4), atol=1e-8)
    value = params["value"]["kernel"]
    np.testing.assert_allclose(value.T @ value, [[1.0]], atol=1e-5)
    assert all(not np.any(x) for x in jax.tree.leaves(params) if x.ndim == 1)


@pytest.mark.parametrize(
    "sharing, moved", [("separate", 0), ("separate_matched", 0), ("shared", 1),
                       ("shared_stop_gradient", 0)]
)  # fmt: skip
def test_the_value_moves_the_policys_trunk_only_where_it_is_shared(sharing, moved):
    model, params = made(sharing)
    grads = jax.grad(lambda p: jnp.sum(model.apply(p, jnp.ones((2, 5)))[1]))(params)
    norm = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(grads["trunk"]))
    assert (norm > 0) == bool(moved)
    assert sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(grads["value"])) > 0


def test_two_matched_trunks_cost_no_more_than_a_shared_one():
    count = lambda sharing: parameter_count(made(sharing, width=64)[1])
    shared, separate = count("shared"), count("separate_matched")
    assert 0.95 * shared < separate <= shared
    assert matched(NetworkConfig(width=64), 4, 2).width > 40
    with pytest.raises(ConfigError, match=r"network\.value_sharing"):
        matched(NetworkConfig(width=1), 50, 2)


def test_a_gaussian_policy_has_a_deviation_of_its_own():
    model = make_actor_critic(NetworkConfig(width=8, log_std=-1.0), (3,), 2, box=True)
    params = model.init(jax.random.key(0))
    policy, values = model.apply(params, jnp.ones((4, 3)))
    assert policy.mean.shape == policy.log_std.shape == (4, 2) and values.shape == (4,)
    np.testing.assert_allclose(policy.log_std, -1.0)
    assert params["policy"]["log_std"].shape == (2,)


def test_images_and_flags_are_flattened_to_floats():
    model = make_actor_critic(NetworkConfig(width=8, activation="relu"), (4, 4, 2), 3)
    params = model.init(jax.random.key(0))
    policy, values = model.apply(params, jnp.zeros((2, 3, 4, 4, 2), bool))
    assert policy.logits.shape == (2, 3, 3) and values.shape == (2, 3)
