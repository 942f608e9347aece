"""A point in an imagined episode, in memory or on disk.

In memory a snapshot shares all its tensors with the episode.  On disk it is `snapshot.safetensors`, every array, beside
`snapshot.json`, all else and a checksum of both; nothing is unpickled.  Easy to get wrong: what is not in here (the
counts of Gymnasium's own wrappers, the fidelity) is not restored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from wcsim.envs.lane_checks import check_lane
from wcsim.envs.lanes import Ahead, Lane, read_only
from wcsim.envs.tasks import Task
from wcsim.errors import SnapshotError
from wcsim.types import Trace, WorldState
from wcsim.world.world import World

FORMAT = 4
"""Version of the files; another one is refused."""

TENSORS, DESCRIPTION = "snapshot.safetensors", "snapshot.json"
ARRAYS = ("actions", "frames", "changed")
TABLES = ("hit", "drift", "threshold", "gain", "blocks")


@dataclass(frozen=True, slots=True)
class EnvSnapshot:
    """Complete: what is restored from it has the same future, bit for bit, at the same fidelity.

    world, fingerprint: its name and the hash of its description, which restore() checks.  lane: the rollout, the
    robot's last state and the frames ahead within a chunk.  elapsed: steps since the reset.  over: whether the episode
    had ended.  generator: the state of the environment's random numbers.
    """

    world: str
    fingerprint: str
    lane: Lane
    elapsed: int
    over: bool
    generator: Mapping[str, Any]

    @property
    def state(self) -> WorldState:
        """The rollout's state, a copy; within a chunk, the one at its beginning."""
        return own_state(self.lane.state)

    @property
    def pixels(self) -> np.ndarray:
        """The frame on show `[H, W, 3]` uint8, read-only."""
        return self.lane.pixels


def own_state(state: WorldState) -> WorldState:
    """A copy that shares no memory, so that a change in place changes no other's past."""
    return replace(state, **{name: value.clone() for name, value in state.tensors().items()})


def save_snapshots(folder: str | Path, snapshots: Sequence[EnvSnapshot]) -> None:
    """Write snapshots, of one environment or of every lane of a vector environment, as two files in a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, description = pack_snapshots(snapshots)
    (folder / TENSORS).write_bytes(tensors)
    (folder / DESCRIPTION).write_text(description, "utf-8")


def pack_snapshots(snapshots: Sequence[EnvSnapshot]) -> tuple[bytes, str]:
    """The contents of the two files."""
    tensors: dict[str, Tensor] = {}
    rows = []
    for number, snapshot in enumerate(snapshots):
        parts, ahead = _tensors_of(snapshot.lane)
        # Copies: snapshots share tensors in memory, which safetensors refuses to write.
        tensors |= {f"{number}.{name}": value.cpu().contiguous().clone() for name, value in parts.items()}
        rows.append({
            "world": snapshot.world, "fingerprint": snapshot.fingerprint, "elapsed": snapshot.elapsed,
            "over": snapshot.over, "generator": dict(snapshot.generator),
            "changed": snapshot.lane.changed, "ahead": ahead,
        })
    arrays = save(tensors)
    described = {"format": FORMAT, "sha256": checksum(arrays, rows), "snapshots": rows}
    return arrays, json.dumps(described, indent=2) + "\n"


def checksum(tensors: bytes, rows: Any) -> str:
    """SHA-256 over the arrays and what describes them."""
    return sha256(tensors + json.dumps(rows, sort_keys=True).encode()).hexdigest()


def load_snapshots(folder: str | Path, *, device: str = "cpu") -> list[EnvSnapshot]:
    """Snapshots as `save_snapshots` wrote them, in order; SnapshotError where the files are not such."""
    folder = Path(folder)
    try:
        tensors, description = (folder / TENSORS).read_bytes(), (folder / DESCRIPTION).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SnapshotError(f"{folder} does not hold whole snapshots: {error!r}") from error
    return unpack_snapshots(tensors, description, device=device, where=str(folder))


def unpack_snapshots(
    tensors: bytes, description: str, *, device: str = "cpu", where: str = "a message"
) -> list[EnvSnapshot]:
    """Snapshots from the contents of the two files; SnapshotError, which names `where`, if they are not such."""
    try:
        read = json.loads(description)
        if not isinstance(read, dict) or read.get("format") != FORMAT:
            found = read.get("format") if isinstance(read, dict) else None
            raise SnapshotError(f"{where} holds snapshot format {found!r}; this wcsim reads {FORMAT}")
        if read.get("sha256") != checksum(tensors, read["snapshots"]):
            raise SnapshotError(f"{where} holds damaged snapshots: they do not match their checksum")
        parts = {name: value.to(device) for name, value in load(tensors).items()}
        return [_snapshot_of(row, number, parts) for number, row in enumerate(read["snapshots"])]
    except (ValueError, SafetensorError, LookupError, TypeError, AttributeError, RecursionError,
            RuntimeError) as error:
        raise SnapshotError(f"{where} does not hold whole snapshots: {error!r}") from error


def check_whole(snapshot: EnvSnapshot, world: World, task: Task) -> None:
    """Raise SnapshotError for a snapshot, of anybody's making, that an environment could only half return to."""
    check_lane(snapshot.lane, world, task)
    if type(snapshot.elapsed) is not int or snapshot.elapsed < 0 or type(snapshot.over) is not bool:
        raise SnapshotError(f"the snapshot is {snapshot.elapsed!r} steps old and over: {snapshot.over!r}")
    try:
        np.random.PCG64().state = dict(snapshot.generator)  # type: ignore[assignment]  # numpy checks what it is given
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise SnapshotError(f"the snapshot's generator is damaged: {error!r}") from error


