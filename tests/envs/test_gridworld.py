"""Maps and moves: walls, slips, coins, ends and the time limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import ConfigError
from rlhf_jax.envs.gridworld import GridParams, GridState, Gridworld, direction_probs
from rlhf_jax.envs.layout import load_layout, parse, shipped

UP, RIGHT, DOWN, LEFT = range(4)
STILL = GridParams(slip=0.0)


def play(env, actions, params=STILL):
    """The six values of each step, from a start."""
    _, state = env.reset(jax.random.key(0), params)
    found, step = [], jax.jit(env.step)
    for i, action in enumerate(actions):
        found.append(step(jax.random.key(i), state, jnp.int32(action), params))
        state = found[-1][1]
    return found


@pytest.mark.parametrize("name", shipped())
def test_shipped_layouts_are_small_and_can_be_solved(name):
    layout = load_layout(name)
    assert layout.size <= 400
    assert np.all(layout.moved[~layout.reachable] >= 0) and layout.reachable.any()


def test_the_default_has_gold_and_a_dragon_on_five_by_five():
    rows = load_layout("dragon").rows
    assert len(rows) == len(rows[0]) == 5
    assert "G" in "".join(rows) and "D" in "".join(rows)


def test_gold_ends_the_episode_and_a_wall_is_run_into():
    env = Gridworld(parse("#S.G"))
    wall, step, gold = play(env, [LEFT, RIGHT, RIGHT])
    assert int(jnp.argmax(wall[0])) == 0 and float(wall[2]) == pytest.approx(-0.01)
    assert int(jnp.argmax(step[0])) == 1 and not step[3]
    assert gold[3] and not gold[4] and float(gold[2]) == pytest.approx(0.99)
    assert int(gold[1].place) == 0 and int(gold[1].time) == 0  # begun anew
    assert int(jnp.argmax(gold[5]["final_observation"])) == 1


def test_a_dragon_ends_it_too():
    (met,) = play(Gridworld(parse("DSG")), [LEFT])
    assert met[3] and float(met[2]) == pytest.approx(-1.01)


def test_a_coin_is_there_once():
    env = Gridworld(parse("Sc.G"))
    taken, back, again = play(env, [RIGHT, LEFT, RIGHT])
    assert float(taken[2]) == pytest.approx(0.29) and float(again[2]) == pytest.approx(-0.01)
    assert int(taken[1].place) == 3 + 1 and int(back[1].place) == 3 + 0  # coins gone: next layer


def test_the_time_limit_cuts_and_does_not_end():
    cut = play(Gridworld(parse("S.G")), [LEFT] * 2, GridParams(slip=0.0, max_steps_in_episode=2))
    assert not cut[0][4] and cut[1][4] and not cut[1][3]


def test_slips_go_to_both_sides_alike():
    np.testing.assert_allclose(direction_probs(0.2).sum(1), 1.0, rtol=1e-6)
    env, params = Gridworld(parse("...\n.S.\n..G")), GridParams(slip=0.4)
    start = GridState(place=jnp.int32(4), time=jnp.int32(0))
    step = lambda key: env.step(key, start, jnp.int32(UP), params)[5]["final_observation"]
    seen = jnp.mean(jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(0), 20000)), axis=0)
    np.testing.assert_allclose(seen[jnp.array([1, 3, 5])], [0.6, 0.2, 0.2], atol=0.015)


def test_exploring_starts_anywhere():
    env, params = Gridworld("coins"), GridParams(explore_starts=1.0)
    keys = jax.random.split(jax.random.key(0), 4000)
    places = jax.jit(jax.vmap(lambda key: env.reset(key, params)[1].place))(keys)
    assert set(np.unique(places)) == set(np.flatnonzero(env.layout.reachable))


@pytest.mark.parametrize(
    "text, message",
    [
        ("S.x", "letter 'x'"),
        ("S..\n.G", "one length"),
        ("..G", "no start"),
        ("S#G", "gold cannot be reached"),
        ("S" + "c" * 12 + "G", "at most 1024"),
        ("", "must be there"),
    ],
)
def test_maps_that_cannot_be_played_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text, "mine.txt")


def test_a_file_of_ones_own_is_read(tmp_path):
    (tmp_path / "map.txt").write_text("S.\n.G\n")
    assert load_layout(str(tmp_path / "map.txt")).size == 3
    with pytest.raises(ConfigError, match="must be one of cliff"):
        load_layout(str(tmp_path / "nothing.txt"))
