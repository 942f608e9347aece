"""The directory of one run: what was asked, on what it ran, and what came out, whole after any kill.

    config.yaml    the resolved configuration        steps.jsonl     a line per rollout step, append-only
    manifest.json  versions, device, hashes, seeds   episodes.jsonl  a line per whole episode, append-only
    summary.json   every number the report shows     episodes/       arrays of an episode, `<name>.npz`

An episode exists once its line in `episodes.jsonl` does; its steps and arrays are written before, and the line holds
their checksums.  One process at a time writes (`run.lock`); anyone may read.  Easy to get wrong: steps of an episode
without such a line are the remains of a kill, so they are never read and `open` removes them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from wcsim.errors import ConfigError, RunError
from wcsim.runs import files
from wcsim.runs.begun import clear, is_half_made, nothing_recorded
from wcsim.runs.checksums import Sums, check_arrays, digest, read_rows, read_sealed, seal, seal_object, step_lines
from wcsim.runs.lock import LOCK, RunLock
from wcsim.runs.manifest import FORMAT, describe_change
from wcsim.strict_yaml import dump_yaml, parse_yaml

Measure = Callable[[], Mapping[str, Any]]

FORK = "to begin anew beside it, use --fork"


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


class Run:
    """One run directory.  config, manifest: as stored.  steps, episodes: rows of whole episodes, in recorded order,
    each with the `job` that it belongs to."""

    def __init__(self, path: Path, lock: RunLock | None = None) -> None:
        """Read the run at `path`, changing nothing, so that a report may read it while it runs.

        lock: that of the writer; `create`, `open` and `resume` take it.  Raises RunError where `path` holds no run
        or a damaged one.
        """
        _check_names(path)
        self.path, self._lock = path, lock
        self.config: dict[str, Any] = _config_of(path / "config.yaml")
        self.manifest, sums = read_sealed(path / "manifest.json")
        if "config" in sums and digest((path / "config.yaml").read_bytes()) != sums["config"]:
            raise RunError(f"{path / 'config.yaml'} is not as it was written; the file is damaged")
        if self.manifest.get("format") != FORMAT:
            raise RunError(f"{path} has run format {self.manifest.get('format', 1)}, this wcsim reads {FORMAT}; {FORK}")
        rows = read_rows(path)
        self.steps, self.episodes, self._sums, self._spoiled = rows.steps, rows.episodes, rows.sums, rows.spoiled
        self._saved: dict[str, str] = {}

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Self:
        """Start a run in a new directory.  Raises RunError, writing nothing, where `path` exists in any form."""
        return cls._create(path, config, manifest, dict)

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Self:
        """Resume a run after its last whole episode, removing what a kill left of the next one.

        Raises RunError, changing nothing, where `path` is not a run, another process writes it, an array file is
        damaged, or `config` or what `manifest` says of versions, device and inputs differs from what is stored, naming
        it.  The order of keys in mappings makes no difference; go on with `run.config`, which is in the stored order.
        """
        _check_names(path)
        lock = RunLock.take(path)
        try:
            run = cls(path, lock)
            run._check_same(config, manifest)
            check_arrays(path / "episodes", run._sums)
            for file, content in run._spoiled.items():
                files.replace(file, content)
        except BaseException:
            lock.release()
            raise
        return run

    @classmethod
    def resume(
        cls, path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any], measure: Measure = dict
    ) -> Self:
        """`open` the run at `path`, or `create` it where there is none yet, or a kill left one half made.  One that
        cannot go on and has nothing recorded begins anew.

        measure: what a new run measures before it begins, to be kept with its manifest and never compared.
        """
        if is_half_made(path):
            return cls._begin(path, dump_yaml(dict(config)), manifest, measure)
        if not path.exists():
            return cls._create(path, config, manifest, measure)
        try:
            return cls.open(path, config, manifest)
        except RunError:
            if not nothing_recorded(path):
                raise
        lock = RunLock.take(path)
        if nothing_recorded(path):
            clear(path)
        lock.release()
        return cls.resume(path, config, manifest, measure)

    @classmethod
    def _create(cls, path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any], measure: Measure) -> Self:
        text, _ = dump_yaml(dict(config)), files.encode(manifest)
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise RunError(f"{path} exists; choose another directory or resume the run in it") from error
        return cls._begin(path, text, manifest, measure)

    @classmethod
    def _begin(cls, path: Path, config: str, manifest: Mapping[str, Any], measure: Measure) -> Self:
        """Fill a directory that is empty but for what a kill left; where that fails, remove it."""
        lock = RunLock.take(path)
        if not is_half_made(path):
            lock.release()
            raise RunError(f"{path} was begun by another process just now; resume the run in it")
        try:
            sealed = seal_object({"format": FORMAT, **manifest, **measure()}, config=digest(config.encode()))
            for name, content in (("steps.jsonl", b""), ("episodes.jsonl", b""), ("manifest.json", sealed)):
                files.replace(path / name, content)
            files.replace(path / "config.yaml", config.encode())
            return cls(path, lock)
        except BaseException:
            for file in path.iterdir():
                if file.name != LOCK:
                    file.unlink()
            lock.release()
            path.rmdir()
            raise

    def _check_same(self, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        differences = list(_differences(self.config, parse_yaml(dump_yaml(dict(config)), what="the configuration")))
        if differences:
            raise RunError(f"{self.path} was run with another configuration: {'; '.join(differences)}; {FORK}")
        if change := describe_change(self.manifest, manifest):
            raise RunError(f"{self.path} depends on what has changed: {change}; {FORK}")

    @property
    def done(self) -> set[str]:
        """The jobs whose episodes are recorded."""
        return set(self._sums)

    def close(self) -> None:
        """Let others write; what was read remains in memory."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def record(self, job: str, steps: Sequence[Mapping[str, Any]], episode: Mapping[str, Any]) -> None:
        """Append a whole episode: first its steps, then its own row; on return both are on disk.

        job: what the episode is, in words that neither order nor number of other jobs changes; every row carries it.
        Raises RunError where that job was recorded before.  Where the disk fails in between, `open` the run again
        before recording more.
        """
        self._check_writable()
        if job in self._sums:
            raise RunError(f"{job} is already recorded in {self.path}")
        lines, row = step_lines(job, steps), {**episode, "job": job}
        sums = Sums(digest(lines), dict(self._saved))
        line = seal(row, sums)
        if lines:
            files.append(self.path / "steps.jsonl", lines)
        files.append(self.path / "episodes.jsonl", line)
        # Saved as they will be read back, so that a resumed run sees the same values as an unbroken one.
        self.steps += files.from_lines(lines, "steps.jsonl")[0]
        self.episodes += files.from_lines(files.to_lines([row]), "episodes.jsonl")[0]
        self._sums[job] = sums
        self._saved.clear()

    def save_arrays(self, name: str, /, **arrays: np.ndarray) -> None:
        """Keep arrays as `episodes/<name>.npz`, for the episode that is recorded next.

        Replaces what was saved under that name for an episode that was never recorded; RunError where it was.
        """
        self._check_writable()
        for key, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise ValueError(f"array '{key}' holds Python objects; only numbers, booleans and text are kept")
        path = self._arrays_path(name)
        for job, sums in self._sums.items():
            if name in sums.arrays:
                raise RunError(f"arrays named '{name}' belong to {job}, which is recorded in {self.path}")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes a name for `allow_pickle`
        path.parent.mkdir(exist_ok=True)
        files.replace(path, buffer.getvalue())
        self._saved[name] = digest(buffer.getvalue())

    def has_arrays(self, name: str) -> bool:
        """Whether there are arrays of that name."""
        return self._arrays_path(name).is_file()

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """What `save_arrays` kept under `name`.  Raises RunError where there is nothing, or a damaged file."""
        path = self._arrays_path(name)
        if not path.is_file():
            raise RunError(f"{self.path} has no arrays named '{name}'")
        check_arrays(path.parent, self._sums, [name])
        try:
            with np.load(path) as stored:
                return dict(stored)
        except (OSError, ValueError, BadZipFile) as error:
            raise RunError(f"{path} does not load ({error}); the file is damaged") from error

    def _arrays_path(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError(f"a name of arrays is letters, digits, '_', '-' and '.', got {name!r}")
        return self.path / "episodes" / f"{name}.npz"

    def _check_writable(self) -> None:
        if self._lock is None:
            raise RunError(f"{self.path} was opened for reading, or closed; resume the run to write to it")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write or replace `summary.json`."""
        self._check_writable()
        files.replace(self.path / "summary.json", seal_object(summary))

    def read_summary(self) -> dict[str, Any]:
        """`summary.json`.  Raises RunError where the run has not written one yet, or it was changed since."""
        if not (self.path / "summary.json").is_file():
            raise RunError(f"{self.path} has no summary.json yet: the run has not ended")
        return read_sealed(self.path / "summary.json")[0]


def fresh_sibling(path: Path) -> Path:
    """`path` where nothing is there yet, else the first of `path-2`, `path-3` and so on."""
    found, number = path, 1
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _check_names(path: Path) -> None:
    for name in ("config.yaml", "manifest.json", "steps.jsonl", "episodes.jsonl"):
        if not (path / name).is_file():
            raise RunError(f"{path} is not a run: it has no {name}")


def _config_of(path: Path) -> dict[str, Any]:
    """The stored configuration; RunError where it is damaged."""
    try:
        config = parse_yaml(path.read_bytes(), what=path.name)
    except ConfigError as error:
        raise RunError(f"{error}; the file is damaged") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} is not a mapping; the file is damaged")
    return config


def _differences(stored: object, given: object, key: str = "") -> Iterator[str]:
    """`key (stored x, given y)` for every leaf in which two configurations differ."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in sorted({*stored, *given}, key=str):
            inner = f"{key}.{name}" if key else str(name)
            yield from _differences(stored.get(name, _ABSENT), given.get(name, _ABSENT), inner)
    elif stored != given:
        yield f"{key} (stored {stored!r}, given {given!r})"
