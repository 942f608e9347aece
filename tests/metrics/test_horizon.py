from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from wcsim.metrics import horizon, images
from wcsim.metrics.horizon import Trajectory
from wcsim.spec import Quantity, StateSpec

SPEC = StateSpec((
    Quantity("hand", 3, "cm", "position", "robot"), Quantity("cube", 2, "px", "position", goal=True),
    Quantity("lid", 1, "rad", "angle"),
))


def played(steps: int, *, brightness: int = 0, cube_x: float = 0.0, latent: float | None = None) -> Trajectory:
    """Every step is the same: grey frames, and a cube `cube_x` further right each step."""
    values = {quantity.name: np.zeros((steps, quantity.size)) for quantity in SPEC}
    values["cube"][:, 0] = cube_x * np.arange(1, steps + 1)
    return Trajectory(
        frames=np.full((steps, 16, 16, 3), brightness, np.uint8),
        values=values,
        latents=None if latent is None else torch.full((steps, 2, 3, 3), latent),
    )


def row(episode: int, step: int, cube_px: float | None) -> dict[str, Any]:
    blank = dict.fromkeys(horizon.metrics_of(SPEC))
    return {
        "episode": episode,
        "horizon": step,
        "error": {name: {**blank, "cube_px": cube_px} for name in horizon.COMPARISONS},
    }


def test_rows_hold_every_comparison() -> None:
    rows = horizon.error_rows(
        SPEC,
        7,
        truth=played(2, brightness=0, latent=1.0),
        cached=played(2, brightness=51, cube_x=3.0, latent=1.5),
        uncached=played(2, brightness=0, cube_x=1.0, latent=1.0),
    )
    assert [(r["episode"], r["horizon"]) for r in rows] == [(7, 1), (7, 2)]
    second = rows[1]["error"]
    assert set(second) == set(horizon.COMPARISONS)
    assert all(tuple(values) == horizon.metrics_of(SPEC) for values in second.values())
    assert second["cached_vs_truth"]["psnr_db"] == pytest.approx(20 * np.log10(5))
    assert second["cached_vs_truth"]["cube_px"] == 6.0
    assert second["cached_vs_truth"]["latent"] == pytest.approx(0.5)
    assert second["uncached_vs_truth"]["psnr_db"] == images.PSNR_CAP_DB
    assert second["uncached_vs_truth"]["ssim"] == 1.0
    assert second["uncached_vs_truth"]["cube_px"] == 2.0
    assert second["cached_vs_uncached"]["cube_px"] == 4.0


def test_what_could_not_be_measured_is_null_in_json() -> None:
    lost = played(1)
    for name in ("cube", "lid"):
        lost.values[name][0] = np.nan
    (only,) = horizon.error_rows(SPEC, 0, truth=played(1), cached=lost, uncached=played(1, latent=1.0))
    values = json.loads(json.dumps(only, allow_nan=False))["error"]["cached_vs_truth"]
    assert (values["cube_px"], values["lid_deg"], values["latent"]) == (None, None, None)
    assert values["hand_cm"] == 0.0


def test_latents_of_only_one_side_are_not_compared() -> None:
    (only,) = horizon.error_rows(SPEC, 0, truth=played(1), cached=played(1, latent=2.0), uncached=played(1, latent=1.0))
    assert only["error"]["cached_vs_truth"]["latent"] is None
    assert only["error"]["uncached_vs_truth"]["latent"] is None
    assert only["error"]["cached_vs_uncached"]["latent"] == pytest.approx(1.0)


def test_trajectories_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        horizon.error_rows(SPEC, 0, truth=played(3), cached=played(2), uncached=played(3))
    mixed = Trajectory(played(3).frames, played(2).values)
    with pytest.raises(ValueError, match="values for each of its 3 frames"):
        horizon.error_rows(SPEC, 0, truth=mixed, cached=mixed, uncached=mixed)


