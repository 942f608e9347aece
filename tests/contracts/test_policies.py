"""What every registered policy promises: lanes act as if alone, begin and end each for itself, and disturb nobody."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from websockets.sync.server import serve

from third_party import TinyRobot
from wcsim.agents.lerobot import LeRobotPolicy, LeRobotSource
from wcsim.agents.policies import Policy
from wcsim.agents.randomness import SeededPolicy, seeded
from wcsim.config import StrictConfig, validate
from wcsim.envs.observations import no_robot_state, observations, robot_state
from wcsim.envs.tasks import make_task
from wcsim.errors import ActionError, ConfigError
from wcsim.estimate import Episode
from wcsim.experiments.policies import KINDS, PolicyConfig, PolicyContext
from wcsim.messages import pack, unpack
from wcsim.world.world import World

TASK = make_task("pusht", start="near")
TICKS, LANES = 5, 3
NUMBERS = (4, 5, 6)
AGAIN, AGAIN_AT, AGAIN_NUMBER = 1, 2, 9
"""This lane begins a new episode at this tick."""
GONE, GONE_AT = 2, 3
"""This lane is not active any more from this tick on, and shows nothing."""

SETTINGS: dict[str, dict[str, Any]] = {
    "mpc": {"horizon": 2, "replan_every": 2, "rounds": 1, "candidates": 4, "elites": 2, "fidelity": {"steps": 1},
            "objective": {"kind": "latent_goal"}},
    "expert": {"noise": 10.0, "lapse": 0.3, "options": {"speed_px": 30.0}},
    "learned": {"policy": "pusht-flow"},
    "lerobot": {"path": "there is none"},
    "openpi": {"execute": 1},
    "function": {"function": "third_party:make_source", "options": {"reach": 5.0}, "delta": True},
    "replay": {"path": "actions.npy"},
    "recorded": {},
    "random": {"hold": 2, "seed": 3},
    "hold": {},
    "third_party:Drifter": {"options": {"step": 2.0}},
}


def numpy_state() -> list[int]:
    """The state of numpy's old global generator."""
    state: Any = np.random.get_state()
    found: list[int] = state[1].tolist()
    return found


class Holder(StrictConfig):
    policy: PolicyConfig


def parsed(**settings: Any) -> Any:
    return validate(Holder, {"policy": settings}).policy


@pytest.fixture(scope="module")
def shown() -> list[dict[str, Any]]:
    """What three lanes show, tick by tick, as an engine tells it."""
    truths, rng, shown = [TASK.make_truth() for _ in range(LANES)], np.random.default_rng(0), []
    looks = [truth.restore(TASK.start(lane).truth) for lane, truth in enumerate(truths)]
    robot = no_robot_state(TASK.state, LANES)
    for _ in range(TICKS):
        frames = np.stack([look.pixels for look in looks])
        estimate = TASK.estimate(frames)
        robot = robot_state(TASK.state, estimate, robot)
        shown.append(observations(TASK, frames, robot, estimate, instructions=["push", "push it", "now"]))
        looks = [truth.step(rng.uniform(100.0, 400.0, 2)) for truth in truths]
    for truth in truths:
        truth.close()
    return shown


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """openpi's side of the protocol: it goes from where the agent is, further the longer the prompt."""

    def handle(connection: Any) -> None:
        connection.send(pack({"name": "local"}))
        for message in connection:
            seen: Any = unpack(message)
            chunk = seen["observation/state"] + np.arange(2, dtype=np.float32)[:, None] * len(seen["prompt"])
            connection.send(pack({"actions": chunk}))

    with serve(handle, "localhost", 0, compression=None, max_size=None) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield f"ws://localhost:{running.socket.getsockname()[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def world(folder: str) -> World:
    return World.load(folder)


Build = Callable[[str, int], Policy]


