"""What a training shows of itself over time: a line per checkpoint, and TensorBoard where it is installed.

Easy to get wrong: after a kill, lines beyond the checkpoint are forgotten, since those steps run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wcsim.runs import files

FILE = "scalars.jsonl"


class Scalars:
    """Rows of `stage, step, seconds, train, held_out` in a folder.  say: receives each as a line of text.  shown:
    whether TensorBoard gets them, too."""

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None, *, shown: bool = True) -> None:
        self._path, self._say, self._board = folder / FILE, say, board(folder / "tensorboard") if shown else None
        folder.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows."""
        return files.from_lines(self._path.read_bytes(), FILE)[0] if self._path.is_file() else []

    def forget(self, stage: str, step: int) -> None:
        """Drop the rows of a stage that lie beyond a step."""
        rows = self.rows()
        kept = [row for row in rows if row["stage"] != stage or row["step"] <= step]
        if len(kept) < len(rows):
            files.replace(self._path, files.to_lines(kept))

    def add(self, stage: str, step: int, seconds: float, train: Mapping[str, float], held_out: Mapping[str, float]
            ) -> None:
        """Write a row."""
        row = {"stage": stage, "step": step, "seconds": seconds, "train": dict(train), "held_out": dict(held_out)}
        files.replace(self._path, files.to_lines([*self.rows(), row]))
        for split, values in (("train", train), ("held_out", held_out)):
            for name, value in values.items():
                if self._board is not None:
                    self._board.add_scalar(f"{stage}/{name}/{split}", value, step)
        told = ", ".join(f"{name} {value:.4g}" for name, value in train.items())
        held = ", ".join(f"{name} {value:.4g}" for name, value in held_out.items())
        self._say(f"{stage} step {step}, {seconds:.0f} s: {told}; held out: {held}")


def board(folder: Path) -> Any:
    """A writer for TensorBoard, None where the package is missing."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
