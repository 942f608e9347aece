"""What an unfinished experiment has measured so far, saved by name, so that a kill costs one measurement.

Easy to get wrong: figures of another configuration, or of other weights, are not these figures, so the file names
its configuration, and is begun anew for any other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wcsim.runs import files


class Saved:
    """Measurements in `path`, a file of JSON lines that belongs to `owner`, anything that tells experiments apart.

    Finishing the experiment removes the file: the next one measures anew.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        rows: list[dict[str, Any]] = []
        if path.is_file():
            rows, _ = files.from_lines(path.read_bytes(), path.name)
        theirs = rows[0]["owner"] if rows else None
        self._found = {row["name"]: row["value"] for row in rows[1:]} if theirs == owner else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        again = [{"name": name, "value": value} for name, value in self._found.items()]
        files.replace(path, files.to_lines([{"owner": owner}, *again]))

    def __call__(self, name: str, measure: Callable[[], Any]) -> Any:
        """The value of `name`: JSON, as measured before, or else by `measure`, now."""
        if name not in self._found:
            line = files.to_lines([{"name": name, "value": measure()}])
            files.append(self._path, line)
            self._found[name] = files.from_lines(line, self._path.name)[0][0]["value"]
        return self._found[name]
