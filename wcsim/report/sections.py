"""A page as a list of sections: a sentence, figures and tables each.

Easy to get wrong: a table's cells are text for people; numbers in full precision are in `summary.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wcsim.report.canvas import Panel
from wcsim.report.page import Tile
from wcsim.report.template import drawn, fill
from wcsim.runs import files


@dataclass(frozen=True, slots=True)
class Table:
    """rows: of cells, the first of each names the row."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """id: its anchor.  reading: what there is to see, in a sentence.  how: how to look at it.  missing: said where
    there are no panels."""

    id: str
    title: str
    reading: str = ""
    how: str = ""
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: str = ""


def write_page(
    path: Path, title: str, lede: str, sections: Sequence[Section], *, tiles: Sequence[Tile] = (),
    sources: Mapping[str, str], also: str = "",
) -> Path:
    """Write the page at `path` and return it.  sources: name to text, folded away at the end.  also: ends the footer's
    sentence."""
    shown = [{"id": section.id, "title": section.title, "reading": section.reading, "how": section.how,
              "panels": drawn(section.panels), "tables": section.tables, "missing": section.missing}
             for section in sections]
    text = fill("sections.html", title=title, lede=lede, tiles=list(tiles), sections=shown,
                sources=list(sources.items()), also=also)
    files.replace(path, text.encode())
    return path
