"""The settings of `make_env`: a configuration's, variables', a preset's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wcsim.envs.env import OPTIONS, make_env, settings_of
from wcsim.errors import ConfigError


def made(**arguments):
    return make_env(**arguments)["wcsim"][0]


def test_an_empty_configuration_may_still_be_set(folder, monkeypatch):
    """EnvHub's configuration has no settings of its own."""
    monkeypatch.setenv("WCSIM_ENV_WORLD", folder)
    monkeypatch.setenv("WCSIM_ENV_PRESET", "quick")
    monkeypatch.setenv("WCSIM_ENV_CACHE", "none")
    env = made(n_envs=2, cfg=SimpleNamespace(gym_kwargs={}))
    first = env.envs[0]
    assert (env.num_envs, first.world.spec.name, first.fidelity.steps, first.horizon) == (2, "tiny", 10, 100)
    assert first.caption == "uncached"
    env.reset(seed=0)
    assert [frame.shape for frame in env.render()] == [(96, 96, 3)] * 2
    assert made(cfg={"steps": 3}).envs[0].fidelity.steps == 3


def test_what_is_said_twice():
    variables = {"WCSIM_ENV_STEPS": "4", "WCSIM_ENV_FIDELITY": "{steps: 9, solver: dpm}", "OTHER": "1"}
    assert settings_of({}, variables) == {"fidelity": {"steps": 4, "solver": "dpm"}}
    assert settings_of({"steps": 2}, variables) == {"fidelity": {"steps": 2, "solver": "dpm"}}
    assert settings_of({}, {}) == {}
    assert settings_of({"preset": "quick"}, {}) == {"fidelity": {"steps": 10}, "max_episode_steps": 100}
    own = {"preset": "quick", "fidelity": {"steps": 20}, "max_episode_steps": 7}
    assert settings_of(own, {}) == {"fidelity": {"steps": 20}, "max_episode_steps": 7}


@pytest.mark.parametrize(("given", "variables", "words"), [
    ({}, {"WCSIM_ENV_SPEED": "1"}, r"no option 'speed' \(from the variable WCSIM_ENV_SPEED\); known: id, preset"),
    ({"speed": 1}, {}, "no option 'speed'; known"),
    ({"preset": "slow"}, {}, "preset 'slow' is unknown; known: full, quick"),
    ({}, {"WCSIM_ENV_FIDELITY": "{steps: "}, "the variable WCSIM_ENV_FIDELITY is not YAML: '{steps: '"),
])
def test_misuse_is_named(given, variables, words):
    with pytest.raises(ConfigError, match=words):
        settings_of(given, variables)


def test_every_option_is_documented():
    for name in OPTIONS:
        assert name in make_env.__doc__ or name in ("task_options", "device", "compiled", "render_mode",
                                                    "action_space", "obs_type")
