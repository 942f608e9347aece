"""Snapshots that clients send, checked against the served world before a lane is made of them."""

from __future__ import annotations

from wcsim.envs.lane_checks import check_lane
from wcsim.envs.lanes import Lane
from wcsim.envs.snapshots import unpack_snapshots
from wcsim.errors import SnapshotError
from wcsim.serve.sessions import Host


def untrusted_lane(host: Host, tensors: bytes, description: str) -> Lane:
    """The lane of a snapshot from outside; SnapshotError where it is not one of this world."""
    snapshots = unpack_snapshots(tensors, description, device=str(host.world.device), where="the request")
    if len(snapshots) != 1:
        raise SnapshotError(f"a session returns to one snapshot, got {len(snapshots)}")
    (snapshot,) = snapshots
    if snapshot.fingerprint != host.fingerprint:
        raise SnapshotError("the snapshot is of another world, or another version of it")
    check_lane(snapshot.lane, host.world, host.task, most=host.limits.chunk)
    return snapshot.lane
