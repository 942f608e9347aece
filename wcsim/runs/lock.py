"""One writer per run directory: a lock file that names its owner.

Where the system has `flock`, the lock ends with its process, however that ends, so a dead holder blocks no other.
Elsewhere the existence of the file is the lock, and after a kill a person removes it: the message says so.  Easy to get
wrong: the file is removed on release, so a process that opened it before that has the lock of a file that is gone.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Self

from wcsim.errors import RunError

LOCK = "run.lock"
FCNTL: ModuleType | None = import_module("fcntl") if find_spec("fcntl") else None
"""None on Windows."""


class RunLock:
    """A held lock, until `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    @classmethod
    def take(cls, folder: Path) -> Self:
        """Lock a run directory.  Raises RunError, naming the holder, where another process or object has it."""
        path = folder / LOCK
        while True:
            opened = _open(path)
            if opened is None:
                continue  # it was released between two checks
            descriptor, fresh = opened
            locked = _flock(descriptor)
            if locked is False or (locked is None and not fresh):
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                advice = "" if locked is False else f"; if that process has ended, remove {path}"
                raise RunError(f"{folder} is being written by {holder}{advice}")
            if _is_at(path, descriptor):
                break
            os.close(descriptor)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} since {since}\n".encode())
        return cls(path, descriptor)

    def release(self) -> None:
        """Let go; does nothing the second time."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            if _is_at(self._path, descriptor):
                self._path.unlink()
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def holder(folder: Path) -> str | None:
    """Who writes a run directory now, as `process 4711 since ...`; None where nobody does.  Takes no lock."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _flock(descriptor) else os.read(descriptor, 200).decode(errors="replace").strip()
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, bool] | None:
    """The lock file, and whether it was made by this; None where it vanished meanwhile."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        pass
    except OSError as error:
        raise RunError(f"{path} cannot be made: {error}; a run directory needs to be writable") from error
    try:
        return os.open(path, os.O_RDWR), False
    except FileNotFoundError:
        return None


def _flock(descriptor: int) -> bool | None:
    """Whether the lock was free; None where this system or file system has none."""
    if FCNTL is None:
        return None
    try:
        FCNTL.flock(descriptor, FCNTL.LOCK_EX | FCNTL.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
