from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from wcsim.track import ledger, metrics
from wcsim.track.horizon import Twin


def twin(steps: int, *, brightness: int = 0, block_x: float = 0.0, latent: float | None = None) -> Twin:
    """A twin whose every step is the same: grey frames, and a block `block_x` further right each step."""
    poses = np.zeros((steps, 5))
    poses[:, 2] = block_x * np.arange(1, steps + 1)
    return Twin(
        frames=np.full((steps, 16, 16, 3), brightness, np.uint8),
        poses=poses,
        latents=None if latent is None else torch.full((steps, 2, 3, 3), latent),
    )


def row(episode: int, horizon: int, block_px: float | None) -> dict[str, Any]:
    blank = dict.fromkeys(ledger.METRICS)
    return {
        "episode": episode,
        "horizon": horizon,
        "error": {name: {**blank, "block_px": block_px} for name in ledger.COMPARISONS},
    }


def test_rows_hold_every_comparison() -> None:
    rows = ledger.error_rows(
        7,
        truth=twin(2, brightness=0, latent=1.0),
        cached=twin(2, brightness=51, block_x=3.0, latent=1.5),
        uncached=twin(2, brightness=0, block_x=1.0, latent=1.0),
    )
    assert [(r["episode"], r["horizon"]) for r in rows] == [(7, 1), (7, 2)]
    second = rows[1]["error"]
    assert set(second) == set(ledger.COMPARISONS)
    assert all(tuple(values) == ledger.METRICS for values in second.values())
    assert second["cached_vs_truth"]["psnr_db"] == pytest.approx(20 * np.log10(5))
    assert second["cached_vs_truth"]["block_px"] == 6.0
    assert second["cached_vs_truth"]["latent"] == pytest.approx(0.5)
    assert second["uncached_vs_truth"]["psnr_db"] == metrics.PSNR_CAP_DB
    assert second["uncached_vs_truth"]["ssim"] == 1.0
    assert second["uncached_vs_truth"]["block_px"] == 2.0
    assert second["cached_vs_uncached"]["block_px"] == 4.0


def test_what_could_not_be_measured_is_null_in_json() -> None:
    lost = twin(1)
    lost.poses[0, 2:] = np.nan
    (only,) = ledger.error_rows(0, truth=twin(1), cached=lost, uncached=twin(1, latent=1.0))
    values = json.loads(json.dumps(only, allow_nan=False))["error"]["cached_vs_truth"]
    assert (values["block_px"], values["block_deg"], values["latent"]) == (None, None, None)
    assert values["agent_px"] == 0.0


def test_latents_of_only_one_side_are_not_compared() -> None:
    (only,) = ledger.error_rows(0, truth=twin(1), cached=twin(1, latent=2.0), uncached=twin(1, latent=1.0))
    assert only["error"]["cached_vs_truth"]["latent"] is None
    assert only["error"]["uncached_vs_truth"]["latent"] is None
    assert only["error"]["cached_vs_uncached"]["latent"] == pytest.approx(1.0)


def test_twins_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ledger.error_rows(0, truth=twin(3), cached=twin(2), uncached=twin(3))
    mixed = Twin(twin(3).frames, twin(2).poses)
    with pytest.raises(ValueError, match="a pose for each of its 3 frames"):
        ledger.error_rows(0, truth=mixed, cached=mixed, uncached=mixed)


def test_a_curve_by_hand() -> None:
    # Episode 2 ends after its first step; episode 1 loses its block at the third.
    rows = [row(0, 1, 1.0), row(0, 2, 2.0), row(0, 3, 3.0)]
    rows += [row(1, 1, 5.0), row(1, 2, 8.0), row(1, 3, None), row(2, 1, 9.0)]
    curve = ledger.curve(rows, "cached_vs_truth", "block_px")
    np.testing.assert_array_equal(curve.horizon, [1, 2, 3])
    np.testing.assert_array_equal(curve.n, [3, 2, 1])
    np.testing.assert_array_equal(curve.median, [5.0, 5.0, 3.0])
    np.testing.assert_array_equal(curve.mean, [5.0, 5.0, 3.0])
    np.testing.assert_array_equal(curve.low, [1.0, 2.0, np.nan])
    np.testing.assert_array_equal(curve.high, [9.0, 8.0, np.nan])
    again = ledger.curve(list(reversed(rows)), "cached_vs_truth", "block_px")
    np.testing.assert_array_equal(curve.median, again.median)


def test_a_curve_repeats_for_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=(9, 2))
    rows = [row(episode, h + 1, values[episode, h]) for episode in range(9) for h in range(2)]
    first, again = (ledger.curve(rows, "cached_vs_truth", "block_px", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.low, again.low)
    assert (first.low < first.median).all()
    assert (first.median < first.high).all()


def test_a_curve_of_nothing() -> None:
    assert ledger.curve([], "cached_vs_truth", "psnr_db").horizon.size == 0
    unmeasured = ledger.curve([row(0, 1, None)], "cached_vs_truth", "block_px")
    assert unmeasured.n.tolist() == [0]
    assert np.isnan(unmeasured.median).all()


def test_at_horizons_nests_medians_as_the_summary_does() -> None:
    rows = [row(episode, h, float(episode * h)) for episode in (1, 2, 6) for h in range(1, 9)]
    errors = ledger.at_horizons(rows, (1, 8, 16))
    assert errors["cached_vs_uncached"]["1"]["block_px"] == 2.0
    assert errors["cached_vs_truth"]["8"]["block_px"] == 16.0
    assert errors["cached_vs_truth"]["16"] == dict.fromkeys(ledger.METRICS)
    assert json.loads(json.dumps(errors, allow_nan=False)) == errors


def test_unknown_names_are_named() -> None:
    with pytest.raises(ValueError, match=r"'cached' is unknown; known: cached_vs_truth"):
        ledger.curve([row(0, 1, 1.0)], "cached", "block_px")
    with pytest.raises(ValueError, match=r"'lpips' is unknown; known: psnr_db"):
        ledger.curve([row(0, 1, 1.0)], "cached_vs_truth", "lpips")


def test_valid_horizons_by_hand() -> None:
    blocks: dict[int, list[float | None]] = {0: [5, 20, 20.1, 3, 90], 1: [1, 2, 3], 2: [4, None, 5], 3: [30]}
    rows = [row(episode, h + 1, value) for episode, values in blocks.items() for h, value in enumerate(values)]
    horizons = ledger.valid_horizons(reversed(rows), "cached_vs_truth")
    assert horizons == {0: 3, 1: None, 2: 2, 3: 1}
    assert ledger.valid_horizons(rows, "cached_vs_truth", bound=2.5) == {0: 1, 1: 3, 2: 1, 3: 1}


@pytest.mark.parametrize(
    ("horizons", "expected"),
    [([3, None, 2, 1], 2.5), ([3, None, None], None), ([3, None], None), ([4], 4.0), ([], None), ([None, 1, 2], 2.0)],
)
def test_the_median_counts_never_as_beyond_all(horizons: list[int | None], expected: float | None) -> None:
    assert ledger.median_valid_horizon(dict(enumerate(horizons))) == expected
