"""Parameter counts against real networks, and how closely two networks match one."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.config import ConfigError, ModelConfig
from rlhf_jax.models.functional import parameter_count
from rlhf_jax.models.sizes import matched, scored_size, trunk_size
from rlhf_jax.models.transformer import make_transformer
from rlhf_jax.models.value_heads import init_head, init_value

KEY = jax.random.key(0)
TINY = ModelConfig(layers=2, width=64, heads=4, kv_heads=2, ff_width=192)
SMALL = ModelConfig(layers=4, width=128, heads=4, kv_heads=2, ff_width=384)
BASE = ModelConfig(layers=6, width=256, heads=8, kv_heads=4, ff_width=768)
ODD = ModelConfig(layers=3, width=24, heads=2, kv_heads=1, ff_width=7)
SIZES = [TINY, SMALL, BASE, ODD]


def shapes(config, vocab_size):
    return jax.eval_shape(make_transformer(config, vocab_size).init, KEY)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config", SIZES)
def test_the_count_is_that_of_the_network(config, tied):
    config = dataclasses.replace(config, tied=tied)
    assert trunk_size(config, 103) == parameter_count(shapes(config, 103))


def test_the_count_by_hand():
    config = ModelConfig(layers=2, width=4, heads=2, kv_heads=1, ff_width=5)
    block = 4 + 4 + 16 + 16 + 8 + 8 + 20 + 20 + 20  # norms; query, out, key, value; SwiGLU
    assert trunk_size(config, 7) == 28 + 2 * block + 4
    assert trunk_size(dataclasses.replace(config, tied=False), 7) == 56 + 2 * block + 4
    assert scored_size(config, 7) == 28 + 2 * block + 4 + 5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab_size", [103, 4096])
@pytest.mark.parametrize("config", [TINY, SMALL, BASE])
def test_two_matched_networks_count_as_one(config, vocab_size, tied):
    config = dataclasses.replace(config, tied=tied)
    small = matched(config, vocab_size)
    head = jax.eval_shape(lambda: init_head(KEY, small.width))
    trunk = shapes(small, vocab_size)
    value = init_value(KEY, trunk, {"trunk": trunk, "head": head}, mode="shared", init="zero")
    pair = 2 * (parameter_count(trunk) + parameter_count(value))
    one = scored_size(config, vocab_size)
    unit = 2 * config.layers * 3 * small.width  # a unit of the feed-forward width, in both
    assert abs(pair - one) <= unit / 2
    assert abs(pair / one - 1) < 0.002


@pytest.mark.parametrize("config", SIZES)
def test_a_matched_network_is_a_smaller_one_of_the_same_kind(config):
    small = matched(config, 103)
    assert small.width % (2 * config.heads) == 0
    assert small.width < config.width
    assert small.ff_width >= 1
    same = dataclasses.replace(small, width=config.width, ff_width=config.ff_width)
    assert same == config
    make_transformer(small, 103)  # builds


@pytest.mark.parametrize("config", SIZES)
def test_the_next_width_would_starve_the_feed_forward_layers(config):
    small = matched(config, 103)
    wider = dataclasses.replace(small, width=small.width + 2 * config.heads)
    in_proportion = config.ff_width * wider.width / config.width
    whole = dataclasses.replace(wider, ff_width=round(in_proportion))
    assert 2 * scored_size(whole, 103) > scored_size(config, 103)
    assert small.ff_width / small.width > 0.9 * config.ff_width / config.width


def test_a_network_that_cannot_be_halved_is_refused():
    narrow = ModelConfig(layers=1, width=8, heads=4, kv_heads=2, ff_width=16)
    with pytest.raises(ConfigError, match=r"model.value_head='separate_matched': model.width=8"):
        matched(narrow, 12)


def test_a_matched_pair_learns_in_the_mode_it_is_for():
    config = ModelConfig(layers=1, width=16, heads=2, kv_heads=1, ff_width=32)
    config = matched(dataclasses.replace(config, value_head="separate_matched"), 12)
    model = make_transformer(config, 12)
    trunk = model.init(KEY)
    reward = {"trunk": trunk, "head": init_head(KEY, config.width)}
    value = init_value(KEY, trunk, reward, mode=config.value_head, init="random")
    assert jnp.shape(value["trunk"]["embedding_vd"]) == (12, config.width)
