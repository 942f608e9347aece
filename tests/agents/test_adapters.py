"""Other people's policies, played by stand-ins with their interfaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from linear_world import SPEC, frame_at
from wcsim.agents.adapters import PUSHT_NAMES, ChunkedPolicy, LeRobotSource, lerobot_policy, sb3_policy
from wcsim.errors import ActionError, ConfigError

SEEN = {"pixels": frame_at(7, 9), "agent_pos": np.array([1.0, 2.0], np.float32)}


def acted(policy: ChunkedPolicy, ticks: int) -> np.ndarray:
    policy.reset(SEEN)
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
    policy.reset(SEEN)
    policy.act(SEEN)
    assert len(asked) == 3


@pytest.mark.parametrize(("options", "expected"), [
    ({}, [0.5, -0.25]), ({"units": "unit"}, [2.0, -1.0]), ({"delta": True}, [1.5, 1.75]),
    ({"units": "unit", "delta": True}, [3.0, 1.0]),
])
def test_units_and_deltas(options: dict[str, Any], expected: list[float]) -> None:
    assert acted(ChunkedPolicy(lambda seen: np.array([0.5, -0.25]), SPEC.action, **options), 1)[0] == pytest.approx(
        expected)


def test_bounds_are_kept_or_their_breach_is_told() -> None:
    assert (acted(ChunkedPolicy(lambda seen: np.array([9.0, -9.0]), SPEC.action), 1) == [4.0, -4.0]).all()
    with pytest.raises(ActionError, match="left the bounds"):
        acted(ChunkedPolicy(lambda seen: np.array([9.0, 0.0]), SPEC.action, clip=False), 1)


@pytest.mark.parametrize("said", [np.zeros(3), np.zeros((0, 2)), np.zeros((1, 2, 2)), np.array([np.nan, 0.0])])
def test_nonsense_is_refused(said: np.ndarray) -> None:
    with pytest.raises(ActionError, match="must return finite"):
        acted(ChunkedPolicy(lambda seen: said, SPEC.action), 1)


@pytest.mark.parametrize(("options", "message"), [({"units": "degrees"}, "units 'degrees' are unknown"),
                                                  ({"execute": 0}, "execute must be 1 or more")])
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChunkedPolicy(lambda seen: np.zeros(2), SPEC.action, **options)


class Recurrent:
    """Counts its ticks in its state, as a recurrent Stable-Baselines3 policy would."""

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
                ) -> tuple[np.ndarray, Any]:
        assert deterministic
        assert observation.shape == (2,)
        state = 0 if episode_start[0] else state + 1
        return np.array([state, 0.0]), state


def test_a_recurrent_predictor_keeps_its_state_within_an_episode() -> None:
    policy = sb3_policy(Recurrent(), SPEC.action, read=lambda seen: seen["agent_pos"])
    assert acted(policy, 3)[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert acted(policy, 2)[:, 0].tolist() == [0.0, 1.0]


class Robot:
    """LeRobot's part of the bargain: `select_action` on a batch of tensors, `reset` between episodes."""

    def __init__(self) -> None:
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def select_action(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        image, state = batch["observation.image"], batch["observation.state"]
        assert (image.shape, image.dtype, state.shape) == ((1, 3, 8, 8), torch.float32, (1, 2))
        assert image[0, :2, 0, 0].tolist() == pytest.approx([7 / 255, 9 / 255])
        return state * 2


def test_a_lerobot_policy_sees_a_batch_of_one_in_its_own_layout() -> None:
    robot = Robot()
    source = LeRobotSource(robot, names=PUSHT_NAMES, after=lambda action: action - 1)
    assert acted(ChunkedPolicy(source, SPEC.action, restart=source.restart), 2)[1] == pytest.approx([1.0, 3.0])
    assert robot.resets == 1


def test_a_lerobot_folder_is_checked_before_anything_is_imported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no config.json"):
        lerobot_policy(tmp_path, SPEC.action)
