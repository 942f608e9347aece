"""One mapping says how well to imagine, and all of it reaches the world."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.cache.curve import Curve
from wcsim.cache.fidelity import FidelityConfig, parse_fidelity
from wcsim.cache.interval import Interval
from wcsim.cache.none import NoCache
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.errors import ConfigError
from wcsim.types import Fidelity
from wcsim.world.world import World

EVERY = {"steps": 3, "cache": {"kind": "interval"}, "solver": "unipc", "context": 2, "chunk": 3, "guidance": 1.5,
         "decide": "apart", "batched": False, "guidance_until": 0.25, "context_refresh": 0.5}


class Watched(World):
    """A tiny world that remembers at what fidelity it was asked to imagine, and then does so unguided."""

    def __init__(self):
        super().__init__(*tiny_parts(task="pusht"))
        self.asked = []

    def advance(self, state, actions, fidelity):
        self.asked.append(fidelity)
        return super().advance(state, actions, Fidelity(2, NoCache()))


@pytest.fixture
def watched(monkeypatch):
    world = Watched()
    monkeypatch.setattr("wcsim.envs.imagined.load_world", lambda *_, **__: world)
    return world


def test_the_settings_are_the_fields_of_a_fidelity():
    assert set(FidelityConfig.model_fields) == {field.name for field in fields(Fidelity)} == set(EVERY)


@pytest.mark.parametrize("given", [EVERY, FidelityConfig(**EVERY)])
@pytest.mark.parametrize("lanes", [None, 2])
def test_every_field_reaches_the_world(folder, watched, given, lanes):
    action = np.array([100.0, 200.0], np.float32)
    if lanes is None:
        env = ImaginedEnv("pusht", folder, fidelity=given)
    else:
        env = ImaginedVectorEnv(lanes, task="pusht", world=folder, fidelity=given)
        action = np.stack([action] * lanes)
    env.reset(seed=0)
    env.step(action)
    (asked,) = watched.asked
    assert isinstance(asked.cache, Interval)
    told = {name: getattr(asked, name) for name in EVERY if name != "cache"}
    assert told == {name: value for name, value in EVERY.items() if name != "cache"}
    plain = parse_fidelity(None).build(watched.spec)
    assert [name for name in told if told[name] == getattr(plain, name)] == []


def test_what_is_left_out_is_the_worlds_default_and_the_recommended_cache(folder, watched):
    env = ImaginedEnv("pusht", folder)
    assert env.fidelity.steps == watched.spec.default_steps
    assert isinstance(env.fidelity.cache, Curve)
    assert isinstance(ImaginedEnv("pusht", folder, fidelity={"cache": "none"}).fidelity.cache, NoCache)


@pytest.mark.parametrize(("given", "words"), [
    ({"stps": 3}, "fidelity.stps is unknown; known: steps, solver, context, chunk, cache"),
    ({"steps": 0}, "fidelity.steps: .* given 0"),
    ({"cache": "fast"}, "fidelity.cache preset 'fast' is unknown"),
    ({"decide": "never"}, "fidelity.decide"),
    (8, "fidelity is a mapping of steps, solver, .*, got int"),
    ({"context": 99}, "fidelity.context is 99; world 'tiny' allows 1 to 4"),
])
def test_what_is_not_allowed_is_named(folder, watched, given, words):
    with pytest.raises(ConfigError, match=words):
        ImaginedEnv("pusht", folder, fidelity=given)
