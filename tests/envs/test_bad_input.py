"""What is wrong is refused with an error that says so, before any model call, and every lane stays where it was."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

import wcsim  # noqa: F401  registers the ids
from wcsim.envs.tasks import Start
from wcsim.errors import ActionError, ConfigError, SnapshotError
from wcsim.world.world import World

LANES, TICKS = 3, 2
SETTINGS = {"fidelity": {"steps": 2, "cache": "none"}, "max_episode_steps": 4}
CHUNK = ["wcsim.envs.wrappers:ChunkAction", {"ticks": TICKS}]


class Vector:
    """The vector environment; `lead` are the axes of its actions before the last."""

    lead: tuple[int, ...] = (LANES,)
    lane_wrappers: tuple[object, ...] = ()

    def __init__(self, folder):
        self.env = gym.make_vec("wcsim/PushT-v0", num_envs=LANES, vectorization_mode="vector_entry_point",
                                world=folder, autoreset_mode="Disabled", lane_wrappers=self.lane_wrappers, **SETTINGS)

    def lanes(self):
        return [(env.lane, env.elapsed, env.over, env.np_random.bit_generator.state) for env in self.env.envs]


class Chunks(Vector):
    lead = (LANES, TICKS)
    lane_wrappers = (CHUNK,)


class Single:
    lead = ()

    def __init__(self, folder, **settings):
        self.env = gym.make("wcsim/PushT-v0", world=folder, disable_env_checker=True, **SETTINGS, **settings)

    def lanes(self):
        env = self.env.unwrapped
        return [(env._lane, env.elapsed, env.over, env.np_random.bit_generator.state)]


@pytest.fixture(params=[Single, Vector, Chunks])
def kind(request, folder):
    made = request.param(folder)
    made.env.reset(seed=0)
    return made


@pytest.fixture
def refused(monkeypatch):
    """A check that something is refused without the model being asked, and that nothing has moved."""

    def check(kind, error, words, act):
        before = kind.lanes()
        with monkeypatch.context() as patch:
            for name in ("advance", "encode", "decode", "init"):
                patch.setattr(World, name, lambda *_, called=name, **__: pytest.fail(f"World.{called} was called"))
            with pytest.raises(error, match=words):
                act()
        for (lane, *rest), (now, *others) in zip(before, kind.lanes(), strict=True):
            assert lane is now
            assert rest == others

    return check


@pytest.mark.parametrize(("bad", "words"), [
    (lambda shape: np.full(shape, np.nan), "not finite"),
    (lambda shape: np.full(shape, np.inf), "not finite"),
    (lambda shape: np.full(shape, 513.0), "out of range"),
    (lambda shape: np.full(shape, -1), "out of range"),
    (lambda shape: np.full((*shape, 1), 1.0), "this environment takes"),
    (lambda shape: np.zeros((*shape[:-1], 3)), "this environment takes"),
    (lambda shape: np.full(shape, "left"), "real numbers"),
    (lambda shape: np.zeros(shape, dtype=bool), "dtype bool"),
    (lambda shape: np.zeros(shape, dtype=complex), "real numbers|dtype complex"),
    (lambda shape: None, "this environment takes"),
])
def test_actions(kind, refused, bad, words):
    refused(kind, ActionError, words, lambda: kind.env.step(bad((*kind.lead, 2))))


def test_one_bad_number_among_good_ones(kind, refused):
    action = np.full((*kind.lead, 2), 256.0)
    action[(-1,) * action.ndim] = np.nan
    refused(kind, ActionError, "not finite", lambda: kind.env.step(action))


def start_of(height=96, frames=1, actions=0, dtype=np.uint8):
    return Start(np.zeros((frames, height, height, 3), dtype), np.zeros((actions, 2), np.float32), None)


@pytest.mark.parametrize(("start", "error", "words"), [
    (start_of(64), ConfigError, r"task 'pusht' begins with uint8 \(T >= 1, 96, 96, 3\)"),
    (start_of(dtype=np.float32), ConfigError, "start frames are float32"),
    (replace(start_of(), frames=np.zeros((1, 96, 96, 4), np.uint8)), ConfigError, r"are uint8 \(1, 96, 96, 4\)"),
    (replace(start_of(), frames=np.zeros((96, 96, 3), np.uint8)), ConfigError, "T >= 1"),
    (replace(start_of(), frames=[[0]]), ConfigError, "start frames are list"),
    (start_of(frames=0), ConfigError, "T >= 1"),
    (start_of(frames=2), ActionError, r"takes \(1, 2\)"),
    (replace(start_of(frames=2), actions=np.full((1, 2), np.nan)), ActionError, "not finite"),
    (np.zeros((96, 96, 3), np.uint8), ConfigError, r"must be a wcsim.envs.tasks.Start, got ndarray"),
])
def test_starts(kind, refused, start, error, words):
    refused(kind, error, words, lambda: kind.env.reset(seed=1, options={"start": start}))


@pytest.mark.parametrize("seed", [-1, "seven", 0.5, 2**63, True, np.int64(-1), np.uint64(2**63), np.float64(1.0)])
def test_seeds(kind, refused, seed):
    refused(kind, (gym.error.Error, ValueError), "[Ss]eed", lambda: kind.env.reset(seed=seed))


@pytest.mark.parametrize("options", [{"begin": 1}, {"start": None, "strat": None}])
def test_unknown_reset_options(kind, refused, options):
    refused(kind, gym.error.Error, "reset option '(begin|strat)' is unknown; known: start",
            lambda: kind.env.reset(seed=1, options=options))


def test_a_start_that_cannot_be_found(folder, refused):
    kind = Single(folder, task_options={"start": "near", "near_px": 0.0, "near_degrees": 0.0})
    refused(kind, ConfigError, "no near start", lambda: kind.env.reset(seed=1))
    refused(kind, ConfigError, "no near start", lambda: kind.env.reset())


@pytest.mark.parametrize("seeds", [[1, 2], [1, 2, 3, 4], []])
def test_a_list_of_seeds_has_one_per_lane(folder, refused, seeds):
    kind = Vector(folder)
    kind.env.reset(seed=0)
    refused(kind, ValueError, "3 lanes need as many seeds", lambda: kind.env.reset(seed=seeds))


@pytest.mark.parametrize("kind", [Single, Vector], indirect=True)
@pytest.mark.parametrize(("change", "words"), [
    ({"world": "mars"}, "of world 'mars'; this one is 'tiny'"),
    ({"fingerprint": "0" * 64}, "another version of world 'tiny'"),
])
def test_snapshots_of_others(kind, refused, change, words):
    env = kind.env.unwrapped
    snapshot = env.snapshot()
    bad = replace(snapshot, **change) if isinstance(kind, Single) else [*snapshot[:-1], replace(snapshot[-1], **change)]
    refused(kind, SnapshotError, words, lambda: env.restore(bad))


def test_a_lane_whose_episode_is_over(folder, refused):
    kind = Vector(folder)
    kind.env.reset(seed=0)
    for _ in range(4):
        kind.env.step(np.full((LANES, 2), 256.0))
    kind.env.reset(options={"reset_mask": np.array([True, True, False])})
    refused(kind, gym.error.ResetNeeded, r"lanes \[2\] are over", lambda: kind.env.step(np.full((LANES, 2), 256.0)))