def _tensors_of(lane: Lane) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The arrays of a lane by name, and the numbers of what is ahead of it, if anything is."""
    tensors = {f"state.{name}": value for name, value in lane.state.tensors().items()}
    tensors |= {"pixels": torch.from_numpy(lane.pixels.copy()), "robot": torch.from_numpy(lane.robot.copy())}
    if lane.latent is not None:
        tensors["latent"] = lane.latent
    ahead = lane.ahead
    if ahead is None:
        return tensors, None
    tensors |= {f"after.{name}": value for name, value in ahead.after.tensors().items()}
    tensors |= {"ahead.latents": ahead.latents}
    tensors |= {f"ahead.{name}": torch.from_numpy(getattr(ahead, name).copy()) for name in ARRAYS}
    tensors |= {f"trace.{name}": torch.from_numpy(getattr(ahead.trace, name).copy()) for name in TABLES}
    branches = ahead.trace.by_branch
    tensors |= {f"branch.{name}": torch.from_numpy(hit.copy()) for name, hit in branches.items()}
    return tensors, {"shown": ahead.shown, "depth": ahead.trace.depth, "branches": list(branches)}


def _snapshot_of(row: dict[str, Any], number: int, tensors: dict[str, Tensor]) -> EnvSnapshot:
    """One snapshot; times of the chunk in progress are not saved."""

    def tensor(name: str) -> Tensor:
        return tensors[f"{number}.{name}"]

    def array(name: str) -> np.ndarray:
        values: np.ndarray = tensor(name).cpu().numpy()
        return values

    def state(prefix: str) -> WorldState:
        return WorldState(**{field.name: tensor(f"{prefix}.{field.name}") for field in fields(WorldState)})

    ahead = None
    if row["ahead"] is not None:
        tables: dict[str, Any] = {name: array(f"trace.{name}") for name in TABLES}
        branches = {name: array(f"branch.{name}") for name in row["ahead"]["branches"]}
        trace = Trace(**tables, depth=row["ahead"]["depth"], by_branch=branches)
        frames = read_only(array("ahead.frames"))
        ahead = Ahead(state("after"), array("ahead.actions"), tensor("ahead.latents"), frames, trace,
                      array("ahead.changed"), row["ahead"]["shown"])
    latent = tensors.get(f"{number}.latent")
    lane = Lane(state("state"), read_only(array("pixels")), read_only(array("robot")), latent,
                row["changed"], ahead)
    return EnvSnapshot(row["world"], row["fingerprint"], lane, row["elapsed"], row["over"], row["generator"])
