"""The worlds in the package: whole, small enough, and worth stepping, with the cache on."""

import numpy as np
import pytest

from gl import need_gl
from wcsim.cache import preset
from wcsim.envs.tasks import make_task, play_exploration
from wcsim.types import Fidelity
from wcsim.world.checkpoints import load_parts, read_description, shipped_worlds
from wcsim.world.world import World

WORLDS = sorted(shipped_worlds())
SEEDS = tuple(range(610_000, 610_006))
TICKS = 8
LEAST_STEPS = 8
"""Fewer leave a cache nothing to skip."""
WRONG = {"pusht": 3.0, "pendulum": 1.5, "cube": 2.0}
"""How many times worse wrong actions must be, by task; within so few ticks a torque moves less than a target."""


@pytest.fixture
def episodes(name):
    """The world's task, and recorded episodes of it."""
    if name == "cube-96":
        need_gl()
    task = make_task(read_description(shipped_worlds()[name])[0].task)
    return task, [play_exploration(task, seed, TICKS + 3) for seed in SEEDS]


def replay(world, episodes, actions):
    """The robot's first quantity and frames at the end of `TICKS` cached steps from a context of four frames."""
    task, played = episodes
    frames = np.array([[look.pixels for look in seen[:4]] for seen, _ in played])
    past = np.array([done[:3] for _, done in played])
    fidelity = Fidelity(max(world.spec.default_steps, LEAST_STEPS), preset("wcsim").build())
    _, latents, trace = world.advance(world.init(frames, past, SEEDS), actions, fidelity)
    pictures = world.decode(latents[:, -1])
    return task.estimate(pictures).values[task.state.robot[0].name], pictures, trace


@pytest.mark.parametrize("name", WORLDS)
def test_is_small_and_whole(name):
    folder = shipped_worlds()[name]
    spec, transformer, codec = load_parts(folder)
    assert spec.name == name
    assert sum(p.numel() for p in transformer.parameters()) <= 12_000_000
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 30e6
    assert codec.compression == 8


@pytest.mark.parametrize("name", WORLDS)
def test_follows_the_actions_with_the_cache_on(name, episodes):
    world = World.load(name)
    task, played = episodes
    true = np.array([done[3:] for _, done in played])
    robot = task.state.robot[0]
    truth, start = (np.array([seen[tick].estimate.values[robot.name][0] for seen, _ in played]) for tick in (-1, 3))

    places, frames, trace = replay(world, episodes, true)
    assert trace.hit_rate > 0.2
    error = np.nan_to_num(robot.error(places, truth), nan=np.inf)  # a robot that was lost
    assert np.median(error) < 0.5 * np.median(robot.error(start, truth)), "no better than standing still"
    for wrong in (np.roll(true, 1, axis=0), np.zeros_like(true)):
        other, pictures, _ = replay(world, episodes, wrong)
        assert not np.array_equal(frames, pictures)
        assert np.median(np.nan_to_num(robot.error(other, truth), nan=512.0)) > WRONG[task.name] * np.median(error)
