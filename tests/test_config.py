"""Configuration: strict, and clear about what it does not know."""

import re
from typing import Any

import pytest
from pydantic import Field

from wcsim.config import StrictConfig, override, read_yaml, validate
from wcsim.errors import ConfigError
from wcsim.experiments.closed_loop import ClosedLoopConfig


class Inner(StrictConfig):
    rate: float = Field(0.1, gt=0)


class Outer(StrictConfig):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None


def test_numbers_that_yaml_reads_as_strings_are_numbers():
    assert validate(Outer, override({"name": "x"}, ["inner.rate=1e-4"])).inner.rate == 1e-4


@pytest.mark.parametrize(("settings", "message"), [
    ({}, "name is required"),
    ({"name": "x", "colour": 1}, "colour is unknown; known: name, inner, maybe"),
    ({"name": "x", "inner": {"rte": 1}}, "inner.rte is unknown; known: rate"),
    ({"name": "x", "maybe": {"rte": 1}}, "maybe.rte is unknown; known: rate"),
    ({"name": "x", "inner": {"rate": -1}}, "inner.rate: Input should be greater than 0, given -1"),
])
def test_faults_are_named_with_their_path(settings, message):
    with pytest.raises(ConfigError) as caught:
        validate(Outer, settings)
    assert message in str(caught.value)


def test_overrides_do_not_touch_the_original():
    settings = {"name": "x", "inner": {"rate": 1.0}}
    assert override(settings, ["inner.rate=2", "name=y"]) == {"name": "y", "inner": {"rate": 2}}
    assert settings == {"name": "x", "inner": {"rate": 1.0}}


def test_an_override_refines_a_cache_preset():
    assert override({"cache": "wcsim"}, ["cache.threshold=0.2"]) == {"cache": {"preset": "wcsim", "threshold": 0.2}}


def test_files_are_found_by_path_and_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    assert read_yaml(str(tmp_path / "mine.yaml")) == {"a": 1}
    assert read_yaml("pusht_mpc") == read_yaml("configs/pusht_mpc.yaml")
    with pytest.raises(ConfigError, match="packaged: .*pusht_mpc"):
        read_yaml("pusht_nothing")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds list, not a mapping"):
        read_yaml(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_yaml(str(tmp_path / "broken.yaml"))


@pytest.mark.parametrize(("settings", "message"), [
    ({"policy": {"kind": "random", "holdd": 3}}, "policy.random.holdd is unknown; known: name, kind, hold, seed"),
    ({"policy": {"kind": "mpc", "objective": {"kind": "state_goal", "evry": 2}}},
     "policy.mpc.objective.state_goal.evry is unknown; known: kind, every"),
    ({"policy": {"kind": "mpc", "rungs": [{"survivor": 2}]}},
     "policy.mpc.rungs.0.survivor is unknown; known: fidelity"),
])
def test_an_unknown_key_deep_inside_is_told_with_those_that_are_known(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        validate(ClosedLoopConfig, {"name": "x", "world": "w", "task": {"name": "t"}, **settings})


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "..", ".hidden", "", "a" * 101, "x\n", "dot.", "a\\b", " a"])
def test_the_name_of_a_run_stays_below_runs(name: str) -> None:
    with pytest.raises(ConfigError, match="name: a run's name is at most 100 letters, digits, spaces"):
        validate(ClosedLoopConfig, {"name": name, "world": "w", "task": {"name": "t"}, "policy": {"kind": "hold"}})


@pytest.mark.parametrize("name", ["first try", "v1.2_b-3", "_x", "7"])
def test_a_name_is_kept(name: str) -> None:
    settings = {"name": name, "world": "w", "task": {"name": "t"}, "policy": {"kind": "hold"}}
    assert validate(ClosedLoopConfig, settings).name == name


def test_a_long_value_is_cut_in_its_error() -> None:
    with pytest.raises(ConfigError) as told:
        validate(ClosedLoopConfig, {"episodes": "x" * 10_000})
    assert len(str(told.value)) < 2_000


def test_a_misspelt_key_is_told_its_nearest() -> None:
    with pytest.raises(ConfigError, match=r"polices is unknown; known: .*; did you mean policy\?"):
        validate(ClosedLoopConfig, {"polices": []})


def test_a_misspelt_name_is_told_its_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean pusht_mpc"):
        read_yaml("pusht_mcp")
