"""Ratios of timings: many lanes against as many single steps, and what a step spends outside the model."""

from __future__ import annotations

from time import perf_counter

import gymnasium as gym
import numpy as np
import pytest

import wcsim  # noqa: F401  registers the ids

LANES, ROUNDS = 32, 3
INSIDE = ("embed", "probe", "deep", "policy", "head", "decode", "judge")
"""Spans of the transformer (with its cache), the codec and the judge."""

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


def play(envs, moves):
    """Seconds to step environments that share a batch, or one after another."""
    began = perf_counter()
    for env, move in zip(envs, moves, strict=True):
        env.step(move)
    return perf_counter() - began


@pytest.mark.parametrize("cache", ["wcsim", "none"])
def test_many_lanes_cost_less_than_as_many_steps(cache, record_property, capsys):
    """Alternating rounds of one batched step and as many single ones, from the same starts under the same actions."""
    settings = {"cache": cache, "steps": 10}
    vector = gym.make_vec("wcsim/PushT-v0", num_envs=LANES, vectorization_mode="vector_entry_point", **settings)
    singles = [gym.make("wcsim/PushT-v0", disable_env_checker=True, **settings).unwrapped for _ in range(LANES)]
    vector.reset(seed=0)
    for lane, single in enumerate(singles):
        single.reset(seed=lane)
    rng, ratios = np.random.default_rng(0), []
    for number in range(1 + ROUNDS):
        moves = rng.uniform(0, 512, (LANES, 2)).astype(np.float32)
        together, apart = play([vector], [moves]), play(singles, moves)
        if number:  # the first round warms up
            ratios.append(apart / together)
    with capsys.disabled():
        print(f"\n{LANES} lanes, cache {cache}: {np.median(ratios):.2f}x the throughput of single steps {ratios}")
    assert np.median(ratios) > 1.0


@pytest.mark.parametrize("lanes", [1, LANES])
def test_little_is_spent_outside_the_model(lanes, capsys):
    env = gym.make_vec("wcsim/PushT-v0", num_envs=lanes, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    shares, rng = [], np.random.default_rng(0)
    for _ in range(1 + ROUNDS):
        moves = rng.uniform(0, 512, (lanes, 2)).astype(np.float32)
        whole = 1e3 * play([env], [moves])
        shares.append(1 - sum(env.last_timing.get(span, 0.0) for span in INSIDE) / whole)
    with capsys.disabled():
        print(f"\n{lanes} lanes: {np.median(shares[1:]):.2%} of a step is outside {', '.join(INSIDE)}")
    assert np.median(shares[1:]) < 0.05
