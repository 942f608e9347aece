"""Third-party policies, played by stand-ins with their interfaces."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from linear_world import SPEC, frame_at
from wcsim.agents.adapters import ChunkedPolicy, part, sb3_policy
from wcsim.agents.lerobot import LeRobotPolicy, LeRobotSource, load_lerobot
from wcsim.agents.policies import LanePolicy
from wcsim.agents.randomness import seeded
from wcsim.errors import ActionError, ConfigError
from wcsim.estimate import Episode

SEEN = {"pixels": frame_at(7, 9), "agent_pos": np.array([1.0, 2.0], np.float32)}


def acted(policy: LanePolicy, ticks: int) -> np.ndarray:
    policy.reset(Episode(0, 0))
    return np.array([policy.act(SEEN) for _ in range(ticks)])


def test_a_callable_is_a_policy() -> None:
    policy = ChunkedPolicy(lambda seen: seen["agent_pos"] + 1, SPEC.action)
    assert (acted(policy, 2) == [2.0, 3.0]).all()


def test_a_chunk_is_played_and_asked_for_again() -> None:
    asked = []

    def source(seen: Any) -> np.ndarray:
        asked.append(1)
        return np.arange(6.0).reshape(3, 2) / 10 + len(asked)

    assert acted(ChunkedPolicy(source, SPEC.action, execute=2), 4)[:, 0] == pytest.approx([1.0, 1.2, 2.0, 2.2])
    assert len(asked) == 2
    asked.clear()
    policy = ChunkedPolicy(source, SPEC.action)
    acted(policy, 4)
    policy.reset(Episode(0, 0))
    policy.act(SEEN)
    assert len(asked) == 3


@pytest.mark.parametrize(("options", "expected"), [
    ({}, [0.5, -0.25]), ({"units": "unit"}, [2.0, -1.0]), ({"delta": True}, [1.5, 1.75]),
    ({"units": "unit", "delta": True}, [3.0, 1.0]),
])
def test_units_and_deltas(options: dict[str, Any], expected: list[float]) -> None:
    policy = ChunkedPolicy(lambda seen: np.array([0.5, -0.25]), SPEC.action, hold=lambda seen: seen["agent_pos"],
                           **options)
    assert acted(policy, 1)[0] == pytest.approx(expected)


def test_what_is_meant_is_not_clipped() -> None:
    assert (acted(ChunkedPolicy(lambda seen: np.array([9.0, -9.0]), SPEC.action), 1) == [9.0, -9.0]).all()


@pytest.mark.parametrize("actions", [np.zeros(3), np.zeros((0, 2)), np.zeros((1, 2, 2)), np.array([np.nan, 0.0])])
def test_nonsense_is_refused(actions: np.ndarray) -> None:
    with pytest.raises(ActionError, match="must return finite"):
        acted(ChunkedPolicy(lambda seen: actions, SPEC.action), 1)


@pytest.mark.parametrize(("options", "message"), [({"units": "degrees"}, "units 'degrees' are unknown"),
                                                  ({"execute": 0}, "execute must be 1 or more"),
                                                  ({"delta": True}, "give hold")])
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChunkedPolicy(lambda seen: np.zeros(2), SPEC.action, **options)


class Recurrent:
    """Counts its ticks in its state, as a recurrent Stable-Baselines3 policy would."""

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
                ) -> tuple[np.ndarray, Any]:
        assert deterministic
        assert observation.shape == (2, 2)
        state = np.where(episode_start, 0, (np.zeros(2) if state is None else state) + 1)
        return np.stack([state, 0.0 * state], axis=1), state


def test_a_recurrent_predictor_keeps_a_state_per_lane_and_episode() -> None:
    policy = sb3_policy(Recurrent(), SPEC.action, num_lanes=2, read=lambda seen: seen["agent_pos"])
    seen = {"agent_pos": np.zeros((2, 2), np.float32)}
    policy.reset(np.ones(2, bool), [Episode(0, 0)] * 2)
    assert [policy.act(seen)[:, 0].tolist() for _ in range(2)] == [[0.0, 0.0], [1.0, 1.0]]
    policy.reset(np.array([True, False]), [Episode(1, 0)] * 2)
    assert policy.act(seen)[:, 0].tolist() == [0.0, 2.0]


def test_a_stable_baselines3_model_acts_in_every_lane_as_alone() -> None:
    sb3 = pytest.importorskip("stable_baselines3")

    class Room(gym.Env[np.ndarray, np.ndarray]):
        observation_space = gym.spaces.Box(-9.0, 9.0, (2,), np.float32)
        action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    model = sb3.PPO("MlpPolicy", Room(), seed=0, n_steps=8, batch_size=8, device="cpu")
    places = np.array([[1.0, 2.0], [-3.0, 0.5]], np.float32)
    for options in ({}, {"deterministic": False}):
        acted = []
        for lanes in ([0, 1], [0], [1]):
            policy = sb3_policy(model, SPEC.action, num_lanes=len(lanes), read=lambda seen: seen["agent_pos"],
                                **options)
            policy.reset(np.ones(len(lanes), bool), [Episode(lane, 0) for lane in lanes])
            acted.append([policy.act({"agent_pos": places[lanes]}) for _ in range(2)])
        both = np.array(acted[0])
        assert both == pytest.approx(np.concatenate([np.array(one) for one in acted[1:]], axis=1), abs=1e-6)
        assert np.array_equal(both[0], both[1]) == (not options)


def test_parts_of_an_observation_are_named_or_listed() -> None:
    seen = {"pixels": {"front": 1, "wrist": 2}, "agent_pos": 3}
    assert (part(seen, "pixels/wrist"), part(seen, "agent_pos")) == (2, 3)
    with pytest.raises(ConfigError, match="reads 'pixels/side'; the observation has pixels/front, pixels/w"):
        part(seen, "pixels/side")
    with pytest.raises(ConfigError, match="of several cameras; name one of pixels/front, pixels/wrist"):
        part(seen, "pixels")


class Queueing(torch.nn.Module):
    """LeRobot's part of the bargain: a network that averages the last observations of its whole batch, which it keeps,
    and draws noise for all of it; one that is told the task answers its length."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        with seeded(0):
            self.layer = torch.nn.Linear(2, 2)
        self.config, self.noise = object(), noise
        self.calls = torch.nn.ParameterList()  # a network's, so that it is no memory of an episode
        self.reset()

    def reset(self) -> None:
        self.queue: deque[torch.Tensor] = deque(maxlen=2)

    def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
        image, state = batch["observation.image"], batch["observation.state"]
        assert image.shape[1:] == (3, 8, 8)
        assert image.dtype == state.dtype == torch.float32
        assert 0.0 < image.max() < 1.0
        self.queue.append(state + torch.tensor([[float(len(task))] for task in batch["task"]]))
        self.calls.append(torch.zeros(()))
        mean: torch.Tensor = self.layer(torch.stack(list(self.queue)).mean(0))
        return mean + self.noise * torch.rand(len(state), 2)