@pytest.fixture
def build(server: str, world: World, tmp_path: Path) -> Build:
    """A policy of a kind over so many lanes."""
    np.save(tmp_path / "actions.npy", np.random.default_rng(1).uniform(0, 512, (TICKS, 2)))

    def make(kind: str, lanes: int) -> Policy:
        settings = dict(SETTINGS[kind])
        if kind == "lerobot":
            with seeded(0):
                source = LeRobotSource(TinyRobot())
            return LeRobotPolicy(source, TASK.action, lanes)
        if kind == "openpi":
            settings["address"] = server
        if kind == "replay":
            settings["path"] = str(tmp_path / "actions.npy")
        policy: Policy = parsed(kind=kind, **settings).build(PolicyContext(TASK, lambda: world, lanes))
        return policy

    return make


def close(policy: Policy) -> None:
    """A connection is a thread, which a test must end."""
    for lane in getattr(policy, "lanes", ()):
        source: Any = getattr(lane, "_source", None)
        if hasattr(source, "close"):
            source.close()


def episode(number: int) -> Episode:
    actions = np.random.default_rng(number).uniform(0, 512, (TICKS, 2))
    return Episode(number, 100 + number, "push", TASK.goal, actions)


def part_of(seen: dict[str, Any], lane: int) -> dict[str, Any]:
    return {key: value[lane : lane + 1] for key, value in seen.items()}


def together(policy: Policy, shown: list[dict[str, Any]]) -> np.ndarray:
    """Actions `[T, N, A]`; one lane begins anew on the way, one falls out."""
    policy.reset(np.ones(LANES, bool), [episode(number) for number in NUMBERS])
    rows = []
    for tick, seen in enumerate(shown):
        if tick == AGAIN_AT:
            policy.reset(np.arange(LANES) == AGAIN, [episode(AGAIN_NUMBER)] * LANES)
        if tick >= GONE_AT:
            seen = {key: value if key == "task" else np.array(value) for key, value in seen.items()}
            seen["pixels"][GONE], seen["agent_pos"][GONE], seen["environment_state"][GONE] = 0, 0.0, np.nan
            seen["active"][GONE] = False
        rows.append(policy.act(seen, TICKS - tick))
    return np.array(rows)


def alone(policy: Policy, shown: list[dict[str, Any]], lane: int, number: int, ticks: range) -> np.ndarray:
    policy.reset(np.ones(1, bool), [episode(number)])
    return np.array([policy.act(part_of(shown[tick], lane), TICKS - tick)[0] for tick in ticks])


def test_every_kind_is_tried() -> None:
    assert set(SETTINGS) == {*KINDS, "third_party:Drifter"}


@pytest.mark.parametrize("kind", SETTINGS)
def test_lanes_act_as_if_alone(kind: str, build: Build, shown: list[dict[str, Any]]) -> None:
    policy: Any = build(kind, LANES)
    whole = together(policy, shown)
    close(policy)
    assert whole.shape == (TICKS, LANES, 2)
    assert whole.dtype == np.float64
    assert np.isfinite(whole).all()
    assert len(policy.reports) == LANES
    assert any(report is not None for report in policy.reports) == (kind == "mpc")
    # Networks round a batch otherwise than one lane.
    tolerance = 512 * 1e-6 if kind in ("learned", "lerobot") else 0.0
    for lane, number, ticks in ((0, NUMBERS[0], range(TICKS)), (AGAIN, NUMBERS[AGAIN], range(AGAIN_AT)),
                                (AGAIN, AGAIN_NUMBER, range(AGAIN_AT, TICKS)), (GONE, NUMBERS[GONE], range(GONE_AT))):
        single = build(kind, 1)
        assert whole[list(ticks), lane] == pytest.approx(
            alone(single, shown, lane, number, ticks), rel=0.0, abs=tolerance), f"lane {lane}"
        close(single)


@pytest.mark.parametrize("kind", SETTINGS)
def test_equal_seeds_act_equally_and_global_generators_stay(kind: str, build: Build, shown: list[dict[str, Any]]
                                                            ) -> None:
    before = torch.get_rng_state(), numpy_state(), random.getstate()
    policy = build(kind, LANES)
    first = together(policy, shown)
    close(policy)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (numpy_state(), random.getstate()) == before[1:]
    torch.rand(7)
    again = build(kind, LANES)
    assert np.array_equal(together(again, shown), first)
    close(again)


