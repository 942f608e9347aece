"""The directory of one run: what was asked, on what it ran, and what came out, whole after any kill.

    config.yaml    the resolved configuration        steps.jsonl     a line per rollout step, append-only
    manifest.json  versions, device, hashes, seeds   episodes.jsonl  a line per whole episode, append-only
    summary.json   every number the report shows     episodes/       arrays of an episode, `<name>.npz`

An episode exists once its line in `episodes.jsonl` does; its steps and arrays are written before.  Easy to get wrong:
steps of an episode without such a line are the remains of a kill, so they are never read and `open` removes them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml

from wcsim.errors import ConfigError, RunError
from wcsim.track import files
from wcsim.track.manifest import FORMAT, describe_change

FORK = "to begin anew beside it, use --fork"


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


class Run:
    """One run directory.  config, manifest: as stored.  steps, episodes: rows of whole episodes, in recorded order."""

    def __init__(self, path: Path) -> None:
        """Read the run at `path`, changing nothing, so that a report may look while it still runs.

        Raises RunError where `path` holds no run or a damaged one.
        """
        for name in ("config.yaml", "manifest.json", "steps.jsonl", "episodes.jsonl"):
            if not (path / name).is_file():
                raise RunError(f"{path} is not a run: it has no {name}")
        self.path = path
        self.config: dict[str, Any] = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        self.manifest: dict[str, Any] = files.read_object(path / "manifest.json")
        if self.manifest.get("format") != FORMAT:
            raise RunError(f"{path} has run format {self.manifest.get('format', 1)}, this wcsim reads {FORMAT}; {FORK}")
        # Episodes first: every episode in this list has its steps in the file that is read after it.
        self.episodes, self._torn_episodes = _read_rows(path / "episodes.jsonl")
        steps, torn = _read_rows(path / "steps.jsonl")
        whole = {row["episode"] for row in self.episodes}
        self.steps = [row for row in steps if row["episode"] in whole]
        self._stray_steps = torn or len(self.steps) < len(steps)

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Self:
        """Start a run in a new directory.  Raises RunError, writing nothing, where `path` exists in any form."""
        config_text = _to_yaml(config)
        manifest_text = files.encode({"format": FORMAT, **manifest}, indent=2) + "\n"
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise RunError(f"{path} exists; choose another directory or resume the run in it") from error
        for name, text in (("steps.jsonl", ""), ("episodes.jsonl", ""), ("manifest.json", manifest_text)):
            files.replace(path / name, text.encode())
        files.replace(path / "config.yaml", config_text.encode())
        return cls(path)

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Self:
        """Resume a run after its last whole episode, removing what a kill left of the next one.

        Raises RunError, changing nothing, where `path` is not a run, or `config` or what `manifest` says of versions,
        device and inputs differs from what is stored, naming it.
        """
        run = cls(path)
        differences = list(_differences(run.config, yaml.safe_load(_to_yaml(config))))
        if differences:
            raise RunError(f"{path} was run with another configuration: {'; '.join(differences)}; {FORK}")
        if change := describe_change(run.manifest, manifest):
            raise RunError(f"{path} depends on what has changed: {change}; {FORK}")
        for name, rows, spoiled in (
            ("episodes.jsonl", run.episodes, run._torn_episodes),
            ("steps.jsonl", run.steps, run._stray_steps),
        ):
            if spoiled:
                files.replace(path / name, files.to_lines(rows))
        return run

    @classmethod
    def resume(
        cls, path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any],
        measure: Callable[[], Mapping[str, Any]] = dict,
    ) -> Self:
        """`open` the run at `path`, or `create` it where there is none yet, or a kill left one half made.

        measure: what a new run measures before it begins, to be kept with its manifest and never compared.
        """
        if path.is_dir() and not (path / "config.yaml").exists():  # `create` writes it last
            left = {file.name for file in path.iterdir()}
            made = {"steps.jsonl", "episodes.jsonl", "manifest.json"}
            if left <= made | {f".{name}.tmp" for name in {*made, "config.yaml"}}:
                for name in left:
                    (path / name).unlink()
                path.rmdir()
        if path.exists():
            return cls.open(path, config, manifest)
        return cls.create(path, config, {**manifest, **measure()})

    def record_episode(self, steps: Sequence[Mapping[str, Any]], episode: Mapping[str, Any]) -> None:
        """Append a whole episode: first its steps, then its own row; on return both are on disk.

        Every row carries the episode's number under `episode`.  Raises RunError where that number was recorded before.
        Where the disk fails in between, `open` the run again before recording more.
        """
        number = episode["episode"]
        if any(row["episode"] == number for row in self.episodes):
            raise RunError(f"episode {number} is already recorded in {self.path}")
        strangers = {row["episode"] for row in steps} - {number}
        if strangers:
            raise ValueError(f"steps of episode {number} carry the numbers {sorted(strangers)}")
        step_lines, episode_line = files.to_lines(steps), files.to_lines([episode])
        files.append(self.path / "steps.jsonl", step_lines)
        files.append(self.path / "episodes.jsonl", episode_line)
        # Kept as they will be read back, so that a resumed run sees the same values as an unbroken one.
        self.steps += files.from_lines(step_lines, "steps.jsonl")[0]
        self.episodes += files.from_lines(episode_line, "episodes.jsonl")[0]

    def save_arrays(self, name: str, /, **arrays: np.ndarray) -> None:
        """Keep arrays as `episodes/<name>.npz`, replacing any of that name; before the episode is recorded."""
        for key, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise ValueError(f"array '{key}' holds Python objects; only numbers, booleans and text are kept")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        path = self._arrays_path(name)
        path.parent.mkdir(exist_ok=True)
        files.replace(path, buffer.getvalue())

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """What `save_arrays` kept under `name`.  Raises RunError where there is nothing."""
        path = self._arrays_path(name)
        if not path.is_file():
            raise RunError(f"{self.path} has no arrays named '{name}'")
        with np.load(path) as stored:
            return dict(stored)

    def _arrays_path(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError(f"a name of arrays is letters, digits, '_', '-' and '.', got {name!r}")
        return self.path / "episodes" / f"{name}.npz"

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write or replace `summary.json`."""
        files.replace(self.path / "summary.json", (files.encode(summary, indent=2) + "\n").encode())

    def read_summary(self) -> dict[str, Any]:
        """`summary.json`.  Raises RunError where the run has not written one yet."""
        if not (self.path / "summary.json").is_file():
            raise RunError(f"{self.path} has no summary.json yet: the run has not ended")
        return files.read_object(self.path / "summary.json")


def fresh_sibling(path: Path) -> Path:
    """`path` where nothing is there yet, else the first of `path-2`, `path-3` and so on."""
    found, number = path, 1
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], bool]:
    return files.from_lines(path.read_bytes(), path.name)


def _to_yaml(config: Mapping[str, Any]) -> str:
    try:
        return yaml.safe_dump(dict(config), sort_keys=False)
    except yaml.representer.RepresenterError as error:
        raise ConfigError(f"the configuration holds a value that YAML cannot keep: {error}") from error


def _differences(stored: object, given: object, key: str = "") -> Iterator[str]:
    """`key (stored x, given y)` for every leaf in which two configurations differ."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in sorted({*stored, *given}, key=str):
            inner = f"{key}.{name}" if key else str(name)
            yield from _differences(stored.get(name, _ABSENT), given.get(name, _ABSENT), inner)
    elif stored != given:
        yield f"{key} (stored {stored!r}, given {given!r})"
