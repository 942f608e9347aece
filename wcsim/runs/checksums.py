"""Files of a run with checksums, so that one which was cut or edited is found and named.

The row of an episode carries `sha256`: of itself (`row`), of its step lines (`steps`) and of its arrays by name
(`arrays`).  Easy to get wrong: the row's own sum covers the two others, so it is made last and checked first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wcsim.errors import RunError
from wcsim.runs import files


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one episode.  steps: of its lines, as bytes.  arrays: name to the sum of its file."""

    steps: str
    arrays: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a run directory holds: rows of whole episodes and of their steps, in recorded order.

    sums: by job.  spoiled: files that end in the remains of a kill, with the content that is whole.
    """

    episodes: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    sums: dict[str, Sums]
    spoiled: dict[Path, bytes]


def seal(row: Mapping[str, Any], sums: Sums) -> bytes:
    """The line of an episode, with its checksums."""
    inner = {"steps": sums.steps, "arrays": dict(sums.arrays)}
    own = digest(files.to_lines([{**row, "sha256": inner}]))
    return files.to_lines([{**row, "sha256": {**inner, "row": own}}])


def seal_object(value: Mapping[str, Any], **others: str) -> bytes:
    """The content of a file that holds one object, with its checksum beside those of `others`."""
    own = digest(files.to_lines([{**value, "sha256": others}]))
    return (files.encode({**value, "sha256": {**others, "own": own}}, indent=2) + "\n").encode()


def read_sealed(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What `seal_object` was given; RunError where the object was changed since.  One without a checksum, of an older
    wcsim, is believed."""
    value = files.read_object(path)
    sums = value.pop("sha256", None)
    if sums is None:
        return value, {}
    others = {name: one for name, one in sums.items() if name != "own"} if isinstance(sums, dict) else {}
    if not isinstance(sums, dict) or digest(files.to_lines([{**value, "sha256": others}])) != sums.get("own"):
        raise RunError(f"{path} is not as it was written; the file is damaged")
    return value, others


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def read_rows(folder: Path) -> Rows:
    """Everything in `episodes.jsonl` and `steps.jsonl` of a run that belongs to a whole episode.

    Raises RunError, naming file and episode, where a checksum does not hold.
    """
    # Episodes first: every episode in this list has its steps in the file that is read after it.
    path, spoiled = folder / "episodes.jsonl", {}
    content = path.read_bytes()
    sealed, torn = files.from_lines(content, path.name)
    if torn:
        spoiled[path] = content[: content.rfind(b"\n") + 1]
    sums: dict[str, Sums] = {}
    for number, row in enumerate(sealed, start=1):
        job = row.get("job")
        if job in sums:
            raise RunError(f"{path} line {number}: {job} was recorded before; the file is damaged")
        sums[str(job)] = _unseal(row, f"{path} line {number}, {job or 'an episode without a job'},")
    steps, whole = _read_steps(folder / "steps.jsonl", sums)
    return Rows(sealed, steps, sums, spoiled | whole)


def _unseal(row: dict[str, Any], where: str) -> Sums:
    """Take the checksums out of a row."""
    sums = row.pop("sha256", None)
    try:
        own, found = sums.pop("row"), Sums(sums["steps"], sums["arrays"])
    except (AttributeError, KeyError, TypeError) as error:
        raise RunError(f"{where} has no checksums; the file is damaged") from error
    if digest(files.to_lines([{**row, "sha256": sums}])) != own:
        raise RunError(f"{where} is not as it was recorded; the file is damaged")
    return found


def _read_steps(path: Path, sums: Mapping[str, Sums]) -> tuple[list[dict[str, Any]], dict[Path, bytes]]:
    """The steps of whole episodes; and the file's whole content where a kill left more."""
    content = path.read_bytes()
    rows, torn = files.from_lines(content, path.name)
    lines = content.split(b"\n")[: len(rows)]
    kept = [(row, line + b"\n") for row, line in zip(rows, lines, strict=True) if row.get("job") in sums]
    of_job: dict[str, Any] = {job: hashlib.sha256() for job in sums}
    for row, line in kept:
        of_job[row["job"]].update(line)
    for job, found in of_job.items():
        if found.hexdigest() != sums[job].steps:
            raise RunError(f"{path}: the steps of {job} are not as they were recorded; the file is damaged")
    lost = list(dict.fromkeys(str(row.get("job")) for row in rows if row.get("job") not in sums))
    if len(lost) > 1:  # a kill leaves the steps of one
        raise RunError(f"{path.with_name('episodes.jsonl')} lacks episodes whose steps are there: "
                       f"{', '.join(lost[:4])}; the file is damaged")
    spoiled = torn or len(kept) < len(rows)
    return [row for row, _ in kept], {path: b"".join(line for _, line in kept)} if spoiled else {}


def step_lines(job: str, steps: Sequence[Mapping[str, Any]]) -> bytes:
    """The lines of an episode's steps.  ValueError for a step that names another job."""
    strangers = sorted({str(row["job"]) for row in steps if row.get("job", job) != job})
    if strangers:
        raise ValueError(f"steps of {job} name {', '.join(strangers)}")
    return files.to_lines({**row, "job": job} for row in steps)


def check_arrays(folder: Path, sums: Mapping[str, Sums], names: Iterable[str] | None = None) -> None:
    """Raise RunError where an array file of a recorded episode is missing or changed; of `names`, or of all."""
    wanted = None if names is None else set(names)
    for job, found in sums.items():
        for name, recorded in found.arrays.items():
            path = folder / f"{name}.npz"
            if wanted is not None and name not in wanted:
                continue
            if not path.is_file():
                raise RunError(f"{path}, the arrays of {job}, is missing")
            if digest(path.read_bytes()) != recorded:
                raise RunError(f"{path}, the arrays of {job}, is not as it was recorded; the file is damaged")
