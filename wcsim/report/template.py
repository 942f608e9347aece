"""The pages' common frame: one environment, one style sheet, and drawings that go in as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from wcsim.report import phrases
from wcsim.report.canvas import PALETTE, Panel


def fill(template: str, **values: Any) -> str:
    """A page made from `template` (a file of this package, which extends base.html); unknown names raise."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters.update(number=phrases.number, percent=phrases.percent, times=phrases.times)
    return environment.get_template(template).render(palette=PALETTE, **values)


def drawn(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Panels as a template's `grid` takes them."""
    return [{"title": panel.title, "svg": Markup(panel.svg)} for panel in panels]
