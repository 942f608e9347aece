from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from fabricated_run import ARM, NAMES, RECORDING, SPECS, TABLE
from wcsim.report.canvas import PALETTE, draw
from wcsim.report.decisions import computed_cells, decision_panels
from wcsim.report.figures import error_panels, latency_panels, task_panels, world_layers
from wcsim.report.measures import leading
from wcsim.runs.run import Run

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, fabricate: Callable[..., Run]) -> Run:
    return fabricate(tmp_path_factory.mktemp("report") / "run")


def panels(run: Run) -> list[Any]:
    arrays = run.load_arrays("ep_0000")
    return [
        *error_panels(run.steps, TABLE), *latency_panels(run.steps, 1000.0),
        *decision_panels(0, arrays, [arrays["hit"]]),
        *task_panels(run.steps, "coverage", 0.3),
    ]


def test_equal_rows_give_equal_drawings(run: Run) -> None:
    assert panels(run) == panels(Run(run.path))


def test_drawings_are_whole_and_share_no_id(run: Run) -> None:
    drawn = panels(run)
    assert len(drawn) == 10
    ids: list[str] = []
    for panel in drawn:
        ElementTree.fromstring(panel.svg)
        here = re.findall(r' id="([^"]*)"', panel.svg)
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', panel.svg)) <= set(here)
        ids += here
    assert len(ids) == len(set(ids))


def test_colours_can_be_restyled(run: Run) -> None:
    for panel in panels(run):
        fixed = set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", panel.svg))
        assert not fixed, f"{panel.title}: {fixed}"


def test_a_drawing_describes_itself() -> None:
    svg = draw("name", 'a "quoted" <description>', lambda figure: None)
    assert ElementTree.fromstring(svg).get("aria-label") == 'a "quoted" <description>'


def test_palette_colours_are_told_apart_by_their_light_value() -> None:
    light = [light for light, _ in PALETTE.values()]
    assert len(set(light)) == len(light)


def test_stacked_spans_add_up_to_what_encloses_them(run: Run) -> None:
    layers = world_layers(run.steps)
    total = np.sum([values for _, values in layers.values()], axis=0)
    expected = [sum(row["spans_ms"][name] for name in ("imagine", "decode", "estimate")) for row in run.steps]
    np.testing.assert_allclose(total, expected)


def test_cells_outline_runs() -> None:
    path = computed_cells(np.array([[True, True, False], [False, False, False], [False, True, True]]))
    boxes = np.asarray(path.vertices).reshape(-1, 5, 2)
    assert [(box[:, 0].min(), box[:, 0].max(), box[:, 1].mean().round()) for box in boxes] == [
        (0.5, 2.5, 1.0), (1.5, 3.5, 3.0),
    ]
    assert np.asarray(computed_cells(np.zeros((2, 3), dtype=bool)).vertices).shape == (0, 2)


def test_nothing_to_show_draws_nothing() -> None:
    assert error_panels([], TABLE) == latency_panels([], 1000.0) == task_panels([], "progress", None) == []
    empty = np.zeros((0, 4))
    assert decision_panels(0, {"hit": empty > 0, "drift": empty, "threshold": empty}, [empty > 0]) == []


def test_a_policy_in_the_truth_leaves_only_paired_times(run: Run) -> None:
    steps = [{**row, "spans_ms": {"step": 3.0, "plan": 1.0, "truth": 2.0}, "plan": None} for row in run.steps]
    assert [panel.title for panel in latency_panels(steps, None)] == ["Control step, ms", "The world's step, ms"]
    assert [panel.title for panel in task_panels(steps, "coverage", None)] == ["Coverage, %"]


def test_a_policy_without_drift_shows_only_its_decisions() -> None:
    hit = np.zeros((3, 4), dtype=bool)
    unknown = np.full((3, 4), np.nan, dtype=np.float32)
    drawn = decision_panels(2, {"hit": hit, "drift": unknown, "threshold": unknown}, [hit, hit])
    assert [panel.title for panel in drawn] == ["Deep blocks, episode 2"]


TITLES = {
    "table": ["Block position error, px", "Block angle error, degrees", "Agent position error, px"],
    "arm": ["Height error, cm", "Grip error, share wrong", "Hand rotation error, degrees"],
    "recording": [],
}


@pytest.mark.parametrize("task", SPECS)
def test_there_is_an_error_panel_per_quantity(task: str, tmp_path: Path, fabricate: Callable[..., Run]) -> None:
    run = fabricate(tmp_path / "run", spec=SPECS[task], episodes=2, steps=3)
    drawn = error_panels(run.steps, SPECS[task])
    assert [panel.title for panel in drawn] == [*TITLES[task], "Image similarity (PSNR), dB"]


def test_the_goal_headlines_and_without_quantities_the_images_do() -> None:
    assert [leading(spec).key for spec in (TABLE, ARM, RECORDING)] == ["block_px", "height_cm", "psnr_db"]


@pytest.mark.parametrize("name", [*NAMES, 'a " id="x" url(#y)', "'DejaVu Sans'"])
def test_a_name_in_a_figure_is_text(name: str) -> None:
    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], label=name)
        axes.set_xticks([0], [name])
        axes.annotate(name, (0, 0))
        axes.set_title(name)
        axes.legend()

    svg = draw(name, name, paint)
    root = ElementTree.fromstring(svg)
    found = ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]
    assert found.count(name) == 4
    assert root.get("aria-label") == name
    assert {element.tag for element in root.iter()} <= {f"{SVG}{tag}" for tag in (
        "svg", "g", "path", "defs", "style", "text", "use", "clipPath", "rect")}
    ids = {element.get("id") for element in root.iter()} - {None}
    assert all(re.fullmatch(r"[\w-]+", str(one)) for one in ids)
    given = [value for element in root.iter() for key, value in element.attrib.items() if key != "aria-label"]
    assert {one for value in given for one in re.findall(r"^(?:url\()?#([^)]+)\)?$", value)} <= ids
