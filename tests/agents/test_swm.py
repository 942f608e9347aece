"""A world as stable-worldmodel's cost model: its costs are those of our own planners, in its units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wcsim.agents.objectives import LatentGoal, imagined_cost
from wcsim.agents.swm import WorldCost
from wcsim.backbones.cosmos2.tiny import tiny_world
from wcsim.cache.none import NoCache
from wcsim.errors import ConfigError
from wcsim.types import Fidelity
from wcsim.world.noise import PLANNING, stream_seeds
from wcsim.world.world import World

FIDELITY = Fidelity(2, NoCache())


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world()


def infos(world: World, candidates: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (2, 1, *world.spec.frame_size, 3)
    return {name: np.repeat(rng.integers(0, 256, shape).astype(np.uint8)[:, None], candidates, 1)
            for name in ("pixels", "goal")}


def test_costs_are_those_of_our_planners(world: World) -> None:
    info, model = infos(world, 3), WorldCost(world, FIDELITY)
    unit = torch.rand((2, 3, 2, 2 * world.spec.action.dim), generator=torch.Generator().manual_seed(1)) * 2 - 1
    costs = model.get_cost(info, unit)
    assert costs.shape == (2, 3)
    low, high = (np.asarray(getattr(world.spec.action, end)) for end in ("low", "high"))
    for number in range(2):
        state = world.init(info["pixels"][number, :1], np.zeros((1, 0, len(low)), np.float32), [0])
        state.seed.copy_(stream_seeds(state.seed, PLANNING))
        goal = LatentGoal(world.encode(info["goal"][number, 0])[0])
        cost = imagined_cost(world, state, fidelity=FIDELITY, objective=goal, max_lanes=64)
        actions = (low + (unit[number].numpy().reshape(3, 4, -1) + 1) / 2 * (high - low)).astype(np.float32)
        np.testing.assert_allclose(costs[number], cost(actions), rtol=1e-5)
    assert torch.equal(model.criterion(info, unit), costs), "the noise is the same every time"


def test_actions_are_clipped_and_frames_are_checked(world: World) -> None:
    low, high = (np.asarray(getattr(world.spec.action, end), np.float32) for end in ("low", "high"))
    np.testing.assert_array_equal(WorldCost(world, FIDELITY).to_world(np.array([-9.0] * len(low))), low)
    np.testing.assert_array_equal(WorldCost(world, FIDELITY, unit=False).to_world(high.astype(float) + 1), high)
    candidates = torch.zeros((2, 1, 1, len(low)))
    with pytest.raises(ConfigError, match="the infos have no 'goal'; they have pixels"):
        WorldCost(world, FIDELITY).get_cost({"pixels": infos(world, 1)["pixels"]}, candidates)
    floats = {name: value / 255 for name, value in infos(world, 1).items()}
    with pytest.raises(ConfigError, match="frames must be uint8"):
        WorldCost(world, FIDELITY).get_cost(floats, candidates)
