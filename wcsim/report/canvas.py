"""How figures become SVG: one palette, one style, and the same text for the same input.

Easy to get wrong: several drawings share one HTML document.  So ids carry the drawing's name, and colours leave as CSS
variables with the light value as fallback: a page may redefine them, and a drawing alone still looks right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

PALETTE = {
    "ink": ("#1c1f23", "#e6e8ea"),
    "muted": ("#5f666d", "#9ba2aa"),
    "grid": ("#e2e5e8", "#32373d"),
    "truth": ("#3a3f45", "#d3d8dd"),
    "cached": ("#0072b2", "#56b4e9"),
    "uncached": ("#d55e00", "#f08a4b"),
    "between": ("#00805f", "#35c49d"),
    "alert": ("#b3261e", "#ff8a80"),
    "computed": ("#2f6f94", "#6db3dc"),
    "skipped": ("#eaeef1", "#262b30"),
    "plan": ("#a58cc4", "#a58fd0"),
    "step": ("#2c6a91", "#5fa3cf"),
    "encode": ("#bf8f00", "#cfa52b"),
    "embed": ("#6bb58a", "#6fba8f"),
    "probe": ("#9ccbe8", "#a9d6f0"),
    "deep": ("#27628a", "#4f94c2"),
    "policy": ("#edc354", "#e9c766"),
    "other": ("#d0d5da", "#495059"),
    "decode": ("#e08e5b", "#dd9466"),
    "estimate": ("#959da5", "#7d858d"),
}
"""Name to colour on light and on dark ground.  Series differ in lightness too, for readers who cannot tell hues
apart."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"

WIDTH_IN = 4.8
"""Width of every drawing: half a desktop page, or a whole phone one with its text still legible."""

TAG = re.compile(r"<[^>]+>")

NAMES = {light: name for name, (light, _) in PALETTE.items()}


def colour(name: str) -> str:
    """The light colour of that name, which `draw` turns into a variable."""
    return PALETTE[name][0]


STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.parse_math": False,  # names are text, whatever they hold
    "text.color": colour("ink"),
    "axes.edgecolor": colour("muted"),
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": colour("muted"),
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "grid.color": colour("grid"),
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.handlelength": 1.0,
    "legend.handleheight": 1.0,
    "lines.linewidth": 1.7,
    "lines.markersize": 3.2,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "xtick.color": colour("muted"),
    "xtick.major.size": 3.0,
    "ytick.color": colour("muted"),
    "ytick.major.size": 0.0,
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing.  title: what it shows, with the unit of its vertical axis.  svg: an `<svg>` element."""

    title: str
    svg: str


def draw(name: str, description: str, paint: Callable[[Figure], None], *, height_in: float = 2.7) -> str:
    """An `<svg>` element of what `paint` puts on a figure.

    name: unlike that of any other drawing on the page.  description: what a screen reader says.
    """
    style: Any = {**STYLE, "svg.hashsalt": name}  # matplotlib's own keys are a literal type
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        paint(figure)
        text = StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _embeddable(text.getvalue(), name, description)


def _embeddable(document: str, name: str, description: str) -> str:
    """The `<svg>` element of a document, its ids and colours rewritten: inside tags alone, for what stands between them
    is text, and may be any name."""
    svg = document[document.index("<svg") :].strip()
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    used = {found for tag in TAG.findall(svg) for found in re.findall(r'(?:url\(|href=")#([^)"]+)', tag)}

    def rewrite(match: re.Match[str]) -> str:
        tag = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), match[0]).replace("'DejaVu Sans'", FONT)
        tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", tag)
        return re.sub(r'(url\(|href=")#', rf"\g<1>#{prefix}-", tag)

    svg = TAG.sub(rewrite, svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def _variable(light: str) -> str:
    return f"var(--{NAMES[light]}, {light})" if light in NAMES else light


def count_axis(axes: Axes, label: str) -> None:
    """A horizontal axis that counts."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel(label)
    axes.margins(x=0.015)
    plain_numbers(axes)


def plain_numbers(axes: Axes) -> None:
    """Write the vertical axis without trailing zeros, thousands separated."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name curves where they end on the right; `ends` are value, text, colour.  Names keep their order, and apart."""
    low, high = axes.get_ylim()
    gap = 0.085 * (high - low)
    places: list[float] = []
    for value, _, _ in sorted(ends):
        places.append(max(value, places[-1] + gap) if places else max(value, low))
    # What was pushed past the top comes back down, together with the names that it then would touch.
    for i in reversed(range(len(places))):
        places[i] = min(places[i], high if i == len(places) - 1 else places[i + 1] - gap)
    for place, (_, text, name) in zip(places, sorted(ends), strict=True):
        axes.text(1.02, place, text, color=colour(name), va="center", transform=axes.get_yaxis_transform())


def last_finite(values: np.ndarray) -> float | None:
    """The last number that is one; None where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else None
