"""Errors at equal speed, by hand."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcsim.experiments.bench.cache_conclusions import (
    affordable,
    conclude,
    error_at,
    joint,
    lower_edge,
    matched,
    winners,
)


def point(policy, speed, error, **more):
    losses = dict.fromkeys(("psnr_db", "cube_px", "lid_deg"), more.pop("loss", 0.0))
    return {"policy": policy, "knob": "", "solver": "euler", "steps": 35, "group": "curves", "batch": 1,
            "speedup": speed, "speedup_official": speed, "latent_error": error, "truth_loss_official": losses, **more}


def test_between_two_points_the_logarithm_is_a_straight_line():
    rows = [point("a", 1.0, 0.01), point("a", 3.0, 0.04)]
    assert error_at(rows, 2.0) == pytest.approx(0.02)
    assert error_at(rows, 3.0) == pytest.approx(0.04)


def test_no_curve_is_read_beyond_its_ends():
    rows = [point("a", 1.5, 0.01), point("a", 2.0, 0.04)]
    assert error_at(rows, 1.4) is None
    assert error_at(rows, 2.1) is None
    assert error_at([], 2.0) is None


def test_a_point_that_is_slower_and_worse_is_no_part_of_the_edge():
    rows = [point("a", 1.0, 0.01), point("a", 1.8, 0.5), point("a", 3.0, 0.04)]
    assert error_at(rows, 2.0) == pytest.approx(0.02)


points = st.lists(st.tuples(st.floats(1, 5), st.floats(1e-4, 1)), min_size=1, max_size=12)


@given(points)
@settings(max_examples=50, deadline=None)
def test_nothing_beats_the_edge_and_its_errors_rise_with_speed(some):
    edge = lower_edge(some)
    assert all(slow[0] < fast[0] and slow[1] < fast[1] for slow, fast in pairwise(edge))
    assert all(any(e[0] >= s[0] and e[1] <= s[1] for e in edge) for s in some)


def test_the_winner_is_the_least_error_among_those_that_are_there():
    rows = [point("a", 1.0, 0.01), point("a", 2.0, 0.01 * math.e), point("b", 1.0, 0.02), point("b", 3.0, 0.05)]
    table = matched(rows, [1.5, 2.5, 4.0])
    assert [row["policy"] for row in table] == ["a", "b"]
    found = winners(table, [1.5, 2.5, 4.0], ["a"])
    assert found["1.5"]["policy"] == "a"
    assert found["1.5"]["ours"]
    assert found["2.5"]["policy"] == "b"
    assert not found["2.5"]["ours"]
    assert found["4"] is None


def test_the_joint_frontier_takes_the_best_that_is_at_least_as_fast():
    rows = [point("none", 2.0, None, reference_error=0.04), point("none", 4.0, None, reference_error=0.08),
            point("wcsim", 3.0, 0.01, reference_error=0.02)]
    two, four = joint(rows, (2, 4))
    assert two["gain"] == pytest.approx(0.5)
    assert two["cached"]["policy"] == "wcsim"
    assert four["cached"] is None
    assert four["gain"] is None


def test_what_is_affordable_loses_little_in_every_figure():
    rows = [point("a", 4.0, 0.1, loss=0.02), point("b", 3.0, 0.1, loss=0.004), point("c", 2.0, 0.1, loss=-0.1)]
    assert affordable(rows, 0.005)["policy"] == "b"
    assert affordable(rows[:1], 0.005) is None


def test_a_race_without_frontier_or_ablation_still_concludes():
    rows = [point("none", 1.0, 0.0), point("wcsim", 1.5, 0.01), point("wcsim", 2.5, 0.02)]
    summary = conclude({"rows": rows, "steps": [35], "world": "w"}, [2.0], ["wcsim"])
    assert summary["winners"]["1"]["2"]["ours"]
    assert summary["ablation"] == {}
    assert summary["joint"] == {}
