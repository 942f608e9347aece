from __future__ import annotations

import pytest

from fabricated_run import ARM, TABLE
from wcsim.report import phrases
from wcsim.report.measures import SIMILARITY, leading


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\u2013"), (0.0, "0.00"), (0.0412, "0.04"), (2.126, "2.13"), (21.26, "21.3"), (1482.4, "1,482")],
)
def test_numbers_keep_three_digits(value: float | None, text: str) -> None:
    assert phrases.number(value) == text


def test_counts_and_finer_numbers() -> None:
    assert (phrases.number(135, 0), phrases.number(0.02126, 3)) == ("135", "0.021")


@pytest.mark.parametrize(
    ("share", "text"), [(None, "\u2013"), (0.0, "0%"), (0.002, "0.2%"), (0.654, "65%"), (0.997, "99.7%"), (1.0, "100%")]
)
def test_a_share_that_is_not_all_never_reads_as_all(share: float | None, text: str) -> None:
    assert phrases.percent(share) == text


def test_a_range_names_its_unit_once() -> None:
    assert phrases.span_of("61%", "100%") == "61\u2013100%"
    assert phrases.span_of("2.08\u00d7", "2.14\u00d7") == "2.08\u20132.14\u00d7"
    assert phrases.span_of("\u2013", "2.14\u00d7") == "\u2013"


def test_the_error_reading_names_each_comparison_by_its_own_number() -> None:
    def at(block_px: float | None) -> dict[str, dict[str, float | None]]:
        return {"1": {"block_px": 0.1}, "16": {"block_px": None}, "8": {"block_px": block_px}}

    # Keys in the order that JSON keeps them: sorted.
    summary = {
        "error": {"cached_vs_truth": at(5.0), "cached_vs_uncached": at(1.0), "uncached_vs_truth": at(4.0)},
        "valid_horizon": {"cached_vs_truth": 9.5, "uncached_vs_truth": None},
    }
    assert phrases.error_reading(summary, leading(TABLE)) == (
        "After 8 steps the median block position is 5.00 px from the truth in the cached world and 4.00 px in the "
        "uncached one, and the two worlds are 1.00 px apart. First loss (error past its bound, or not found), median: "
        "cached at step 9.5, uncached not within the run."
    )


def test_the_error_reading_follows_the_quantities() -> None:
    at = {"8": {"height_cm": 5.0, "psnr_db": 30.0}}
    summary = {"error": dict.fromkeys(("cached_vs_truth", "cached_vs_uncached", "uncached_vs_truth"), at)}
    assert phrases.error_reading(summary, leading(ARM)).startswith("After 8 steps the median height is 5.00 cm from")
    similar = phrases.error_reading(summary, SIMILARITY)
    assert similar.startswith("After 8 steps the median image similarity (PSNR) against the truth is 30.0 dB in")
    assert phrases.error_reading(summary, leading(TABLE)).startswith("The block position was not measured")


def test_what_ran_says_who_where_and_how() -> None:
    config = {
        "world": "w", "task": {"name": "table"}, "episodes": 1, "max_steps": 5, "acts_in": "truth",
        "fidelity": {"steps": None, "cache": {"kind": "none"}}, "policy": {"kind": "random"},
    }
    assert phrases.what_ran(config, {"device": "cpu", "torch_threads": 1}, 7) == (
        "A random policy acted in the simulator on the task table for 1 episode of at most 5 steps, while the cached "
        "and the uncached world played the same actions. The world w took 7 denoise steps per frame with no cache, on "
        "cpu with 1 thread."
    )