def robot_seen(step: int, lanes: list[int], active: Any = None) -> dict[str, Any]:
    places = np.array([[10.0 * lane + step, step] for lane in lanes], np.float32)
    return {"pixels": np.stack([frame_at(7, 9 + lane) for lane in lanes]), "agent_pos": places,
            "task": ["push" * (lane + 1) for lane in lanes],
            "active": np.ones(len(lanes), bool) if active is None else np.asarray(active)}


def robot(lanes: int, **options: Any) -> LeRobotPolicy:
    source = LeRobotSource(Queueing(options.pop("noise", 0.0)), after=lambda action: action - 1)
    return LeRobotPolicy(source, SPEC.action, lanes, **options)


def alone(lane: int, number: int, steps: range, **options: Any) -> list[list[float]]:
    """One lane by itself."""
    policy = robot(1, **options)
    policy.reset(np.ones(1, bool), [Episode(number, 0)])
    return [policy.act(robot_seen(step, [lane]))[0].tolist() for step in steps]


@pytest.mark.parametrize(("options", "calls"), [
    ({}, 1), ({"noise": 0.5}, 1), ({"together": False, "noise": 0.5}, 3)])
def test_one_lerobot_model_serves_lanes_that_begin_and_end_at_different_times(options: Any, calls: int) -> None:
    policy, episodes = robot(3, **options), [Episode(number, 0) for number in (4, 5, 6)]
    policy.reset(np.ones(3, bool), episodes)
    acted = [policy.act(robot_seen(step, [0, 1, 2])) for step in (0, 1)]
    assert len(policy._source.policy.calls) == 2 * calls  # type: ignore[attr-defined]  # of a fake in this file
    policy.reset(np.array([False, True, False]), [Episode(9, 0)] * 3)
    acted += [policy.act(robot_seen(step, [0, 1, 2], [True, True, False])) for step in (2, 3)]
    whole = np.array(acted)
    assert whole[:, 0] == pytest.approx(np.array(alone(0, 4, range(4), **options)), abs=1e-5)
    assert whole[:2, 1] == pytest.approx(np.array(alone(1, 5, range(2), **options)), abs=1e-5)
    assert whole[2:, 1] == pytest.approx(np.array(alone(1, 9, range(2, 4), **options)), abs=1e-5)
    assert (whole[2:, 2] == 0.0).all()