def test_files_that_a_policy_reads_are_named_by_setting(tmp_path: Path) -> None:
    weights = parsed(kind="learned", policy="pusht-bc").files()["policy"]
    assert weights.name == "pusht-bc.safetensors"
    assert weights.is_file()
    assert parsed(kind="lerobot", path=str(tmp_path)).files() == {"path": tmp_path}
    assert parsed(kind="replay", path="a.npy").files() == {"path": Path("a.npy")}
    assert parsed(kind="hold").files() == {}


@pytest.mark.parametrize(("settings", "message"), [
    ({"kind": "still"}, "'still' is now called hold"), ({"kind": "remote"}, "'remote' is now called openpi"),
    ({"kind": "demonstrator"}, "'demonstrator' is now called recorded"),
    ({"kind": "mpc", "screens": []}, "'screens' is now called rungs"),
    ({"kind": "mpc", "objective": {"kind": "judged"}}, "'judged' is now called state_goal"),
    ({"kind": "mpc", "objective": {"kind": "state_goal", "coverage_px": 1}}, "is now called progress_weight"),
    ({"kind": "expert", "noise_px": 3}, "'noise_px' is now called noise"),
    ({"kind": "nobody"}, "'nobody' is unknown; known: mpc, expert, .*, hold, or module:Class"),
    ({}, "kind None is unknown"), ({"kind": "random", "hold": 0}, "greater than or equal to 1"),
])
def test_what_is_no_policy_is_refused_in_one_clear_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parsed(**settings)
    assert len(str(caught.value).splitlines()) == 1


def test_names_are_the_kind_unless_given_and_survive_json() -> None:
    for given, name in (({"kind": "random"}, "random"), ({"kind": "hold", "name": "nobody"}, "nobody"),
                        ({"kind": "third_party:Drifter"}, "third_party:Drifter")):
        policy = parsed(**given)
        assert policy.name == name
        assert parsed(**policy.model_dump(mode="json")) == policy


def test_what_the_task_or_place_lacks_is_said(tmp_path: Path) -> None:
    nowhere = PolicyContext(TASK, None, 1)
    pendulum = PolicyContext(make_task("pendulum"), None, 1)
    for config, context, message in (
        (parsed(kind="mpc", name="planner"), nowhere, "policy 'planner' plans inside a world, and there is none"),
        (parsed(kind="expert"), pendulum, "task 'pendulum' has no scripted expert"),
        (parsed(kind="expert", options={"sped": 1}), nowhere, "the expert of task 'pusht': .*sped"),
        (parsed(kind="replay", path=str(tmp_path / "none.npy")), nowhere, "cannot read actions from"),
        (parsed(kind="function", function="third_party:nothing"), nowhere, "the function of policy 'function'"),
        (parsed(kind="third_party:Nobody"), nowhere, "policy 'third_party:Nobody' cannot be loaded"),
        (parsed(kind="nowhere_to_be_found:Mine"), nowhere, "install its package, or add its folder to PYTHONPATH"),
        (parsed(kind="third_party:Drifter"), nowhere, "a PolicyContext and options {}: missing .*'step'"),
        (parsed(kind="function", function="third_party:make_source", options={"rich": 1}), nowhere, "called .*rich"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.build(context)
    np.save(tmp_path / "far.npy", np.full((3, 2), 600.0))
    with pytest.raises(ActionError, match="out of range"):
        parsed(kind="replay", path=str(tmp_path / "far.npy")).build(nowhere)


def test_installed_packages_offer_policies_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "theirs-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text("[wcsim.policies]\ndrifter = third_party:Drifter\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = parsed(kind="drifter", options={"step": 1.0}).build(PolicyContext(TASK, None, 2))
    assert isinstance(policy, SeededPolicy)
    assert type(policy.policy).__name__ == "Drifter"
    with pytest.raises(ConfigError, match="known: mpc, .*hold, drifter, or module:Class"):
        parsed(kind="nobody")
