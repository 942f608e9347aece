"""The figures of the world bench, by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from wcsim.envs.base_task import BaseTask
from wcsim.experiments.bench.world import (
    HeldOut,
    by_horizon,
    constant_velocity,
    errors_of,
    leading,
    table_of,
    valid_horizon,
    value_errors,
)
from wcsim.spec import Quantity, StateSpec, Values

TICKS = 33


class Table(BaseTask):
    """An arm, and a cube with a lid that moves with it."""

    state = StateSpec((
        Quantity("arm", 2, "cm", "position", "robot"),
        Quantity("cube", 2, "px", "position", goal=True, moved=1.0, lost=20.0),
        Quantity("lid", 1, "rad", "angle", moved=1.0),
    ))


class Recording(BaseTask):
    """Frames alone."""

    state = StateSpec(())


class Told(Recording):
    """Frames alone, of any size."""

    def check_frames(self, frames: np.ndarray) -> np.ndarray:
        return frames


def held_out(values: Mapping[str, np.ndarray]) -> HeldOut:
    return HeldOut(np.zeros((2, TICKS, 16, 16, 3), np.uint8), np.zeros((2, TICKS - 1, 2)), dict(values))


@pytest.fixture
def truth() -> HeldOut:
    """Two episodes of 32 ticks: in the first the cube goes right by 3 px a tick, in the second nothing moves."""
    values = {quantity.name: np.zeros((2, TICKS, quantity.size)) for quantity in Table.state}
    values["cube"][0, :, 0] = 3.0 * np.arange(TICKS)
    return held_out(values)


def still() -> Values:
    return {quantity.name: np.zeros((2, TICKS - 1, quantity.size)) for quantity in Table.state}


def test_only_a_scene_that_moves_is_evidence(truth: HeldOut) -> None:
    task = Table()
    for name in ("cube", "lid"):
        moving = truth.moving(task.state[name], task.state)
        assert moving[0].all()
        assert not moving[1].any()
    table = by_horizon(task, value_errors(task, still(), truth), truth)
    assert table["8"]["cube_px"] == 24.0
    assert (table["8"]["cube_px_n"], table["8"]["lid_deg_n"], table["8"]["arm_cm_n"]) == (1, 1, 2)


def test_constant_velocity_goes_on_as_it_was(truth: HeldOut) -> None:
    task = Table()
    assert value_errors(task, constant_velocity(task, truth, lead=0), truth)["cube_px"][0, 7] == 24.0
    shifted = HeldOut(truth.frames[:, 1:], truth.actions[:, 1:], truth.part(slice(1, None)).values)
    predicted = {name: value[:, :31] for name, value in constant_velocity(task, truth, lead=1).items()}
    assert value_errors(task, predicted, shifted)["cube_px"].max() == 0.0


def test_a_lost_cube_has_passed_every_bound(truth: HeldOut) -> None:
    task = Table()
    values = {name: np.array(value[:, 1:]) for name, value in truth.values.items()}
    assert valid_horizon(task, value_errors(task, values, truth), truth) == 32
    values["cube"][0, 4:] = np.nan
    errors = value_errors(task, values, truth)
    assert np.isinf(errors["cube_px"][0, 4:]).all()
    assert valid_horizon(task, errors, truth) == 5


def test_episodes_are_ranked_by_what_the_goal_is_told_in() -> None:
    first = leading(Table())
    assert first is not None
    assert first.name == "cube"
    assert leading(Recording()) is None


def test_a_recording_is_measured_by_its_frames() -> None:
    truth = held_out({})
    task = Told()
    errors = errors_of(task, truth.frames[:, 1:], truth)
    assert set(errors) == {"psnr_db", "shape_ok"}
    assert valid_horizon(task, errors, truth) is None
    by = by_horizon(task, errors, truth)
    assert by["32"]["psnr_db"] == 100.0
    table = table_of({"state": task.state.to_json(), "world": "w", "episodes": 2, "labels": "none", "horizon": by})
    assert [column.header for column in table.columns] == ["horizon", "psnr db", "shape ok"]
