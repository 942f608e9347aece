"""The page of a cache benchmark, from rows made by hand."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import pytest

from fabricated_run import NAMES
from wcsim.report.cache_benchmark import write_cache_benchmark


def point(policy: str, speed: float, error: float, **more: Any) -> dict[str, Any]:
    return {"policy": policy, "knob": "0.1", "solver": "euler", "steps": 35, "batch": 1, "speedup": speed,
            "speedup_official": speed, "skipped": 0.5, "latent_error": error, "reference_error": error,
            "psnr_to_uncached_db": 40.0, "truth_loss": {"cube_px": 0.01}, "memory_grids": 2.0, **more}


def summary() -> dict[str, Any]:
    rows = [point(name, 2.0 + place, 0.01 * (place + 1)) for place, name in enumerate(NAMES)]
    table = [{"policy": name, "2": 0.01} for name in NAMES]
    return {
        "world": "made <b>up</b>", "episodes": 2, "first_seed": 700_000, "horizon": 8, "steps": [35], "solver": "euler",
        "floor": {"shift": 1e-6, "latent_error": 1e-5}, "ours": [NAMES[0]], "curves": rows, "ablation_rows": [],
        "frontier": rows, "matched": {"1": table}, "joint": {}, "ablation": {}, "absent": {"other <b>": "gone"},
        "losses": ["cube_px"], "affordable": {}, "phases": {},
    }


def test_names_on_the_page_of_a_benchmark_are_text(tmp_path: Path) -> None:
    text = write_cache_benchmark(summary(), tmp_path).read_text("utf-8")
    assert "<b>" not in text
    figures = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    for name in NAMES:
        assert f">{escape(name, quote=False)}</text>" in figures
        assert f'<th scope="row">{escape(name)}</th>' in text
    assert '<th scope="col">cube px</th>' in text


@pytest.mark.parametrize(
    ("told", "said"),
    [({}, "was not recorded"), ({"labels": "none"}, "(labels: none)"), ({"labels": "states"}, "(labels: states)")],
)
def test_the_page_of_a_benchmark_says_what_the_world_was_trained_on(
    told: dict[str, str], said: str, tmp_path: Path
) -> None:
    text = write_cache_benchmark({**summary(), **told}, tmp_path).read_text("utf-8")
    assert said in text[text.index('class="lede"') : text.index("<section")]