def test_a_curve_by_hand() -> None:
    # Episode 2 ends after its first step; episode 1 loses its block at the third.
    rows = [row(0, 1, 1.0), row(0, 2, 2.0), row(0, 3, 3.0)]
    rows += [row(1, 1, 5.0), row(1, 2, 8.0), row(1, 3, None), row(2, 1, 9.0)]
    curve = horizon.curve(rows, "cached_vs_truth", "cube_px")
    np.testing.assert_array_equal(curve.horizon, [1, 2, 3])
    np.testing.assert_array_equal(curve.n, [3, 2, 1])
    np.testing.assert_array_equal(curve.median, [5.0, 5.0, 3.0])
    np.testing.assert_array_equal(curve.mean, [5.0, 5.0, 3.0])
    np.testing.assert_array_equal(curve.low, [1.0, 2.0, np.nan])
    np.testing.assert_array_equal(curve.high, [9.0, 8.0, np.nan])
    again = horizon.curve(list(reversed(rows)), "cached_vs_truth", "cube_px")
    np.testing.assert_array_equal(curve.median, again.median)


def test_a_curve_repeats_for_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=(9, 2))
    rows = [row(episode, h + 1, values[episode, h]) for episode in range(9) for h in range(2)]
    first, again = (horizon.curve(rows, "cached_vs_truth", "cube_px", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.low, again.low)
    assert (first.low < first.median).all()
    assert (first.median < first.high).all()


def test_a_curve_of_nothing() -> None:
    assert horizon.curve([], "cached_vs_truth", "psnr_db").horizon.size == 0
    unmeasured = horizon.curve([row(0, 1, None)], "cached_vs_truth", "cube_px")
    assert unmeasured.n.tolist() == [0]
    assert np.isnan(unmeasured.median).all()


def test_at_horizons_nests_medians_as_the_summary_does() -> None:
    rows = [row(episode, h, float(episode * h)) for episode in (1, 2, 6) for h in range(1, 9)]
    errors = horizon.at_horizons(rows, (1, 8, 16))
    assert errors["cached_vs_uncached"]["1"]["cube_px"] == 2.0
    assert errors["cached_vs_truth"]["8"]["cube_px"] == 16.0
    assert errors["cached_vs_truth"]["16"] == dict.fromkeys(horizon.metrics_of(SPEC))
    assert json.loads(json.dumps(errors, allow_nan=False)) == errors


def test_unknown_names_are_named() -> None:
    with pytest.raises(ValueError, match=r"'cached' is unknown; known: cached_vs_truth"):
        horizon.curve([row(0, 1, 1.0)], "cached", "cube_px")
    with pytest.raises(ValueError, match=r"'lpips' is unknown; known: psnr_db"):
        horizon.curve([row(0, 1, 1.0)], "cached_vs_truth", "lpips")


def test_valid_horizons_by_hand() -> None:
    blocks: dict[int, list[float | None]] = {0: [5, 20, 20.1, 3, 90], 1: [1, 2, 3], 2: [4, None, 5], 3: [30]}
    rows = [row(episode, h + 1, value) for episode, values in blocks.items() for h, value in enumerate(values)]
    horizons = horizon.valid_horizons(reversed(rows), "cached_vs_truth", metric="cube_px", bound=20.0)
    assert horizons == {0: 3, 1: None, 2: 2, 3: 1}
    assert horizon.valid_horizons(rows, "cached_vs_truth", metric="cube_px", bound=2.5) == {0: 1, 1: 3, 2: 1, 3: 1}


@pytest.mark.parametrize(
    ("horizons", "expected"),
    [([3, None, 2, 1], 2.5), ([3, None, None], None), ([3, None], None), ([4], 4.0), ([], None), ([None, 1, 2], 2.0)],
)
def test_the_median_counts_never_as_beyond_all(horizons: list[int | None], expected: float | None) -> None:
    assert horizon.median_valid_horizon(dict(enumerate(horizons))) == expected


def test_a_task_without_quantities_is_compared_by_its_frames() -> None:
    frames = Trajectory(played(2).frames, {})
    rows = horizon.error_rows(StateSpec(()), 0, truth=frames, cached=frames, uncached=frames)
    assert rows[1]["error"]["cached_vs_truth"] == {"psnr_db": images.PSNR_CAP_DB, "ssim": 1.0, "latent": None}
    assert horizon.measured(rows) == horizon.measured([]) == ("psnr_db", "ssim", "latent")