def test_lerobot_draws_belong_to_seed_episodes_and_step() -> None:
    first = alone(0, 4, range(3), noise=0.5)
    assert alone(0, 4, range(3), noise=0.5) == first
    assert alone(0, 5, range(3), noise=0.5) != first != alone(0, 4, range(3), noise=0.5, seed=1)


def test_all_that_is_observed_reaches_lerobot_under_names_of_choice() -> None:
    class Listening(Queueing):
        def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
            heard.update(batch)
            return torch.zeros(2, 2)

    heard: dict[str, Any] = {}
    seen = robot_seen(0, [0, 1]) | {"environment_state": np.ones((2, 3), np.float32)}
    two = seen | {"pixels": {"front": seen["pixels"], "wrist": seen["pixels"]}}
    for observed, names, expected in (
        (seen, {}, {"observation.image", "observation.state", "observation.environment_state", "task"}),
        (two, {"observation.images.top": "pixels/front", "instruction": "task"},
         {"observation.images.top", "observation.images.wrist", "observation.state", "observation.environment_state",
          "instruction"}),
    ):
        heard.clear()
        LeRobotSource(Listening(), names=names)(observed)
        assert heard.keys() == expected
    assert heard["instruction"] == ["push", "pushpush"]
    assert heard["observation.images.top"].shape == (2, 3, 8, 8)
    with pytest.raises(ConfigError, match="reads 'pixels/side'; the observation has"):
        LeRobotSource(Listening(), names={"observation.image": "pixels/side"})(two)


def test_what_a_lerobot_policy_reads_and_does_not_get_is_named() -> None:
    policy = Queueing()
    policy.config = SimpleNamespace(input_features={"observation.images.top": 0, "observation.state": 0})
    with pytest.raises(ConfigError, match=r"reads observation.images.top; the observation offers observation.image, "):
        LeRobotSource(policy)(robot_seen(0, [0]))


def test_a_model_with_named_observations_reads_those_and_another_must_be_told() -> None:
    class Named(Recurrent):
        observation_space = gym.spaces.Dict({"agent_pos": gym.spaces.Box(-9.0, 9.0, (2,), np.float32)})

        def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
                    ) -> tuple[np.ndarray, Any]:
            assert list(observation) == ["agent_pos"]
            return super().predict(observation["agent_pos"], state, episode_start, deterministic)

    policy = sb3_policy(Named(), SPEC.action, num_lanes=2)
    policy.reset(np.ones(2, bool), [Episode(0, 0)] * 2)
    assert policy.act(robot_seen(0, [0, 1])).tolist() == [[0.0, 0.0]] * 2
    with pytest.raises(ConfigError, match="observations without names; give read"):
        sb3_policy(Recurrent(), SPEC.action)


def test_lerobot_lanes_begin_before_they_act_and_answers_have_their_shape() -> None:
    with pytest.raises(ConfigError, match=r"no episode has begun in lanes \[0, 1\]"):
        robot(2).act(robot_seen(0, [0, 1]))
    policy = LeRobotPolicy(LeRobotSource(Queueing(), after=lambda action: action[:, :1]), SPEC.action, 1)
    policy.reset(np.ones(1, bool), [Episode(0, 0)])
    with pytest.raises(ActionError, match=r"must return finite \[1, 2\], got \[1, 1\]"):
        policy.act(robot_seen(0, [0]))


def test_a_lerobot_folder_is_checked_before_anything_is_imported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no config.json"):
        load_lerobot(tmp_path)
